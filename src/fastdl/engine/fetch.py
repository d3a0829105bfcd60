# SPDX-License-Identifier: Apache-2.0
"""A download job: the target opened, the source resolved, attempts until one is proven, published.

What an attempt needs is loaded while the first answer is under way: a command's start counts.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastdl.engine.cancel import Cancel
from fastdl.engine.options import FetchOptions, Progress, ProgressCallback
from fastdl.engine.resolve import Resolved, keep_to_one_response, resolve
from fastdl.engine.workspace import Existing, Workspace, open_workspace
from fastdl.errors import (
    FastdlError,
    HttpProtocolError,
    HttpStatusError,
    IntegrityError,
    NetError,
    OriginChangedError,
    SinkRefusedError,
    TargetChangedError,
)
from fastdl.model.digest import Digest
from fastdl.model.url import Url

if TYPE_CHECKING:
    from fastdl.core.net import Mirror
    from fastdl.engine.result import Result

METALINK_SUFFIXES = (".meta4", ".metalink")
MAX_ATTEMPTS = 6
MAX_COPIES = 2
UNVERIFIED = "no checksum is known: the bytes are not verified (integrity none)"


class _Attempts:
    """What is left to try when an attempt failed: with which mirrors, and what was told apart.

    restarted  a changed origin is started anew once
    cuts       responses that were cut and that no other can continue, at most *cuts_max*
    out        mirrors that are not asked again
    lied       mirrors that a piece has proven wrong
    copies     where redirects led to wrong bytes: the typed URL may lead to others
    wrong      how the last wrong bytes were found
    alone      mirrors still to be tried each by itself; None until that is needed
    """

    def __init__(self, cuts_max: int) -> None:
        self.cuts_max = cuts_max
        self.restarted = False
        self.cuts = 0
        self.out: set[str] = set()
        self.lied: set[str] = set()
        self.copies: set[str] = set()
        self.wrong: IntegrityError | None = None
        self.alone: list[str] | None = None


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
    if progress is not None:
        progress(Progress(stage="resolve"))
    workspace = open_workspace(target, options, name_hint=name_hint(sources))
    try:
        result = fetch_into(workspace, sources, options, progress=progress, cancel=cancel)
        workspace.publish(result.target_bytes)
    except BaseException:
        with contextlib.suppress(FastdlError):
            workspace.abort()
        cancel.check()  # a wait that was cut short failed because of it
        raise
    finally:
        workspace.close()
    return result._replace(
        seconds=round(time.monotonic() - started, 6),
        warnings=(*result.warnings, *workspace.sink.warnings),
    )


def fetch_into(
    workspace: Workspace,
    sources: Sequence[str],
    options: FetchOptions,
    *,
    progress: ProgressCallback | None,
    cancel: Cancel,
) -> Result:
    """Bring *sources* into *workspace*: proven and durable on return, and not published.

    No name is looked up but those of sources and of what trust is made of. Raises a
    FastdlError; ``workspace.keep`` says then whether a later run can go on from here.
    """
    started = time.monotonic()
    if workspace.existing is not None:
        return _compare(workspace.existing, sources, options, started, cancel)
    try:
        with cancel.stops(workspace.sink.hurry):
            return _try_until_done(sources, workspace, options, progress, cancel, started)
    finally:
        workspace.keep = workspace.keep and options.resume


def name_hint(sources: Sequence[str]) -> str | None:
    """The file name that the first source proposes for a folder: its URL's last segment."""
    name = Url.parse(sources[0]).last_segment() if sources else None
    for suffix in METALINK_SUFFIXES:
        if name and name.lower().endswith(suffix):
            return name[: -len(suffix)] or None
    return name


# ---- a file that is there already ---------------------------------------------


def _compare(
    existing: Existing,
    sources: Sequence[str],
    options: FetchOptions,
    started: float,
    cancel: Cancel,
) -> Result:
    """The result where *existing* has the wanted digest already; SinkRefusedError otherwise."""
    wanted = options.checksum
    size: int | None = None
    if wanted is None and any(Url.parse(text).is_metalink_name() for text in sources):
        found = resolve(sources, options, cancel)
        found.close()
        wanted, size = found.digests.strongest(), found.size
    if wanted is not None and (size is None or size == os.fstat(existing.fd).st_size):
        from fastdl.engine.landing.head import detect_fd  # noqa: PLC0415
        from fastdl.engine.result import Result  # noqa: PLC0415

        got, length = _digest_of(existing.fd, wanted, cancel)
        if got == wanted:
            return Result(
                target=existing.path,
                source_bytes=length,
                target_bytes=length,
                fetched_bytes=0,
                resumed_bytes=length,
                digests={got.algorithm: got.hex},
                integrity=wanted.strength,
                consistency="digest",
                format=detect_fd(existing.fd),
                seconds=time.monotonic() - started,
                stages={},
                bottleneck="none",
                mirrors=(),
                warnings=("the target was there already, with the wanted digest",),
                already_present=True,
            )
    raise SinkRefusedError(
        f"{existing.path} exists already"
        + (" with other content" if wanted is not None else "")
        + ": remove it, or replace it with --overwrite file",
        phase="land",
    )


def _digest_of(fd: int, wanted: Digest, cancel: Cancel) -> tuple[Digest, int]:
    import hashlib  # noqa: PLC0415

    md = hashlib.new(wanted.algorithm.replace("sha-", "sha"))
    length = 0
    while data := os.pread(fd, 1 << 20, length):
        cancel.check()
        md.update(data)
        length += len(data)
    return Digest(wanted.algorithm, md.hexdigest()), length


# ---- attempts ------------------------------------------------------------------


def _try_until_done(
    sources: Sequence[str],
    workspace: Workspace,
    options: FetchOptions,
    progress: ProgressCallback | None,
    cancel: Cancel,
    started: float,
) -> Result:
    state = _Attempts(min(options.retry, MAX_ATTEMPTS - 2))
    warnings: list[str] = []
    struck: list[str] = []
    earlier: Resolved | None = None
    for _ in range(MAX_ATTEMPTS):
        cancel.check()
        resolved = resolve(sources, options, cancel, struck=struck, earlier=earlier)
        from fastdl.engine.attempt import attempt  # noqa: PLC0415
        from fastdl.engine.landing.base import NeedsStaging  # noqa: PLC0415

        try:
            if state.wrong and _copy_of(resolved.mirrors[resolved.first]) in state.copies:
                raise state.wrong  # redirects lead to no other copy
            if state.restarted and resolved.provable:
                # Servers behind one name may each have tags of their own for the same bytes.
                for mirror in resolved.mirrors:
                    mirror.ignore_validators()
            keep_to_one_response(resolved, options, cancel)
            if resolved.digests.integrity() == "none":
                resolved.warnings.append(UNVERIFIED)
            warnings.extend(w for w in resolved.warnings if w not in warnings)
            return attempt(resolved, workspace, options, progress, cancel, started, warnings)
        except NeedsStaging as need:
            warnings.append(f"staged to a file first: {need.why}")
            resolved.close()
            from fastdl.engine.staging import fetch_staged  # noqa: PLC0415 - rare

            return fetch_staged(
                fetch_job, sources, need, workspace, options, progress, cancel, started, warnings
            )
        except OriginChangedError as exc:
            if state.restarted:
                raise
            state.restarted = True
            earlier = None
            warnings.append(f"the source changed: started anew once ({exc.message})")
        except TargetChangedError as exc:
            warnings.append(f"started anew: {exc.message}")
        except (NetError, HttpStatusError, HttpProtocolError) as exc:
            earlier, struck = resolved, _after_lost_mirror(state, resolved)
            if struck:
                warnings.append(f"started anew from another mirror: {exc.message}")
            elif resolved.one_response and exc.retryable and state.cuts < state.cuts_max:
                state.cuts += 1
                state.out.clear()
                warnings.append(f"started anew, since no response can continue it: {exc.message}")
            else:
                raise
        except IntegrityError as exc:
            if exc is state.wrong:
                raise
            state.wrong = exc
            earlier, struck = resolved, _after_wrong_bytes(state, resolved)
            if not struck and not _another_copy(state, resolved):
                raise
            warnings.append(
                "the bytes do not have the wanted digest: tried again without whoever may have lied"
            )
        finally:
            resolved.close()
    raise IntegrityError("no mirror gave bytes with the wanted digest", phase="verify")


def _after_wrong_bytes(state: _Attempts, resolved: Resolved) -> list[str]:
    """The mirrors to leave out next time; [] to give up.

    Without pieces a wrong whole does not tell which of several mirrors lied: then each one
    serves alone in turn.
    """
    everyone = [url.display() for url in resolved.urls]
    reports = dict(zip(everyone, resolved.mirrors, strict=True))
    lied = {name for name, mirror in reports.items() if mirror.state == "struck"}
    gave = [name for name, mirror in reports.items() if mirror.bytes > 0 and name not in lied]
    # A piece has told who lied, but the image's map was made of its bytes.
    if resolved.pieces and state.lied < lied and len(lied) < len(everyone):
        state.lied = lied
        return sorted(lied)
    if state.alone is None and len(gave) < 2:
        state.out |= {*gave, *lied}
        return sorted(state.out) if gave and len(state.out) < len(everyone) else []
    if state.alone is None:
        state.alone = gave + [name for name in everyone if name not in lied and name not in gave]
    if not state.alone:
        return []
    chosen = state.alone.pop(0)
    return [name for name in everyone if name != chosen]


def _copy_of(mirror: Mirror) -> str | None:
    """Where redirects led, without the query, which signs; None where none did."""
    return mirror.final_url.partition("?")[0] if mirror.final_url else None


def _another_copy(state: _Attempts, resolved: Resolved) -> bool:
    """Whether wrong bytes came from where a redirect led, and there may be others."""
    led = {copy for m in resolved.mirrors if m.bytes > 0 and (copy := _copy_of(m))}
    fresh = bool(led - state.copies) and len(state.copies) < MAX_COPIES
    state.copies |= led
    return fresh


def _after_lost_mirror(state: _Attempts, resolved: Resolved) -> list[str]:
    """The mirrors to leave out where nothing allowed others to take over; [] to give up.

    Without a digest bytes of different origins are not joined: another one starts anew.
    """
    everyone = {url.display() for url in resolved.urls}
    state.out |= {
        url.display()
        for url, mirror in zip(resolved.urls, resolved.mirrors, strict=True)
        if mirror.state == "struck"
    }
    return [] if resolved.provable or everyone <= state.out else sorted(state.out)
