# SPDX-License-Identifier: Apache-2.0
"""Names that follow a publisher's product, and the versions registered for them.

    next ─copies are in place─► current ─a newer one is─► old ─more than keep─► (removed)

There is one current version, and at most one next.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Row, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.manager.ledger.tables import follow as t
from fastdl.manager.ledger.tables import follow_version as v
from fastdl.manager.ledger.tables import template
from fastdl.manager.ledger.text import new_id

NEXT: Final = "next"
CURRENT: Final = "current"
OLD: Final = "old"


async def create(
    tx: AsyncConnection, *, product: str, name: str, keep: int, template: str, version: str,
    now: float, due: float,
) -> str:  # fmt: skip
    """Follow *product* under *name*, beginning with *template*, which is its *version*."""
    id_ = new_id()
    await tx.execute(
        insert(t).values(
            id=id_, product=product, name=name, keep=keep, seen=version, created=now, due=due
        )
    )
    await tx.execute(
        insert(v).values(follow=id_, template=template, version=version, state=CURRENT)
    )
    return id_


async def every(tx: AsyncConnection) -> list[Row[Any]]:
    """Return all follows, oldest first."""
    return list(await tx.execute(select(t).order_by(t.c.created, t.c.id)))


async def get(tx: AsyncConnection, id_: str) -> Row[Any] | None:
    """Return the follow."""
    return (await tx.execute(select(t).where(t.c.id == id_))).first()


async def locked(tx: AsyncConnection, id_: str) -> Row[Any] | None:
    """Like ``get``, and locked until *tx* ends."""
    return (await tx.execute(select(t).where(t.c.id == id_).with_for_update())).first()


async def versions(tx: AsyncConnection, id_: str) -> list[Row[Any]]:
    """Return the templates of the follow that are not removed, with ``version`` and ``state``,
    the newest version first."""
    query = (
        select(template, v.c.version, v.c.state)
        .join(v, v.c.template == template.c.id)
        .where(v.c.follow == id_, template.c.removed.is_(None))
    )
    rows = list(await tx.execute(query))
    return sorted(rows, key=lambda row: row.version, reverse=True)


async def add_next(tx: AsyncConnection, id_: str, *, template: str, version: str) -> None:
    """Note that *template* is the newest version, to be brought to the pools."""
    await tx.execute(insert(v).values(follow=id_, template=template, version=version, state=NEXT))
    await tx.execute(update(t).where(t.c.id == id_).values(seen=version))


async def set_state(tx: AsyncConnection, template: str, state: str) -> None:
    """Move *template*'s version to *state*."""
    await tx.execute(update(v).where(v.c.template == template).values(state=state))


async def set_due(tx: AsyncConnection, id_: str, due: float) -> bool:
    """Say when the publisher is asked next; False if the follow is gone."""
    done = await tx.execute(update(t).where(t.c.id == id_).values(due=due))
    return done.rowcount == 1


async def set_error(tx: AsyncConnection, id_: str, error: str | None) -> bool:
    """Note why the last check failed; False = it was already noted."""
    changed = t.c.error.is_distinct_from(error)
    done = await tx.execute(update(t).where(t.c.id == id_, changed).values(error=error))
    return done.rowcount == 1


async def remove(tx: AsyncConnection, id_: str) -> bool:
    """Stop following; the templates stay. False if it was gone already."""
    return (await tx.execute(delete(t).where(t.c.id == id_))).rowcount == 1
