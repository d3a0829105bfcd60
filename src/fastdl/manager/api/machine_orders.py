# SPDX-License-Identifier: Apache-2.0
"""Orders to virtual machines: start, stop, destroy, expunge and recover them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.errors import AgentLostError, ApiConflictError
from fastdl.manager.api import machine_views
from fastdl.manager.api.spec import Bare, Call, Reply, Single
from fastdl.manager.ledger import records, vms
from fastdl.manager.machines import steps
from fastdl.manager.machines.steps import Effects


async def carried_out(call: Call, work: Any) -> Any:
    """The result of *work*, a step of a machine, in this request's transaction."""
    effects = Effects()

    async def whole(tx: AsyncConnection) -> Any:
        nonlocal effects
        effects = Effects()  # of this attempt
        done = await work(tx, effects)
        await call.context.events.store(tx, *effects.events)
        return done

    done = await call.write(whole)
    call.context.machines.follow(effects)
    return done


async def _owned(call: Call, tx: AsyncConnection) -> Row[Any]:
    """The machine *id*, locked, if this caller may change it."""
    vm = await vms.locked(tx, call.args["id"])
    if vm is None or vm.removed is not None:
        raise call.no_entity("id")
    return vm


async def _moved(call: Call, goal: str, states: tuple[str, ...], *, forced: bool) -> Reply:
    """Order a machine, which has to be in one of *states*, to reach *goal*."""

    async def work(tx: AsyncConnection, effects: Effects) -> str:
        vm = await _owned(call, tx)
        if vm.state not in states:
            raise ApiConflictError(
                f"Unable to bring the virtual machine {vm.display_name} to {goal}: it is {vm.state}"
            )
        if goal in {vms.RUNNING, vms.STOPPED} and not await steps.host_is_up(tx, vm):
            raise AgentLostError(f"The host of the virtual machine {vm.display_name} is not Up")
        api_job = await records.add_api_job(
            tx,
            owner=call.user.id,
            command=call.command.name,
            now=call.now,
            instance_type="VirtualMachine",
            instance=vm.id,
        )
        final = goal
        if goal == vms.DESTROYED and not vm.deployed:
            final = vms.EXPUNGING  # there is nothing that could be recovered
        terms = call.context.machines.terms()
        await steps.move(tx, terms, vm, effects, goal=final, forced=forced, api_job=api_job)
        await call.note(tx, steps.EVENTS[final], f"{vm.display_name} is to become {final}", vm.id)
        return api_job

    return Bare({"jobid": await carried_out(call, work)})


async def start(call: Call) -> Reply:
    """Start a machine on its host."""
    return await _moved(call, vms.RUNNING, (vms.STOPPED,), forced=False)


async def stop(call: Call) -> Reply:
    """Stop a machine: its guest is asked first, unless *forced*."""
    forced = bool(call.get("forced"))
    # One that does not obey, and is Stopping for long, can still be switched off.
    states = (vms.RUNNING, vms.STOPPING) if forced else (vms.RUNNING,)
    return await _moved(call, vms.STOPPED, states, forced=forced)


async def destroy(call: Call) -> Reply:
    """Destroy a machine; its disk is kept for a while unless it is expunged at once."""
    states = (vms.STARTING, vms.RUNNING, vms.STOPPING, vms.STOPPED, vms.ERROR)
    if call.get("expunge"):
        return await _moved(call, vms.EXPUNGING, (*states, vms.DESTROYED), forced=True)
    return await _moved(call, vms.DESTROYED, states, forced=True)


async def expunge(call: Call) -> Reply:
    """Remove a destroyed machine for good."""
    return await _moved(call, vms.EXPUNGING, (vms.DESTROYED, vms.ERROR), forced=True)


async def recover(call: Call) -> Reply:
    """Make a destroyed machine a stopped one again."""

    async def work(tx: AsyncConnection, effects: Effects) -> dict[str, Any] | None:
        vm = await _owned(call, tx)
        if vm.state != vms.DESTROYED or vm.goal != vms.DESTROYED:
            raise ApiConflictError(
                f"Unable to recover the virtual machine {vm.display_name}: it is {vm.state}"
            )
        del effects
        await vms.change(tx, vm.id, now=call.now, state=vms.STOPPED, goal=vms.STOPPED)
        await call.note(tx, "VM.RECOVER", f"{vm.display_name} was recovered", vm.id)
        return await machine_views.item(tx, vm.id)

    return Single("virtualmachine", await carried_out(call, work))
