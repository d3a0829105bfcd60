# SPDX-License-Identifier: Apache-2.0
"""Counting semaphores in the ledger: acquired by a guarded UPDATE, never above their limit."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

from sqlalchemy import ColumnElement, delete, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.manager.ledger.tables import slot as t
from fastdl.manager.ledger.values import Slot

PART: Final = 200
"""Rows in one statement."""
_USAGE: Final = select(t.c.kind, t.c.key, t.c.active, t.c.cap).where(
    (t.c.active > 0) | t.c.cap.is_not(None)
)


async def usage(tx: AsyncConnection) -> tuple[dict[Slot, int], dict[Slot, int]]:
    """Return (how many jobs hold each slot, the caps in force)."""
    in_use, caps = {}, {}
    for kind, key, active, cap in await tx.execute(_USAGE):
        in_use[kind, key] = active
        if cap is not None:
            caps[kind, key] = cap
    return in_use, caps


async def ensure(tx: AsyncConnection, slots: Iterable[Slot]) -> None:
    """Create the missing rows of *slots*, and lock all of them."""
    wanted = sorted(set(slots))
    for start in range(0, len(wanted), PART):
        part = wanted[start : start + PART]
        known = await lock(tx, part)
        new = [{"kind": kind, "key": key} for kind, key in part if (kind, key) not in known]
        if new:
            await tx.execute(insert(t), new)


async def lock(tx: AsyncConnection, slots: Iterable[Slot]) -> dict[Slot, int | None]:
    """Lock rows in one global order, so that no two transactions wait for each other
    (SQLite has one writer and ignores this); return those that exist, with their caps."""
    caps: dict[Slot, int | None] = {}
    wanted = sorted(set(slots))
    for start in range(0, len(wanted), PART):
        query = select(t.c.kind, t.c.key, t.c.cap).where(_among(wanted[start : start + PART]))
        rows = await tx.execute(query.order_by(t.c.kind, t.c.key).with_for_update())
        caps |= {(row.kind, row.key): row.cap for row in rows}
    return caps


async def take(tx: AsyncConnection, wanted: Mapping[Slot, tuple[int, int]]) -> bool:
    """Acquire slots that ``ensure`` locked: *wanted* maps a slot to (how many, the limit).

    False = some were full; the caller then rolls back.
    """
    alike: dict[tuple[int, int], list[Slot]] = defaultdict(list)
    for slot, need in wanted.items():
        alike[need].append(slot)
    for (count, limit), slots in alike.items():
        for start in range(0, len(slots), PART):
            part = slots[start : start + PART]
            done = await tx.execute(
                update(t)
                .where(_among(part), t.c.active + count <= limit)
                .values(active=t.c.active + count)
            )
            if done.rowcount != len(part):
                return False
    return True


async def release(tx: AsyncConnection, slots: Iterable[Slot]) -> None:
    """Release slots, one for each time that they are named."""
    held = Counter(slots)
    await lock(tx, held)
    await give_back(tx, held)


async def give_back(tx: AsyncConnection, held: Mapping[Slot, int]) -> None:
    """Release slots that ``lock`` locked, each as many times as *held* says."""
    alike: dict[int, list[Slot]] = defaultdict(list)
    for slot, count in held.items():
        alike[count].append(slot)
    for count, slots in alike.items():
        for start in range(0, len(slots), PART):
            part = _among(slots[start : start + PART])
            await tx.execute(update(t).where(part).values(active=t.c.active - count))


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
    """Delete slots that nobody holds now, with their caps: ``ensure`` creates them again. Users
    choose the origins, so there is no end to them."""
    order = (t.c.kind, t.c.key)  # as in ``lock``
    free = select(*order).where(t.c.active == 0).order_by(*order)
    found = await tx.execute(free.with_for_update())
    unused = [(kind, key) for kind, key in found]
    for start in range(0, len(unused), PART):
        await tx.execute(delete(t).where(_among(unused[start : start + PART])))
