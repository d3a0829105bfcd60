# SPDX-License-Identifier: Apache-2.0
"""Copies: what is in pools, which template it belongs to, and its states.

    absent ─download─► ready ─┐
       ▲                      ├─ to be removed ─► removing ─► (the row is deleted)
       └── a host lost it     │                      │ ▲
    orphan ───────────────────┘            in use, or failed: tried again later

``absent``: a name and a fence, no finished copy. ``orphan``: a host reports it, no template
needs it. A row lives until a host has reported that the copy is gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any, Final

from sqlalchemy import (
    Double,
    Integer,
    Row,
    Select,
    bindparam,
    cast,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.manager.ledger.filters import Filters, conditions, contains, equals, same
from fastdl.manager.ledger.tables import copy as t
from fastdl.manager.ledger.tables import job, pool, template
from fastdl.manager.ledger.text import dumps, new_id
from fastdl.wire import messages as m

ABSENT: Final = "absent"
READY: Final = "ready"
REMOVING: Final = "removing"
ORPHAN: Final = "orphan"

Key = tuple[str, str]
"""Location of a copy: (pool, volume)."""

PART: Final = 200
"""Rows in one statement."""
_FETCHED: Final = (
    update(t)
    .where(t.c.pool == bindparam("at"), t.c.volume == bindparam("name"))
    .values(
        updated=bindparam("now"),
        state=bindparam("state_now"),
        complete=True,
        install_path=bindparam("path"),
        size=bindparam("virtual"),
        bytes=bindparam("target"),
        result=bindparam("done"),
        note="",
        failures=0,
        retry_at=0.0,
    )
)


async def get(tx: AsyncConnection, key: Key) -> Row[Any] | None:
    """Return the copy at *key*, with its pool's ``pool_name`` and ``pool_zone``."""
    query = _with_pool().where(t.c.pool == key[0], t.c.volume == key[1])
    return (await tx.execute(query)).first()


async def locked(tx: AsyncConnection, keys: Iterable[Key]) -> dict[Key, Row[Any]]:
    """Return the copies at *keys*, locked until *tx* ends: in one order for everybody, so that two
    transactions that end or grant jobs of the same copies cannot deadlock."""
    found: dict[Key, Row[Any]] = {}
    wanted = sorted(set(keys))
    for start in range(0, len(wanted), PART):
        part = wanted[start : start + PART]
        values = {f"pool{n}": key[0] for n, key in enumerate(part)}
        values |= {f"volume{n}": key[1] for n, key in enumerate(part)}
        found |= {key_of(row): row for row in await tx.execute(_locked(len(part)), values)}
    return found


@lru_cache(PART)
def _locked(count: int) -> Select[Any]:
    """Return the statement for *count* copies. One index step for each: as a list of pairs SQLite
    would read every copy of every pool, and PostgreSQL compare each of them with each pair."""
    here = (
        (t.c.pool == bindparam(f"pool{n}")) & (t.c.volume == bindparam(f"volume{n}"))
        for n in range(count)
    )
    return select(t).where(or_(*here)).order_by(t.c.pool, t.c.volume).with_for_update()


async def wanted(
    tx: AsyncConnection,
    template_id: str,
    pool_ids: Sequence[str],
    *,
    now: float,
    iso: bool,
) -> dict[str, Row[Any]]:
    """Return pool → the template's copy there, created (absent, under a fresh name) if missing."""
    rows: dict[str, Row[Any]] = {}
    for attempt in range(2):
        for start in range(0, len(pool_ids), PART):
            part = pool_ids[start : start + PART]
            found = await tx.execute(select(t).where(t.c.live == template_id, t.c.pool.in_(part)))
            rows |= {row.pool: row for row in found}
        missing = [pool_id for pool_id in pool_ids if pool_id not in rows]
        if not missing or attempt:
            break
        values = {
            "template": template_id,
            "live": template_id,
            "state": ABSENT,
            "created": now,
            "updated": now,
        }
        suffix = ".iso" if iso else ""
        await tx.execute(
            insert(t), [{"pool": one, "volume": new_id() + suffix, **values} for one in missing]
        )
    return rows


async def fences(tx: AsyncConnection, keys: Sequence[Key], *, floor: int) -> dict[Key, int]:
    """Return the next fence of each copy in *keys*, and store that it was given out.

    It grows over all jobs of the copy, because the pool's own lock compares them. *floor* is the
    lowest one: above whatever this ledger gave out before it was restored from a backup.
    """
    found = await locked(tx, keys)
    given = {key: max(row.fence + 1, floor) for key, row in found.items()}
    if given:
        here = (t.c.pool == bindparam("at")) & (t.c.volume == bindparam("name"))
        await tx.execute(
            update(t).where(here).values(fence=bindparam("next")),
            [{"at": key[0], "name": key[1], "next": fence} for key, fence in given.items()],
        )
    return given


async def change(tx: AsyncConnection, key: Key, *, now: float, **values: Any) -> None:
    """Update the copy at *key*; *values* are columns, lists still as objects."""
    plain = {k: dumps(v) if isinstance(v, list | tuple) else v for k, v in values.items()}
    await tx.execute(
        update(t).where(t.c.pool == key[0], t.c.volume == key[1]).values(updated=now, **plain)
    )


async def fetched(
    tx: AsyncConnection, found: Sequence[tuple[Row[Any], m.DownloadDone, str]], *, now: float
) -> None:
    """Note at copies what their downloads left there: *found* has each with the result, and that
    in JSON."""
    rows = [
        {
            "at": copy.pool,
            "name": copy.volume,
            "now": now,
            "state_now": REMOVING if copy.state == REMOVING else READY,
            "path": done.install_path,
            "virtual": done.virtual_size,
            "target": done.target_bytes,
            "done": text,
        }
        for copy, done, text in found
    ]
    if rows:
        await tx.execute(_FETCHED, rows)


async def forget(tx: AsyncConnection, key: Key) -> None:
    """Delete the row of a copy that is gone."""
    await tx.execute(delete(t).where(t.c.pool == key[0], t.c.volume == key[1]))


async def add(
    tx: AsyncConnection, *, pool: str, volume: str, now: float, users: Sequence[str], **values: Any
) -> None:
    """Store a copy that was found; *values* are columns."""
    await tx.execute(
        insert(t).values(
            pool=pool, volume=volume, created=now, updated=now, users=dumps(users), **values
        )
    )


async def on_pool(tx: AsyncConnection, pool_id: str) -> list[Row[Any]]:
    """Return what is known of a pool."""
    return list(await tx.execute(select(t).where(t.c.pool == pool_id)))


async def of_live(tx: AsyncConnection, template_id: str, pool_id: str) -> Row[Any] | None:
    """Return the copy that the template has on the pool."""
    query = select(t).where(t.c.live == template_id, t.c.pool == pool_id)
    return (await tx.execute(query)).first()


_NOBODYS: Final = t.c.live.is_(None) | template.c.id.is_(None) | template.c.removed.is_not(None)
FILTERS: Final[Filters] = {
    "storageid": equals(t.c.pool),
    "templateid": equals(t.c.template),
    "zoneid": equals(pool.c.zone),
    "volume": equals(t.c.volume),
    "state": same(t.c.state),
    "orphaned": lambda value: _NOBODYS if value else ~_NOBODYS,
    "keyword": contains(t.c.volume, template.c.name),
}
"""*orphaned*: whether it belongs to no template, or to one that is deleted."""


async def find(
    tx: AsyncConnection, *, where: Mapping[str, Any], first: int = 0, limit: int = 500
) -> tuple[int, list[Row[Any]]]:
    """Return (how many match in all, one page) with ``pool_name``, ``pool_zone``,
    ``template_name`` and ``template_removed``. *where*: by names of ``FILTERS``."""
    joined = t.join(pool, pool.c.id == t.c.pool).outerjoin(template, template.c.id == t.c.template)
    matching = conditions(FILTERS, where)
    count = await tx.scalar(select(func.count()).select_from(joined).where(*matching))
    query = (
        select(
            t,
            pool.c.name.label("pool_name"),
            pool.c.zone.label("pool_zone"),
            template.c.name.label("template_name"),
            template.c.removed.label("template_removed"),
        )
        .select_from(joined)
        .where(*matching)
        .order_by(pool.c.name, t.c.pool, t.c.created, t.c.volume)
        .offset(first)
        .limit(limit)
    )
    return count or 0, list(await tx.execute(query))


async def of_template(
    tx: AsyncConnection, template_id: str, *, zone_id: str | None = None
) -> list[Row[Any]]:
    """Return the template's copies with their pool's ``pool_name`` and ``pool_zone``."""
    query = _with_pool().where(t.c.template == template_id)
    if zone_id is not None:
        query = query.where(pool.c.zone == zone_id)
    return list(await tx.execute(query.order_by(pool.c.name, pool.c.id)))


async def usage(tx: AsyncConnection, account: str) -> tuple[int, int]:
    """Return how many copies *account* is charged for, and the sum of their disks' sizes: those
    that exist and those that are being fetched.

    Sizes are what hosts report: the sum of a few can exceed SQLite's integers.
    """
    single = "download:" + t.c.pool + ":" + t.c.volume
    fetched = select(job.c.id).where(job.c.single == single).exists()
    query = select(func.count(), func.coalesce(func.sum(cast(t.c.size, Double)), 0.0)).where(
        t.c.account == account, t.c.complete.is_(True) | fetched
    )
    count, size = (await tx.execute(query)).one()
    return int(count), int(size)


async def count_on_pool(tx: AsyncConnection, pool_id: str) -> int:
    """Return how many copies are known on a pool."""
    query = select(func.count()).where(t.c.pool == pool_id, t.c.state != ABSENT)
    return await tx.scalar(query) or 0


async def due(tx: AsyncConnection, *, now: float, far: float, limit: int) -> list[Row[Any]]:
    """Return copies whose removal is to be tried (again) at *now*, steady time.

    One postponed beyond *far* was postponed before that clock was set back: it is due.
    """
    return list(await tx.execute(_due(), {"now": now, "far": far, "most": limit}))


@cache
def _due() -> Any:
    """Return the statement of ``due``. Kept: every round of the dispatcher asks."""
    late = (t.c.retry_at <= bindparam("now")) | (t.c.retry_at > bindparam("far"))
    query = _with_pool().where(t.c.state == REMOVING, late)
    return query.order_by(t.c.retry_at).limit(bindparam("most", type_=Integer))


async def template_names(tx: AsyncConnection, ids: Sequence[str]) -> Mapping[str, str]:
    """Return id → name of templates, removed ones too."""
    rows = await tx.execute(select(template.c.id, template.c.name).where(template.c.id.in_(ids)))
    return {row.id: row.name for row in rows}


def _with_pool() -> Any:
    return select(t, pool.c.name.label("pool_name"), pool.c.zone.label("pool_zone")).join(
        pool, pool.c.id == t.c.pool
    )


def key_of(row: Row[Any]) -> Key:
    """Return the location of the copy of a row of ``copy`` or ``job``."""
    return row.pool, row.volume
