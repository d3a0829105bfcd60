# SPDX-License-Identifier: Apache-2.0
"""Counting semaphores in the ledger: read and changed under a lock, never above their limit."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, bindparam, delete, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.manager.ledger.tables import slot as t
from fastdl.manager.ledger.values import Slot

PART: Final = 200
"""Rows in one statement."""
_USAGE: Final = select(t.c.kind, t.c.key, t.c.active, t.c.cap).where(
    (t.c.active > 0) | t.c.cap.is_not(None)
)

_ADD: Final = (
    update(t)
    .where(t.c.kind == bindparam("of"), t.c.key == bindparam("at"))
    .values(active=t.c.active + bindparam("more"))
)


async def usage(tx: AsyncConnection) -> tuple[dict[Slot, int], dict[Slot, int]]:
    """Return (how many jobs hold each slot, the caps in force)."""
    in_use, caps = {}, {}
    for kind, key, active, cap in await tx.execute(_USAGE):
        in_use[kind, key] = active
        if cap is not None:
            caps[kind, key] = cap
    return in_use, caps


async def acquire(tx: AsyncConnection, wanted: Mapping[Slot, tuple[int, int]]) -> bool:
    """Acquire slots, and create the rows that are missing: *wanted* maps a slot to (how many, the
    limit). False = some were full, none was acquired."""
    known = await lock(tx, wanted)
    new = [{"kind": kind, "key": key} for kind, key in sorted(wanted) if (kind, key) not in known]
    if new:
        await tx.execute(insert(t), new)
    for slot, (count, limit) in wanted.items():
        if (known[slot].active if slot in known else 0) + count > limit:
            return False
    await _add(tx, {slot: count for slot, (count, _) in wanted.items()})
    return True


async def lock(tx: AsyncConnection, slots: Iterable[Slot]) -> dict[Slot, Row[Any]]:
    """Lock rows in one global order, so that no two transactions wait for each other
    (SQLite has one writer and ignores this); return those that exist."""
    found: dict[Slot, Row[Any]] = {}
    wanted = sorted(set(slots))
    for start in range(0, len(wanted), PART):
        query = select(t).where(_among(wanted[start : start + PART]))
        rows = await tx.execute(query.order_by(t.c.kind, t.c.key).with_for_update())
        found |= {(row.kind, row.key): row for row in rows}
    return found


async def release(tx: AsyncConnection, slots: Iterable[Slot]) -> None:
    """Release slots, one for each time that they are named."""
    held = Counter(slots)
    await lock(tx, held)
    await give_back(tx, held)


async def give_back(tx: AsyncConnection, held: Mapping[Slot, int]) -> None:
    """Release slots that ``lock`` locked, each as many times as *held* says."""
    await _add(tx, {slot: -count for slot, count in held.items()})


async def _add(tx: AsyncConnection, counts: Mapping[Slot, int]) -> None:
    values = [{"of": kind, "at": key, "more": more} for (kind, key), more in counts.items()]
    if values:
        await tx.execute(_ADD, values)


def _among(slots: Iterable[Slot]) -> ColumnElement[bool]:
    """The condition that a row is one of *slots*. By kind, because SQLite finds lists of pairs
    only by reading the whole table."""
    keys: dict[str, list[str]] = defaultdict(list)
    for kind, key in slots:
        keys[kind].append(key)
    return or_(*((t.c.kind == kind) & t.c.key.in_(keys[kind]) for kind in sorted(keys)))


async def cap_of(tx: AsyncConnection, slot: Slot) -> int | None:
    """Return the cap in force on *slot*."""
    cap: int | None = await tx.scalar(
        select(t.c.cap).where(t.c.kind == slot[0], t.c.key == slot[1])
    )
    return cap


async def set_cap(tx: AsyncConnection, slot: Slot, cap: int | None) -> None:
    """Lower *slot*'s limit to *cap*, or lift the cap."""
    await tx.execute(update(t).where(t.c.kind == slot[0], t.c.key == slot[1]).values(cap=cap))


async def prune(tx: AsyncConnection) -> None:
    """Delete slots that nobody holds now, with their caps: ``acquire`` creates them again. Users
    choose the origins, so there is no end to them."""
    order = (t.c.kind, t.c.key)  # as in ``lock``
    free = select(*order).where(t.c.active == 0).order_by(*order)
    found = await tx.execute(free.with_for_update())
    unused = [(kind, key) for kind, key in found]
    for start in range(0, len(unused), PART):
        await tx.execute(delete(t).where(_among(unused[start : start + PART])))
