# SPDX-License-Identifier: Apache-2.0
"""Virtual machines: deploy, list, start, stop and destroy them, and read their consoles."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.errors import AgentLostError, ApiConflictError, ApiParamError, InternalError
from fastdl.manager.api import machine_views
from fastdl.manager.api.filters import NONE, SHOWS, By, Contains, Is
from fastdl.manager.api.lists import page_of
from fastdl.manager.api.machine_views import MIB, OFFERING, OFFERING_ID
from fastdl.manager.api.spec import (
    IN_DOMAIN,
    IN_PROJECT,
    JOB,
    TAGGED,
    Bare,
    Call,
    Command,
    Field,
    Kind,
    Param,
    Reply,
    Single,
    listed,
)
from fastdl.manager.api.template_access import require_enabled, visible
from fastdl.manager.downloads import quota
from fastdl.manager.ledger import copies, hosts, pools, records, templates, vms, zones
from fastdl.manager.ledger.text import new_id
from fastdl.manager.machines import placement, steps
from fastdl.manager.machines.placement import PoolView
from fastdl.manager.machines.steps import Effects
from fastdl.wire import messages as m

ISO_DISK_GIB: Final = 8
"""Size of the empty disk beside an ISO, unless another one is requested."""
_NAME: Final = re.compile(r"[A-Za-z]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?", re.ASCII)
_CONTROLLERS: Final = ("virtio", "scsi", "sata", "ide", "osdefault")
_PROCESSORS_MAX: Final = 256
_MEMORY_MAX: Final = 16 << 20  # MiB


async def deploy(call: Call) -> Reply:
    """Create a machine from a template or an ISO; its template is downloaded if necessary."""
    s, zone_id, id_ = call.context, call.args["zoneid"], new_id()
    name = _name(call, id_)
    processors, memory, controller = _resources(call)
    async with s.ledger.read() as tx:
        template = await visible(call, tx, "templateid")
        enabled = {zone.id: zone.enabled for zone in await zones.all_zones(tx)}
        if zone_id not in enabled:
            raise call.no_entity("zoneid")
        if zone_id not in await templates.zones_of(tx, template.id):
            raise ApiParamError(f"Template {template.name} is not registered in this zone")
        require_enabled(enabled, zone_id)
        await _check_host(call, tx, zone_id)
    if template.arch != "x86_64":
        raise ApiParamError(f"Machines of the architecture {template.arch} cannot be run here")
    if template.iso and not template.bootable:
        raise ApiParamError(f"The ISO {template.name} is not bootable")
    size = _disk_size(call, template)

    async def work(tx: AsyncConnection, effects: Effects) -> str:
        if await vms.named(tx, zone_id, name) is not None:
            raise ApiConflictError(f"A virtual machine with the name {name} already exists")
        place = await _place(call, tx, template, zone_id, size)
        api_job = await records.add_api_job(
            tx,
            owner=call.user.id,
            command=call.command.name,
            now=call.now,
            instance_type="VirtualMachine",
            instance=id_,
        )
        await vms.add(
            tx,
            id=id_,
            zone=zone_id,
            owner=call.user.id,
            account=call.user.account,
            name=name,
            display_name=call.get("displayname") or name,
            template=template.id,
            iso=template.iso,
            host=place.host,
            pool=place.pool,
            disk=new_id(),
            disk_size=size,
            processors=processors,
            memory=memory * MIB,
            controller=controller,
            state=vms.STARTING,
            goal=vms.RUNNING if call.args["startvm"] else vms.STOPPED,
            api_job=api_job,
            created=call.now,
            updated=call.now,
        )
        vm = await vms.get(tx, id_)
        assert vm is not None
        await steps.fetch_or_order(tx, s.machines.terms(), vm, effects)
        await call.note(tx, "VM.CREATE", f"{name} is deployed from {template.name}", id_)
        return api_job

    job = await _carried_out(call, work)
    return Bare({"id": id_, "jobid": job})


async def _carried_out(call: Call, work: Any) -> Any:
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


def _name(call: Call, id_: str) -> str:
    name: str = call.get("name") or f"VM-{id_}"
    if not _NAME.fullmatch(name):
        raise ApiParamError(
            "Invalid name. Vm name can contain ASCII letters 'a' through 'z', the digits '0' "
            "through '9', and the hyphen ('-'), must be between 1 and 63 characters long, and "
            "can't start or end with \"-\" and can't start with digit"
        )
    return name


def _resources(call: Call) -> tuple[int, int, str]:
    """Return (processors, MiB of memory, root disk controller)."""
    if call.get("serviceofferingid") not in {None, OFFERING_ID}:
        raise call.no_entity("serviceofferingid")
    details = {key.lower(): value for key, value in (call.get("details") or {}).items()}
    processors = _number(details, "cpunumber", call.args["cpunumber"], _PROCESSORS_MAX)
    memory = _number(details, "memory", call.args["memory"], _MEMORY_MAX)
    controller = details.get("rootdiskcontroller", "osdefault").lower()
    if controller not in _CONTROLLERS:
        raise ApiParamError(f"rootDiskController is one of {', '.join(_CONTROLLERS)}")
    return processors, memory, "" if controller == "osdefault" else controller


def _number(details: Mapping[str, str], name: str, otherwise: int, most: int) -> int:
    text = details.get(name, str(otherwise))
    if not re.fullmatch(r"[0-9]{1,9}", text, re.ASCII) or not 1 <= int(text) <= most:
        raise ApiParamError(f"{name} is a whole number between 1 and {most}")
    return int(text)


def _disk_size(call: Call, template: Row[Any]) -> int:
    """Return the root disk's size in bytes; 0 = that of a template whose size is unknown yet."""
    # With a template, "size" is of a second disk in CloudStack.
    asked = call.get("rootdisksize") or (call.get("size") if template.iso else None)
    least = 0 if template.iso else quota.disk_of(template) or 0
    if asked is None:
        return ISO_DISK_GIB * quota.GIB if template.iso else least
    size = int(asked) * quota.GIB
    if size < least:
        raise ApiParamError(f"rootdisksize: the template's disk has {least} bytes")
    if size > (most := call.context.settings.whole(quota.VIRTUAL) * quota.GIB):
        raise ApiParamError(f"rootdisksize: {quota.VIRTUAL} allows {most} bytes")
    return size


async def _check_host(call: Call, tx: AsyncConnection, zone_id: str) -> None:
    """The named host and pool exist in the zone."""
    if call.get("hostid") is not None:
        host = await hosts.get(tx, call.args["hostid"])
        if host is None or host.zone != zone_id:
            raise ApiParamError(f"Unable to find host by id {call.args['hostid']} in the zone")
    if call.get("storageid") is not None:
        pool = await pools.get(tx, call.args["storageid"])
        if pool is None or pool.zone != zone_id:
            raise call.no_entity("storageid")


async def _place(
    call: Call, tx: AsyncConnection, template: Row[Any], zone_id: str, size: int
) -> placement.Place:
    ready = {
        copy.pool
        for copy in await copies.of_template(tx, template.id, zone_id=zone_id)
        if copy.state == copies.READY and copy.complete and copy.live == template.id
    }
    views = {
        pool.id: PoolView(
            pool.id, pool.available, thick=quota.is_thick(pool), has_template=pool.id in ready
        )
        for pool in await pools.of_zone(tx, zone_id)
    }
    fleet = [host for host in call.context.fleet.hosts.values() if host.zone == zone_id]
    place = placement.choose(
        fleet,
        views,
        machines=await vms.count_by_host(tx),
        need=size,
        host=call.get("hostid"),
        pool=call.get("storageid"),
    )
    if place is None:
        raise InternalError(
            "Unable to create a deployment for the virtual machine: no host that is Up and "
            "enabled, runs virtual machines (libvirt, x86_64) and has a pool with room for the "
            "disk" + (", among those named" if call.get("hostid") or call.get("storageid") else "")
        )
    return place


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

    return Bare({"jobid": await _carried_out(call, work)})


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

    return Single("virtualmachine", await _carried_out(call, work))


async def list_(call: Call) -> Reply:
    """List machines, oldest first."""
    async with call.context.ledger.read() as tx:
        items = await machine_views.items(tx, await vms.existing(tx))
    if call.get("ids"):
        items = [item for item in items if item["id"] in call.args["ids"]]
    return page_of(call, "virtualmachine", items)


async def list_offerings(call: Call) -> Reply:
    """List service offerings: there is one, and requests say how large their machines are."""
    return page_of(call, "serviceoffering", [OFFERING])


async def console(call: Call) -> Reply:
    """Return the end of what a machine wrote to its serial console."""
    async with call.context.ledger.read() as tx:
        vm = await vms.get(tx, call.args["id"])
    if vm is None or vm.removed is not None:
        raise call.no_entity("id")
    host = call.context.fleet.hosts.get(vm.host)
    if host is None:
        raise AgentLostError(f"The host of the virtual machine {vm.display_name} is not Up")
    args = m.ConsoleArgs(machine=vm.id, most=call.args["length"])
    done = await call.context.requests.send(host, m.Kind.CONSOLE, args)
    assert isinstance(done, m.ConsoleDone)
    return Single("consoleoutput", {"virtualmachineid": vm.id, "output": done.text})


_VM: Final = tuple(
    Field(name)
    for name in (
        "id", "name", "displayname", "account", "created", "state", "zoneid", "zonename",
        "hostid", "hostname", "templateid", "templatename", "isoid", "isoname", "cpunumber",
        "memory", "serviceofferingid", "serviceofferingname", "rootdisksize", "storageid",
        "storagename", "hypervisor", "accelerated", "instancename", "error",
    )
)  # fmt: skip
_ID: Final = Param("id", Kind.UUID, "the virtual machine", required=True)


def _order(name: str, text: str, handler: Any, *params: Param) -> Command:
    return Command(
        name=name,
        text=text,
        handler=handler,
        params=(_ID, *params),
        response=JOB,
        admin=True,
        changes=True,
        is_async=True,
    )


COMMANDS: Final = (
    Command(
        name="deployVirtualMachine",
        text="Create a virtual machine; its template is downloaded first where it is missing",
        handler=deploy,
        params=(
            Param("templateid", Kind.UUID, "the template or ISO", required=True),
            Param("zoneid", Kind.UUID, "the zone", required=True),
            Param("hostid", Kind.UUID, "on this host only"),
            Param("storageid", text="in this pool only"),
            Param("serviceofferingid", Kind.UUID, "accepted: there is one, of any size"),
            Param("name", text="a host name: unique in the zone", length=63),
            Param("displayname", text="shown instead of the name"),
            Param("startvm", Kind.BOOLEAN, "false: it is created and stays Stopped", default=True),
            Param("cpunumber", Kind.INTEGER, "processors", default=1, least=1,
                  most=_PROCESSORS_MAX),
            Param("memory", Kind.INTEGER, "MiB of memory", default=512, least=16,
                  most=_MEMORY_MAX),
            Param("details", Kind.MAP, "cpuNumber, memory (MiB), rootDiskController"),
            Param("rootdisksize", Kind.INTEGER, "GiB of the root disk; default: the template's",
                  least=1, most=1 << 20),
            Param("size", Kind.INTEGER, "the same, as CloudStack has it for ISOs", least=1,
                  most=1 << 20),
            Param("hypervisor", text="KVM", choices=("KVM",)),
        ),
        response=(Field("id"), *JOB),
        admin=True,
        changes=True,
        is_async=True,
    ),
    _order("startVirtualMachine", "Start a virtual machine, on its host", start),
    _order(
        "stopVirtualMachine",
        "Stop a virtual machine",
        stop,
        Param("forced", Kind.BOOLEAN, "switch it off, without asking its guest first"),
    ),
    _order(
        "destroyVirtualMachine",
        "Destroy a virtual machine; it can be recovered for expunge.delay seconds",
        destroy,
        Param("expunge", Kind.BOOLEAN, "remove it and its disk at once"),
    ),
    _order("expungeVirtualMachine", "Remove a destroyed virtual machine and its disk", expunge),
    Command(
        name="recoverVirtualMachine",
        text="Make a destroyed virtual machine a stopped one again",
        handler=recover,
        params=(_ID,),
        response=_VM,
        admin=True,
        changes=True,
    ),
    Command(
        name="listVirtualMachines",
        text="List virtual machines",
        handler=list_,
        params=(
            Param("id", Kind.UUID, "the virtual machine", narrows=By()),
            Param("ids", Kind.LIST, "several", narrows=By("id")),
            Param("name", text="by name", narrows=By()),
            Param("state", text="Running, Stopped, Starting, Error…", narrows=By()),
            Param("zoneid", Kind.UUID, "by zone", narrows=By()),
            Param("hostid", Kind.UUID, "by host", narrows=By()),
            Param("templateid", Kind.UUID, "by template", narrows=By()),
            Param("isoid", Kind.UUID, "by ISO", narrows=By()),
            Param("storageid", text="by the pool of its disk", narrows=By()),
            Param("serviceofferingid", Kind.UUID, "there is one", narrows=By()),
            Param("hypervisor", text="all are KVM", narrows=Is("KVM")),
            Param("account", text="by account", narrows=By()),
            Param("userid", Kind.UUID, "by user", narrows=By()),
            Param("podid", text="there are no pods", narrows=NONE),
            Param("networkid", text="none has a network", narrows=NONE),
            Param("groupid", text="there are no groups", narrows=NONE),
            Param("displayvm", Kind.BOOLEAN, "all are", narrows=Is(value=True)),
            Param("haenable", Kind.BOOLEAN, "none is", narrows=Is(value=False)),
            Param("details", text="accepted: all are shown", narrows=SHOWS),
            IN_DOMAIN,
            IN_PROJECT,
            TAGGED,
            *listed(Contains(("name", "displayname"))),
        ),
        response=_VM,
        admin=True,
    ),
    Command(
        name="getVirtualMachineConsoleOutput",
        text="Return the end of what a virtual machine wrote to its serial console",
        handler=console,
        params=(
            _ID,
            Param("length", Kind.INTEGER, "bytes from the end", default=16384, least=1,
                  most=64 << 10),
        ),
        response=(Field("virtualmachineid"), Field("output")),
        admin=True,
    ),
    Command(
        name="listServiceOfferings",
        text="List service offerings: one, of any size",
        handler=list_offerings,
        params=(
            Param("id", Kind.UUID, "the offering", narrows=By()),
            Param("name", text="by name", narrows=By()),
            Param("issystem", Kind.BOOLEAN, "it is not", narrows=By()),
            Param("virtualmachineid", Kind.UUID, "accepted: it suits all", narrows=SHOWS),
            IN_DOMAIN,
            *listed(),
        ),
        response=(Field("id"), Field("name"), Field("iscustomized", "boolean")),
    ),
)  # fmt: skip
