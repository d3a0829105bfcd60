# SPDX-License-Identifier: Apache-2.0
"""Zones: what hosts, pools, templates and certificates belong to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Row, delete, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.errors import ApiConflictError
from fastdl.manager.ledger.tables import cert, host, job, pool, template_zone, token, vm, zone
from fastdl.manager.ledger.text import dumps, new_id


async def create(
    tx: AsyncConnection, name: str, *, now: float, network: Mapping[str, str] | None = None
) -> str:
    """Create an enabled zone; ApiConflictError if the name is taken. *network*: what its creator
    gave: stored and shown, without effect.
    """
    id_ = new_id()
    values = {"name": name, "enabled": True, "created": now, "network": dumps(network or {})}
    try:
        await tx.execute(insert(zone).values(id=id_, **values))
    except IntegrityError:
        raise ApiConflictError(f"A zone with the name {name} already exists") from None
    return id_


async def change(
    tx: AsyncConnection,
    id_: str,
    *,
    name: str | None = None,
    enabled: bool | None = None,
    network: Mapping[str, str] | None = None,
) -> None:
    """Rename, enable or disable a zone, or change what is stored on its network."""
    new = {"name": name, "enabled": enabled, "network": None if not network else dumps(network)}
    values = {key: value for key, value in new.items() if value is not None}
    if not values:
        return
    try:
        await tx.execute(update(zone).where(zone.c.id == id_).values(**values))
    except IntegrityError:
        raise ApiConflictError(f"A zone with the name {name} already exists") from None


async def get(tx: AsyncConnection, id_: str) -> Row[Any] | None:
    """Return the zone with this id."""
    return (await tx.execute(select(zone).where(zone.c.id == id_))).first()


async def all_zones(tx: AsyncConnection) -> list[Row[Any]]:
    """Return every zone, oldest first."""
    return list(await tx.execute(select(zone).order_by(zone.c.created, zone.c.id)))


async def names(tx: AsyncConnection) -> dict[str, str]:
    """Return zone → name."""
    return {row.id: row.name for row in await all_zones(tx)}


async def remove(tx: AsyncConnection, id_: str) -> str | None:
    """Delete a zone with its tokens and certificates; return what prevents that, None = gone."""
    for what, found in (
        ("hosts", select(host.c.id).where(host.c.zone == id_)),
        ("storage pools", select(pool.c.id).where(pool.c.zone == id_)),
        (
            "templates or ISOs",
            select(template_zone.c.template).where(
                template_zone.c.zone == id_, template_zone.c.removed.is_(None)
            ),
        ),
        ("virtual machines", select(vm.c.id).where(vm.c.zone == id_, vm.c.removed.is_(None))),
        ("jobs", select(job.c.id).where(job.c.zone == id_, job.c.ended.is_(None))),
    ):
        if (await tx.execute(found.limit(1))).first() is not None:
            return what
    for table in (token, cert, template_zone, vm):
        await tx.execute(delete(table).where(table.c.zone == id_))
    await tx.execute(delete(zone).where(zone.c.id == id_))
    return None
