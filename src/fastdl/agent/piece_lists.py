# SPDX-License-Identifier: Apache-2.0
"""Which list of pieces does this host get from its manager before a transfer, and which one does it
report after it?

Nothing here decides whether bytes are right (``engine.shared_pieces``). A manager that does not
respond costs a moment; the transfer then runs without a list.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from fastdl.errors import AgentRefusedError
from fastdl.wire import messages as m
from fastdl.wire.pieces import HASHES_MAX, length_for, sha256_in, unpacked

log = logging.getLogger(__name__)

ANSWER_S: Final = 5.0
HELD_MAX: Final = 16
"""Lists that wait for the acknowledgement of their job's result."""


class PieceLists:
    """What this host and its manager say to each other of lists. Used from one event loop.

    *send* queues a message; False if there is no connection.
    """

    def __init__(self, send: Callable[[m.Message], bool]) -> None:
        self._send = send
        self._asked: dict[tuple[str, int], asyncio.Future[m.PiecesKnown]] = {}
        self._found: OrderedDict[str, tuple[m.PieceList, bool]] = OrderedDict()

    def of(self, command: m.Command) -> JobPieces | None:
        """What a download or an audit may ask for; None where its manager keeps no lists of it."""
        match command.args:
            case m.DownloadArgs(piece_lists=True, transfer=transfer):
                sha256 = sha256_in(transfer.checksum)
            case m.AuditArgs(checksum=checksum):
                sha256 = sha256_in(checksum)
            case _:
                return None
        return JobPieces(self, command.job, command.fence, sha256) if sha256 else None

    async def ask(self, job: str, fence: int) -> m.PiecesKnown | None:
        """What the manager knows; None if it does not answer."""
        key = (job, fence)
        answer: asyncio.Future[m.PiecesKnown] = asyncio.get_running_loop().create_future()
        self._asked[key] = answer
        try:
            if self._send(m.PiecesWanted(job=job, fence=fence)):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(ANSWER_S):
                        return await answer
            return None
        finally:
            self._asked.pop(key, None)

    def answered(self, known: m.PiecesKnown) -> None:
        """Hand on the manager's answer, if somebody still waits for it."""
        answer = self._asked.get((known.job, known.fence))
        if answer is not None and not answer.done():
            answer.set_result(known)

    def hold(self, job: str, found: m.PieceList, *, refused: bool) -> None:
        """Report *found* as soon as the manager has the job's result."""
        self._found[job] = (found, refused)
        while len(self._found) > HELD_MAX:
            self._found.popitem(last=False)

    def acknowledged(self, job: str, fence: int) -> None:
        """The manager has the result of *job*: now it can compare a list with that."""
        if (held := self._found.pop(job, None)) is not None:
            found, refused = held
            self._send(m.PiecesFound(job=job, fence=fence, pieces=found, refused=refused))


@dataclass(frozen=True, slots=True)
class JobPieces:
    """One job's part of it; *sha256*: of the file that it is about."""

    lists: PieceLists
    job: str
    fence: int
    sha256: str

    async def shared(self, size: int | None) -> Mapping[str, Any]:
        """Fields of ``engine.options.Placement`` for a source of *size* bytes: a list to compare
        with, or that one is wanted, or nothing."""
        length = length_for(size)
        known = await self.lists.ask(self.job, self.fence) if length else None
        if known is None:
            return {}
        if known.pieces is None:
            return {"list_pieces": length} if known.wanted else {}
        given = known.pieces
        if (given.sha256, given.size) != (self.sha256, size):
            return {}
        try:
            unpacked(given.hashes, size=given.size, length=given.length)
        except AgentRefusedError as exc:
            log.warning("the manager sent %s", exc.message, extra={"job": self.job})
            return {}
        return {"shared": (given.sha256, given.size, given.length, given.hashes)}

    def keep(self, result: dict[str, Any]) -> None:
        """Take what *result* says of pieces out of it, to be reported."""
        listed = result.pop("listed", None)
        if listed is None or len(listed["hashes"]) > HASHES_MAX:
            return
        size = int(result["source_bytes"])
        try:
            unpacked(listed["hashes"], size=size, length=listed["length"])
        except AgentRefusedError as exc:
            log.warning("a download made %s", exc.message, extra={"job": self.job})
            return
        found = m.PieceList(
            sha256=self.sha256, size=size, length=listed["length"], hashes=listed["hashes"]
        )
        self.lists.hold(self.job, found, refused=listed["refused"] is True)
