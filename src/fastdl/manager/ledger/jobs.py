# SPDX-License-Identifier: Apache-2.0
"""Jobs: what a host was asked to do, from submission to its one final state.

    QUEUED ─grant→ GRANTED(next fence) ─started→ RUNNING ─finish→ DONE | FAILED
       ▲                │                        │
       └─ RETRY_WAIT ◄──┴──── retry, host lost ──┘     live ─cancel→ CANCELLING → CANCELLED

Every step is a compare-and-set on (id, fence, state): a late caller changes nothing. The
fence of a job on a copy is the copy's (``copies.fences``), so that it grows from job to job too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import Row, bindparam, case, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.errors import AgentLostError, ApiConflictError
from fastdl.manager.ledger import copies, slots
from fastdl.manager.ledger.tables import attempt, host
from fastdl.manager.ledger.tables import job as t
from fastdl.manager.ledger.text import dumps, loads, new_id
from fastdl.manager.ledger.values import BULK, Grant, Slot
from fastdl.wire import codec
from fastdl.wire import messages as m


class State(StrEnum):
    """The state of a job."""

    QUEUED = "QUEUED"
    RETRY_WAIT = "RETRY_WAIT"
    GRANTED = "GRANTED"
    RUNNING = "RUNNING"
    CANCELLING = "CANCELLING"
    DONE = "DONE"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


HELD: Final = (State.GRANTED, State.RUNNING)
"""A host should work on it: it is in the host's document."""
COMMANDS_MAX: Final = 256
"""In one document; the rest follows as these end."""
LIVE: Final = (State.QUEUED, State.RETRY_WAIT, State.GRANTED, State.RUNNING, State.CANCELLING)

_WAITING: Final = (
    select(t.c.id, t.c.fence)
    .where(
        # Found by id: with "waiting" SQLite would scan all waiting jobs.
        t.c.id.in_(bindparam("ids", expanding=True)),
        t.c.state.in_((State.QUEUED, State.RETRY_WAIT)),
    )
    .order_by(t.c.id)
    .with_for_update()
)
_GRANT: Final = (
    update(t)
    .where(t.c.id == bindparam("of"))
    .values(
        state=State.GRANTED,
        waiting=False,
        fence=bindparam("by"),
        attempt=t.c.attempt + 1,
        host=bindparam("at"),
        updated=bindparam("now"),
    )
)
"""Kept, as other statements of every round: building one costs more than running it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """What ``submit`` needs. *single*: at most one live job has it; a second submission
    joins the first. With *host* the job goes there directly, without slots."""

    kind: m.Kind
    zone: str
    args: m.Args
    single: str | None = None
    template: str | None = None
    pool: str | None = None
    volume: str | None = None
    host: str | None = None
    lane: str = ""
    origins: tuple[str, ...] = ()
    rank: int = BULK
    fence: int = 1
    """Of a job that goes directly to its host."""
    context: Mapping[str, Any] | None = None


async def submit(tx: AsyncConnection, new: Sequence[NewJob], *, now: float) -> list[str]:
    """Store *new* jobs; return their ids, in order: of a new job, or of the live job it joined.

    Joining a less urgent job makes that job as urgent as the new one.
    """
    singles = [job.single for job in new if job.single]
    live: dict[str, tuple[str, int]] = {}
    for start in range(0, len(singles), 500):
        found = await tx.execute(
            select(t.c.single, t.c.id, t.c.rank, t.c.state).where(
                t.c.single.in_(singles[start : start + 500])
            )
        )
        for single, id_, rank, state in found:
            if state == State.CANCELLING:
                raise ApiConflictError("It is being cancelled: try again shortly")
            live[single] = (id_, rank)
    ids, rows = [], []
    for job in new:
        if job.single and job.single in live:
            id_, rank = live[job.single]
            if job.rank < rank:
                await tx.execute(update(t).where(t.c.id == id_).values(rank=job.rank))
            ids.append(id_)
            continue
        row = _row(job, now=now)
        ids.append(row["id"])
        rows.append(row)
        if job.single:
            live[job.single] = (row["id"], job.rank)
    if rows:
        await tx.execute(insert(t), rows)
        hosts = {row["host"] for row in rows if row["host"]}
        if hosts and await bump(tx, hosts) != len(hosts):
            raise AgentLostError("the host has just been deleted")
    return ids


def _row(job: NewJob, *, now: float) -> dict[str, Any]:
    return {
        "id": new_id(),
        "kind": job.kind.value,
        "state": State.GRANTED if job.host else State.QUEUED,
        "waiting": job.host is None,
        "fence": job.fence if job.host else 0,
        "single": job.single,
        "zone": job.zone,
        "template": job.template,
        "pool": job.pool,
        "volume": job.volume,
        "host": job.host,
        "lane": job.lane,
        "slots": dumps(job.origins),
        "rank": job.rank,
        "args": codec.args_to_json(job.args),
        "context": dumps(job.context or {}),
        "created": now,
        "updated": now,
    }


async def get(tx: AsyncConnection, job: str) -> Row[Any] | None:
    """Return the job's row."""
    return (await tx.execute(select(t).where(t.c.id == job))).first()


async def grant(
    tx: AsyncConnection, grants: Sequence[Grant], *, now: float, floor: int = 0
) -> bool:
    """Give every job of *grants* to its host, with its slots; all of them or none.

    *floor*: the least fence of a job on a copy.

    False = a job was no longer waiting or a slot had no room: the caller rolls back and may
    try the grants one at a time.
    """
    counts = Counter(slot for g in grants for slot, _ in g.slots)
    limit_of: dict[Slot, int] = {}
    for g in grants:
        for slot, most in g.slots:
            # The highest limit counts: bulk and urgent grants may share a batch, and
            # ``decide`` has checked each against its own limit.
            limit_of[slot] = max(most, limit_of.get(slot, 0))
    if not await slots.acquire(tx, {s: (n, limit_of[s]) for s, n in counts.items()}):
        return False
    fence_of = {g.job: g.fence for g in grants}
    rows = await tx.execute(_WAITING, {"ids": sorted(fence_of)})
    if {row.id: row.fence for row in rows} != fence_of:
        return False
    given = await copies.fences(tx, [g.copy for g in grants if g.copy], floor=floor)
    fences = {g.job: max(g.fence + 1, given.get(g.copy, 0) if g.copy else 0) for g in grants}
    values = [{"of": g.job, "by": fences[g.job], "at": g.host, "now": now} for g in grants]
    await tx.execute(_GRANT, values)
    await tx.execute(
        insert(attempt),
        [{"job": g.job, "fence": fences[g.job], "host": g.host, "started": now} for g in grants],
    )
    await bump(tx, {g.host for g in grants})
    return True


async def bump(tx: AsyncConnection, hosts: Iterable[str]) -> int:
    """Number the hosts' next documents; return how many there are."""
    of_these = update(host).where(host.c.id.in_(sorted(hosts)))
    return (await tx.execute(of_these.values(rev=host.c.rev + 1))).rowcount


async def document(tx: AsyncConnection, host_id: str) -> m.Document:
    """Return everything that *host_id* should be doing now."""
    return (await documents(tx, [host_id]))[0]


async def documents(tx: AsyncConnection, host_ids: Sequence[str]) -> list[m.Document]:
    """Return, for each of *host_ids*, everything that it should be doing now."""
    revs = {
        r.id: r.rev
        for r in await tx.execute(select(host.c.id, host.c.rev).where(host.c.id.in_(host_ids)))
    }
    rows = await tx.execute(
        select(t.c.host, t.c.id, t.c.kind, t.c.fence, t.c.args)
        .where(t.c.host.in_(host_ids), t.c.state.in_(HELD))
        .order_by(t.c.rank, t.c.created)
    )
    commands: dict[str, list[m.Command]] = {id_: [] for id_ in host_ids}
    for host_id, id_, kind, fence, args in rows:
        if len(commands[host_id]) < COMMANDS_MAX:
            decoded = codec.args_from_json(kind, args)
            command = m.Command(job=id_, kind=kind, fence=fence, args=decoded)
            commands[host_id].append(command)
    return [m.Document(rev=revs.get(id_, 0), commands=tuple(commands[id_])) for id_ in host_ids]


async def started(tx: AsyncConnection, job: str, *, fence: int, host_id: str, now: float) -> bool:
    """The host acknowledged the command. False = not its job, or no longer."""
    done = await tx.execute(
        update(t)
        .where(t.c.id == job, t.c.fence == fence, t.c.host == host_id, t.c.state == State.GRANTED)
        .values(state=State.RUNNING, updated=now)
    )
    return done.rowcount == 1


async def finish(
    tx: AsyncConnection,
    job: str,
    *,
    fence: int,
    host_id: str,
    state: State,
    now: float,
    result: str | None = None,
    failure: str | None = None,
    row: Row[Any] | None = None,
) -> State | None:
    """End *job* as DONE, FAILED or CANCELLED and free its slots; return how it ended.

    None = stale, nothing done. A job that is being cancelled ends as CANCELLED, unless its result
    came first (DONE). *row*: the job's, if this transaction has already read it.
    """
    row = row if row is not None else await get(tx, job)
    if row is None or row.fence != fence or row.host != host_id:
        return None
    if row.state == State.CANCELLING and state is not State.DONE:
        state = State.CANCELLED
    done = await tx.execute(
        update(t)
        .where(
            t.c.id == job,
            t.c.fence == fence,
            t.c.host == host_id,
            t.c.state.in_((*HELD, State.CANCELLING)),
        )
        .values(
            state=state,
            waiting=False,
            single=None,
            result=result,
            failure=failure,
            updated=now,
            ended=now,
            percent=100 if state is State.DONE else t.c.percent,
        )
    )
    if done.rowcount != 1:
        return None
    await _leave_host(tx, row, outcome=failure or state.value, now=now)
    return state


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How a job ended, as its host reports it. *failure*: JSON, None = done."""

    job: str
    fence: int
    host: str
    failure: str | None = None


async def finish_keystores(
    tx: AsyncConnection, ends: Sequence[End], *, now: float
) -> list[Row[Any] | None]:
    """``finish`` for many keystore jobs, which hold no slots and have no attempts.

    Returns one result per end: the job's row as it was, None = stale, nothing done.
    """
    query = select(t).where(t.c.id.in_({end.job for end in ends})).order_by(t.c.id)
    rows = {row.id: row for row in await tx.execute(query.with_for_update())}
    taken: dict[str, End] = {}
    answers: list[Row[Any] | None] = []
    for end in ends:
        row = rows.get(end.job)
        live = row is not None and row.state in (*HELD, State.CANCELLING)
        own = row is not None and (row.kind, row.fence, row.host) == (
            m.Kind.CERTIFICATES,
            end.fence,
            end.host,
        )
        answers.append(row if live and own and end.job not in taken else None)
        if answers[-1] is not None:
            taken[end.job] = end
    if taken:
        values = [_ended(rows[job], end, now=now) for job, end in sorted(taken.items())]
        await tx.execute(update(t).where(t.c.id == bindparam("job_id")), values)
        await bump(tx, {end.host for end in taken.values()})
    return answers


def _ended(row: Row[Any], end: End, *, now: float) -> dict[str, Any]:
    state = State.DONE if end.failure is None else State.FAILED
    if state is State.FAILED and row.state == State.CANCELLING:
        state = State.CANCELLED
    percent = 100 if state is State.DONE else row.percent
    return {
        "job_id": row.id,
        "state": state,
        "waiting": False,
        "single": None,
        "percent": percent,
        "failure": end.failure,
        "result": None,
        "updated": now,
        "ended": now,
    }


async def requeue(
    tx: AsyncConnection,
    row: Row[Any],
    *,
    now: float,
    not_before: float = 0.0,
    tried: Sequence[str] = (),
    failure: str | None = None,
    count: bool = True,
) -> bool:
    """Put a held job back into the queue, to wait until *not_before* (0 = not at all), at most
    ``DELAY_MAX_S`` ahead; *count* false = this attempt does not count."""
    done = await tx.execute(
        update(t)
        .where(t.c.id == row.id, t.c.fence == row.fence, t.c.state.in_(HELD))
        .values(
            state=State.RETRY_WAIT if not_before else State.QUEUED,
            waiting=True,
            host=None,
            not_before=not_before,
            tried=dumps(list(tried)),
            failure=failure,
            attempt=t.c.attempt if count else t.c.attempt - 1,
            updated=now,
        )
    )
    if done.rowcount != 1:
        return False
    await _leave_host(tx, row, outcome=failure or "lost", now=now)
    return True


async def _leave_host(tx: AsyncConnection, row: Row[Any], *, outcome: str, now: float) -> None:
    if row.kind == m.Kind.DOWNLOAD:
        await slots.release(tx, held_slots(row))
    if row.attempt:  # jobs that went to their host without queueing have no attempts
        await tx.execute(
            update(attempt)
            .where(attempt.c.job == row.id, attempt.c.fence == row.fence)
            .values(ended=now, outcome=outcome)
        )
    await bump(tx, [row.host])


def held_slots(row: Row[Any]) -> list[Slot]:
    """Return the slots that a granted download holds."""
    origins = dict.fromkeys(loads(row.slots))
    return [("host", row.host), ("pool", row.pool), *(("origin", origin) for origin in origins)]


async def cancel(tx: AsyncConnection, job: str, *, now: float) -> Row[Any] | None:
    """Cancel a live job: a waiting one ends immediately, a held one is taken from its host.

    Returns the row as it was before, None if the job is not live.
    """
    row = await get(tx, job)
    if row is None or row.state not in LIVE:
        return None
    if row.waiting:
        new = {"state": State.CANCELLED, "waiting": False, "single": None, "ended": now}
    else:
        new = {"state": State.CANCELLING}
    if row.host and not row.waiting:
        await bump(tx, [row.host])  # first: who ends jobs locks their hosts first
    done = await tx.execute(
        update(t)
        .where(t.c.id == job, t.c.fence == row.fence, t.c.state == row.state)
        .values(**new, updated=now)
    )
    return row if done.rowcount == 1 else None


async def give_up(tx: AsyncConnection, row: Row[Any], *, failure: str, now: float) -> bool:
    """End a waiting job as FAILED; False = it is no longer waiting."""
    done = await tx.execute(
        update(t)
        .where(t.c.id == row.id, t.c.fence == row.fence, t.c.waiting.is_(True))
        .values(
            state=State.FAILED, waiting=False, single=None, failure=failure, updated=now, ended=now
        )
    )
    return done.rowcount == 1


def single_removal(key: copies.Key) -> str:
    """Return what is unique to the live removal of the copy at *key*."""
    return "remove:{}:{}".format(*key)


def single_audit(key: copies.Key) -> str:
    """Return what is unique to the live audit of the copy at *key*."""
    return "audit:{}:{}".format(*key)


def single_download(key: copies.Key) -> str:
    """Return what is unique to the live download of the copy at *key*."""
    return "download:{}:{}".format(*key)


async def save_percent(tx: AsyncConnection, percents: Mapping[str, int]) -> None:
    """Store coarse progress of jobs that have not ended in the meantime, in one statement."""
    if percents:
        await tx.execute(
            update(t)
            .where(t.c.id.in_(list(percents)), t.c.state.in_((*HELD, State.CANCELLING)))
            .values(percent=case(dict(percents), value=t.c.id))
        )


async def prune(tx: AsyncConnection, *, before: float) -> int:
    """Delete jobs that ended before *before*; return how many."""
    done = await tx.execute(delete(t).where(t.c.ended < before))
    return done.rowcount
