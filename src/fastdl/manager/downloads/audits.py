# SPDX-License-Identifier: Apache-2.0
"""Is a copy still what was published? A host reads it; what it reports is recorded and shown."""

from __future__ import annotations

import random
from typing import Any, Final

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.errors import AgentLostError
from fastdl.manager.events import Event
from fastdl.manager.hosts.fleet import ConnectedHost, Fleet
from fastdl.manager.ledger import copies, jobs, templates
from fastdl.manager.ledger.jobs import NewJob
from fastdl.wire import codec
from fastdl.wire import messages as m
from fastdl.wire.pieces import sha256_in

DAMAGED: Final = "damaged"
INTACT: Final = "intact"


def able_host(fleet: Fleet, pool: str) -> ConnectedHost:
    """Return a host that can read *pool*; AgentLostError if none is Up."""
    able = [host for host in fleet.of_pool(pool) if m.Kind.AUDIT in host.kinds]
    if not able:
        raise AgentLostError("No host that is Up can audit what is in the pool")
    return random.choice(able)  # noqa: S311 - spreading work


async def submit(tx: AsyncConnection, copy: Row[Any], host: ConnectedHost, *, now: float) -> str:
    """Store the job that audits *copy* at *host*, and return it; a live one is joined."""
    template = await templates.get(tx, copy.template) if copy.template else None
    sha256 = sha256_in(template.checksum) if template is not None else None
    new = NewJob(
        kind=m.Kind.AUDIT,
        zone=host.zone,
        template=copy.template,
        pool=copy.pool,
        volume=copy.volume,
        host=host.id,
        single=jobs.single_audit(copies.key_of(copy)),
        args=m.AuditArgs(
            pool=copy.pool,
            volume=copy.volume,
            iso=copy.install_path == f"{copy.volume}.iso",
            checksum=template.checksum if template is not None and sha256 else None,
        ),
    )
    return (await jobs.submit(tx, [new], now=now))[0]


async def record(tx: AsyncConnection, copy: Row[Any], done: m.AuditDone, *, now: float) -> None:
    """Note at *copy* what was found; its next download replaces what is damaged."""
    if done.state in {DAMAGED, INTACT} and copy.state in {copies.READY, copies.ORPHAN}:
        note = done.why if done.state == DAMAGED else ""
        await copies.change(tx, copies.key_of(copy), now=now, note=note, users=done.users)


async def events(tx: AsyncConnection, row: Row[Any], result: m.JobResult) -> list[Event]:
    """Return the events of the audit *row*."""
    names = await copies.template_names(tx, [row.template] if row.template else [])
    what = f"the copy of {names.get(row.template, row.volume)} on pool {row.pool}"
    type_, level = "TEMPLATE.COPY.AUDIT", "INFO"
    if result.failure is not None:
        text, level = f"{what} could not be audited: {result.failure.message}", "WARN"
    elif isinstance(result.done, m.AuditDone) and result.done.state == DAMAGED:
        type_, level = "TEMPLATE.COPY.DAMAGED", "ERROR"
        text = f"{what} is damaged: {result.done.why}"
    elif isinstance(result.done, m.AuditDone):
        text = f"{what} is {result.done.state}" + (
            f": {result.done.why}" if result.done.why else ""
        )
    else:
        return []
    return [Event(type=type_, description=text, level=level, resource=row.template)]


def shown(part: Row[Any]) -> dict[str, Any] | None:
    """Return what the API says of an audit that ended; None for another job."""
    if part.kind != m.Kind.AUDIT or not part.result:
        return None
    done = codec.done_from_json(part.kind, part.result)
    if not isinstance(done, m.AuditDone):
        return None
    return {
        "storageid": part.pool,
        "volume": part.volume,
        "templateid": part.template,
        "state": done.state.capitalize(),
        "reason": done.why or None,
        "bytes": done.bytes,
        "pieces": done.pieces,
        "piecelength": done.length,
        "wrongpieces": list(done.wrong),
        "users": list(done.users),
    }
