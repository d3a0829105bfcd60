# SPDX-License-Identifier: Apache-2.0
"""Counting semaphores in the ledger: taken by a guarded UPDATE, never above their limit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from sqlalchemy import insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.manager.ledger.tables import slot as t
from fastdl.manager.scheduler import Slot


async def usage(tx: AsyncConnection) -> tuple[dict[Slot, int], dict[Slot, int]]:
    """Return (how many jobs hold each slot, the caps in force)."""
    rows = await tx.execute(
        select(t.c.kind, t.c.key, t.c.active, t.c.cap).where(
            (t.c.active > 0) | t.c.cap.is_not(None)
        )
    )
    in_use, caps = {}, {}
    for kind, key, active, cap in rows:
        in_use[kind, key] = active
        if cap is not None:
            caps[kind, key] = cap
    return in_use, caps


async def ensure(tx: AsyncConnection, slots: Iterable[Slot]) -> None:
    """Create the rows of *slots* that do not exist yet."""
    wanted = sorted(set(slots))
    for start in range(0, len(wanted), 200):
        part = wanted[start : start + 200]
        for _ in range(3):
            rows = await tx.execute(
                select(t.c.kind, t.c.key).where(t.c.key.in_([key for _, key in part]))
            )
            known = {(row.kind, row.key) for row in rows}
            new = [{"kind": kind, "key": key} for kind, key in part if (kind, key) not in known]
            if not new:
                break
            try:
                async with tx.begin_nested():
                    await tx.execute(insert(t), new)
                break
            except IntegrityError:
                continue  # another manager made one of them at the same moment


async def take(tx: AsyncConnection, wanted: Mapping[Slot, tuple[int, int]]) -> bool:
    """Take slots: *wanted* maps a slot to (how many, the limit). False = some had no room;
    the caller rolls back then."""
    for (kind, key), (count, limit) in sorted(wanted.items()):
        done = await tx.execute(
            update(t)
            .where(t.c.kind == kind, t.c.key == key, t.c.active + count <= limit)
            .values(active=t.c.active + count)
        )
        if done.rowcount != 1:
            return False
    return True


async def release(tx: AsyncConnection, slots: Iterable[Slot]) -> None:
    """Give slots back (one for each occurrence)."""
    for (kind, key), count in sorted(Counter(slots).items()):
        await tx.execute(
            update(t).where(t.c.kind == kind, t.c.key == key).values(active=t.c.active - count)
        )


async def cap_of(tx: AsyncConnection, slot: Slot) -> int | None:
    """Return the cap in force on *slot*."""
    cap: int | None = await tx.scalar(
        select(t.c.cap).where(t.c.kind == slot[0], t.c.key == slot[1])
    )
    return cap


async def set_cap(tx: AsyncConnection, slot: Slot, cap: int | None) -> None:
    """Lower *slot*'s limit to *cap*, or lift the cap."""
    await tx.execute(update(t).where(t.c.kind == slot[0], t.c.key == slot[1]).values(cap=cap))
