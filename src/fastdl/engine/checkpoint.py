# SPDX-License-Identifier: Apache-2.0
"""The journal of one attempt: what it resumes from, and what it records for the next run."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Protocol

from fastdl import fs
from fastdl.core.job import Job, block_for, sha256_lanes
from fastdl.core.sink import Sink as CoreSink
from fastdl.engine.journal_file import JournalFile
from fastdl.engine.options import BLOCKS_IN_WINDOW, MAX_BLOCK, MIN_BLOCK, FetchOptions
from fastdl.errors import FastdlError, JournalError, SinkIOError
from fastdl.sinks.base import Identity

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastdl.engine import journal as jr
    from fastdl.engine.source.facts import SourceFacts
    from fastdl.sinks.stream import StreamSink

NOTHING = 0
"""An XXH3 that stands for no data at all: what it names is fetched again."""

LARGEST_PAIR = 4 << 20
"""Bytes of a block that is made larger to hold two pieces, or one."""

BLOCK_ALIGN = 4096
"""What the core's blocks are multiples of: other pieces lie across blocks."""

CHECKPOINT_BYTES = 3 << 20
"""For each connection. A checkpoint costs a flush; a kill costs the data received since the last
one."""


class Kept(Protocol):
    """What holds the blocks that a journal names: the target, or a spool. See ``Sink``."""

    @property
    def kind(self) -> str: ...
    @property
    def fd(self) -> int: ...
    @property
    def hold(self) -> int: ...
    @property
    def identity(self) -> Identity: ...
    @property
    def resumable(self) -> bool: ...


class Checkpoint:
    """The journal of an attempt: appended to only after a flush of what it names.

    *block* is the size of the blocks that the attempt transfers and the journal names; they are in
    *kept*.
    """

    def __init__(self, block: int, kept: Kept) -> None:
        self.block = block
        self.kept = kept
        self.spool: CoreSink | None = None
        """Where blocks are kept besides, if they are decoded on their way to the target."""
        self.later: Callable[[], None] | None = None
        """What sets ``spool`` and ``writer`` once there is a block to keep."""
        self.writer: jr.Writer | None = None
        self.local: list[tuple[int, int]] = []
        self.warning: str | None = None
        self.follower: StreamSink | None = None
        """Who hands on what is verified while more is fetched; then there is no journal."""

    @property
    def records(self) -> bool:
        """Whether somebody wants to know what was written."""
        return self.writer is not None or self.follower is not None

    @property
    def keeps(self) -> bool:
        """Whether blocks are kept besides, or may be."""
        return self.spool is not None or self.later is not None

    @property
    def holds(self) -> bool:
        """Whether there is anything to resume from."""
        return self.writer is not None and self.writer.count > 0

    def keep(self, job: Job) -> None:
        """The first block is to be kept: from here on the next run has something to find."""
        later, self.later = self.later, None
        if later is not None:
            later()
        job.keep(self.spool)

    def take(self, job: Job, sink: CoreSink) -> None:
        """Flush the target, then record what had been written before."""
        records = job.drain()
        if self.follower is not None and records:
            self.follower.written(records)
            job.settle(len(records))
        if self.writer is None or not records:
            return
        from fastdl.engine.journal import Record  # loaded with the writer

        if self._flush(sink):
            self.writer.append([Record._make(record) for record in records])
        # Connections wait for what a kill would cost, not for what a power cut would.
        job.settle(len(records))
        self.writer.flush()

    def _flush(self, sink: CoreSink) -> bool:
        """Whether what the records name is durable. SinkIOError if it is in the target *sink*."""
        if self.spool is None:
            sink.flush()
            return True
        try:
            self.spool.flush()
        except FastdlError as exc:  # the transfer does not depend on it
            assert self.writer is not None
            self.writer.give_up(exc.message)
            return False
        return True

    def adopt(self, records: list[tuple[int, int, int]]) -> None:
        """Begin with (offset, length, XXH3) of bytes that lie durable on the target already."""
        self.local = [(offset, xxh3) for offset, _, xxh3 in records]
        if self.writer is not None and records:
            from fastdl.engine.journal import Record

            self.writer.append([Record._make(record) for record in records])
            self.writer.flush()

    def disown(self, offset: int | None, length: int | None) -> None:
        """Record that the blocks of a wrong piece are not what they should be: a later run finds
        them changed, and fetches them again."""
        if self.writer is None or offset is None or not length:
            return
        from fastdl.engine.journal import Record

        first = offset - offset % self.block
        blocks = range(first, offset + length, self.block)
        self.writer.append([Record(at, self.block, NOTHING) for at in blocks])
        self.writer.flush()

    def due(self, connections: int) -> int:
        """How many blocks written since the last checkpoint call for one; 0: never."""
        if self.writer is None:
            return 0 if self.follower is None else 1
        return max(1, CHECKPOINT_BYTES * max(1, connections) // self.block)

    def close(self, *, remove: bool) -> None:
        """End of the attempt; *remove* if there is nothing to resume."""
        if self.writer is not None:
            self.warning = self.writer.warning
            if remove:
                self.writer.remove()
            else:
                self.writer.close()
        if self.spool is not None:
            self.spool.close()


def bytes_asked_for(facts: SourceFacts) -> dict[str, Any]:
    """What names the bytes: a strong digest, wherever they come from; without one the URLs."""
    strong = facts.digests.strongest()
    if strong is not None and strong.strength == "strong":
        return {"digest": str(strong)}
    pieces = None
    if facts.pieces:
        import hashlib  # few sources have them

        pieces = hashlib.sha256(facts.pieces.hashes).hexdigest()
    return {"urls": sorted(url.display() for url in facts.urls), "pieces": pieces}


def job_key(facts: SourceFacts, landing: str) -> str:
    """What makes two commands the same job: the requested bytes, and how they are written."""
    import hashlib  # start-up: not needed if nothing can be resumed
    import json

    what = {"landing": landing, "size": facts.size, **bytes_asked_for(facts)}
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def validators_of(facts: SourceFacts) -> dict[str, dict[str, str]]:
    """Origin → what its first response was pinned to."""
    out: dict[str, dict[str, str]] = {}
    for url, mirror in zip(facts.urls, facts.mirrors, strict=True):
        if mirror.pinned:
            out[url.display().partition("?")[0]] = {
                "etag": mirror.etag,
                "last_modified": mirror.last_modified,
                "size": str(mirror.total),
            }
    return out


def _same_source(header: jr.Header, facts: SourceFacts) -> bool:
    """Whether the journal's job can be resumed from the current source."""
    if header.size != facts.size:
        return False
    if facts.provable:  # pieces are part of the job's key
        return header.digests == facts.digests.to_dict()
    # Without a digest only an equal strong validator of the same origin proves it.
    now = validators_of(facts)
    for origin, then in header.validators.items():
        if origin in now and (then["etag"] or then["last_modified"]):
            return now[origin] == then
    return False


def _block_wanted(facts: SourceFacts, options: FetchOptions) -> int:
    """The size asked for, or room for two pieces: those of one block are hashed side by side, and
    nothing else goes along where no digest of the whole is computed. Where more than two are, the
    pieces of several blocks are hashed together: then room for one."""
    lanes = sha256_lanes(os.environ.get("FASTDL_SHA256", ""))
    pieces = (2 if lanes <= 2 else 1) * (facts.piece_length or 0)
    room = min(LARGEST_PAIR, options.window // BLOCKS_IN_WINDOW)
    larger = not facts.computed and options.block_size < pieces <= room
    return pieces if larger and pieces % BLOCK_ALIGN == 0 else options.block_size


def _suits(block: int, facts: SourceFacts, window: int) -> bool:
    """Whether this run can use an earlier run's *block* size.

    Then it does, regardless of the size requested now: the data on the target is worth more.
    """
    wanted = MIN_BLOCK
    while wanted <= MAX_BLOCK and wanted * BLOCKS_IN_WINDOW <= window:
        if block_for(facts.piece_length, wanted) == block:
            return True
        wanted *= 2
    return False


def open_checkpoint(
    where: JournalFile | None,
    kept: Kept,
    facts: SourceFacts,
    options: FetchOptions,
    landing: str,
) -> Checkpoint:
    """The journal of an earlier run of this job, or a new one, or none if it cannot help.

    *where*: its file; None if the landing or the target cannot be resumed. *kept*: what it is
    about.

    Any doubt means a full restart: JournalError is not raised to the caller.
    """
    block = block_for(facts.piece_length, _block_wanted(facts, options))
    out = Checkpoint(block, kept)
    if kept.kind == "stream":
        from fastdl.sinks.stream import StreamSink

        assert isinstance(kept, StreamSink)
        out.follower = kept
    if where is None:
        return out
    wanted = options.resume and not facts.one_response
    if not wanted or facts.size is None or facts.size <= 2 * block:
        where.remove()
        return out
    from fastdl.engine import journal as jr

    key = job_key(facts, landing)
    found = None
    try:
        found = jr.Writer.resume(where)
    except JournalError as exc:
        out.warning = f"starting from the beginning: {exc.message}"
    if found is not None:
        journal, writer = found
        header = journal.header
        fits = (
            header.job == key
            and _suits(header.block_size, facts, options.window)
            and header.target == dict(kept.identity)
            and kept.resumable
        )
        if fits and _same_source(header, facts):
            out.block = block = header.block_size
            last = facts.size - facts.size % block
            seen = {
                r.offset: r.digest
                for r in journal.records
                if r.digest == NOTHING
                or (
                    r.offset % block == 0
                    and r.length == (facts.size - r.offset if r.offset == last else block)
                )
            }
            out.local = sorted((at, xxh3) for at, xxh3 in seen.items() if xxh3 != NOTHING)
            out.writer = writer
            return out
        writer.remove()
        out.warning = "starting from the beginning: " + (
            "the source or the target is not what it was when the download stopped"
            if header.job == key
            else "the journal next to the target belongs to another download"
        )
    try:
        out.writer = jr.Writer.create(
            where,
            jr.Header(
                job=key,
                target=kept.identity,
                validators=validators_of(facts),
                size=facts.size,
                digests=facts.digests.to_dict(),
                block_size=block,
                boot_id=fs.boot_id(),
            ),
        )
    except SinkIOError:
        raise
    except (ValueError, FastdlError) as exc:
        out.warning = f"this download cannot be resumed: {exc}"
    return out
