# SPDX-License-Identifier: Apache-2.0
"""The managers of a ledger: which there are, and when each was last alive."""

from __future__ import annotations

from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.manager.ledger.records import database_time
from fastdl.manager.ledger.tables import manager as t


async def beat(tx: AsyncConnection, name: str, *, address: str, version: str, now: float) -> None:
    """Note that the manager *name* is alive. *address*: where agents find it."""
    values = {"address": address, "version": version, "seen": await database_time(tx, now)}
    done = await tx.execute(update(t).where(t.c.name == name).values(**values))
    if not done.rowcount:
        await tx.execute(insert(t).values(name=name, **values))


async def alive(tx: AsyncConnection, *, within: float, now: float) -> set[str]:
    """Return the managers that were alive *within* so many seconds before now."""
    since = await database_time(tx, now) - within
    return set((await tx.execute(select(t.c.name).where(t.c.seen >= since))).scalars())


async def has_others(tx: AsyncConnection, name: str) -> bool:
    """Whether the ledger knows managers besides *name*, alive or not."""
    return await tx.scalar(select(t.c.name).where(t.c.name != name).limit(1)) is not None


async def prune(tx: AsyncConnection, *, before: float) -> None:
    """Forget managers that were last alive before *before*."""
    await tx.execute(delete(t).where(t.c.seen < before))
