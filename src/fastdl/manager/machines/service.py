# SPDX-License-Identifier: Apache-2.0
"""Moves virtual machines from step to step: when a host reports, when a download ended, in time."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.errors import AgentLostError, ApiConflictError, FastdlError
from fastdl.manager.clock import Clock
from fastdl.manager.downloads.dispatch import DOWNLOADS, Dispatcher
from fastdl.manager.events import Event, Events
from fastdl.manager.hosts.delivery import Delivery
from fastdl.manager.ledger import jobs, vms
from fastdl.manager.ledger.engine import Ledger
from fastdl.manager.ledger.jobs import LIVE, State
from fastdl.manager.ledger.text import dumps
from fastdl.manager.machines import steps
from fastdl.manager.machines.steps import Effects, Terms
from fastdl.manager.notices import Notices
from fastdl.manager.settings import Settings
from fastdl.wire import codec
from fastdl.wire import messages as m

log = logging.getLogger(__name__)

ROUND_S: Final = 5.0
EXPUNGE_DELAY: Final = "expunge.delay"

Step = Callable[[AsyncConnection, Effects], Awaitable[Any]]


class Machines:
    """The virtual machines of a ledger."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        *,
        ledger: Ledger,
        clock: Clock,
        settings: Settings,
        delivery: Delivery,
        events: Events,
        notices: Notices,
    ) -> None:
        self._dispatcher = dispatcher
        self._ledger = ledger
        self._clock = clock
        self._settings = settings
        self._delivery = delivery
        self._events = events
        self._notices = notices

    def terms(self) -> Terms:
        """What steps need to know of now."""
        now = self._clock.time()
        return Terms(
            now=now,
            steady=self._clock.steady(),
            floor=int(now),
            settings=self._settings,
        )

    def follow(self, effects: Effects) -> None:
        """Tell those concerned of a step that was committed."""
        for host in effects.hosts:
            self._delivery.post(host)
        for job in effects.api_jobs:
            self._notices.notify(f"job:{job}")
        self._events.publish(*effects.events)
        for event in effects.events:
            self._notices.publish("vm", vm=event.resource)
        if effects.queued:
            self._dispatcher.wake()

    async def run(self) -> None:
        """Continue what waits for something, until cancelled."""
        while True:
            try:
                await self.round()
            except FastdlError as exc:
                log.error("virtual machines were not looked after", extra={"error": str(exc)})
            await self._notices.wait(DOWNLOADS, timeout_s=ROUND_S)

    async def round(self) -> None:
        """Continue each machine that is in the middle of something, or is to be removed."""
        async with self._ledger.read() as tx:
            found = await vms.in_states(tx, (*vms.MOVING, vms.DESTROYED, vms.ERROR))
        for vm in found:
            if vm.state in vms.MOVING or self._is_due(vm):
                await self._step(vm.id)

    def _is_due(self, vm: Row[Any]) -> bool:
        """Whether a destroyed machine, or one that never was, is to be removed now."""
        now = self._clock.steady()
        if vm.state == vms.DESTROYED and vm.goal == vms.EXPUNGING:
            # Further ahead than ever postponed: that clock was set back since.
            return bool(vm.retry_at <= now or vm.retry_at > now + steps.RETRY_S)
        age = min(self._clock.time(), self._clock.steady()) - vm.updated
        return bool(age > self._settings.whole(EXPUNGE_DELAY))

    async def _step(self, id_: str) -> None:
        terms = self.terms()

        async def work(tx: AsyncConnection, effects: Effects) -> None:
            vm = await vms.locked(tx, id_)
            if vm is None or vm.removed is not None:
                return
            if vm.state not in vms.MOVING:
                if self._is_due(vm):
                    await steps.move(tx, terms, vm, effects, goal=vms.EXPUNGING, forced=True)
                return
            if vm.host_job is not None:
                job = await jobs.get(tx, vm.host_job)
                if job is None or job.state not in LIVE:  # its host was deleted meanwhile
                    lost = AgentLostError("its host was deleted, or gave the order back")
                    await steps.failed(tx, terms, vm, lost, effects)
                return
            try:
                await steps.fetch_or_order(tx, terms, vm, effects)
            except ApiConflictError:
                return  # its copy is being removed at this moment
            except FastdlError as exc:
                await steps.failed(tx, terms, vm, exc, effects)

        await self.write(work)

    async def write(self, step: Step) -> None:
        """Run *step* in a transaction that also stores its events; then tell those concerned."""

        async def work(tx: AsyncConnection) -> Effects:
            effects = Effects()
            await step(tx, effects)
            await self._events.store(tx, *effects.events)
            return effects

        self.follow(await self._ledger.write(work))

    # --- what hosts report -----------------------------------------------------------------

    async def ended(self, host: str, result: m.JobResult) -> bool:
        """Record the outcome of an order; False = stale."""
        terms, taken = self.terms(), False

        async def work(tx: AsyncConnection, effects: Effects) -> None:
            nonlocal taken
            taken = False
            row = await jobs.get(tx, result.job)
            if row is None or row.kind != result.kind:
                return
            state = await jobs.finish(
                tx,
                row.id,
                fence=result.fence,
                host_id=host,
                state=State.DONE if result.done is not None else State.FAILED,
                result=codec.done_to_json(result.done) if result.done is not None else None,
                failure=dumps(codec.to_plain(result.failure)) if result.failure else None,
                now=terms.now,
                row=row,
            )
            if state is None:
                return
            taken = True
            effects.hosts.add(host)
            vm = await vms.by_host_job(tx, row.id)
            if vm is None or vm.removed is not None:
                return  # a later order took its place
            if isinstance(result.done, m.MachineDone):
                try:
                    await steps.succeeded(tx, terms, vm, result.done, effects)
                except FastdlError as exc:
                    await steps.failed(tx, terms, vm, exc, effects)
            elif result.failure is not None:
                error = codec.error_of(result.failure)
                await steps.failed(tx, terms, vm, error, effects)

        await self.write(work)
        return taken

    async def reported(self, host: str, found: Sequence[m.MachineInfo]) -> None:
        """Note machines that went off, or were started, without an order.

        What a host reports as of an earlier order, or of a machine that is not its own, does not
        count.
        """
        if not found:
            return
        terms = self.terms()
        states = {info.machine: info for info in found}

        def differs(vm: Row[Any]) -> bool:
            info = states.get(vm.id)
            if info is None or info.fence != vm.fence or vm.host_job is not None:
                return False
            return bool(vm.state == (vms.STOPPED if info.running else vms.RUNNING))

        async with self._ledger.read() as tx:
            changed = [vm.id for vm in await vms.existing(tx, host=host) if differs(vm)]

        async def work(tx: AsyncConnection, effects: Effects) -> None:
            for id_ in changed:
                vm = await vms.locked(tx, id_)
                if vm is None or vm.host != host or not differs(vm):
                    continue
                running = states[id_].running
                state = vms.RUNNING if running else vms.STOPPED
                await vms.change(tx, id_, now=terms.now, state=state, goal=state)
                how = "was started on its host" if running else "went off by itself"
                effects.events.append(
                    Event(
                        type="VM.START" if running else "VM.STOP",
                        description=f"{vm.display_name} {how}",
                        account=vm.account,
                        resource=id_,
                    )
                )

        if changed:
            await self.write(work)
