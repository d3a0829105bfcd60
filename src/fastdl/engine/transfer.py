# SPDX-License-Identifier: Apache-2.0
"""One attempt: from a resolved source and an open sink to verified, durable bytes.

Nothing here publishes; ``engine.fetch`` does, with the digests of this attempt as its proof.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from typing import Any, NamedTuple

from fastdl.core.config import JobConfig
from fastdl.core.job import Job, block_for
from fastdl.core.sink import Sink as CoreSink
from fastdl.engine import journal as jr
from fastdl.engine.cancel import Cancel
from fastdl.engine.journal_file import JournalFile
from fastdl.engine.options import (
    BLOCKS_IN_WINDOW,
    MAX_BLOCK,
    MIN_BLOCK,
    FetchOptions,
    Progress,
    ProgressCallback,
)
from fastdl.engine.resolve import Resolved
from fastdl.errors import Cancelled, FastdlError, JournalError
from fastdl.sinks.base import Sink

PROGRESS_S = 0.1
CHECKPOINT_BYTES = 3 << 20
"""For each connection. A checkpoint costs a flush; a kill costs what came since the last one."""


class Outcome(NamedTuple):
    """What an attempt did. *digests* are what the bytes have, not what they should have."""

    total: int
    digests: dict[str, bytes]
    status: dict[str, Any]
    resumed: int


class Checkpoint:
    """The journal of an attempt: appended to only after a flush of what it names.

    *block* is the size of the blocks that the attempt transfers and the journal names.
    """

    def __init__(self, block: int) -> None:
        self.block = block
        self.writer: jr.Writer | None = None
        self.local: list[tuple[int, int]] = []
        self.warning: str | None = None

    def take(self, job: Job, sink: CoreSink) -> None:
        """Flush the target, then record what had been written before."""
        records = job.drain()
        if self.writer is None or not records:
            return
        sink.flush()
        self.writer.append([jr.Record(*record) for record in records])
        job.settle(len(records))

    def due(self, connections: int) -> int:
        """How many blocks written since the last checkpoint call for one; 0: never."""
        if self.writer is None:
            return 0
        return max(1, CHECKPOINT_BYTES * max(1, connections) // self.block)

    def close(self, *, remove: bool) -> None:
        """End of the attempt: *remove* where there is nothing to resume."""
        if self.writer is not None:
            self.warning = self.writer.warning
            if remove:
                self.writer.remove()
            else:
                self.writer.close()


def job_key(resolved: Resolved, options: FetchOptions, landing: str) -> str:
    """What makes two commands the same job: the bytes they ask for, and how they land.

    A strong digest names the bytes wherever they come from; without one the URLs do.
    """
    strong = resolved.digests.strongest()
    what: dict[str, Any] = {"landing": landing, "size": resolved.size}
    if strong is not None and strong.strength == "strong":
        what["digest"] = str(strong)
    else:
        what["urls"] = sorted(url.display() for url in resolved.urls)
        what["pieces"] = (
            hashlib.sha256(resolved.pieces.hashes).hexdigest() if resolved.pieces else None
        )
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def _validators(resolved: Resolved) -> dict[str, dict[str, str]]:
    out: dict[str, dict[str, str]] = {}
    for url, mirror in zip(resolved.urls, resolved.mirrors, strict=True):
        if mirror.pinned:
            out[url.display().partition("?")[0]] = {
                "etag": mirror.etag,
                "last_modified": mirror.last_modified,
                "size": str(mirror.total),
            }
    return out


def _same_source(header: jr.Header, resolved: Resolved) -> bool:
    """Whether what the journal was written for can be continued with what is there now."""
    if header.size != resolved.size:
        return False
    if resolved.digests.integrity() != "none":
        return header.digests == resolved.digests.to_dict()
    # Without a digest only an equal strong validator of the same origin vouches for it.
    now = _validators(resolved)
    for origin, then in header.validators.items():
        if origin in now and (then["etag"] or then["last_modified"]):
            return now[origin] == then
    return False


def _suits(block: int, resolved: Resolved, window: int) -> bool:
    """Whether an earlier run's *block* is a size that this run can go on with.

    Then it does, whatever size was asked for now: what is on the target is worth more.
    """
    wanted = MIN_BLOCK
    while wanted <= MAX_BLOCK and wanted * BLOCKS_IN_WINDOW <= window:
        if block_for(resolved.piece_length, wanted) == block:
            return True
        wanted *= 2
    return False


def open_checkpoint(
    where: JournalFile | None,
    sink: Sink,
    resolved: Resolved,
    options: FetchOptions,
    landing: str,
) -> Checkpoint:
    """The journal of an earlier run of this job, or a new one, or none where none can help.

    *where*: its file; None where the landing or the target cannot be resumed.

    Any doubt means a full restart: JournalError is not raised to the caller.
    """
    block = block_for(resolved.piece_length, options.block_size)
    out = Checkpoint(block)
    if where is None:
        return out
    wanted = options.resume and not resolved.one_response
    if not wanted or resolved.size is None or resolved.size <= 2 * block:
        where.remove()
        return out
    key = job_key(resolved, options, landing)
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
            and _suits(header.block_size, resolved, options.window)
            and header.target == dict(sink.identity)
            and sink.resumable
        )
        if fits and _same_source(header, resolved):
            out.block = block = header.block_size
            last = resolved.size - resolved.size % block
            seen = {
                r.offset: r.digest
                for r in journal.records
                if r.offset % block == 0
                and r.length == (resolved.size - r.offset if r.offset == last else block)
            }
            out.local = sorted(seen.items())
            out.writer = writer
            return out
        writer.remove()
        out.warning = "starting from the beginning: " + (
            "the source or the target is not what it was when the download stopped"
            if header.job == key
            else "the journal beside the target belongs to another download"
        )
    try:
        out.writer = jr.Writer.create(
            where,
            jr.Header(
                job=key,
                target=sink.identity,
                validators=_validators(resolved),
                size=resolved.size,
                digests=resolved.digests.to_dict(),
                block_size=block,
                boot_id=jr.boot_id(),
            ),
        )
    except (ValueError, FastdlError) as exc:
        out.warning = f"this download cannot be resumed: {exc}"
    return out


class _Meter:
    """Turns counters into Progress objects, about ten times a second."""

    def __init__(self, callback: ProgressCallback | None) -> None:
        self._callback = callback
        self._at = 0.0
        self._rate = 0.0
        self._last: tuple[float, int] | None = None

    def show(self, status: dict[str, Any], stage: str = "fetch", *, force: bool = False) -> None:
        now = time.monotonic()
        if self._callback is None or (not force and now - self._at < PROGRESS_S):
            return
        done = status["done_bytes"]
        if self._last is not None and now > self._last[0]:
            rate = (done - self._last[1]) / (now - self._last[0])
            self._rate = rate if self._rate == 0 else 0.8 * self._rate + 0.2 * rate
        self._at, self._last = now, (now, done)
        total = status["total"]
        eta = (total - done) / self._rate if total is not None and self._rate > 1 else None
        self._callback(
            Progress(
                done=done,
                total=total,
                fetched=status["fetched_bytes"],
                rate=self._rate,
                eta=eta,
                stage=stage,
                connections=status["conns"],
            )
        )


def run_job(
    job: Job,
    core_sink: CoreSink,
    checkpoint: Checkpoint,
    cancel: Cancel,
    progress: ProgressCallback | None,
) -> Outcome:
    """Watch *job* to its end. What was written before a failure is recorded for a resume."""
    meter = _Meter(progress)
    try:
        with cancel.stops(job.cancel):
            status = job.status()
            while not job.wait(100, checkpoint.due(status["conns"])):
                status = job.status()
                meter.show(status)
                checkpoint.take(job, core_sink)
            meter.show(job.status(), "flush", force=True)
            total, digests = job.finish()
    except KeyboardInterrupt:
        job.halt()
        _last_checkpoint(job, core_sink, checkpoint)
        raise Cancelled("interrupted") from None
    except BaseException as exc:
        job.halt()
        if isinstance(exc, FastdlError):
            exc.add_context(phase="fetch")
        _last_checkpoint(job, core_sink, checkpoint)
        cancel.check()
        raise
    status = job.status()
    return Outcome(total=total, digests=digests, status=status, resumed=status["resumed_bytes"])


def _last_checkpoint(job: Job, core_sink: CoreSink, checkpoint: Checkpoint) -> None:
    with contextlib.suppress(FastdlError):
        checkpoint.take(job, core_sink)


def start_job(
    resolved: Resolved,
    sink: Sink,
    core_sink: CoreSink,
    options: FetchOptions,
    checkpoint: Checkpoint,
    **landing: Any,
) -> Job:
    """Start the transfer of *resolved* into *core_sink*; the open answer goes with it."""
    pieces = resolved.pieces
    block = checkpoint.block
    known = landing.pop("known", None)
    if known is None:
        known = [(0, resolved.head, resolved.first)] if resolved.head else []
    stream, resolved.stream = resolved.stream, None
    config = JobConfig(
        net=resolved.net,
        mirrors=resolved.mirrors,
        sink=core_sink,
        total=resolved.size,
        block=block,
        window=options.window,
        # A small window cannot feed many connections: each holds a block of its own.
        max_connections=max(1, min(options.max_connections, options.window // block - 6)),
        limit_rate=options.limit_rate or 0,
        retry=options.retry,
        provable=resolved.provable,
        record=checkpoint.writer is not None,
        hold=sink.hold,
        algorithms=[d.algorithm for d in resolved.digests],
        pieces=(pieces.algorithm, pieces.length, pieces.hashes) if pieces else None,
        known=known,
        local=checkpoint.local,
        local_fd=sink.fd,
        first=stream,
        **landing,
    )
    return Job(config)
