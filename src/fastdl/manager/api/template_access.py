# SPDX-License-Identifier: Apache-2.0
"""Which templates may a caller see or change, and in which zones?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.errors import ApiConflictError, ApiParamError
from fastdl.manager.api import views
from fastdl.manager.api.spec import Call
from fastdl.manager.ledger import grants, templates, zones


async def visible(call: Call, tx: AsyncConnection, name: str) -> Row[Any]:
    row = await templates.get(tx, call.args[name])
    if row is None or not await may_see(call, tx, row):
        raise call.no_entity(name)
    return row


async def may_see(call: Call, tx: AsyncConnection, row: Row[Any]) -> bool:
    if row.public or row.owner == call.user.id or call.user.admin:
        return True
    return await grants.has(tx, row.id, call.user.account)


async def owned(call: Call, name: str, *, iso: bool | None = None) -> Row[Any]:
    """Return the template *name* names, if this user may change it; else as if it were not."""
    async with call.context.ledger.read() as tx:
        row = await templates.get(tx, call.args[name])
    if row is None or (iso is not None and row.iso != iso):
        raise call.no_entity(name)
    if row.owner != call.user.id and not call.user.admin:
        raise call.no_entity(name)
    return row


async def zones_of_request(call: Call) -> list[str]:
    """Return the zones that *zoneid* or *zoneids* name; ApiParamError where there are none."""
    one, many = call.get("zoneid"), call.get("zoneids")
    if one == "-1":
        one, many = None, ["-1"]
    if one is not None and many is not None:
        raise ApiParamError("Both zoneid and zoneids cannot be specified at the same time")
    wanted = [one] if one is not None else many
    if not wanted:
        raise ApiParamError("Either zoneid or zoneids is required. Both cannot be null.")
    async with call.context.ledger.read() as tx:
        known = {zone.id: zone for zone in await zones.all_zones(tx)}
    if "-1" in wanted:
        if len(wanted) > 1:
            raise ApiParamError(
                "Parameter zoneids cannot combine all zones (-1) option with other zones"
            )
        if not known:
            raise ApiParamError("There is no zone yet: create one first")
        return list(known)
    for zone_id in wanted:
        if zone_id not in known or not (known[zone_id].enabled or call.user.admin):
            raise ApiParamError(f"Unable to find zone by id {zone_id}")
    return list(dict.fromkeys(wanted))


def require_enabled(names: Mapping[str, bool], zone_id: str) -> None:
    """ApiConflictError if the zone is disabled."""
    if not names.get(zone_id, False):
        raise ApiConflictError("The zone is disabled: enable it first")


async def template_item(call: Call, tx: AsyncConnection, id_: str) -> dict[str, Any] | None:
    """Return a template as listTemplates would, None where it is gone."""
    row = await templates.get(tx, id_)
    if row is None:
        return None
    _, rows = await templates.find(tx, iso=row.iso, where={"id": id_}, limit=1)
    own = bool(rows) and rows[0].owner == call.user.id
    return views.template(rows[0], admin=call.user.admin, own=own) if rows else None
