# SPDX-License-Identifier: Apache-2.0
"""Templates and ISOs, and the zones they are offered in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Row, Select, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.manager.ledger import grants
from fastdl.manager.ledger.tables import template as t
from fastdl.manager.ledger.tables import template_zone, zone
from fastdl.manager.ledger.text import dumps, new_id


async def create(
    tx: AsyncConnection, values: Mapping[str, Any], *, zones: Sequence[str], now: float
) -> str:
    """Store a template offered in *zones*; *values* are columns, JSON ones still as objects."""
    id_ = new_id()
    await tx.execute(insert(t).values(id=id_, created=now, **_plain(values)))
    await tx.execute(
        insert(template_zone), [{"template": id_, "zone": zone_, "created": now} for zone_ in zones]
    )
    return id_


async def get(tx: AsyncConnection, id_: str) -> Row[Any] | None:
    """Return the template, unless it was removed."""
    return (await tx.execute(select(t).where(t.c.id == id_, t.c.removed.is_(None)))).first()


async def locked(tx: AsyncConnection, id_: str) -> Row[Any] | None:
    """As ``get``; nobody else changes it until *tx* ends."""
    query = select(t).where(t.c.id == id_, t.c.removed.is_(None)).with_for_update()
    return (await tx.execute(query)).first()


async def change(tx: AsyncConnection, id_: str, values: Mapping[str, Any]) -> None:
    """Give the columns of a template new *values*, JSON ones still as objects."""
    await tx.execute(update(t).where(t.c.id == id_).values(**_plain(values)))


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: dumps(v) if isinstance(v, dict | list | tuple) else v for k, v in values.items()}


async def zones_of(tx: AsyncConnection, id_: str) -> list[str]:
    """Return the zones in which the template is offered."""
    query = select(template_zone.c.zone).where(
        template_zone.c.template == id_, template_zone.c.removed.is_(None)
    )
    return list((await tx.execute(query)).scalars())


async def find(
    tx: AsyncConnection,
    *,
    iso: bool,
    zone_id: str | None = None,
    ids: Iterable[str] | None = None,
    name: str | None = None,
    keyword: str | None = None,
    hypervisor: str | None = None,
    owner: str | None = None,
    public: bool | None = None,
    featured: bool | None = None,
    visible_to: tuple[str, str] | None = None,
    shared_with: str | None = None,
    first: int = 0,
    limit: int = 500,
) -> tuple[int, list[Row[Any]]]:
    """Return (how many match in all, one page): a row per (template, zone), oldest first.

    *visible_to*: a user (id, account) who sees public templates, their own, and those that were
    shared with the account; *shared_with*: an account, for the latter alone.
    """

    def filtered(query: Select[Any]) -> Select[Any]:
        query = query.select_from(
            t.join(template_zone, template_zone.c.template == t.c.id).join(
                zone, zone.c.id == template_zone.c.zone
            )
        ).where(t.c.removed.is_(None), template_zone.c.removed.is_(None), t.c.iso.is_(iso))
        if zone_id is not None:
            query = query.where(zone.c.id == zone_id)
        if ids is not None:
            query = query.where(t.c.id.in_(list(ids)))
        if name is not None:
            query = query.where(t.c.name == name)
        if keyword is not None:
            query = query.where(func.lower(t.c.name).contains(keyword.lower(), autoescape=True))
        if hypervisor is not None:
            query = query.where(func.lower(t.c.hypervisor) == hypervisor.lower())
        if owner is not None:
            query = query.where(t.c.owner == owner)
        if public is not None:
            query = query.where(t.c.public.is_(public))
        if featured is not None:
            query = query.where(t.c.featured.is_(featured))
        if visible_to is not None:
            user, account = visible_to
            own = (t.c.owner == user) | grants.shared_with(account)
            query = query.where(t.c.public.is_(True) | own)
        if shared_with is not None:
            query = query.where(grants.shared_with(shared_with))
        return query

    count = await tx.scalar(filtered(select(func.count())))
    rows = await tx.execute(
        filtered(select(t, zone.c.id.label("zone_id"), zone.c.name.label("zone_name")))
        .order_by(t.c.created, t.c.id, zone.c.created)
        .offset(first)
        .limit(limit)
    )
    return count or 0, list(rows)


async def all_live(tx: AsyncConnection) -> list[Row[Any]]:
    """Return every template that is not removed."""
    return list(await tx.execute(select(t).where(t.c.removed.is_(None)).order_by(t.c.created)))


async def remove(tx: AsyncConnection, id_: str, *, zone_id: str | None, now: float) -> bool:
    """Take the template out of *zone_id* (or all); True where it is offered nowhere any more."""
    query = update(template_zone).where(
        template_zone.c.template == id_, template_zone.c.removed.is_(None)
    )
    if zone_id is not None:
        query = query.where(template_zone.c.zone == zone_id)
    await tx.execute(query.values(removed=now))
    if await zones_of(tx, id_):
        return False
    await tx.execute(update(t).where(t.c.id == id_).values(removed=now))
    return True


async def set_drift(tx: AsyncConnection, id_: str, drift: str | None) -> bool:
    """Note what changed at the origin; False = it was noted already."""
    done = await tx.execute(
        update(t).where(t.c.id == id_, t.c.drift.is_distinct_from(drift)).values(drift=drift)
    )
    return done.rowcount == 1
