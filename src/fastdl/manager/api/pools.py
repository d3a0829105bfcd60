# SPDX-License-Identifier: Apache-2.0
"""Primary storage pools: list them, let hosts join them, delete them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.errors import ApiConflictError
from fastdl.manager.api import views
from fastdl.manager.api.filters import NONE, READ, SHOWS, By
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
from fastdl.manager.downloads.unreachable import forget_pool, why_unreached
from fastdl.manager.ledger import copies, hosts, pools, vms, zones
from fastdl.wire import messages as m


async def list_pools(call: Call) -> Reply:
    """List the primary storage pools that hosts have reported."""
    async with call.context.ledger.read() as tx:
        names = await zones.names(tx)
        rows = await pools.of_zone(tx)
        links = defaultdict(list)
        for link in await pools.claims(tx):
            links[link.pool].append(link)
    host = call.get("hostid")
    return page_of(
        call,
        "storagepool",
        [
            _view(row, names, links[row.id])
            for row in rows
            if host is None or any(link.host == host and link.accepted for link in links[row.id])
        ],
    )


def _view(row: Row[Any], names: dict[str, str], links: Sequence[Row[Any]]) -> dict[str, Any]:
    """A pool is Up while a host that is Up can use it; else it says why not."""
    return views.pool(row, names.get(row.zone, ""), why_down=why_unreached(row, links))


async def update_pool(call: Call) -> Reply:
    """Set whether hosts may join a shared pool without proof that they reach it."""
    id_, open_ = call.args["id"], call.get("open")

    async def work(tx: AsyncConnection) -> tuple[dict[str, Any], list[str]]:
        row = await pools.get(tx, id_)
        if row is None:
            raise call.no_entity("id")
        if open_ is not None:
            await pools.set_open(tx, id_, open_=open_)
            how = "may be joined by every host of its zone" if open_ else "asks for a proof again"
            await call.note(tx, "STORAGE.POOL.EDIT", f"storage pool {row.name} {how}", id_)
        found = await pools.get(tx, id_)
        assert found is not None
        links = await pools.claims(tx, [id_])
        item = _view(found, await zones.names(tx), links)
        return item, [link.host for link in links]

    item, claimants = await call.write(work)
    for host in claimants:  # their next report is checked again
        call.context.delivery.send(host, m.InventoryWanted())
    return Single("storagepool", item)


async def delete_pool(call: Call) -> Reply:
    """Delete a pool that no host reports any more, with the records of its copies."""
    id_ = call.args["id"]

    async def work(tx: AsyncConnection) -> list[str]:
        row = await pools.get(tx, id_)
        if row is None:
            raise call.no_entity("id")
        for link in await pools.claims(tx, [id_]):
            if link.accepted and (link.state == hosts.UP or not call.get("forced")):
                raise ApiConflictError(
                    f"Cannot delete the storage pool {row.name}: host {link.name} ({link.state}) "
                    f"reports it. Take it from the host, or delete the host, first"
                )
        known = await copies.count_on_pool(tx, id_)
        if known and not call.get("forced"):
            raise ApiConflictError(
                f"Cannot delete the storage pool {row.name}: {known} copies of templates are "
                f"known there; forced=true forgets them (no byte is deleted)"
            )
        if machines := await vms.on_pool(tx, id_):
            raise ApiConflictError(
                f"Cannot delete the storage pool {row.name}: {machines} virtual machines have "
                f"their disks there. Delete their host, or expunge them, first"
            )
        ended = await forget_pool(tx, id_, now=call.now)
        await call.note(tx, "STORAGE.POOL.DELETE", f"storage pool {row.name} deleted", id_)
        return ended

    call.context.dispatcher.taken_back(await call.write(work))
    return Bare({"success": True})


_POOL: Final = tuple(
    Field(name)
    for name in (
        "id",
        "name",
        "type",
        "path",
        "scope",
        "state",
        "zoneid",
        "zonename",
        "clusterid",
        "clustername",
        "disksizetotal",
        "disksizeused",
        "open",
        "error",
    )
)
_ID: Final = Param("id", text="the pool", required=True)

COMMANDS: Final = (
    Command(
        name="listStoragePools",
        text="List the primary storage pools that hosts have reported",
        handler=list_pools,
        params=(
            Param("id", text="the pool", narrows=By()),
            Param("name", text="by name", narrows=By()),
            Param("path", text="by path", narrows=By()),
            Param("zoneid", Kind.UUID, "by zone", narrows=By()),
            Param("clusterid", Kind.UUID, "by cluster", narrows=By()),
            Param("hostid", Kind.UUID, "by a host that reaches it", narrows=READ),
            Param("scope", text="HOST or CLUSTER", narrows=By()),
            Param("state", text="Up or Down", narrows=By()),
            Param("status", text="as state", narrows=By("state")),
            Param("ipaddress", text="none has one", narrows=NONE),
            Param("podid", text="there are no pods", narrows=NONE),
            Param("storageaccessgroup", text="there are none", narrows=NONE),
            Param("storagecustomstats", Kind.BOOLEAN, "accepted: there are none", narrows=SHOWS),
            *listed(),
        ),
        response=_POOL,
        admin=True,
    ),
    Command(
        name="updateStoragePool",
        text="Set whether hosts may join a shared storage pool without proof that they reach it",
        handler=update_pool,
        params=(
            _ID,
            Param("open", Kind.BOOLEAN, "true: every host of the zone that reports it may use it"),
        ),
        response=_POOL,
        admin=True,
        changes=True,
    ),
    Command(
        name="deleteStoragePool",
        text="Delete a storage pool that no host reports any more",
        handler=delete_pool,
        params=(
            _ID,
            Param("forced", Kind.BOOLEAN, "also where copies are known there", default=False),
        ),
        response=(Field("success", "boolean"),),
        admin=True,
        changes=True,
    ),
)
