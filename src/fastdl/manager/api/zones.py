# SPDX-License-Identifier: Apache-2.0
"""Zones, hosts, pools, and the tokens by which hosts enter a zone."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.errors import ApiParamError
from fastdl.manager.api import views
from fastdl.manager.api.spec import (
    PAGING,
    Bare,
    Call,
    Command,
    Field,
    Kind,
    Listing,
    Param,
    Reply,
    Single,
)
from fastdl.manager.ledger import hosts, zones
from fastdl.wire.token import new_token

TOKEN_S: Final = 24 * 3600.0


def _page(call: Call, name: str, items: list[dict[str, Any]]) -> Listing:
    first, size = call.page()
    return Listing(name, items[first : first + size], len(items))


def _keyword(call: Call, name: str) -> bool:
    word = call.get("keyword")
    return word is None or word.lower() in name.lower()


async def create_zone(call: Call) -> Reply:
    """Create a zone: a name is enough."""
    name = call.args["name"].strip()
    if not name:
        raise ApiParamError("The zone needs a name")

    async def work(tx: AsyncConnection) -> Row[Any] | None:
        id_ = await zones.create(tx, name, now=call.now)
        await call.note(tx, "ZONE.CREATE", f"zone {name} created", id_)
        return await zones.get(tx, id_)

    row = await call.write(work)
    assert row is not None
    return Single("zone", views.zone(row))


async def update_zone(call: Call) -> Reply:
    """Rename, enable or disable a zone."""
    state, id_ = call.get("allocationstate"), call.args["id"]
    if state is not None and state not in {"Enabled", "Disabled"}:
        raise ApiParamError("allocationstate is either Enabled or Disabled")
    enabled = None if state is None else state == "Enabled"

    async def work(tx: AsyncConnection) -> Row[Any] | None:
        if await zones.get(tx, id_) is None:
            raise call.no_entity("id")
        await zones.change(tx, id_, name=call.get("name"), enabled=enabled)
        row = await zones.get(tx, id_)
        await call.note(tx, "ZONE.EDIT", f"zone {row.name if row else id_} changed", id_)
        return row

    row = await call.write(work)
    assert row is not None
    return Single("zone", views.zone(row))


async def list_zones(call: Call) -> Reply:
    """The zones; who is no administrator sees the enabled ones."""
    async with call.core.services.ledger.read() as tx:
        rows = await zones.all_zones(tx)
    ids = set(call.get("ids") or ()) | ({call.args["id"]} if call.get("id") else set())
    kept = [
        row
        for row in rows
        if (not ids or row.id in ids)
        and call.get("name") in {None, row.name}
        and _keyword(call, row.name)
        and (row.enabled or (call.user.admin and not call.get("available")))
        and call.get("networktype") in {None, "Basic"}
    ]
    return _page(call, "zone", [views.zone(row) for row in kept])


async def _zone_names(tx: AsyncConnection) -> dict[str, str]:
    return {zone.id: zone.name for zone in await zones.all_zones(tx)}


async def list_hosts(call: Call) -> Reply:
    """The hosts, with their states."""
    async with call.core.services.ledger.read() as tx:
        names = await _zone_names(tx)
        rows = await hosts.of_zone(tx, call.get("zoneid"))
    if call.get("type") not in {None, "Routing"} or call.get(
        "hypervisor",
    ) not in {None, "KVM", "kvm"}:
        rows = []

    def wanted(row: Row[Any]) -> bool:
        item = views.host(row, "")
        return _keyword(call, row.name) and all(
            call.get(name) is None or str(item.get(name)).lower() == str(call.get(name)).lower()
            for name in ("id", "name", "state", "clusterid", "resourcestate")
        )

    return _page(call, "host", [views.host(r, names.get(r.zone, "")) for r in rows if wanted(r)])


async def list_pools(call: Call) -> Reply:
    """The primary storage pools that hosts have reported."""
    async with call.core.services.ledger.read() as tx:
        names = await _zone_names(tx)
        rows = await hosts.pools_of_zone(tx, call.get("zoneid"))

    def wanted(row: Row[Any]) -> bool:
        item = views.pool(row, "")
        return _keyword(call, row.name) and all(
            call.get(name) is None or str(item.get(name)).lower() == str(call.get(name)).lower()
            for name in ("id", "name", "path", "clusterid", "scope")
        )

    items = [views.pool(r, names.get(r.zone, "")) for r in rows if wanted(r)]
    return _page(call, "storagepool", items)


async def create_host_token(call: Call) -> Reply:
    """Create a one-time token by which one host may enrol within a day."""
    token = new_token(call.core.authority.sha256)
    cluster = (call.get("clustername") or "default").strip() or "default"
    expires = call.now + TOKEN_S
    zone_id = call.args["zoneid"]

    async def work(tx: AsyncConnection) -> None:
        zone = await zones.get(tx, zone_id)
        if zone is None:
            raise call.no_entity("zoneid")
        await zones.add_token(tx, token, zone_id=zone_id, cluster=cluster, expires=expires)
        await call.note(tx, "HOST.TOKEN", f"enrolment token created for zone {zone.name}", zone_id)

    await call.write(work)
    return Bare({"token": str(token), "zoneid": zone_id, "expires": views.date(expires)})


_ZONE: Final = (Field("id"), Field("name"), Field("allocationstate"), Field("networktype"))
_HOST: Final = tuple(
    Field(name)
    for name in (
        "id", "name", "state", "type", "ipaddress", "zoneid", "zonename", "clusterid",
        "clustername", "hypervisor", "version", "resourcestate", "managementserverid", "created",
        "keystoreerror",
    )
)  # fmt: skip
_POOL: Final = tuple(
    Field(name)
    for name in (
        "id", "name", "type", "path", "scope", "state", "zoneid", "zonename", "clusterid",
        "clustername", "disksizetotal", "disksizeused",
    )
)  # fmt: skip

COMMANDS: Final = (
    Command(
        name="createZone",
        text="Create a zone",
        handler=create_zone,
        params=(
            Param("name", text="its name", required=True),
            Param("networktype", text="accepted and ignored: fastdl manages no networks"),
            Param("dns1", text="accepted and ignored"),
            Param("internaldns1", text="accepted and ignored"),
        ),
        response=_ZONE,
        admin=True,
        changes=True,
    ),
    Command(
        name="updateZone",
        text="Rename, enable or disable a zone",
        handler=update_zone,
        params=(
            Param("id", Kind.UUID, "the zone", required=True),
            Param("name", text="its new name"),
            Param("allocationstate", text="Enabled or Disabled"),
        ),
        response=_ZONE,
        admin=True,
        changes=True,
    ),
    Command(
        name="listZones",
        text="List zones",
        handler=list_zones,
        params=(
            Param("id", Kind.UUID, "the zone"),
            Param("ids", Kind.LIST, "several zones"),
            Param("name", text="by name"),
            Param("available", Kind.BOOLEAN, "only enabled ones"),
            Param("networktype", text="by network type"),
            Param("showcapacities", Kind.BOOLEAN, "accepted and ignored"),
            *PAGING,
        ),
        response=_ZONE,
    ),
    Command(
        name="listHosts",
        text="List hosts",
        handler=list_hosts,
        params=(
            Param("id", Kind.UUID, "the host"),
            Param("name", text="by name"),
            Param("zoneid", Kind.UUID, "by zone"),
            Param("clusterid", Kind.UUID, "by cluster"),
            Param("podid", Kind.UUID, "accepted and ignored: fastdl knows no pods"),
            Param("state", text="Up, Down, Disconnected, Alert, Connecting"),
            Param("type", text="Routing"),
            Param("hypervisor", text="KVM"),
            Param("resourcestate", text="Enabled or Disabled"),
            *PAGING,
        ),
        response=_HOST,
        admin=True,
    ),
    Command(
        name="listStoragePools",
        text="List the primary storage pools that hosts have reported",
        handler=list_pools,
        params=(
            Param("id", text="the pool"),
            Param("name", text="by name"),
            Param("path", text="by path"),
            Param("zoneid", Kind.UUID, "by zone"),
            Param("clusterid", Kind.UUID, "by cluster"),
            Param("scope", text="HOST or CLUSTER"),
            *PAGING,
        ),
        response=_POOL,
        admin=True,
    ),
    Command(
        name="createHostToken",
        text="Create a one-time token by which a host's agent enrols in a zone",
        handler=create_host_token,
        params=(
            Param("zoneid", Kind.UUID, "the zone", required=True),
            Param("clustername", text="the cluster the host joins (default: default)"),
        ),
        response=(Field("token"), Field("zoneid"), Field("expires")),
        admin=True,
        changes=True,
    ),
)
