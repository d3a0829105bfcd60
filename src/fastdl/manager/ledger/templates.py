# SPDX-License-Identifier: Apache-2.0
"""Templates and ISOs, and the zones they are offered in."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Row, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.manager.ledger import grants
from fastdl.manager.ledger.filters import Filters, conditions, contains, equals, one_of, same
from fastdl.manager.ledger.tables import copy, template_zone, zone
from fastdl.manager.ledger.tables import template as t
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


async def of_ids(tx: AsyncConnection, ids: Collection[str]) -> dict[str, Row[Any]]:
    """Return id → template of those of *ids* that were not removed."""
    query = select(t).where(t.c.id.in_(sorted(ids)), t.c.removed.is_(None))
    return {row.id: row for row in await tx.execute(query)}


async def locked(tx: AsyncConnection, id_: str) -> Row[Any] | None:
    """Like ``get``, and locked until *tx* ends."""
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


async def offers(tx: AsyncConnection, ids: Collection[str]) -> set[tuple[str, str]]:
    """Return the (template, zone) in which those of *ids* are offered."""
    query = select(template_zone.c.template, template_zone.c.zone).where(
        template_zone.c.template.in_(sorted(ids)), template_zone.c.removed.is_(None)
    )
    return {(row.template, row.zone) for row in await tx.execute(query)}


FILTERS: Final[Filters] = {
    "id": equals(t.c.id),
    "ids": one_of(t.c.id),
    "name": same(t.c.name),
    "keyword": contains(t.c.name, t.c.display_text),
    "zoneid": equals(zone.c.id),
    "hypervisor": same(t.c.hypervisor),
    "account": same(t.c.account),
    "arch": same(t.c.arch),
    "ispublic": t.c.public.is_,
    "isfeatured": t.c.featured.is_,
    "bootable": t.c.bootable.is_,
    "storageid": lambda pool: (
        select(copy.c.template)
        .where(copy.c.template == t.c.id, copy.c.pool == pool, copy.c.complete.is_(True))
        .exists()
    ),
    "oscategoryid": one_of(t.c.os_type),
}
"""*oscategoryid*: as the OS types of the category, None among them if it is the category of
templates without one.
"""


async def find(
    tx: AsyncConnection,
    *,
    iso: bool,
    where: Mapping[str, Any] | None = None,
    owner: str | None = None,
    public: bool | None = None,
    featured: bool | None = None,
    visible_to: tuple[str, str] | None = None,
    shared_with: str | None = None,
    unique: bool = False,
    first: int = 0,
    limit: int = 500,
) -> tuple[int, list[Row[Any]]]:
    """Return (how many match in all, one page): a row per (template, zone), oldest first.

    *where*: by names of ``FILTERS``. *visible_to*: a user (id, account) who sees public templates,
    their own, and those shared with the account; *shared_with*: an account, for the latter only.
    *unique*: one zone of each template.
    """
    where = where or {}
    matching = [
        t.c.removed.is_(None),
        template_zone.c.removed.is_(None),
        t.c.iso.is_(iso),
        *conditions(FILTERS, where),
    ]
    if owner is not None:
        matching.append(t.c.owner == owner)
    if public is not None:
        matching.append(t.c.public.is_(public))
    if featured is not None:
        matching.append(t.c.featured.is_(featured))
    if visible_to is not None:
        user, account = visible_to
        matching.append(t.c.public.is_(True) | (t.c.owner == user) | grants.shared_with(account))
    if shared_with is not None:
        matching.append(grants.shared_with(shared_with))
    if unique and "zoneid" not in where:
        every = template_zone.alias()
        one = select(func.min(every.c.zone)).where(
            every.c.template == t.c.id, every.c.removed.is_(None)
        )
        matching.append(template_zone.c.zone == one.scalar_subquery())
    joined = t.join(template_zone, template_zone.c.template == t.c.id).join(
        zone, zone.c.id == template_zone.c.zone
    )
    count = await tx.scalar(select(func.count()).select_from(joined).where(*matching))
    rows = await tx.execute(
        select(t, zone.c.id.label("zone_id"), zone.c.name.label("zone_name"))
        .select_from(joined)
        .where(*matching)
        .order_by(t.c.created, t.c.id, zone.c.created)
        .offset(first)
        .limit(limit)
    )
    return count or 0, list(rows)


async def all_live(tx: AsyncConnection) -> list[Row[Any]]:
    """Return every template that is not removed."""
    return list(await tx.execute(select(t).where(t.c.removed.is_(None)).order_by(t.c.created)))


async def remove(tx: AsyncConnection, id_: str, *, zone_id: str | None, now: float) -> bool:
    """Take the template out of *zone_id* (or all); True if it is no longer offered anywhere."""
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
    """Note what changed at the origin; False = it was already noted."""
    done = await tx.execute(
        update(t).where(t.c.id == id_, t.c.drift.is_distinct_from(drift)).values(drift=drift)
    )
    return done.rowcount == 1
