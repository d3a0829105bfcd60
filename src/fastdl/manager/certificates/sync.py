# SPDX-License-Identifier: Apache-2.0
"""Keeping the certificates of hosts in the desired state: plan, push, record the outcome.

Level-triggered: after any change (an upload, a connection, a changed keystore, a due retry) the
host is marked, planned from the ledger and its own inventory, and gets at most one keystore job at
a time. When that ends it is planned again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Row, select
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.errors import FastdlError
from fastdl.manager.batch import Batch
from fastdl.manager.certificates.plan import (
    RETRY_MAX_S,
    Desired,
    Plan,
    plan,
    retry_delay,
    wanted_on_host,
)
from fastdl.manager.clock import Clock
from fastdl.manager.hosts.delivery import Delivery
from fastdl.manager.hosts.fleet import Fleet
from fastdl.manager.ledger import certs, jobs
from fastdl.manager.ledger import hosts as hosts_table
from fastdl.manager.ledger.certs import FAILED, REVOKED, SKIPPED, UPLOADED, HostWant
from fastdl.manager.ledger.engine import Ledger
from fastdl.manager.ledger.jobs import NewJob
from fastdl.manager.ledger.tables import host as host_table
from fastdl.manager.ledger.tables import job as job_table
from fastdl.manager.ledger.text import dumps, loads
from fastdl.manager.notices import Notices
from fastdl.trust.alias import fold
from fastdl.wire import codec
from fastdl.wire import messages as m

log = logging.getLogger(__name__)

BATCH: Final = 256
"""Hosts planned in one transaction."""
INSTALL_MAX: Final = 64
REMOVE_MAX: Final = 200
ANSWER_S: Final = 15.0
"""How long an API call waits for hosts; the rest continues in the background."""
RETRY_ROUND_S: Final = 5.0


class CertificateSync:
    """Brings hosts to the desired state, and reports the progress."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        clock: Clock,
        fleet: Fleet,
        delivery: Delivery,
        notices: Notices,
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._fleet = fleet
        self._delivery = delivery
        self._notices = notices
        self._marked: dict[str, None] = {}
        self._wake = asyncio.Event()
        self._ends = Batch(self._end_all)

    def mark(self, *hosts: str) -> None:
        """Plan these hosts soon, each where it is connected."""
        self.mark_here(*hosts)
        for host in hosts:
            if not self._fleet.is_here(host):
                self._notices.tell("mark", host)

    def mark_here(self, *hosts: str) -> None:
        """Plan those of these hosts soon that are connected to this manager."""
        self._marked.update(dict.fromkeys(hosts))
        self._wake.set()

    async def run(self) -> None:
        """Plan marked hosts until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._marked:
                batch = list(self._marked)[:BATCH]
                for host in batch:
                    del self._marked[host]
                try:
                    await self.converge(batch)
                except FastdlError as exc:
                    log.error("certificate round failed", extra={"error": str(exc)})
                    await self._clock.sleep(1.0)
                    self.mark(*batch)

    async def run_retries(self) -> None:
        """Mark hosts whose failed push is due again, until cancelled."""
        while True:
            await self._clock.sleep(RETRY_ROUND_S)
            now = self._clock.steady()
            try:
                async with self._ledger.read() as tx:
                    due = await certs.due_hosts(tx, now=now, farthest=RETRY_MAX_S)
            except FastdlError as exc:
                log.error("certificate retries failed", extra={"error": str(exc)})
                continue
            self.mark_here(*due)

    # --- plan and push -------------------------------------------------------------------

    async def converge(self, host_ids: Sequence[str]) -> int:
        """Plan these hosts; return how many got a keystore job."""
        now, steady = self._clock.time(), self._clock.steady()
        connected = [h for h in host_ids if self._fleet.is_here(h)]

        async def work(tx: AsyncConnection) -> list[str]:
            # A host whose keystore is being changed at this moment is planned when that is over:
            # the keystore that it reported last is not the one that it will have.
            busy = select(job_table.c.host).where(job_table.c.single.in_(map(_single, connected)))
            idle = host_table.c.id.in_(connected) & host_table.c.id.not_in(busy)
            rows = list(await tx.execute(select(host_table).where(idle)))
            if not rows:
                return []
            wants = await certs.desired(tx, rows)
            plans = [_plan_host(row, wants[row.id], now=steady) for row in rows]
            await certs.link(tx, [pair for found in plans for pair in found.links])
            settled = {found.host: found.settled for found in plans if found.settled}
            if settled:
                await certs.settle(tx, settled, now=steady, retry_delay=retry_delay)
            new = [found.job for found in plans if found.job is not None]
            await jobs.submit(tx, new, now=now)
            return [job.host for job in new if job.host]

        pushed = await self._ledger.write(work) if connected else []
        for host in pushed:
            self._delivery.post(host)
        self._notices.notify("certs")
        return len(pushed)

    async def ended(self, host: str, result: m.JobResult) -> bool:
        """Store the outcome of a keystore job; False = stale."""
        failed = await self._ends((host, result))
        if failed is None:
            return False
        for detail in failed:
            log.warning("certificate push failed", extra={"host": host, "detail": detail})
        self._notices.notify("certs")
        self.mark(host)
        return True

    async def _end_all(self, ends: list[tuple[str, m.JobResult]]) -> list[list[str] | None]:
        """Store outcomes; return, for each, the details of what failed, or None = stale."""
        now = self._clock.time()
        connected = self._fleet.hosts

        async def work(tx: AsyncConnection) -> list[list[str] | None]:
            rows = await jobs.finish_keystores(tx, [_end(*end) for end in ends], now=now)
            outcomes: dict[str, certs.Outcomes] = {}
            keystores: dict[str, m.CertificatesDone] = {}
            answers: list[list[str] | None] = []
            for (host, result), row in zip(ends, rows, strict=True):
                if row is None:
                    answers.append(None)
                    continue
                name = connected[host].name if host in connected else host
                done = result.done if isinstance(result.done, m.CertificatesDone) else None
                outcomes[host] = _outcomes(loads(row.context), done, result.failure, name)
                if done:
                    keystores[host] = done
                found = outcomes[host].values()
                answers.append([detail for _, status, detail in found if status == FAILED])
            await certs.settle(tx, outcomes, now=self._clock.steady(), retry_delay=retry_delay)
            await hosts_table.store_keystores(tx, keystores)
            return answers

        return await self._ledger.write(work)

    # --- waiting for outcomes ------------------------------------------------------------

    async def settle_hosts(
        self, cert: str, revs: Mapping[str, int], *, timeout_s: float = ANSWER_S
    ) -> dict[str, tuple[str, str]]:
        """Return host → (status, detail) once every host of *revs* has an outcome for its
        revision, or what is known after *timeout_s* (the others FAILED with the reason)."""
        self.mark(*revs)
        found: dict[str, tuple[str, str]] = {}

        async def check() -> bool | None:
            async with self._ledger.read() as tx:
                for row in await certs.of_cert(tx, cert):
                    if row.host in revs and row.done_rev >= revs[row.host]:
                        found[row.host] = (row.status, row.detail)
            return True if found.keys() >= revs.keys() else None

        if revs:
            await self._notices.until("certs", check, timeout_s=timeout_s)
        late = f"the host did not respond within {timeout_s:g} s; it is tried again until it does"
        return {host: found.get(host, (FAILED, late)) for host in revs}


@dataclass(frozen=True, slots=True, kw_only=True)
class _HostPlan:
    """What is to be noted and done for one host."""

    host: str
    links: list[tuple[str, str]]
    settled: certs.Outcomes
    job: NewJob | None


def desired_of(want: HostWant) -> Desired:
    """Return the desired state as the plan's input."""
    link = want.link
    return Desired(
        cert=want.cert.id,
        alias=want.cert.alias,
        sha256=want.cert.sha256,
        present=wanted_on_host(
            revoked_in_zone=want.cert.revoked,
            deleted=want.cert.live_alias is None,
            override=link.want if link is not None else None,
            on_others=want.on_others,
        ),
        retry_at=link.retry_at if link is not None else 0.0,
    )


def _plan_host(row: Row[Any], wants: Mapping[str, HostWant], *, now: float) -> _HostPlan:
    desired = {id_: desired_of(want) for id_, want in wants.items()}
    todo = plan(desired.values(), hosts_table.keystore_of(row), now=now)
    present = {id_: d.present for id_, d in desired.items()}
    settled = {
        id_: (wants[id_].rev, UPLOADED if present[id_] else REVOKED, "")
        for id_ in todo.settled
        # A certificate never desired and not present here leaves no record.
        if not wants[id_].settled and (present[id_] or wants[id_].link is not None)
    }
    new = [(row.id, id_) for id_ in (*settled, *todo.install) if wants[id_].link is None]
    job = None if todo.empty else _keystore_job(row, wants, present, todo)
    return _HostPlan(host=row.id, links=new, settled=settled, job=job)


def _single(host: str) -> str:
    """What a host's live keystore job is known by: there is one at most."""
    return f"keystore:{host}"


def _keystore_job(
    row: Row[Any], wants: Mapping[str, HostWant], present: Mapping[str, bool], todo: Plan
) -> NewJob:
    install, remove = todo.install[:INSTALL_MAX], todo.remove[:REMOVE_MAX]
    named = {id_: wants[id_].cert for id_ in (*install, *remove)}
    return NewJob(
        kind=m.Kind.CERTIFICATES,
        zone=row.zone,
        host=row.id,
        single=_single(row.id),
        rank=0,
        args=m.CertificatesArgs(
            install=tuple(
                m.WantedCertificate(alias=c.alias, sha256=c.sha256, pem=c.pem)
                for c in map(named.__getitem__, install)
            ),
            remove=tuple(named[id_].alias for id_ in remove),
        ),
        context={
            id_: [wants[id_].rev, cert.alias, cert.sha256 if present[id_] else None]
            for id_, cert in named.items()
        },
    )


def _end(host: str, result: m.JobResult) -> jobs.End:
    failure = dumps(codec.to_plain(result.failure)) if result.failure else None
    return jobs.End(job=result.job, fence=result.fence, host=host, failure=failure)


def _outcomes(
    context: Mapping[str, Sequence[Any]],
    done: m.CertificatesDone | None,
    failure: m.Failure | None,
    host_name: str,
) -> dict[str, tuple[int, str, str]]:
    """Return certificate id → (revision, status, detail).

    *context* maps the id to (revision, alias, fingerprint wanted or None). A success counts only if
    the keystore that the host reports afterwards confirms it.
    """
    by_alias = {fold(o.alias): o.failure for o in done.outcomes} if done else {}
    held = {fold(c.alias): c.sha256 for c in done.certificates} if done else {}
    outcomes: dict[str, tuple[int, str, str]] = {}
    for id_, (rev, alias, sha256) in context.items():
        folded = fold(alias)
        reason: str | None = None
        if failure is not None:
            reason = failure.message
        elif folded not in by_alias:
            reason = "the host gave no outcome for this alias"
        elif (problem := by_alias[folded]) is not None:
            reason = problem.message
        elif held.get(folded) != sha256:
            reason = "the host says that it succeeded, but its keystore shows otherwise"
        if reason is None:
            outcomes[id_] = (rev, UPLOADED if sha256 else REVOKED, "")
            continue
        verb = "added to" if sha256 else "removed from"
        detail = f"Certificate {alias} could not be {verb} host {host_name} due to: {reason}"
        outcomes[id_] = (rev, FAILED, detail)
    return outcomes


def not_up(state: str) -> tuple[str, str]:
    """Return (status, detail) for a host that cannot be reached now."""
    return SKIPPED, f"the host is in state {state}; it converges when it is Up again"


def split_by_state(hosts: Iterable[Row[Any]]) -> tuple[list[Row[Any]], list[Row[Any]]]:
    """Return (hosts in state Up, the others)."""
    hosts = list(hosts)
    up = [h for h in hosts if h.state == hosts_table.UP]
    return up, [h for h in hosts if h.state != hosts_table.UP]
