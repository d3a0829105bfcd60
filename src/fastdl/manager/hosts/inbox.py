# SPDX-License-Identifier: Apache-2.0
"""Handles the messages of connected hosts: progress, results, inventories.

Every message is a claim about the host itself and about jobs that it was given, and nothing else.
"""

from __future__ import annotations

import logging

from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.errors import AgentRefusedError
from fastdl.manager.events import Event
from fastdl.manager.hosts.parts import HostParts
from fastdl.manager.hosts.progress import ProgressBoard, published
from fastdl.manager.hosts.refusal import UnknownHostError
from fastdl.manager.ledger import hosts, job_list, jobs, pools
from fastdl.manager.ledger.jobs import State
from fastdl.manager.ledger.text import dumps
from fastdl.manager.metrics import Metrics
from fastdl.manager.settings import Settings
from fastdl.wire import codec
from fastdl.wire import messages as m

log = logging.getLogger(__name__)


class Inbox:
    """Processes the messages of connected hosts."""

    def __init__(
        self, parts: HostParts, *, name: str, progress: ProgressBoard, metrics: Metrics
    ) -> None:
        """*name*: this manager's own, unique among those of one ledger."""
        self._parts = parts
        self._name = name
        self._progress = progress
        self._metrics = metrics

    def forget(self, host: str) -> None:
        """Forget the downloads of *host*, which is out: it was deleted, or lost its key."""
        self._progress.forget(host)

    async def receive(self, host: str, message: m.Message) -> m.Message | None:
        """Process one message; return the reply, if it has one.

        AgentRefusedError ends the connection: the host claimed what belongs to another.
        """
        match message:
            case m.Beat():
                return None
            case m.Progress():
                if self._progress.note(host, message):
                    shown = published(self._progress, message)
                    self._parts.notices.show({"topic": "progress", **shown})
                return None
            case m.JobStarted():
                if not self._progress.holds(message.job, host):
                    return None  # short work: its result follows immediately
                now = self._parts.clock.time()
                await self._parts.ledger.write(
                    lambda tx: jobs.started(
                        tx, message.job, fence=message.fence, host_id=host, now=now
                    )
                )
                return None
            case m.JobResult():
                return await self._result(host, message)
            case m.PiecesWanted():
                return await self._parts.pieces.known(host, message)
            case m.PiecesFound():
                await self._parts.pieces.found(host, message)
                return None
            case m.InventoryReport():
                await self._inventory(host, message.inventory)
                return None
            case m.RenewRequest():
                return await self._parts.enrolment.renew(host, message)
            case _:
                raise AgentRefusedError(f"{type(message).__name__} is not a message for a manager")

    async def _inventory(self, host: str, inventory: m.Inventory) -> None:
        now, unproven = self._parts.clock.time(), unproven_may_join(self._parts.settings)

        async def work(tx: AsyncConnection) -> tuple[pools.Outcome | None, list[Event]]:
            row = await hosts.get(tx, host)
            if row is None:
                raise UnknownHostError
            found = await hosts.store_inventory(
                tx, row, inventory, gateway=self._name, now=now, unproven=unproven
            )
            events = self._parts.host_events.pool_refusals(row, found) if found is not None else []
            await self._parts.events.store(tx, *events)
            return found, events

        found, events = await self._parts.ledger.write(work)
        self._parts.events.publish(*events)
        if found is None:
            log.info("a later inventory is known, or another manager's", extra={"host": host})
            return
        self._parts.fleet.reaches(host, found.usable, frozenset(inventory.machine_pools))
        self._parts.notices.tell("host", host)
        await self._parts.machines.reported(host, inventory.machines)
        self._parts.certificates.mark(host)
        self._parts.downloads.wake()

    async def _result(self, host: str, result: m.JobResult) -> m.ResultAck:
        """Record a result, or find it stale: either way the host need not repeat it."""
        if result.kind == m.Kind.CERTIFICATES:
            taken = await self._parts.certificates.ended(host, result)
        elif result.kind == m.Kind.MACHINE:
            taken = await self._parts.machines.ended(host, result)
        elif result.kind in {m.Kind.DOWNLOAD, m.Kind.REMOVE, m.Kind.AUDIT}:
            taken = await self._parts.downloads.ended(host, result)
        else:
            taken = await self._answer(host, result)
        if not taken:
            self._metrics.stale_results.inc()
            await self._refuse_foreign(host, result)
        return m.ResultAck(job=result.job, fence=result.fence)

    async def _refuse_foreign(self, host: str, result: m.JobResult) -> None:
        """AgentRefusedError (and an event) if *host* never had the job."""
        async with self._parts.ledger.read() as tx:
            row = await jobs.get(tx, result.job)
            if row is None or row.host == host or await job_list.was_given(tx, result.job, host):
                return
        await self._parts.host_events.record(
            "HOST.FOREIGN.JOB",
            f"host {host} sent a result for job {result.job}, which it was never given",
            level="ERROR",
            host=host,
        )
        raise AgentRefusedError("the result is for a job that was never assigned to this host")

    async def _answer(self, host: str, result: m.JobResult) -> bool:
        """A probe or a check ended: keep the response for the caller."""
        now = self._parts.clock.time()

        async def work(tx: AsyncConnection) -> State | None:
            row = await jobs.get(tx, result.job)
            if row is None or row.kind != result.kind:
                return None
            return await jobs.finish(
                tx,
                result.job,
                fence=result.fence,
                host_id=host,
                now=now,
                state=State.DONE if result.done else State.FAILED,
                result=codec.done_to_json(result.done) if result.done else None,
                failure=dumps(codec.to_plain(result.failure)) if result.failure else None,
                row=row,
            )

        if await self._parts.ledger.write(work) is None:
            return False
        self._parts.notices.notify(f"job:{result.job}")
        self._parts.delivery.post(host)
        return True


def unproven_may_join(settings: Settings) -> bool:
    """Whether hosts of a cluster may join a shared pool without a proof."""
    return not settings.flag("storage.pool.join.approved.only")
