# SPDX-License-Identifier: Apache-2.0
"""Hosts: list, disable, drain and delete them."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.errors import AgentLostError, ApiConflictError, ApiParamError
from fastdl.manager.api import views
from fastdl.manager.api.filters import NONE, SHOWS, By, Is
from fastdl.manager.api.lists import page_of
from fastdl.manager.api.spec import (
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
from fastdl.manager.downloads.dispatch import take_back
from fastdl.manager.downloads.unreachable import forget_pool
from fastdl.manager.ledger import hosts, pools, records, vms, zones

ALLOCATION: Final = {"enable": hosts.ENABLED, "disable": hosts.DISABLED}
TAGS_MAX: Final = 64


async def list_hosts(call: Call) -> Reply:
    """List the hosts, with their states."""
    async with call.context.ledger.read() as tx:
        names = await zones.names(tx)
        rows = await hosts.of_zone(tx)
    return page_of(call, "host", [views.host(row, names.get(row.zone, "")) for row in rows])


async def _found(call: Call, tx: AsyncConnection) -> Row[Any]:
    row = await hosts.locked(tx, call.args["id"])
    if row is None:
        raise call.no_entity("id")
    return row


async def _shown(tx: AsyncConnection, id_: str) -> dict[str, Any]:
    row = await hosts.get(tx, id_)
    assert row is not None
    return views.host(row, (await zones.names(tx)).get(row.zone, ""))


async def update_host(call: Call) -> Reply:
    """Disable, enable, rename or tag a host."""
    id_, name, tags = call.args["id"], call.get("name"), call.get("hosttags")
    wanted = call.get("allocationstate")
    state = ALLOCATION.get(wanted.lower()) if wanted is not None else None
    if wanted is not None and state is None:
        raise ApiParamError("allocationstate is either Enable or Disable")
    if name is not None and not name.strip():
        raise ApiParamError("The host needs a name")
    if tags is not None and len(tags) > TAGS_MAX:
        raise ApiParamError(f"A host has at most {TAGS_MAX} tags")

    async def work(tx: AsyncConnection) -> dict[str, Any]:
        row = await _found(call, tx)
        if state is not None and row.resource_state not in {hosts.ENABLED, hosts.DISABLED}:
            raise ApiConflictError(
                f"Host {row.name} is in the state {row.resource_state}: cancel its maintenance "
                f"(cancelHostMaintenance) first"
            )
        stripped = name.strip() if name is not None else None
        await hosts.change(tx, id_, name=stripped, resource_state=state, tags=tags)
        await call.note(tx, "HOST.EDIT", f"host {row.name} changed", id_)
        return await _shown(tx, id_)

    item = await call.write(work)
    if state is not None:
        call.context.handler.allocate(id_, state)
    return Single("host", item)


async def prepare_maintenance(call: Call) -> Reply:
    """Let a host finish its jobs and assign no new ones; then it is in maintenance."""
    id_ = call.args["id"]

    async def work(tx: AsyncConnection) -> str:
        row = await _found(call, tx)
        if row.resource_state not in {hosts.ENABLED, hosts.DISABLED}:
            raise ApiConflictError(
                f"Cannot perform maintain when resource state is {row.resource_state}, "
                f"hostId = {id_}"
            )
        await hosts.change(tx, id_, resource_state=hosts.PREPARING)
        text = f"host {row.name} prepares for maintenance: it gets nothing new"
        await call.note(tx, "MAINT.PREPARE", text, id_)
        await hosts.end_drains(tx)
        return await _done(call, tx, id_)

    job = await call.write(work)
    call.context.handler.allocate(id_, hosts.PREPARING)
    return Bare({"jobid": job})


async def cancel_maintenance(call: Call) -> Reply:
    """End a host's maintenance."""
    id_ = call.args["id"]

    async def work(tx: AsyncConnection) -> str:
        row = await _found(call, tx)
        if row.resource_state not in {hosts.PREPARING, hosts.MAINTENANCE}:
            raise ApiConflictError(
                f"Cannot perform cancelMaintenance when resource state is {row.resource_state}, "
                f"hostId = {id_}"
            )
        await hosts.change(tx, id_, resource_state=hosts.ENABLED)
        await call.note(tx, "MAINT.CANCEL", f"host {row.name} is given work again", id_)
        return await _done(call, tx, id_)

    job = await call.write(work)
    call.context.handler.allocate(id_, hosts.ENABLED)
    return Bare({"jobid": job})


async def _done(call: Call, tx: AsyncConnection, id_: str) -> str:
    """An API job that is over, with the host as it is now: what is left continues without it."""
    return await records.add_done_job(
        tx,
        owner=call.user.id,
        command=call.command.name,
        now=call.now,
        instance_type="Host",
        instance=id_,
        result={"host": await _shown(tx, id_)},
    )


async def delete_host(call: Call) -> Reply:
    """Evict a host: its certificate and tokens become invalid at once.

    Its jobs go to other hosts, or wait for one that reaches the pool. Its local pools keep their
    rows, because the machine may return with them, unless they are to be deleted too.
    """
    id_, forced = call.args["id"], call.get("forced")

    async def work(tx: AsyncConnection) -> tuple[Row[Any], list[str]]:
        row = await _found(call, tx)
        if row.resource_state != hosts.MAINTENANCE and not forced:
            raise ApiConflictError(
                f"Host {id_} cannot be deleted as it is not in maintenance mode. Either put the "
                f"host into maintenance or perform a forced deletion."
            )
        machines = await vms.existing(tx, host=id_)
        if machines and not forced:
            raise ApiConflictError(
                f"Host {id_} cannot be deleted: it has {len(machines)} virtual machines. Destroy "
                f"and expunge them first; forced=true forgets them and leaves them as they are"
            )
        await vms.forget_host(tx, id_, now=call.now)
        ended = await take_back(tx, id_, AgentLostError("the host was deleted"), now=call.now)
        left = await pools.usable(tx, id_) if call.get("forcedestroylocalstorage") else ()
        await hosts.remove(tx, id_)
        for pool in left:
            if not await pools.hosts_of(tx, pool):
                ended += await forget_pool(tx, pool, now=call.now)
        await call.note(tx, "HOST.DELETE", f"host {row.name} deleted", id_)
        return row, ended

    row, ended = await call.write(work)
    call.context.handler.evict(id_, row.key_hash)
    call.context.dispatcher.taken_back(ended)
    return Bare({"success": True})


_HOST: Final = tuple(
    Field(name)
    for name in (
        "id",
        "name",
        "state",
        "type",
        "ipaddress",
        "zoneid",
        "zonename",
        "clusterid",
        "clustername",
        "hypervisor",
        "version",
        "resourcestate",
        "arch",
        "hosttags",
        "managementserverid",
        "created",
        "disconnected",
        "keystoreerror",
    )
)
_ID: Final = Param("id", Kind.UUID, "the host", required=True)

COMMANDS: Final = (
    Command(
        name="listHosts",
        text="List hosts",
        handler=list_hosts,
        params=(
            Param("id", Kind.UUID, "the host", narrows=By()),
            Param("name", text="by name", narrows=By()),
            Param("zoneid", Kind.UUID, "by zone", narrows=By()),
            Param("clusterid", Kind.UUID, "by cluster", narrows=By()),
            Param("podid", text="there are no pods", narrows=NONE),
            Param("state", text="Up, Down, Disconnected, Alert, Connecting", narrows=By()),
            Param("type", text="all are Routing", narrows=Is("Routing")),
            Param("hypervisor", text="all are KVM", narrows=Is("KVM")),
            Param(
                "resourcestate",
                text="Enabled, Disabled, PrepareForMaintenance, Maintenance",
                narrows=By(),
            ),
            Param("arch", text="of its processors: x86_64, aarch64…", narrows=By()),
            Param("version", text="by the version of its agent", narrows=By()),
            Param("managementserverid", text="by the manager it is connected to", narrows=By()),
            Param("hahost", Kind.BOOLEAN, "none is", narrows=Is(value=False)),
            Param("hastate", text="there is no host HA", narrows=NONE),
            Param(
                "outofbandmanagementenabled", Kind.BOOLEAN, "none has it", narrows=Is(value=False)
            ),
            Param("outofbandmanagementpowerstate", text="none has it", narrows=NONE),
            Param("virtualmachineid", text="there are no VMs", narrows=NONE),
            Param("storageaccessgroup", text="there are none", narrows=NONE),
            Param("details", text="accepted: all are shown", narrows=SHOWS),
            *listed(),
        ),
        response=_HOST,
        admin=True,
    ),
    Command(
        name="updateHost",
        text="Disable, enable, rename or tag a host",
        handler=update_host,
        params=(
            _ID,
            Param("allocationstate", text="Disable (no new downloads there) or Enable"),
            Param("name", text="a name that overrides the one the host reports"),
            Param("hosttags", Kind.LIST, "all its tags"),
        ),
        response=_HOST,
        admin=True,
        changes=True,
    ),
    Command(
        name="prepareHostForMaintenance",
        text="Drain a host: running downloads finish, new ones go to other hosts",
        handler=prepare_maintenance,
        params=(_ID,),
        response=_HOST,
        admin=True,
        changes=True,
        is_async=True,
    ),
    Command(
        name="cancelHostMaintenance",
        text="End a host's maintenance, or its preparation",
        handler=cancel_maintenance,
        params=(_ID,),
        response=_HOST,
        admin=True,
        changes=True,
        is_async=True,
    ),
    Command(
        name="deleteHost",
        text="Evict a host: its certificate and tokens are refused from now on",
        handler=delete_host,
        params=(
            _ID,
            Param("forced", Kind.BOOLEAN, "also where it is not in maintenance", default=False),
            Param(
                "forcedestroylocalstorage",
                Kind.BOOLEAN,
                "forget its local pools and what was known of copies there; no byte is deleted",
                default=False,
            ),
        ),
        response=(Field("success", "boolean"),),
        admin=True,
        changes=True,
    ),
)
