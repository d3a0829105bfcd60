# SPDX-License-Identifier: Apache-2.0
"""Look jobs up; ``jobs`` changes them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from sqlalchemy import Row, func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.manager.ledger import copies, jobs
from fastdl.manager.ledger.tables import attempt
from fastdl.manager.ledger.tables import job as t
from fastdl.wire import messages as m

_UNANSWERED: Final = select(t).where(
    t.c.host.is_not(None),  # the condition of the partial index
    t.c.state.in_((*jobs.HELD, jobs.State.CANCELLING)),
    (t.c.state == jobs.State.CANCELLING)
    | t.c.kind.in_((m.Kind.PROBE, m.Kind.CHECK, m.Kind.DOCUMENTS, m.Kind.CONSOLE)),
)
"""Kept, as other statements of every round: building one costs more than running it."""


async def waiting_on(tx: AsyncConnection, pools: Iterable[str]) -> list[Row[Any]]:
    """Return the jobs that wait for a host that reaches one of *pools*."""
    query = select(t).where(t.c.waiting.is_(True), t.c.pool.in_(sorted(pools)))
    return list(await tx.execute(query.order_by(t.c.created, t.c.id)))


async def was_given(tx: AsyncConnection, job: str, host_id: str) -> bool:
    """Whether *host_id* ever had *job*."""
    query = select(attempt.c.fence).where(attempt.c.job == job, attempt.c.host == host_id).limit(1)
    return (await tx.scalar(query)) is not None


async def held_by(tx: AsyncConnection, host_id: str) -> list[Row[Any]]:
    """Return the jobs that *host_id* holds (or is stopping)."""
    rows = await tx.execute(
        select(t).where(t.c.host == host_id, t.c.state.in_((*jobs.HELD, jobs.State.CANCELLING)))
    )
    return list(rows.all())


async def unanswered(tx: AsyncConnection) -> list[Row[Any]]:
    """Return the jobs whose host should respond soon: CANCELLING ones, and requests."""
    return list(await tx.execute(_UNANSWERED))


async def live_download(tx: AsyncConnection, key: copies.Key) -> Row[Any] | None:
    """Return the live download of the copy at *key*."""
    query = select(t).where(t.c.single == jobs.single_download(key))
    return (await tx.execute(query)).first()


async def live_removal(tx: AsyncConnection, key: copies.Key) -> str | None:
    """Return the live removal of the copy at *key*."""
    job: str | None = await tx.scalar(select(t.c.id).where(t.c.single == jobs.single_removal(key)))
    return job


async def live_of_template(tx: AsyncConnection, template: str) -> list[Row[Any]]:
    """Return the download jobs of *template* that have not ended, newest first."""
    query = select(t).where(
        t.c.template == template, t.c.kind == m.Kind.DOWNLOAD, t.c.state.in_(jobs.LIVE)
    )
    return list(await tx.execute(query.order_by(t.c.created.desc())))


async def latest_of_template(tx: AsyncConnection, template: str) -> dict[str, Row[Any]]:
    """Return pool → the newest download job of *template* there. Earlier ones are not read: a
    template that is prepared every hour has thousands.
    """
    here = (t.c.template == template) & (t.c.kind == m.Kind.DOWNLOAD)
    newest = (
        select(t.c.pool, func.max(t.c.created).label("created"))
        .where(here)
        .group_by(t.c.pool)
        .subquery()
    )
    same = (t.c.pool == newest.c.pool) & (t.c.created == newest.c.created)
    rows = await tx.execute(select(t).join(newest, same).where(here).order_by(t.c.id))
    return {row.pool: row for row in rows}


async def templates_of_late(tx: AsyncConnection, *, since: float, limit: int) -> list[str]:
    """Return the templates with a download that is live or ended after *since*, the most recently
    requested download first.
    """
    rows = await tx.execute(
        select(t.c.template)
        .where(t.c.kind == m.Kind.DOWNLOAD, t.c.state.in_(jobs.LIVE) | (t.c.ended >= since))
        .group_by(t.c.template)
        .order_by(func.max(t.c.created).desc())
        .limit(limit)
    )
    return [row.template for row in rows]


async def starts(tx: AsyncConnection, found: Sequence[Row[Any]]) -> dict[str, float]:
    """Return job → when its latest attempt was given to a host, for jobs of *found* with one."""
    pairs = [(row.id, row.fence) for row in found]
    times: dict[str, float] = {}
    for start in range(0, len(pairs), 200):
        part = pairs[start : start + 200]
        rows = await tx.execute(
            select(attempt.c.job, attempt.c.started).where(
                # Found by job: by pairs alone SQLite would read every attempt.
                attempt.c.job.in_([job for job, _ in part]),
                tuple_(attempt.c.job, attempt.c.fence).in_(part),
            )
        )
        times |= {row.job: row.started for row in rows}
    return times


async def count_live(tx: AsyncConnection) -> dict[str, int]:
    """Return how many live jobs are in each state."""
    rows = await tx.execute(
        select(t.c.state, func.count().label("n")).where(t.c.ended.is_(None)).group_by(t.c.state)
    )
    return {row.state: row.n for row in rows}
