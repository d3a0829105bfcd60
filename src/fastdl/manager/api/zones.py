# SPDX-License-Identifier: Apache-2.0
"""Zones: create, change, list and delete them."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.errors import ApiConflictError, ApiParamError
from fastdl.manager.api import views
from fastdl.manager.api.filters import NONE, SHOWS, By, Is
from fastdl.manager.api.lists import page_of
from fastdl.manager.api.spec import (
    IN_DOMAIN,
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
from fastdl.manager.ledger import zones
from fastdl.manager.ledger.text import loads


def _network(call: Call) -> dict[str, str]:
    """Network parameters that are accepted but not managed here."""
    return {param.name: call.args[param.name] for param in _NETWORK if call.get(param.name)}


async def create_zone(call: Call) -> Reply:
    """Create a zone: a name is enough."""
    name = call.args["name"].strip()
    if not name:
        raise ApiParamError("The zone needs a name")

    async def work(tx: AsyncConnection) -> Row[Any] | None:
        id_ = await zones.create(tx, name, now=call.now, network=_network(call))
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
        old = await zones.get(tx, id_)
        if old is None:
            raise call.no_entity("id")
        network = loads(old.network) | _network(call)
        await zones.change(tx, id_, name=call.get("name"), enabled=enabled, network=network)
        row = await zones.get(tx, id_)
        await call.note(tx, "ZONE.EDIT", f"zone {row.name if row else id_} changed", id_)
        return row

    row = await call.write(work)
    assert row is not None
    return Single("zone", views.zone(row))


async def list_zones(call: Call) -> Reply:
    """List the zones; a caller who is not an administrator sees only enabled ones."""
    async with call.context.ledger.read() as tx:
        rows = await zones.all_zones(tx)
    disabled_too = call.user.admin and not call.get("available")
    return page_of(call, "zone", [views.zone(row) for row in rows if row.enabled or disabled_too])


async def delete_zone(call: Call) -> Reply:
    """Delete an empty zone, with its tokens and certificates."""
    id_ = call.args["id"]

    async def work(tx: AsyncConnection) -> None:
        row = await zones.get(tx, id_)
        if row is None:
            raise call.no_entity("id")
        left = await zones.remove(tx, id_)
        if left is not None:
            raise ApiConflictError(f"The zone is not deletable because there are {left} in it")
        await call.note(tx, "ZONE.DELETE", f"zone {row.name} deleted", id_)

    await call.write(work)
    return Bare({"success": True})


_NETWORK: Final = tuple(
    Param(name, text="kept and shown: fastdl manages no networks")
    for name in (
        "networktype",
        "dns1",
        "dns2",
        "internaldns1",
        "internaldns2",
        "ip6dns1",
        "ip6dns2",
        "domain",
        "guestcidraddress",
        "dhcpprovider",
    )
)
_ZONE: Final = (
    Field("id"),
    Field("name"),
    Field("allocationstate"),
    *(Field(param.name) for param in _NETWORK),
)
COMMANDS: Final = (
    Command(
        name="createZone",
        text="Create a zone",
        handler=create_zone,
        params=(
            Param("name", text="its name", required=True),
            *_NETWORK,
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
            *_NETWORK,
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
            Param("id", Kind.UUID, "the zone", narrows=By()),
            Param("ids", Kind.LIST, "several zones", narrows=By("id")),
            Param("name", text="by name", narrows=By()),
            Param(
                "available",
                Kind.BOOLEAN,
                "true: only enabled ones; false: those where the caller has VMs, which are none",
                narrows=Is(value=True),
            ),
            Param("networktype", text="by network type", narrows=By()),
            IN_DOMAIN,
            TAGGED,
            Param("storageaccessgroup", text="there are none", narrows=NONE),
            Param("showcapacities", Kind.BOOLEAN, "accepted: they are not known", narrows=SHOWS),
            *listed(),
        ),
        response=_ZONE,
    ),
    Command(
        name="deleteZone",
        text="Delete a zone without hosts, pools, templates and ISOs",
        handler=delete_zone,
        params=(Param("id", Kind.UUID, "the zone", required=True),),
        response=(Field("success", "boolean"),),
        admin=True,
        changes=True,
    ),
)
