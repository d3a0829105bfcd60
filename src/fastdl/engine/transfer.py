# SPDX-License-Identifier: Apache-2.0
"""FETCH, VERIFY, DECODE, LAND: the core's job, started, watched and recorded."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from fastdl.core.config import JobConfig
from fastdl.core.job import Job, sha256_by
from fastdl.core.sink import Sink as CoreSink
from fastdl.engine.meter import Meter
from fastdl.engine.proof import Outcome
from fastdl.errors import Cancelled, FastdlError, UsageError
from fastdl.sinks.base import Sink

if TYPE_CHECKING:
    from fastdl.engine.checkpoint import Checkpoint
    from fastdl.engine.context import TransferContext
    from fastdl.engine.source.facts import SourceFacts
    from fastdl.engine.source.first_response import FirstResponse


def run_job(
    job: Job,
    facts: SourceFacts,
    core_sink: CoreSink,
    checkpoint: Checkpoint,
    ctx: TransferContext,
) -> Outcome:
    """Watch *job* to its end. What was written before a failure is recorded for a resume."""
    meter = Meter(ctx.events, facts)
    look = _request_log(job, facts, ctx)
    try:
        with ctx.cancel.stops(job.cancel):
            status = job.status()
            while not job.wait(100, checkpoint.due(status["conns"])):
                status = job.status()
                meter.show(status)
                look()
                if status["wants_spool"]:
                    checkpoint.keep(job)
                checkpoint.take(job, core_sink)
            meter.show(job.status(), "flush", force=True)
            look()
            total, digests = job.finish()
            # A kill from here on fetches nothing again.
            checkpoint.take(job, core_sink)
    except KeyboardInterrupt:
        job.halt()
        _last_checkpoint(job, core_sink, checkpoint)
        raise Cancelled("interrupted") from None
    except BaseException as exc:
        job.halt()
        if isinstance(exc, FastdlError):
            exc.add_context(phase="fetch")
        _last_checkpoint(job, core_sink, checkpoint)
        ctx.cancel.check()
        raise
    status = job.status()
    return Outcome(
        total=total,
        digests=digests,
        status=status,
        resumed=status["resumed_bytes"],
        listed=job.piece_list(),
        list_length=list_length(facts, ctx),
    )


def _request_log(job: Job, facts: SourceFacts, ctx: TransferContext) -> Callable[[], None]:
    """What logs the requests since the last call; it does nothing where nobody reads a log."""
    if ctx.events.log is None:
        return lambda: None
    from fastdl.engine.request_log import RequestLog

    return RequestLog(job, facts, ctx.events).look


def list_length(facts: SourceFacts, ctx: TransferContext) -> int:
    """Bytes of the pieces to list; 0 where no list is wanted, or they are known."""
    if facts.pieces is not None:
        return 0
    if not ctx.describes:
        return ctx.list_length
    from fastdl.sources.metalink_made import piece_length_for

    return piece_length_for(facts.size)


def _last_checkpoint(job: Job, core_sink: CoreSink, checkpoint: Checkpoint) -> None:
    with contextlib.suppress(FastdlError):
        checkpoint.take(job, core_sink)


def _note_ends_of_links(facts: SourceFacts) -> None:
    """A refusal of a link that has expired is final: no pause would help."""
    for url, mirror in zip(facts.urls, facts.mirrors, strict=True):
        if url.is_http and url.query:
            from fastdl.publishers.signed_links import expires_at

            mirror.expire(max(0, int(expires_at(url.query) or 0)))


def start_job(
    facts: SourceFacts,
    response: FirstResponse,
    sink: Sink,
    core_sink: CoreSink,
    checkpoint: Checkpoint,
    ctx: TransferContext,
    landing: Mapping[str, Any],
) -> Job:
    """Start the transfer into *core_sink*; the open response goes with it.

    *landing*: what the way to land adds, as fields of ``core.config.JobConfig``.
    """
    check_sha256(ctx)
    _note_ends_of_links(facts)
    options, pieces, block = ctx.options, facts.pieces, checkpoint.block
    known = [(0, response.head, response.index)] if response.head else []
    config = JobConfig(
        net=ctx.net,
        mirrors=facts.mirrors,
        sink=core_sink,
        total=facts.size,
        block=block,
        window=options.window,
        # A small window cannot feed many connections: each holds a block of its own.
        max_connections=max(1, min(options.max_connections, options.window // block - 6)),
        first_connections=options.max_connections_per_origin or 4,
        pace=ctx.pace,
        retry=options.retry,
        retry_time=options.retry_time or 0.0,
        retry_delay=options.retry_delay or 0.0,
        provable=facts.provable,
        record=checkpoint.records,
        log_requests=ctx.events.log is not None,
        hold=0 if checkpoint.keeps else checkpoint.kept.hold,
        algorithms=_algorithms(facts, ctx),
        pieces=(pieces.algorithm, pieces.length, pieces.hashes) if pieces else None,
        list_pieces=list_length(facts, ctx),
        local=checkpoint.local,
        local_fd=checkpoint.kept.fd,
        keeps=checkpoint.keeps,
        first=response.take(),
        **{"known": known, **landing},
    )
    job = Job(config)
    if checkpoint.spool is not None:
        job.keep(checkpoint.spool)
    return job


def _algorithms(facts: SourceFacts, ctx: TransferContext) -> list[str]:
    """The digests to compute: those that are compared, and the one that a metalink gives."""
    names = [digest.algorithm for digest in facts.computed]
    return [*names, "sha-256"] if ctx.describes and "sha-256" not in names else names


def chosen_sha256() -> tuple[str, str]:
    """(Name, why) of what computes SHA-256 here: see ``sha256_by``.

    UsageError where ``FASTDL_SHA256`` wants one that this processor cannot run.
    """
    wanted = os.environ.get("FASTDL_SHA256", "")
    name, why = sha256_by(wanted)
    if why == "unknown":
        raise UsageError(f"FASTDL_SHA256={wanted!a}: this processor has no such SHA-256")
    return name, why


def check_sha256(ctx: TransferContext) -> None:
    """Warn where the core's own SHA-256 does not say what OpenSSL says: OpenSSL's is used then.

    UsageError as ``chosen_sha256``.
    """
    name, why = chosen_sha256()
    if why == "differs":
        ctx.events.warn(
            f"this processor's SHA-256 instructions do not say what {name} says: they are not used"
        )
