# SPDX-License-Identifier: Apache-2.0
"""One attempt at a resolved source, from the plan of its landing to the proof.

On return digests, size and format are proven and everything is flushed: what is left is
the target's name.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fastdl.core.net import Mirror
from fastdl.engine.cancel import Cancel
from fastdl.engine.landing.base import Landing
from fastdl.engine.landing.plan import plan_landing
from fastdl.engine.options import FetchOptions, ProgressCallback
from fastdl.engine.resolve import Resolved
from fastdl.engine.result import MirrorReport, Result
from fastdl.engine.transfer import Outcome, open_checkpoint
from fastdl.engine.workspace import Workspace
from fastdl.errors import (
    Cancelled,
    FastdlError,
    HttpStatusError,
    IntegrityError,
    NetError,
    SizeError,
)
from fastdl.model.url import Url
from fastdl.sinks.base import Sink

if TYPE_CHECKING:
    from fastdl.engine.readback import Readback


def attempt(
    resolved: Resolved,
    workspace: Workspace,
    options: FetchOptions,
    progress: ProgressCallback | None,
    cancel: Cancel,
    started: float,
    warnings: list[str],
) -> Result:
    """Land *resolved* in *workspace*, whose ``keep`` is right on return; raises what failed.

    The journal stays after success too: it goes when the target is published.
    """
    sink = workspace.sink
    landing = plan_landing(resolved, sink, options, cancel)
    landing.check_room(sink)
    journal = workspace.journal if landing.resumable else None
    checkpoint = open_checkpoint(journal, sink, resolved, options, landing.kind)
    over = False
    try:
        if checkpoint.warning:
            warnings.append(checkpoint.warning)
        workspace.begin(landing.target_size, sparse=landing.sparse)
        core_sink = sink.core_sink(landing.target_size)
        readback: Readback | None = None
        try:
            core_sink.begin()
            if options.verify_readback:
                from fastdl.engine.readback import Readback  # noqa: PLC0415 - on demand

                readback = Readback(sink, core_sink)
            outcome = landing.run(resolved, sink, core_sink, checkpoint, progress, cancel)
            digests = verify(resolved, outcome)
            landing.finish(sink, core_sink, outcome)
            target_size = landing.final_size(outcome)
            if options.zero_rest:
                zero_rest(sink, target_size)
            core_sink.release()
            core_sink.flush()
            if readback is not None:
                readback.finish()
        finally:
            if readback is not None:
                readback.cancel()
            core_sink.close()
    except BaseException as exc:
        name_origin(exc, resolved)
        resolved.note_reach(exc)
        over = not can_go_on(exc)
        workspace.keep = checkpoint.writer is not None and not over
        raise
    finally:
        checkpoint.close(remove=over)
        if checkpoint.warning and checkpoint.warning not in warnings:
            warnings.append(checkpoint.warning)
    workspace.keep = False  # nothing is left to go on with
    warnings.extend(landing.warnings)
    return _result(resolved, sink, landing, outcome, digests, target_size, started, warnings)


def name_origin(exc: BaseException, resolved: Resolved) -> None:
    """Put the mirror that *exc* is about into it, for whoever has to call somebody."""
    if not isinstance(exc, FastdlError) or exc.origin is not None:
        return
    index = exc.mirror
    if index is None and len(resolved.urls) == 1 and exc.exit_code < 20:
        index = 0
    if index is not None:
        exc.add_context(origin=resolved.urls[index].display())


def zero_rest(sink: Sink, image_size: int) -> None:
    """Zero a device behind the image, so that nothing of its former content is left."""
    if sink.capacity is None or sink.capacity <= image_size:
        return
    rest = sink.core_sink(sink.capacity, hold=0)
    try:
        rest.zero(image_size, sink.capacity - image_size)
        rest.flush()
    finally:
        rest.close()


def verify(resolved: Resolved, outcome: Outcome) -> dict[str, str]:
    """Compare size and every known digest; IntegrityError or SizeError."""
    if resolved.size is not None and outcome.total != resolved.size:
        raise SizeError(
            f"{outcome.total} bytes came, {resolved.size} were expected", phase="verify"
        )
    for wanted in resolved.digests:
        got = outcome.digests[wanted.algorithm].hex()
        if got != wanted.hex:
            raise IntegrityError(
                f"the {wanted.algorithm} of what came is {got}, "
                f"{resolved.digests.source_of(wanted.algorithm)} says {wanted.hex}",
                phase="verify",
                origin=resolved.urls[resolved.first].display(),
            )
    return {name: value.hex() for name, value in outcome.digests.items()}


def mirror_reports(urls: Sequence[Url], mirrors: Sequence[Mirror]) -> tuple[MirrorReport, ...]:
    """What each mirror did, for the result and for errors."""
    return tuple(
        MirrorReport(
            url=url.display(),
            bytes=mirror.bytes,
            requests=mirror.requests,
            errors=mirror.errors,
            state=mirror.state,
            reason=mirror.reason or None if mirror.state != "ok" else None,
        )
        for url, mirror in zip(urls, mirrors, strict=True)
    )


def _stages(status: dict[str, Any]) -> dict[str, float]:
    names = ("fetch", "tls", "hash", "decode", "write", "flush")
    return {name: round(status[f"{name}_ns"] / 1e9, 6) for name in names}


def bottleneck(status: dict[str, Any], digests: int) -> str:
    """What the transfer waited for most, from its counters.

    A stage behind the connections that was busy for most of the time held them up; where none
    was, they waited for the mirrors (or took their time to receive).
    """
    elapsed = max(status["elapsed_ns"], 1)
    behind = {
        "hash": status["hash_ns"] / max(digests, 1),
        "decode": status["decode_ns"],
        "write": status["write_ns"] / max(status["conns"], 1),
        "flush": status["flush_ns"],
    }
    slowest = max(behind, key=lambda name: behind[name])
    return slowest if behind[slowest] > elapsed / 2 else "network"


def consistency(resolved: Resolved) -> str:
    """Why the bytes cannot be of two versions: `Result.consistency`."""
    if resolved.provable:
        return "digest"
    return "response" if resolved.one_response else "validator"


def _result(
    resolved: Resolved,
    sink: Sink,
    landing: Landing,
    outcome: Outcome,
    digests: dict[str, str],
    target_size: int,
    started: float,
    warnings: list[str],
) -> Result:
    status = outcome.status
    return Result(
        target=sink.path,
        source_bytes=outcome.total,
        target_bytes=target_size,
        fetched_bytes=status["fetched_bytes"],
        resumed_bytes=outcome.resumed,
        digests=digests,
        integrity=resolved.digests.integrity(),
        consistency=consistency(resolved),
        format=landing.format,
        seconds=round(time.monotonic() - started, 6),
        stages=_stages(status),
        bottleneck=bottleneck(status, len(digests)),
        mirrors=mirror_reports(resolved.urls, resolved.mirrors),
        warnings=tuple(warnings),
        virtual_size=landing.virtual_size,
        landing=landing.kind,
    )


def can_go_on(exc: BaseException) -> bool:
    """Whether what was fetched before *exc* is worth something to a later run.

    It is after a cancellation or a lost network, and where all is proven and only the name
    could not be given; not after a wrong digest, another source, or a target that failed: what
    that one holds is anybody's guess.
    """
    if not isinstance(exc, FastdlError) or isinstance(exc, Cancelled) or exc.phase == "publish":
        return True
    return exc.retryable and isinstance(exc, NetError | HttpStatusError)
