# SPDX-License-Identifier: Apache-2.0
"""The loop that grants queued jobs to hosts, and what happens when a job ends.

One manager at a time dispatches (the lease ``dispatch``); that saves work, but safety does not
depend on it: a grant is a compare-and-set, and slots are taken in the same transaction.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.errors import AgentLostError, FastdlError
from fastdl.manager.batch import Batch
from fastdl.manager.chore import Chore
from fastdl.manager.clock import Clock
from fastdl.manager.downloads import ends, objects, results, scheduler
from fastdl.manager.downloads.registration import origin_of
from fastdl.manager.downloads.removal import remove_due
from fastdl.manager.downloads.scheduler import Limits
from fastdl.manager.events import Event, Events
from fastdl.manager.hosts.delivery import Delivery
from fastdl.manager.hosts.fleet import Fleet
from fastdl.manager.hosts.progress import ProgressBoard
from fastdl.manager.hosts.waits import CANCEL_S
from fastdl.manager.ledger import copies, job_list, jobs, queue, records, slots
from fastdl.manager.ledger import hosts as hosts_table
from fastdl.manager.ledger.engine import Ledger
from fastdl.manager.ledger.jobs import State
from fastdl.manager.ledger.text import dumps
from fastdl.manager.ledger.values import BULK, DELAY_MAX_S, URGENT, Grant, Slot
from fastdl.manager.metrics import Metrics
from fastdl.manager.notices import Notices
from fastdl.manager.settings import Settings
from fastdl.wire import codec
from fastdl.wire import messages as m

log = logging.getLogger(__name__)

LEASE_S: Final = 15.0
ROUND_S: Final = 5.0
"""A round at least this often, whatever wake-ups were lost."""
DOWNLOADS: Final = "downloads"
"""The key of notices that jobs ended."""
SPACING_S: Final = 0.02
"""Wake-ups that come closer together share a round."""
PAGE: Final = 256
PAGES_MAX: Final = 4
GRANTS_MAX: Final = 64
"""Grants in one transaction."""
ORIGIN_MOST: Final = "direct.download.origin.max.active"
DIRECT_S: Final = 120.0
"""Age at which nobody can be waiting for a probe or check any more."""


class Dispatcher:
    """Grants, ends, retries and cancels jobs."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        clock: Clock,
        settings: Settings,
        fleet: Fleet,
        delivery: Delivery,
        events: Events,
        notices: Notices,
        progress: ProgressBoard,
        metrics: Metrics,
        name: str,
    ) -> None:
        """*name*: this manager's own, unique among those of one ledger."""
        self._ledger = ledger
        self._clock = clock
        self._settings = settings
        self._fleet = fleet
        self._delivery = delivery
        self._events = events
        self._notices = notices
        self._progress = progress
        self._metrics = metrics
        self._chore = Chore("dispatch", name, ledger=ledger, clock=clock, ttl=LEASE_S)
        self._wake = asyncio.Event()
        self._leading = False
        self._ask_at = -math.inf
        self._after: queue.Place | None = None
        self._unanswered: dict[tuple[str, str], float] = {}
        self._ends = Batch[tuple[str, m.JobResult], bool](self._end_all)

    def wake(self) -> None:
        """Something changed: check the queue soon, or have the manager check it that dispatches."""
        self._wake.set()
        if not self._leading:
            self._notices.tell("dispatch")

    def woken(self) -> None:
        """Another manager says that something changed."""
        self._wake.set()

    def stand_in(self) -> None:
        """Another manager died: dispatch, if it was the one that did."""
        self._ask_at = -math.inf
        self._wake.set()

    async def run(self) -> None:
        """Dispatch until cancelled."""
        while True:
            try:
                if await self._leads():
                    while await self.round():
                        await self._clock.sleep(SPACING_S)
                    await self.reconcile()
                    await self._remove_due()
            except FastdlError as exc:
                log.error("dispatch round failed", extra={"error": str(exc)})
            await self._pause()

    async def _pause(self) -> None:
        sleeper = asyncio.ensure_future(self._clock.sleep(ROUND_S))
        waker = asyncio.ensure_future(self._wake.wait())
        try:
            await asyncio.wait({sleeper, waker}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleeper.cancel()
            waker.cancel()
        self._wake.clear()
        await self._clock.sleep(SPACING_S)

    async def _leads(self) -> bool:
        """Whether this manager dispatches; one that does not asks again every ``ROUND_S``."""
        now = self._clock.steady()
        if not self._leading and now < self._ask_at:
            return False
        self._leading, self._ask_at = await self._chore.is_ours(), now + ROUND_S
        return self._leading

    async def round(self) -> int:
        """Grant what can be granted now; return how many jobs were."""
        with self._metrics.tick_seconds.time():
            grants = await self._decide()
            granted: list[Grant] = []
            for start in range(0, len(grants), GRANTS_MAX):
                granted += await self._grant(grants[start : start + GRANTS_MAX])
        for host in {g.host for g in granted}:
            self._delivery.post(host)
        for g in granted:
            self._notices.publish("download", job=g.job, template=g.template, state="GRANTED")
        self._metrics.grants.inc(len(granted))
        return len(granted)

    async def _decide(self) -> list[Grant]:
        if not self._fleet.hosts:
            return []
        now = self._clock.steady()
        async with self._ledger.read() as tx:
            if not (waiting := await queue.lanes(tx)):
                return []
            in_use, caps = await slots.usage(tx)
            limits = limits_of(self._settings, caps)
            origins = [slot for slot in in_use if slot[0] == "origin"]

            def full(rank: int) -> set[str]:
                return {s[1] for s in origins if in_use[s] >= limits.of(s, rank=rank)}

            free, free_for_bulk = waiting - full(URGENT), waiting - full(BULK)
            # The head of the queue in every round, so that an urgent job is seen at once;
            # further pages continue where the last round stopped, so that jobs which cannot
            # start (their hosts are full or away) never hide the ones behind them.
            grants: list[Grant] = []
            chosen: set[str] = set()
            after = None
            for number in range(PAGES_MAX if free else 0):
                rows, end = await queue.page(
                    tx, now=now, after=after, among=free, bulk_lanes=free_for_bulk, limit=PAGE
                )
                # Lanes of unequal age overlap: a page may show again what the last one did.
                fresh = [row for row in rows if row.id not in chosen]
                waiting_jobs = map(queue.waiting_of, fresh)
                decided = scheduler.decide(waiting_jobs, self._fleet.of_pool, in_use, limits)
                grants += decided
                chosen.update(grant.job for grant in decided)
                for grant in decided:
                    for slot, _ in grant.slots:
                        in_use[slot] = in_use.get(slot, 0) + 1
                if end is None:
                    self._after = None
                    break
                after = self._after if number == 0 and self._after and self._after > end else end
                self._after = after
        return grants

    async def _grant(self, grants: Sequence[Grant]) -> list[Grant]:
        """Grant a batch; where something changed meanwhile, those of it that still can be."""
        now = self._clock.time()

        async def batch(tx: AsyncConnection) -> bool:
            states = await hosts_table.taking(tx, {g.host for g in grants})
            if not all(_may_take(states.get(g.host), g) for g in grants):
                raise _ContendedError
            # The least fence of a copy is the time: where a backup or a standby took the ledger's
            # place, it does not know the last fences, but they were given before this moment.
            if not await jobs.grant(tx, grants, now=now, floor=int(now)):
                raise _ContendedError
            return True

        try:
            await self._ledger.write(batch)
        except _ContendedError:
            if len(grants) == 1:
                return []
            return [g for grant in grants for g in await self._grant([grant])]
        return list(grants)

    # --- ends ----------------------------------------------------------------------------

    async def ended(self, host: str, result: m.JobResult) -> bool:
        """Record the result of a download, a removal or an audit; False = stale."""
        taken = await self._ends((host, result))
        if taken:
            # Not before: an agent that hears that the job is gone before its result is
            # acknowledged keeps the result, and earlier ones give it as that of the next attempt.
            self._delivery.post(host)
        return taken

    async def _end_all(self, reports: ends.Reports) -> list[bool]:
        """Record what arrived together, in one transaction; return which were not stale."""

        async def work(tx: AsyncConnection) -> list[results.Ended | None]:
            ended = await ends.record(
                tx, reports, reaching=self._fleet.reaching, terms=self._terms()
            )
            await self._events.store(tx, *(event for one in ended if one for event in one.events))
            return ended

        ended = await self._ledger.write(work)
        for (_, result), one in zip(reports, ended, strict=True):
            if one is not None:
                self._progress.drop(one.row.id)
                self._count(one.state, result)
                self._announce(one.state, one.row, result)
                self._events.publish(*one.events)
        if any(ended):
            self._notices.notify(DOWNLOADS)
            self.wake()
        return [one is not None for one in ended]

    def _terms(self) -> results.Terms:
        return results.Terms(
            now=self._clock.time(),
            steady=self._clock.steady(),
            origin_most=self._settings.whole(ORIGIN_MOST),
            link_lifetime=self._settings.whole(objects.LIFETIME),
        )

    def _count(self, state: str, result: m.JobResult) -> None:
        metrics = self._metrics
        if result.failure is not None:
            metrics.attempts_failed.labels(codec.error_of(result.failure).code_name).inc()
        if result.kind != m.Kind.DOWNLOAD or state == State.RETRY_WAIT:
            return
        metrics.downloads.labels(state.lower()).inc()
        if isinstance(result.done, m.DownloadDone):
            metrics.downloaded(
                result.done.seconds, {origin_of(x.url): x.bytes for x in result.done.mirrors}
            )

    def _announce(self, state: str, row: Row[Any], result: m.JobResult) -> None:
        log.info(
            "job ended",
            extra={
                "job": row.id,
                "kind": row.kind,
                "state": state,
                "host": row.host,
                "template": row.template,
                "pool": row.pool,
                "error": result.failure.message if result.failure else None,
            },
        )
        self._notices.notify(f"job:{row.id}")
        self._notices.publish("download", job=row.id, template=row.template, state=state)

    async def note_drift(
        self, template: Row[Any], seen: m.Validators, *, digests: dict[str, str]
    ) -> None:
        """Compare what was *seen* now with the registration; report a change once."""

        async def work(tx: AsyncConnection) -> list[Event]:
            events = await results.note_drift(tx, template, seen, digests=digests)
            await self._events.store(tx, *events)
            return events

        self._events.publish(*await self._ledger.write(work))

    # --- lost hosts, cancels, leftovers --------------------------------------------------

    async def host_lost(self, host: str, *, gateway: str | None = None) -> None:
        """Note that a host is Down, and put its jobs back into the queue or end them. *gateway*:
        unless it has connected to another manager than this one since.

        A download of a shared pool goes to another host under a higher fence; one of a local
        pool waits for its host, which then finds its own journal and resumes.
        """
        now = self._clock.time()
        text = f"host {host} is Down: it was silent for too long"
        event = Event(type="HOST.DOWN", description=text, level="WARN", resource=host)
        error = AgentLostError("the host was lost while it worked on this job")

        async def work(tx: AsyncConnection) -> list[str] | None:
            row = await hosts_table.locked(tx, host)
            if row is not None and gateway is not None and row.gateway not in {gateway, ""}:
                return None
            if await hosts_table.set_state(tx, host, hosts_table.DOWN, now=now):
                await self._events.store(tx, event)
            return await take_back(tx, host, error, now=now, keep=(m.Kind.MACHINE,))

        ended = await self._ledger.write(work)
        if ended is None:
            return
        self.taken_back(ended)
        self._events.publish(event)
        self._notices.publish("host", host=host, state=hosts_table.DOWN)

    def taken_back(self, ended: Sequence[str]) -> None:
        """Notify waiters that jobs *ended* when they were taken from their host."""
        for job in ended:
            self._progress.drop(job)
            self._notices.notify(f"job:{job}")
        self._notices.notify(DOWNLOADS)
        self.wake()

    def cancelled(self, rows: Iterable[Row[Any]]) -> None:
        """Tell those concerned of jobs that ``results.cancel`` cancelled; *rows*: as they were."""
        for row in rows:
            if row.host is not None:
                self._delivery.post(row.host)
            if row.waiting:  # it ended
                self._progress.drop(row.id)
            self._notices.notify(f"job:{row.id}")
            self._notices.publish("download", job=row.id, template=row.template, state="CANCELLING")
        self._notices.notify(DOWNLOADS)
        self.wake()

    async def reconcile(self) -> None:
        """End abandoned jobs, and complete API jobs that a crash left open."""
        now = self._clock.time()
        async with self._ledger.read() as tx:
            late = self._overdue(await job_list.unanswered(tx))
            open_jobs = await records.finished_api_jobs(tx)
        if not late and not open_jobs:
            return
        lost = dumps(codec.to_plain(codec.failure_of(AgentLostError("the host did not answer"))))

        async def work(tx: AsyncConnection) -> None:
            for row in late:
                state = State.CANCELLED if row.state == State.CANCELLING else State.FAILED
                await jobs.finish(
                    tx,
                    row.id,
                    fence=row.fence,
                    host_id=row.host,
                    state=state,
                    failure=lost,
                    now=now,
                )
                if row.kind == m.Kind.DOWNLOAD:
                    await results.remove_late(tx, row, now=now)
            for api_job in await records.finished_api_jobs(tx):
                await results.complete(tx, api_job, now=now)

        await self._ledger.write(work)
        for row in late:
            self._progress.drop(row.id)
            self._notices.notify(f"job:{row.id}")

    async def _remove_due(self) -> None:
        """Retry removing copies that were in use, or whose host failed."""
        now, steady = self._clock.time(), self._clock.steady()
        far = steady + DELAY_MAX_S

        async def work(tx: AsyncConnection) -> int:
            return await remove_due(tx, now=now, steady=steady, far=far)

        async with self._ledger.read() as tx:
            if not await copies.due(tx, now=steady, far=far, limit=1):
                return
        if await self._ledger.write(work):
            self.wake()

    def _overdue(self, rows: list[Row[Any]]) -> list[Row[Any]]:
        """Return those of *rows* that this manager has seen waiting for too long. It counts
        the seconds itself: what the wall clock said when they began proves nothing."""
        now = self._clock.steady()
        by_key = {(row.id, row.state): row for row in rows}
        self._unanswered = {key: self._unanswered.get(key, now) for key in by_key}
        most = {State.CANCELLING: CANCEL_S}
        return [
            row
            for key, row in by_key.items()
            if now - self._unanswered[key] > most.get(row.state, DIRECT_S)
        ]

    async def stop(self) -> None:
        """Give the lease to another manager."""
        with contextlib.suppress(FastdlError):
            await self._chore.hand_over()


def limits_of(settings: Settings, caps: Mapping[Slot, int]) -> Limits:
    """Return the limits in force."""
    return Limits(
        origin=settings.whole(ORIGIN_MOST),
        host=settings.whole("direct.download.host.max.active"),
        pool=settings.whole("direct.download.pool.max.active"),
        caps=caps,
    )


class _ContendedError(Exception):
    """A grant lost a race; the batch is tried one by one."""


def _may_take(resource_state: str | None, grant: Grant) -> bool:
    """Whether a host may get *grant* in the state that operators put it in; None = it is gone."""
    if resource_state == hosts_table.DISABLED:
        return not grant.slots
    return resource_state == hosts_table.ENABLED


async def take_back(
    tx: AsyncConnection,
    host: str,
    error: FastdlError,
    *,
    now: float,
    keep: Collection[m.Kind] = (),
) -> list[str]:
    """Put the jobs that *host* holds back into the queue, or end them; return those that ended.

    *keep*: kinds that wait for the host, because what they are about is nowhere else.
    """
    failure = dumps(codec.to_plain(codec.failure_of(error)))
    over = []
    for row in await job_list.held_by(tx, host):
        if row.kind in keep:
            continue
        if row.kind in {m.Kind.DOWNLOAD, m.Kind.REMOVE} and row.state != State.CANCELLING:
            await jobs.requeue(tx, row, now=now, count=False, failure=failure)
            continue
        await jobs.finish(
            tx,
            row.id,
            fence=row.fence,
            host_id=host,
            state=State.FAILED,
            now=now,
            failure=failure,
        )
        if row.kind == m.Kind.DOWNLOAD:
            await results.remove_late(tx, row, now=now)
        await results.complete_api_jobs(tx, {row.id}, now=now)
        over.append(row.id)
    return over
