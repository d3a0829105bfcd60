# SPDX-License-Identifier: Apache-2.0
"""The steps of a virtual machine: its template, its orders, and what follows from their outcomes.

Each function works in its caller's transaction, so that a crash leaves the machine before the
step or after it; whoever finds it there continues.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.errors import ApiParamError, FastdlError
from fastdl.manager.downloads import quota, requests
from fastdl.manager.events import Event
from fastdl.manager.ledger import copies, hosts, jobs, pools, records, templates, vms
from fastdl.manager.ledger.jobs import LIVE, NewJob, State
from fastdl.manager.ledger.text import loads
from fastdl.manager.ledger.values import URGENT
from fastdl.manager.settings import Settings
from fastdl.wire import codec
from fastdl.wire import messages as m

FETCHES_MAX: Final = 3
"""Downloads for one deployment: a copy may be lost between its download and its use."""
RETRY_S: Final = 60.0
"""After so long a removal that failed is tried again."""
EVENTS: Final = {
    vms.RUNNING: "VM.START",
    vms.STOPPED: "VM.STOP",
    vms.DESTROYED: "VM.DESTROY",
    vms.EXPUNGING: "VM.EXPUNGE",
}
"""What a machine's event is called, by the goal."""
_ORDERS: Final = {
    vms.RUNNING: m.MachineState.RUNNING,
    vms.STOPPED: m.MachineState.STOPPED,
    vms.DESTROYED: m.MachineState.STOPPED,
    vms.EXPUNGING: m.MachineState.ABSENT,
}
"""What a host is asked for, by the goal."""


@dataclass(slots=True)
class Effects:
    """What follows a transaction once it is committed."""

    hosts: set[str] = field(default_factory=set)
    """Whose documents changed."""
    api_jobs: set[str] = field(default_factory=set)
    events: list[Event] = field(default_factory=list)
    queued: bool = False
    """A download waits to be granted."""


@dataclass(frozen=True, slots=True)
class Terms:
    """*now*: the time; *steady*: the time that never jumps; *floor*: the least fence, above all
    that were given out before a backup was restored."""

    now: float
    steady: float
    floor: int
    settings: Settings


async def fetch_or_order(tx: AsyncConnection, terms: Terms, vm: Row[Any], effects: Effects) -> None:
    """Bring a new machine closer to its deployment: its template first, then the order.

    Raises what ``requests.keep`` and the limits on templates raise.
    """
    if vm.host_job is not None:
        return
    template = await templates.get(tx, vm.template)
    if template is None or vm.zone not in await templates.zones_of(tx, vm.template):
        raise ApiParamError("The template was deleted")
    if vm.download is not None:
        job = await jobs.get(tx, vm.download)
        if job is not None and job.state in LIVE:
            return
        if job is not None and job.state != State.DONE:
            raise _failure_of(job)
    found = await copies.wanted(tx, vm.template, [vm.pool], now=terms.now, iso=template.iso)
    copy = found[vm.pool]
    if copy.state == copies.READY and copy.complete:
        await _order(tx, terms, vm, effects, volume=copy.volume)
        return
    if vm.fetches >= FETCHES_MAX:
        raise ApiParamError("The template's copy was lost again and again after its download")
    await requests.keep(tx, copy, now=terms.now)
    bounds = quota.limits(terms.settings, await pools.get(tx, vm.pool))
    bounds.check(template)
    new = requests.new_download(terms.settings, template, copy, vm.zone, rank=URGENT, bounds=bounds)
    (job_id,) = await jobs.submit(tx, [new], now=terms.now)
    await vms.change(tx, vm.id, now=terms.now, download=job_id, fetches=vm.fetches + 1)
    effects.queued = True


async def move(
    tx: AsyncConnection,
    terms: Terms,
    vm: Row[Any],
    effects: Effects,
    *,
    goal: str,
    forced: bool = False,
    api_job: str | None = None,
) -> None:
    """Order that *vm* reaches *goal*; an order that is under way is replaced."""
    if vm.host_job is not None:
        await jobs.cancel(tx, vm.host_job, now=terms.now)
    if vm.api_job is not None:
        await _complete(tx, terms, vm, effects, error="another request took its place")
    state = {vms.RUNNING: vms.STARTING, vms.EXPUNGING: vms.EXPUNGING}.get(goal, vms.STOPPING)
    await vms.change(
        tx, vm.id, now=terms.now, state=state, goal=goal, api_job=api_job, download=None, note=""
    )
    moved = await vms.get(tx, vm.id)
    assert moved is not None
    if goal == vms.EXPUNGING and vm.fence == 0:
        await _removed(tx, terms, moved, effects)  # its host never heard of it
        return
    copy = await copies.of_live(tx, vm.template, vm.pool)
    volume = copy.volume if copy is not None else vm.disk
    await _order(tx, terms, moved, effects, volume=volume, forced=forced)


async def _order(
    tx: AsyncConnection,
    terms: Terms,
    vm: Row[Any],
    effects: Effects,
    *,
    volume: str,
    forced: bool = False,
) -> None:
    fence = max(vm.fence + 1, terms.floor)
    new = NewJob(
        kind=m.Kind.MACHINE,
        zone=vm.zone,
        host=vm.host,
        fence=fence,
        rank=URGENT,
        args=m.MachineArgs(
            machine=vm.id,
            state=_ORDERS[vm.goal],
            name=vm.display_name,
            pool=vm.pool,
            disk=vm.disk,
            disk_size=vm.disk_size,
            template=vm.template,
            volume=volume,
            iso=vm.iso,
            processors=vm.processors,
            memory=vm.memory,
            controller=vm.controller,
            first=not vm.deployed and vm.goal in {vms.RUNNING, vms.STOPPED},
            forced=forced,
        ),
    )
    (job,) = await jobs.submit(tx, [new], now=terms.now)
    await vms.change(tx, vm.id, now=terms.now, fence=fence, host_job=job)
    effects.hosts.add(vm.host)


async def succeeded(
    tx: AsyncConnection, terms: Terms, vm: Row[Any], done: m.MachineDone, effects: Effects
) -> None:
    """The order of *vm* was carried out."""
    if done.missing:
        # The copy is not what the ledger thinks: the pool's own host knows better.
        copy = await copies.of_live(tx, vm.template, vm.pool)
        if copy is not None and copy.state == copies.READY:
            key = copies.key_of(copy)
            await copies.change(
                tx, key, now=terms.now, state=copies.ABSENT, complete=False, note=done.missing
            )
        await vms.change(tx, vm.id, now=terms.now, host_job=None, download=None)
        again = await vms.get(tx, vm.id)
        assert again is not None
        await fetch_or_order(tx, terms, again, effects)
        return
    if vm.goal == vms.EXPUNGING:
        await _removed(tx, terms, vm, effects)
        return
    await vms.change(
        tx,
        vm.id,
        now=terms.now,
        state=vm.goal,
        deployed=True,
        fetches=0,
        host_job=None,
        download=None,
        note="",
        accelerated=done.accelerated if vm.goal == vms.RUNNING else vm.accelerated,
        disk_size=done.disk_size or vm.disk_size,
    )
    kind = EVENTS[vm.goal] if vm.deployed else "VM.CREATE"
    _tell(effects, vm, kind, f"{vm.display_name} is {vm.goal}")
    await _complete(tx, terms, vm, effects)


async def failed(
    tx: AsyncConnection, terms: Terms, vm: Row[Any], error: FastdlError, effects: Effects
) -> None:
    """What *vm* was to become it did not become: it is again what it was, as far as known."""
    if vm.goal == vms.EXPUNGING:
        state = vms.DESTROYED
    elif not vm.deployed:
        state = vms.ERROR
    else:
        state = vms.STOPPED if vm.goal == vms.RUNNING else vms.RUNNING
    await vms.change(
        tx,
        vm.id,
        now=terms.now,
        state=state,
        host_job=None,
        download=None,
        note=error.message[:4096],
        retry_at=terms.steady + RETRY_S,
    )
    kind = EVENTS[vm.goal] if vm.deployed or vm.goal == vms.EXPUNGING else "VM.CREATE"
    text = f"{vm.display_name} could not become {vm.goal}: {error.message}"
    _tell(effects, vm, kind, text, level="ERROR")
    await _complete(tx, terms, vm, effects, error=error.message)


async def _removed(tx: AsyncConnection, terms: Terms, vm: Row[Any], effects: Effects) -> None:
    await vms.change(
        tx, vm.id, now=terms.now, removed=terms.now, host_job=None, download=None,
        state=vms.EXPUNGING,
    )  # fmt: skip
    _tell(effects, vm, "VM.EXPUNGE", f"{vm.display_name} was removed")
    await _complete(tx, terms, vm, effects)


async def _complete(
    tx: AsyncConnection, terms: Terms, vm: Row[Any], effects: Effects, *, error: str | None = None
) -> None:
    """End the API job that waits for *vm*, if any."""
    if vm.api_job is None:
        return
    status = records.SUCCEEDED if error is None else records.FAILED
    result: dict[str, Any] = {"success": True}
    if error is not None:
        result = {"errorcode": 530, "errortext": error}
    await records.complete_api_job(tx, vm.api_job, status=status, result=result, now=terms.now)
    await vms.change(tx, vm.id, now=terms.now, api_job=None)
    effects.api_jobs.add(vm.api_job)


def _tell(effects: Effects, vm: Row[Any], kind: str, text: str, level: str = "INFO") -> None:
    effects.events.append(
        Event(type=kind, description=text, level=level, account=vm.account, resource=vm.id)
    )


def _failure_of(job: Row[Any]) -> FastdlError:
    """The error with which a download ended."""
    if not job.failure:
        return ApiParamError("The download of its template was cancelled")
    return codec.error_of(codec.from_plain(m.Failure, loads(job.failure)))


async def host_is_up(tx: AsyncConnection, vm: Row[Any]) -> bool:
    """Whether orders for *vm* are carried out soon."""
    host = await hosts.get(tx, vm.host)
    return host is not None and host.state == hosts.UP
