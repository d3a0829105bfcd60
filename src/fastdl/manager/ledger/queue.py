# SPDX-License-Identifier: Apache-2.0
"""Which jobs wait, and in what order? Reading a long queue costs no more than a short one.

A lane is the origin whose limit paces a job ("" for a job without one).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from functools import cache, lru_cache
from typing import Any, Final

from sqlalchemy import (
    CompoundSelect,
    Integer,
    Row,
    Select,
    bindparam,
    func,
    select,
    tuple_,
    union_all,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.manager.ledger.tables import job as t
from fastdl.manager.ledger.text import loads
from fastdl.manager.ledger.values import BULK, DELAY_MAX_S, Waiting
from fastdl.wire import messages as m

LANE_MIN: Final = 32
"""Jobs of each lane in a page, however many lanes there are."""
UNION_MAX: Final = 64
"""Lanes in one statement."""

Place = tuple[int, float, str]
"""Position of a job in the queue: (rank, created, id)."""


async def lanes(tx: AsyncConnection) -> set[str]:
    """Return the lanes that have waiting jobs: one index step for each lane, not each job."""
    return set((await tx.execute(_lanes())).scalars())


@cache
def _lanes() -> Select[Any]:
    """Return the statement of ``lanes``. Kept, as that of ``page``."""
    waiting = t.c.waiting.is_(True)
    found = select(func.min(t.c.lane).label("lane")).where(waiting).cte("found", recursive=True)
    following = select(func.min(t.c.lane)).where(waiting, t.c.lane > found.c.lane)
    found = found.union_all(
        select(following.scalar_subquery().label("lane")).where(found.c.lane.is_not(None))
    )
    return select(found.c.lane).where(found.c.lane.is_not(None))


async def page(
    tx: AsyncConnection,
    *,
    now: float,
    among: Collection[str],
    bulk_lanes: Collection[str] | None = None,
    after: Place | None = None,
    limit: int = 256,
) -> tuple[list[Row[Any]], Place | None]:
    """Return (waiting jobs of the lanes *among* after the position *after*, in order; the position
    after which the next ones come, or None if there are none).

    Each lane is read at its own head, about *limit* jobs in all: a lane left out costs nothing,
    however many jobs wait in it. Of lanes that are not among *bulk_lanes* only urgent jobs are
    returned. *now* is steady time. A job that would wait longer than the longest delay was
    postponed before the clock was set back and the manager restarted: it does not wait.
    """
    bulk_lanes = among if bulk_lanes is None else bulk_lanes
    each = max(LANE_MIN, limit // max(1, len(among)))
    rows: list[Row[Any]] = []
    ends: list[Place] = []
    ordered = sorted(among, key=lambda lane: (lane in bulk_lanes, lane))
    values: dict[str, Any] = {"now": now, "far": now + DELAY_MAX_S, "each": each}
    if after is not None:
        values |= zip(("rank", "created", "id"), after, strict=True)
    for start in range(0, len(ordered), UNION_MAX):
        part = ordered[start : start + UNION_MAX]
        urgent = sum(lane not in bulk_lanes for lane in part)
        heads = _heads(len(part), urgent, resumed=after is not None)
        named = {f"lane{n}": lane for n, lane in enumerate(part)}
        by_lane: dict[str, list[Row[Any]]] = defaultdict(list)
        for row in await tx.execute(heads, values | named):
            by_lane[row.lane].append(row)
        for found in by_lane.values():
            found.sort(key=place)
            rows += found
            if len(found) == each:
                ends.append(place(found[-1]))
    rows.sort(key=place)
    return rows, min(ends, default=None)


@lru_cache(512)
def _heads(count: int, urgent: int, *, resumed: bool) -> CompoundSelect[Any]:
    """Return the statement for *count* lanes, the first *urgent* of them with urgent jobs only.

    Kept, because building it costs more than running it.
    """
    due = (t.c.not_before <= bindparam("now")) | (t.c.not_before > bindparam("far"))
    order = (t.c.rank, t.c.created, t.c.id)
    heads = []
    for n in range(count):
        query = select(
            t.c.id,
            t.c.kind,
            t.c.pool,
            t.c.volume,
            t.c.template,
            t.c.rank,
            t.c.fence,
            t.c.slots,
            t.c.tried,
            t.c.created,
            t.c.lane,
        ).where(t.c.waiting.is_(True), t.c.lane == bindparam(f"lane{n}"), due)
        if n < urgent:
            query = query.where(t.c.rank < BULK)
        if resumed:
            last = (bindparam(column.name, type_=column.type) for column in order)
            query = query.where(tuple_(*order) > tuple_(*last))
        query = query.order_by(*order).limit(bindparam("each", type_=Integer))
        heads.append(select(query.subquery()))
    return union_all(*heads)


def place(row: Row[Any]) -> Place:
    """Return the position of a queue row."""
    return row.rank, row.created, row.id


def waiting_of(row: Row[Any]) -> Waiting:
    """Return a queue row as the scheduler sees it."""
    return Waiting(
        id=row.id,
        pool=row.pool,
        rank=row.rank,
        fence=row.fence,
        origins=tuple(loads(row.slots)),
        tried=tuple(loads(row.tried)),
        template=row.template or "",
        volume=row.volume or "",
        paced=row.kind == m.Kind.DOWNLOAD,
    )
