# SPDX-License-Identifier: Apache-2.0
"""Deploy a virtual machine: what was requested, checked, and where it comes to be."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.errors import ApiConflictError, ApiParamError, InternalError
from fastdl.manager.api.machine_orders import carried_out
from fastdl.manager.api.machine_views import MIB, OFFERING_ID
from fastdl.manager.api.spec import Bare, Call, Reply
from fastdl.manager.api.template_access import require_enabled, visible
from fastdl.manager.downloads import quota
from fastdl.manager.ledger import copies, hosts, pools, records, templates, vms, zones
from fastdl.manager.ledger.text import new_id
from fastdl.manager.machines import placement, steps
from fastdl.manager.machines.placement import PoolView
from fastdl.manager.machines.steps import Effects

ISO_DISK_GIB: Final = 8
"""Size of the empty disk beside an ISO, unless another one is requested."""
PROCESSORS_MAX: Final = 256
MEMORY_MAX: Final = 16 << 20
"""MiB."""
_NAME: Final = re.compile(r"[A-Za-z]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?", re.ASCII)
_CONTROLLERS: Final = ("virtio", "scsi", "sata", "ide", "osdefault")


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

    job = await carried_out(call, work)
    return Bare({"id": id_, "jobid": job})


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
    processors = _number(details, "cpunumber", call.args["cpunumber"], PROCESSORS_MAX)
    memory = _number(details, "memory", call.args["memory"], MEMORY_MAX)
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
