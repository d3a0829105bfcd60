# SPDX-License-Identifier: Apache-2.0
"""Which list of a template's pieces is kept, and which host gets it?

The first host that verified a whole file against the template's SHA-256 reports the digests of its
pieces; every other host compares with them while it fetches. A list is worth as much as its host,
so every host computes the whole digest too: a wrong list is found out by the next host that has the
right bytes, and the list of that host takes its place.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.errors import AgentRefusedError
from fastdl.manager.clock import Clock
from fastdl.manager.events import Event, Events
from fastdl.manager.ledger import hosts, jobs, piece_lists, templates
from fastdl.manager.ledger.engine import Ledger
from fastdl.manager.ledger.jobs import HELD, State
from fastdl.manager.ledger.text import loads
from fastdl.wire import codec
from fastdl.wire import messages as m
from fastdl.wire.pieces import sha256_in, unpacked

log = logging.getLogger(__name__)

REFUSED_MAX: Final = 8
"""Hosts whose lists were refused; of a template with so many none is given out any more."""
_ABOUT_LISTS: Final = frozenset({m.Kind.DOWNLOAD, m.Kind.AUDIT})
REFUSED: Final = "TEMPLATE.PIECES.REFUSED"


class PieceLists:
    """Answers hosts that ask for lists, and keeps what they find."""

    def __init__(self, *, ledger: Ledger, clock: Clock, events: Events) -> None:
        self._ledger = ledger
        self._clock = clock
        self._events = events

    async def known(self, host: str, asked: m.PiecesWanted) -> m.PiecesKnown:
        """Return the list for what *host* downloads or audits, or whether one is wanted."""
        nothing = m.PiecesKnown(job=asked.job, fence=asked.fence)
        async with self._ledger.read() as tx:
            row = await _job(tx, asked.job, host, asked.fence)
            if row is None or row.state not in HELD:
                return nothing
            template = await templates.get(tx, row.template)
            sha256 = sha256_in(template.checksum) if template is not None else None
            if sha256 is None:
                return nothing
            kept = await piece_lists.get(tx, row.template, sha256)
        refused = loads(kept.refused) if kept is not None else []
        if len(refused) >= REFUSED_MAX:
            return nothing
        pieces = kept and m.PieceList(
            sha256=kept.sha256, size=kept.size, length=kept.length, hashes=kept.hashes
        )
        return m.PiecesKnown(job=asked.job, fence=asked.fence, pieces=pieces, wanted=pieces is None)

    async def found(self, host: str, found: m.PiecesFound) -> None:
        """Keep what *host* found, if it is of a file that it has verified, and there is none, or
        one that it refuses."""
        try:
            unpacked(found.pieces.hashes, size=found.pieces.size, length=found.pieces.length)
        except AgentRefusedError as exc:
            log.warning("a host sent %s", exc.message, extra={"host": host, "job": found.job})
            return
        now = self._clock.time()

        async def work(tx: AsyncConnection) -> list[Event]:
            row = await _job(tx, found.job, host, found.fence)
            if row is None or row.state != State.DONE:
                return []
            template = await templates.locked(tx, row.template)
            if template is None or not _is_verified(row, template, found.pieces):
                return []
            events = await _keep(tx, template, host, found, now=now)
            await self._events.store(tx, *events)
            return events

        self._events.publish(*await self._ledger.write(work))


async def _job(tx: AsyncConnection, job: str, host: str, fence: int) -> Row[Any] | None:
    """Return the job if it is a download or an audit that *host* has under this *fence*."""
    row = await jobs.get(tx, job)
    if row is None or row.kind not in _ABOUT_LISTS or (row.host, row.fence) != (host, fence):
        return None
    return row


def _is_verified(row: Row[Any], template: Row[Any], found: m.PieceList) -> bool:
    """Whether the result of the job *row* says that the file of *found* is the template's."""
    done = codec.done_from_json(row.kind, row.result)
    sha256 = sha256_in(template.checksum)
    return (
        isinstance(done, m.DownloadDone)
        and done.integrity == "strong"
        and sha256 is not None
        and found.sha256 == sha256 == done.digests.get("sha-256")
        and found.size == done.source_bytes
    )


async def _keep(
    tx: AsyncConnection, template: Row[Any], host: str, found: m.PiecesFound, *, now: float
) -> list[Event]:
    kept = await piece_lists.get(tx, template.id, found.pieces.sha256)
    if kept is None:
        await piece_lists.put(tx, template.id, found.pieces, host=host, refused=(), now=now)
        return []
    refused: list[str] = loads(kept.refused)
    same = (kept.length, kept.hashes) == (found.pieces.length, found.pieces.hashes)
    if same or not found.refused or host == kept.host or host in refused:
        return []
    if kept.host not in refused:
        refused.append(kept.host)
    await piece_lists.put(tx, template.id, found.pieces, host=host, refused=refused, now=now)
    names = [row.name if (row := await hosts.get(tx, id_)) else id_ for id_ in (kept.host, host)]
    text = (
        f"the list of pieces of {template.name} that host {names[0]} made is not that of host "
        f"{names[1]}, which has verified the whole file too: it was discarded. Check both hosts: "
        "one of them has a fault in its memory, or is not what it seems"
    )
    return [Event(type=REFUSED, description=text, level="WARN", resource=template.id)]
