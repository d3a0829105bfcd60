# SPDX-License-Identifier: Apache-2.0
"""A download job from resolve to publish: the only place where a target becomes valid."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from fastdl.core.job import block_for
from fastdl.core.net import Mirror
from fastdl.engine.cancel import Cancel
from fastdl.engine.landing import NeedsStaging, detect_file, plan_landing
from fastdl.engine.options import FetchOptions, Progress, ProgressCallback
from fastdl.engine.resolve import Resolved, resolve
from fastdl.engine.result import MirrorReport, Result
from fastdl.engine.transfer import (
    Checkpoint,
    Outcome,
    open_checkpoint,
    open_core_sink,
    run_job,
    start_job,
)
from fastdl.errors import (
    Cancelled,
    FastdlError,
    HttpStatusError,
    IntegrityError,
    NetError,
    OriginChangedError,
    SinkRefusedError,
    SizeError,
    TargetChangedError,
)
from fastdl.model.digest import Digest
from fastdl.model.url import Url
from fastdl.sinks.base import Sink
from fastdl.sinks.open import existing_file, open_sink

if TYPE_CHECKING:
    from fastdl.engine.readback import Readback

METALINK_SUFFIXES = (".meta4", ".metalink")
MAX_ATTEMPTS = 6


@dataclass(slots=True)
class _Attempts:
    """What is left to try: a changed origin is restarted once, mirrors are tried alone."""

    restarted: bool = False
    alone: list[str] | None = None
    lied: set[str] = field(default_factory=set)


def fetch_job(
    sources: Sequence[str],
    target: str,
    options: FetchOptions,
    *,
    progress: ProgressCallback | None = None,
    cancel: Cancel | None = None,
) -> Result:
    """Bring *sources* (mirrors of the same bytes, or metalinks) to *target*, verified.

    Blocks until the target is published. Raises a FastdlError; then the target is what it was
    before, or unusable (a device's head and tail are zero), never half valid.
    """
    cancel = cancel or Cancel()
    started = time.monotonic()
    hint = name_hint(sources)
    if progress is not None:
        progress(Progress(stage="resolve"))
    present = _already_there(sources, target, options, hint, started, cancel)
    if present is not None:
        return present
    sink = open_sink(
        target,
        name_hint=hint,
        overwrite=options.overwrite,
        resume=options.resume,
        policy=options.policy,
        beneath=options.beneath,
    )
    keep = sink.resumable
    try:
        with cancel.stops(sink.hurry):
            result = _try_until_done(sources, sink, options, progress, cancel, started)
    except BaseException as exc:
        keep = _worth_keeping(exc, keep) and options.resume
        with contextlib.suppress(FastdlError):
            sink.abort(keep=keep)
        cancel.check()  # a wait that was cut short failed because of it
        raise
    finally:
        sink.close()
    return result


def name_hint(sources: Sequence[str]) -> str | None:
    """The file name that the first source proposes for a folder: its URL's last segment."""
    name = Url.parse(sources[0]).last_segment() if sources else None
    for suffix in METALINK_SUFFIXES:
        if name and name.lower().endswith(suffix):
            return name[: -len(suffix)] or None
    return name


def _worth_keeping(exc: BaseException, had_something: bool) -> bool:
    """Whether the part file stays: where a later run can go on from a journal."""
    journaled = bool(getattr(exc, "journaled", False))
    untouched = not getattr(exc, "attempted", False)
    return (journaled and can_go_on(exc)) or (untouched and had_something)


def can_go_on(exc: BaseException) -> bool:
    """Whether what was fetched before *exc* is worth something to a later run.

    It is after a cancellation or a lost network; not after a wrong digest, another source,
    or a target that failed: what that one holds is anybody's guess.
    """
    if not isinstance(exc, FastdlError) or isinstance(exc, Cancelled):
        return True
    return exc.retryable and isinstance(exc, NetError | HttpStatusError)


# ---- a file that is there already ---------------------------------------------


def _already_there(
    sources: Sequence[str],
    target: str,
    options: FetchOptions,
    hint: str | None,
    started: float,
    cancel: Cancel,
) -> Result | None:
    """The result where *target* is a file that has the wanted digest; None where it is absent."""
    path = existing_file(target, name_hint=hint)
    if path is None or options.overwrite == "file":
        return None
    wanted = options.checksum
    size: int | None = None
    if wanted is None and any(Url.parse(text).is_metalink_name() for text in sources):
        found = resolve(sources, options, cancel)
        found.close()
        wanted, size = found.digests.strongest(), found.size
    if wanted is not None and (size is None or size == os.stat(path).st_size):  # noqa: PTH116
        got, length = _digest_of_file(path, wanted, cancel)
        if got == wanted:
            return Result(
                target=path,
                source_bytes=length,
                target_bytes=length,
                fetched_bytes=0,
                resumed_bytes=length,
                digests={got.algorithm: got.hex},
                integrity=wanted.strength,
                format=detect_file(path),
                seconds=time.monotonic() - started,
                stages={},
                bottleneck="none",
                mirrors=(),
                warnings=("the target was there already, with the wanted digest",),
                already_present=True,
            )
    raise SinkRefusedError(
        f"{path} exists already"
        + (" with other content" if wanted is not None else "")
        + ": remove it, or replace it with --overwrite file",
        phase="land",
    )


def _digest_of_file(path: str, wanted: Digest, cancel: Cancel) -> tuple[Digest, int]:
    md = hashlib.new(wanted.algorithm.replace("sha-", "sha"))
    length = 0
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123
        while data := file.read(1 << 20):
            cancel.check()
            md.update(data)
            length += len(data)
        os.fsync(file.fileno())
    return Digest(wanted.algorithm, md.hexdigest()), length


# ---- attempts ------------------------------------------------------------------


def _try_until_done(
    sources: Sequence[str],
    sink: Sink,
    options: FetchOptions,
    progress: ProgressCallback | None,
    cancel: Cancel,
    started: float,
) -> Result:
    state = _Attempts()
    warnings: list[str] = []
    struck: list[str] = []
    for _ in range(MAX_ATTEMPTS):
        cancel.check()
        resolved = resolve(sources, options, cancel, struck=struck)
        warnings.extend(w for w in resolved.warnings if w not in warnings)
        try:
            return _attempt(resolved, sink, options, progress, cancel, started, warnings)
        except NeedsStaging as need:
            warnings.append(f"staged to a file first: {need.why}")
            resolved.close()
            return _staged(sources, need, sink, options, progress, cancel, started, warnings)
        except OriginChangedError as exc:
            if state.restarted:
                raise
            state.restarted = True
            warnings.append(f"the source changed: started anew once ({exc.message})")
        except TargetChangedError as exc:
            warnings.append(f"started anew: {exc.message}")
        except IntegrityError:
            struck = _next_alone(state, resolved)
            if not struck:
                raise
            warnings.append(
                "the bytes do not have the wanted digest: tried again without those that may have lied"
            )
        finally:
            resolved.close()
    raise IntegrityError("no mirror gave bytes with the wanted digest", phase="verify")


def _staged(
    sources: Sequence[str],
    need: NeedsStaging,
    sink: Sink,
    options: FetchOptions,
    progress: ProgressCallback | None,
    cancel: Cancel,
    started: float,
    warnings: list[str],
) -> Result:
    """Fetch to a file, verified; inspect it; land it from there."""
    from fastdl.engine import staging  # noqa: PLC0415 - rare

    with staging.staging_folder(sink, options) as folder:
        path = folder / "source"
        first = fetch_job(
            sources, str(path), staging.stage_options(options, need), progress=progress,
            cancel=cancel,
        )
        image, now, came = staging.raw_or_qcow2(path, options, cancel)
        second = staging.landing_options(options, now)
        resolved = resolve([str(image)], second, cancel)
        try:
            landed = _attempt(resolved, sink, second, progress, cancel, started, [])
        finally:
            resolved.close()
    kept = [w for w in (*first.warnings, *landed.warnings) if w not in warnings]
    return replace(
        landed,
        source_bytes=first.source_bytes,
        fetched_bytes=first.fetched_bytes,
        digests=first.digests,
        integrity=first.integrity,
        format=str(came),
        stages={k: round(v + first.stages.get(k, 0.0), 6) for k, v in landed.stages.items()},
        bottleneck=first.bottleneck,
        mirrors=first.mirrors,
        warnings=(*warnings, *kept),
        landing=f"{came}-staged-to-raw",
    )


def _next_alone(state: _Attempts, resolved: Resolved) -> list[str]:
    """The mirrors to leave out next time, so that one that gave bytes serves alone; [] = give up.

    Without pieces a wrong whole does not tell which of several mirrors lied.
    """
    gave: list[str] = []
    lied: list[str] = []
    for url, mirror in zip(resolved.urls, resolved.mirrors, strict=True):
        if mirror.state == "struck":
            lied.append(url.display())
        elif mirror.bytes > 0:
            gave.append(url.display())
    # A piece has told who lied, but the image's map was made of its bytes.
    if resolved.pieces and state.lied < set(lied) and len(lied) < len(resolved.urls):
        state.lied = set(lied)
        return lied
    if state.alone is None:
        if len(gave) < 2:  # noqa: PLR2004 - a single mirror needs no second look
            return []
        state.alone = gave
    if not state.alone:
        return []
    chosen = state.alone.pop(0)
    return [url.display() for url in resolved.urls if url.display() != chosen]


def _attempt(
    resolved: Resolved,
    sink: Sink,
    options: FetchOptions,
    progress: ProgressCallback | None,
    cancel: Cancel,
    started: float,
    warnings: list[str],
) -> Result:
    landing = plan_landing(resolved, sink, options, cancel)
    block = block_for(resolved.pieces.length if resolved.pieces else None)
    landing.check_room(sink)
    checkpoint = Checkpoint()
    if landing.resumable:
        checkpoint = open_checkpoint(sink, resolved, options, block, landing.kind)
    over = True
    try:
        if checkpoint.warning:
            warnings.append(checkpoint.warning)
        sink.preallocate(landing.target_size, sparse=landing.sparse)
        core_sink = open_core_sink(sink, landing.target_size)
        readback: Readback | None = None
        try:
            core_sink.begin()
            if options.verify_readback:
                from fastdl.engine.readback import Readback  # noqa: PLC0415 - on demand

                readback = Readback(sink, core_sink)
            outcome = landing.run(resolved, sink, core_sink, checkpoint, progress, cancel)
            digests = verify(resolved, outcome)
            landing.finish(sink, outcome)
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
        sink.publish(target_size)
    except BaseException as exc:
        name_origin(exc, resolved)
        over = not can_go_on(exc)
        exc.attempted = True  # type: ignore[attr-defined]
        exc.journaled = checkpoint.writer is not None  # type: ignore[attr-defined]
        raise
    finally:
        checkpoint.close(remove=over)
        if checkpoint.warning and checkpoint.warning not in warnings:
            warnings.append(checkpoint.warning)
    warnings.extend(landing.warnings)
    return _result(resolved, sink, landing, outcome, digests, target_size, started, warnings)


def name_origin(exc: BaseException, resolved: Resolved) -> None:
    """Put the mirror that *exc* is about into it, for whoever has to call somebody."""
    if not isinstance(exc, FastdlError) or exc.origin is not None:
        return
    index = getattr(exc, "mirror_index", None)
    if index is None and len(resolved.urls) == 1 and exc.exit_code < 20:  # noqa: PLR2004
        index = 0
    if index is not None:
        exc.origin = resolved.urls[index].display()


def zero_rest(sink: Sink, image_size: int) -> None:
    """Zero a device behind the image, so that nothing of its former content is left."""
    if sink.capacity is None or sink.capacity <= image_size:
        return
    rest = open_core_sink(sink, sink.capacity, hold=0)
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

    Where connections seldom waited for room in the window, the network (or the processor
    time to receive) was the limit; else the busiest of the stages behind it.
    """
    elapsed = max(status["elapsed_ns"], 1)
    conns = max(status["conns"], 1)
    behind = {
        "hash": status["hash_ns"] / max(digests, 1),
        "decode": status["decode_ns"],
        "write": status["write_ns"] / conns,
        "flush": status["flush_ns"],
    }
    slowest = max(behind, key=lambda name: behind[name])
    if status["window_wait_ns"] > 0.2 * elapsed * conns or behind[slowest] > 0.8 * elapsed:  # noqa: PLR2004
        return slowest
    if status["net_wait_ns"] > 0.3 * elapsed * conns:  # noqa: PLR2004
        return "network"
    receiving = (status["fetch_ns"] + status["tls_ns"]) / conns
    return "network" if receiving >= behind[slowest] else slowest


def _result(
    resolved: Resolved,
    sink: Sink,
    landing: Any,
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
        format=landing.format,
        seconds=round(time.monotonic() - started, 6),
        stages=_stages(status),
        bottleneck=bottleneck(status, len(digests)),
        mirrors=mirror_reports(resolved.urls, resolved.mirrors),
        warnings=tuple(warnings),
        virtual_size=landing.virtual_size,
        landing=landing.kind,
    )

