# SPDX-License-Identifier: Apache-2.0
"""Logins, known to every manager of the ledger. It holds digests: they open no session."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.manager.ledger.tables import session as t


async def add(
    tx: AsyncConnection, digest: str, *, user: str, key_digest: str, now: float, until: float
) -> None:
    """Store a session that was opened *now*. All times are steady."""
    await tx.execute(
        insert(t).values(digest=digest, user=user, key_digest=key_digest, opened=now, until=until)
    )


async def get(tx: AsyncConnection, digest: str) -> Row[Any] | None:
    """Return the session of the cookie with this digest."""
    return (await tx.execute(select(t).where(t.c.digest == digest))).first()


async def use(tx: AsyncConnection, digest: str, *, until: float) -> None:
    """Let a session last until then."""
    await tx.execute(update(t).where(t.c.digest == digest).values(until=until))


async def surplus(
    tx: AsyncConnection, *, now: float, user: str | None = None, most: int
) -> list[str]:
    """Return the sessions (of *user*, or all) that have expired or are not among the *most* that
    were used last."""
    query = select(t.c.digest, t.c.until).order_by(t.c.until.desc(), t.c.digest)
    if user is not None:
        query = query.where(t.c.user == user)
    rows = list(await tx.execute(query))
    return [row.digest for n, row in enumerate(rows) if n >= most or row.until < now]


async def remove(tx: AsyncConnection, digests: Sequence[str]) -> None:
    """End the sessions with these digests."""
    for start in range(0, len(digests), 500):
        await tx.execute(delete(t).where(t.c.digest.in_(digests[start : start + 500])))


async def remove_user(tx: AsyncConnection, user: str, *, but: str | None = None) -> None:
    """End every session of *user*, except the one with the digest *but*."""
    await tx.execute(delete(t).where(t.c.user == user, t.c.digest != (but or "")))
