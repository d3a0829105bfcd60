# SPDX-License-Identifier: Apache-2.0
"""The small tables: settings, events, the API's async jobs, leases."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Row,
    Table,
    bindparam,
    case,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.manager.ledger.filters import Filters, conditions, contains, equals, same
from fastdl.manager.ledger.jobs import LIVE
from fastdl.manager.ledger.tables import account, api_job, api_job_part, event, job, lease, setting
from fastdl.manager.ledger.text import dumps, new_id

PENDING, SUCCEEDED, FAILED, CANCELLED = 0, 1, 2, 3
"""``jobstatus`` of an API job, numbered as in CloudStack."""
_LEASE: Final = select(lease).where(lease.c.name == bindparam("lease"))
_RENEW: Final = (
    update(lease)
    .where(
        lease.c.name == bindparam("lease"),
        lease.c.fence == bindparam("known"),
        (lease.c.owner == bindparam("by"))
        | (lease.c.until < bindparam("now"))
        | (lease.c.until > bindparam("end")),
    )
    .values(owner=bindparam("by"), fence=bindparam("new"), until=bindparam("end"))
)
_PARTS: Final = select(api_job_part.c.job).where(api_job_part.c.api_job == api_job.c.id)
_LIVE_PARTS: Final = (
    _PARTS.join(job, job.c.id == api_job_part.c.job).where(job.c.state.in_(LIVE)).exists()
)
_FINISHED: Final = select(api_job).where(api_job.c.status == PENDING, _PARTS.exists(), ~_LIVE_PARTS)
_THEIRS: Final = select(api_job_part.c.api_job).where(
    api_job_part.c.job.in_(bindparam("parts", expanding=True))
)
_OF_PARTS: Final = (
    select(api_job.c.id)
    .where(api_job.c.status == PENDING, api_job.c.id.in_(_THEIRS))
    .order_by(api_job.c.id)
    .with_for_update()
)
"""Kept, as other statements of a round: building one costs more than running it."""


async def settings(tx: AsyncConnection) -> dict[str, str]:
    """Return the settings that were changed from their defaults."""
    rows = await tx.execute(select(setting))
    return {row.name: row.value for row in rows}


async def set_setting(tx: AsyncConnection, name: str, value: str) -> None:
    """Store one setting."""
    done = await tx.execute(update(setting).where(setting.c.name == name).values(value=value))
    if not done.rowcount:
        await tx.execute(insert(setting).values(name=name, value=value))


async def add_events(
    tx: AsyncConnection, events: Sequence[Mapping[str, str | None]], *, now: float
) -> None:
    """Store events; each maps columns to values. Their type as CloudStack spells it:
    ``TEMPLATE.DIRECT.DOWNLOAD.FAILURE``."""
    rows = [
        {**values, "id": new_id(), "description": (values["description"] or "")[:4000]}
        for values in events
    ]
    if rows:
        await tx.execute(insert(event), [{**row, "created": now} for row in rows])


RESOURCE_TYPES: Final = (
    ("TEMPLATE.", "Template"),
    ("ISO.", "Iso"),
    ("HOST.TOKEN", "Zone"),
    ("HOST.", "Host"),
    ("MAINT.", "Host"),
    ("ZONE.", "Zone"),
    ("STORAGE.POOL.", "StoragePool"),
    ("USER.", "User"),
    ("REGISTER.USER.", "User"),
    ("CERTIFICATE.", "Certificate"),
    ("DIRECT.DOWNLOAD.CERTIFICATE.", "Certificate"),
    ("VM.", "VirtualMachine"),
)
"""What an event is about, by the prefix of its type: the first that matches."""


def resource_type(type_: str) -> str | None:
    """Return what the resource of an event of that type is."""
    return next((what for start, what in RESOURCE_TYPES if type_.startswith(start)), None)


def _about(wanted: str) -> ColumnElement[bool]:
    """The condition that an event is about a resource of that type."""
    is_ = case(*((event.c.type.startswith(start), what.lower()) for start, what in RESOURCE_TYPES))
    return event.c.resource.is_not(None) & (is_ == wanted.lower())


EVENTS: Final[Filters] = {
    "id": equals(event.c.id),
    "startid": equals(event.c.id),
    "type": same(event.c.type),
    "level": same(event.c.level),
    "state": same(event.c.state),
    "keyword": contains(event.c.type, event.c.description, event.c.level),
    "account": same(event.c.account),
    "resourceid": equals(event.c.resource),
    "resourcetype": _about,
    "startdate": lambda moment: event.c.created >= moment,
    "enddate": lambda moment: event.c.created < moment,
}
"""*startid*: the event that started a group of events; here each is its own group."""

API_JOBS: Final[Filters] = {
    "account": lambda name: api_job.c.owner.in_(
        select(account.c.id).where(same(account.c.account)(name))
    ),
    "keyword": contains(api_job.c.command),
    "resourceid": equals(api_job.c.instance),
    "resourcetype": same(api_job.c.instance_type),
    "startdate": lambda moment: api_job.c.created >= moment,
}


async def events(
    tx: AsyncConnection,
    *,
    where: Mapping[str, Any] | None = None,
    seen_by: str | None = None,
    first: int = 0,
    limit: int = 500,
) -> tuple[int, list[Row[Any]]]:
    """Return (how many match in all, one page), newest first. *where*: by names of ``EVENTS``;
    *seen_by*: only that account's."""
    matching = conditions(EVENTS, where or {})
    if seen_by is not None:
        matching.append(event.c.account == seen_by)
    return await _newest(tx, event, matching, first=first, limit=limit)


async def add_api_job(
    tx: AsyncConnection,
    *,
    owner: str,
    command: str,
    now: float,
    instance_type: str | None = None,
    instance: str | None = None,
    parts: Sequence[str] = (),
) -> str:
    """Store a pending API job that ends when all its *parts* (jobs) have ended."""
    id_ = new_id()
    await tx.execute(
        insert(api_job).values(
            id=id_,
            owner=owner,
            command=command,
            status=PENDING,
            instance_type=instance_type,
            instance=instance,
            created=now,
        )
    )
    if parts := list(dict.fromkeys(parts)):
        await tx.execute(insert(api_job_part), [{"api_job": id_, "job": part} for part in parts])
    return id_


async def add_done_job(
    tx: AsyncConnection,
    *,
    owner: str,
    command: str,
    now: float,
    instance_type: str,
    instance: str,
    result: Any,
) -> str:
    """Store an API job that has already succeeded, with its *result*."""
    id_ = await add_api_job(
        tx, owner=owner, command=command, now=now, instance_type=instance_type, instance=instance
    )
    await complete_api_job(tx, id_, status=SUCCEEDED, result=result, now=now)
    return id_


async def get_api_job(tx: AsyncConnection, id_: str) -> Row[Any] | None:
    """Return the API job."""
    return (await tx.execute(select(api_job).where(api_job.c.id == id_))).first()


async def api_jobs(
    tx: AsyncConnection,
    *,
    where: Mapping[str, Any] | None = None,
    owner: str | None,
    first: int,
    limit: int,
) -> tuple[int, list[Row[Any]]]:
    """Return (how many match in all, one page) of API jobs, newest first. *where*: by names of
    ``API_JOBS``; *owner*: only that user's."""
    matching = conditions(API_JOBS, where or {})
    if owner is not None:
        matching.append(api_job.c.owner == owner)
    return await _newest(tx, api_job, matching, first=first, limit=limit)


async def _newest(
    tx: AsyncConnection,
    table: Table,
    matching: Sequence[ColumnElement[bool]],
    *,
    first: int,
    limit: int,
) -> tuple[int, list[Row[Any]]]:
    count = await tx.scalar(select(func.count()).select_from(table).where(*matching))
    query = select(table).where(*matching).order_by(table.c.created.desc(), table.c.id)
    rows = await tx.execute(query.offset(first).limit(limit))
    return count or 0, list(rows)


async def complete_api_job(
    tx: AsyncConnection, id_: str, *, status: int, result: Any, now: float
) -> bool:
    """End an API job; False = it had already ended."""
    done = await tx.execute(
        update(api_job)
        .where(api_job.c.id == id_, api_job.c.status == PENDING)
        .values(status=status, result=dumps(result), completed=now)
    )
    return done.rowcount == 1


async def lock_api_jobs(tx: AsyncConnection, parts: Collection[str]) -> Sequence[str]:
    """Lock the pending API jobs of *parts*, in one order for everybody; return their ids."""
    return (await tx.execute(_OF_PARTS, {"parts": sorted(parts)})).scalars().all()


async def finished_api_jobs(
    tx: AsyncConnection, parts: Collection[str] | None = None
) -> list[Row[Any]]:
    """Return pending API jobs none of whose parts is live (those with one of *parts*, or all that
    have parts: others are ended by who works on them).

    With *parts* the API jobs are locked first: of two parts that end at the same moment, the
    later one sees that the other has ended.
    """
    if parts is None:
        return list(await tx.execute(_FINISHED))
    if not (ids := await lock_api_jobs(tx, parts)):
        return []
    return list(await tx.execute(select(api_job).where(api_job.c.id.in_(ids), ~_LIVE_PARTS)))


async def parts_of(tx: AsyncConnection, id_: str) -> list[Row[Any]]:
    """Return the jobs of an API job."""
    query = (
        select(job)
        .join(api_job_part, api_job_part.c.job == job.c.id)
        .where(api_job_part.c.api_job == id_)
        .order_by(job.c.created)
    )
    return list(await tx.execute(query))


async def database_time(tx: AsyncConnection, now: float) -> float:
    """Return the time by the database's clock, if it has one for all its clients (PostgreSQL), else
    *now*."""
    if tx.dialect.name != "postgresql":
        return now
    return float(await tx.scalar(select(func.extract("epoch", func.clock_timestamp()))) or 0)


async def take_lease(
    tx: AsyncConnection, name: str, owner: str, *, now: float, ttl: float
) -> int | None:
    """Acquire or renew the lease *name*; return its fence, None while another owner holds it.

    Decided by ``database_time``; *now* is a clock that does not jump (``Clock.steady``). An end
    further ahead than *ttl* was written before that clock was set back: nobody can hold a lease for
    longer than its length.
    """
    now = await database_time(tx, now)
    row = (await tx.execute(_LEASE, {"lease": name})).first()
    if row is None:
        await tx.execute(insert(lease).values(name=name, owner=owner, fence=1, until=now + ttl))
        return 1
    fence: int = row.fence if row.owner == owner else row.fence + 1
    found = {"lease": name, "known": row.fence, "now": now}
    done = await tx.execute(_RENEW, found | {"new": fence, "by": owner, "end": now + ttl})
    return fence if done.rowcount == 1 else None


async def drop_lease(tx: AsyncConnection, name: str, owner: str) -> None:
    """Release the lease at a clean stop."""
    await tx.execute(
        update(lease).where(lease.c.name == name, lease.c.owner == owner).values(until=0.0)
    )


async def drop_leases(tx: AsyncConnection, owners: Collection[str]) -> None:
    """Release all leases of *owners*, who died. Where one is alive after all, it takes its leases
    again, or another has them: a lease saves work, and nothing is right only because of it."""
    await tx.execute(update(lease).where(lease.c.owner.in_(sorted(owners))).values(until=0.0))


async def prune(tx: AsyncConnection, *, before: float) -> None:
    """Delete events and ended API jobs from before *before*."""
    await tx.execute(delete(event).where(event.c.created < before))
    await tx.execute(delete(api_job).where(api_job.c.completed < before))
