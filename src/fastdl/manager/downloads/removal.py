# SPDX-License-Identifier: Apache-2.0
"""How is a copy removed from its pool? It is marked in the ledger, then removed by a job, retried
until a host reports that it is gone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.manager.downloads.scheduler import BACKOFF_FIRST_S
from fastdl.manager.ledger import copies, jobs
from fastdl.manager.ledger.jobs import NewJob
from fastdl.manager.ledger.values import URGENT
from fastdl.wire import messages as m

LOOK_S: Final = 60.0
"""A copy being removed is checked again after this long, whatever its job does."""
AGAIN_MAX_S: Final = 600.0
"""Longest pause between two tries to remove a copy that is in use or cannot be removed."""
TOGETHER: Final = 64
"""Removals in one transaction."""


async def remove_copies(
    tx: AsyncConnection, rows: Iterable[Row[Any]], *, now: float, forced: bool = False
) -> list[tuple[str, str]]:
    """Mark *rows* (as ``copies.get`` and ``copies.of_template`` return them) and have them removed.

    Returns (pool, job) of each; copies that no host was asked to create are deleted at once.
    """
    new = []
    for row in rows:
        key = copies.key_of(row)
        if row.state == copies.ABSENT and not row.fence:
            await copies.forget(tx, key)
            continue
        await copies.change(
            tx, key, now=now, state=copies.REMOVING, forced=forced or row.forced, retry_at=0.0
        )
        new.append(_job(row, forced=forced or row.forced))
    submitted = await jobs.submit(tx, new, now=now)
    return [(job.pool or "", id_) for job, id_ in zip(new, submitted, strict=True)]


async def remove_due(tx: AsyncConnection, *, now: float, steady: float, far: float) -> int:
    """Start (or retry) the removals that are due; return how many."""
    rows = await copies.due(tx, now=steady, far=far, limit=TOGETHER)
    await jobs.submit(tx, [_job(row, forced=row.forced) for row in rows], now=now)
    for row in rows:
        await copies.change(tx, copies.key_of(row), now=now, retry_at=steady + LOOK_S)
    return len(rows)


def pause(failures: int) -> float:
    """Return how long to wait after so many failed attempts."""
    seconds: float = min(BACKOFF_FIRST_S * 2 ** min(failures, 16), AGAIN_MAX_S)
    return seconds


def _job(row: Row[Any], *, forced: bool) -> NewJob:
    return NewJob(
        kind=m.Kind.REMOVE,
        zone=row.pool_zone,
        template=row.template,
        pool=row.pool,
        volume=row.volume,
        single=jobs.single_removal(copies.key_of(row)),
        rank=URGENT,
        args=m.RemoveArgs(
            template=row.template or "none",
            pool=row.pool,
            volume=row.volume,
            install_path=row.install_path,
            forced=forced,
        ),
    )
