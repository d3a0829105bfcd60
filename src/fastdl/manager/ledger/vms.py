# SPDX-License-Identifier: Apache-2.0
"""Virtual machines: which exist, where, and their states, as CloudStack names them.

    Starting ─► Running ◄─► Stopped        each step an order to the machine's host, under a
        │          │           │           fence higher than that of all earlier ones
        ▼          └─ Stopping ┘
      Error        destroy: Stopping ─► Destroyed ─► Expunging ─► (removed)

A machine belongs to one host from the beginning to the end. Its row stays after it was removed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Row, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.manager.ledger.tables import vm as t

STARTING: Final = "Starting"
RUNNING: Final = "Running"
STOPPING: Final = "Stopping"
STOPPED: Final = "Stopped"
DESTROYED: Final = "Destroyed"
EXPUNGING: Final = "Expunging"
ERROR: Final = "Error"
MOVING: Final = (STARTING, STOPPING, EXPUNGING)
"""States in which an order is under way."""


async def add(tx: AsyncConnection, **values: Any) -> None:
    """Store a new machine; *values* are columns."""
    await tx.execute(insert(t).values(**values))


async def get(tx: AsyncConnection, id_: str) -> Row[Any] | None:
    """Return the machine, removed or not."""
    return (await tx.execute(select(t).where(t.c.id == id_))).first()


async def locked(tx: AsyncConnection, id_: str) -> Row[Any] | None:
    """Return the machine, which no other transaction changes until this one ends."""
    return (await tx.execute(select(t).where(t.c.id == id_).with_for_update())).first()


async def by_host_job(tx: AsyncConnection, job: str) -> Row[Any] | None:
    """Return the machine whose latest order is *job*, locked."""
    return (await tx.execute(select(t).where(t.c.host_job == job).with_for_update())).first()


async def change(tx: AsyncConnection, id_: str, *, now: float, **values: Any) -> None:
    """Update a machine; *values* are columns."""
    await tx.execute(update(t).where(t.c.id == id_).values(updated=now, **values))


async def existing(tx: AsyncConnection, *, host: str | None = None) -> list[Row[Any]]:
    """Return the machines that were not removed: all, or those of *host*."""
    query = select(t).where(t.c.removed.is_(None))
    if host is not None:
        query = query.where(t.c.host == host)
    return list(await tx.execute(query.order_by(t.c.created, t.c.id)))


async def in_states(tx: AsyncConnection, states: Sequence[str]) -> list[Row[Any]]:
    """Return the machines in *states*, the longest unchanged first."""
    query = select(t).where(t.c.removed.is_(None), t.c.state.in_(states))
    return list(await tx.execute(query.order_by(t.c.updated, t.c.id)))


async def count_by_host(tx: AsyncConnection) -> dict[str, int]:
    """Return how many machines each host has."""
    query = (
        select(t.c.host, func.count().label("n")).where(t.c.removed.is_(None)).group_by(t.c.host)
    )
    return {row.host: row.n for row in await tx.execute(query)}


async def named(tx: AsyncConnection, zone: str, name: str) -> str | None:
    """Return the machine of that name in the zone, in any letter case."""
    query = select(t.c.id).where(
        t.c.zone == zone, t.c.removed.is_(None), func.lower(t.c.name) == name.lower()
    )
    found: str | None = await tx.scalar(query.limit(1))
    return found


async def on_pool(tx: AsyncConnection, pool: str) -> int:
    """Return how many machines have their disks in *pool*."""
    query = select(func.count()).where(t.c.pool == pool, t.c.removed.is_(None))
    return await tx.scalar(query) or 0


async def forget_host(tx: AsyncConnection, host: str, *, now: float) -> None:
    """Forget the machines of a host that was deleted; they themselves stay as they are there."""
    await tx.execute(
        update(t)
        .where(t.c.host == host, t.c.removed.is_(None))
        .values(removed=now, updated=now, state=DESTROYED, note="its host was deleted")
    )


async def prune(tx: AsyncConnection, *, before: float) -> None:
    """Delete the rows of machines that were removed before *before*."""
    await tx.execute(t.delete().where(t.c.removed < before))
