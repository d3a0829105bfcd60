# SPDX-License-Identifier: Apache-2.0
"""Sources that cannot land while they arrive: fetched to a file, verified, then converted."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from fastdl.engine.attempt import attempt
from fastdl.engine.cancel import Cancel
from fastdl.engine.landing.base import NeedsStaging
from fastdl.engine.landing.head import judge_fd
from fastdl.engine.options import FetchOptions, ProgressCallback
from fastdl.engine.resolve import resolve
from fastdl.engine.result import Result
from fastdl.engine.workspace import Workspace
from fastdl.errors import FormatError
from fastdl.model.image import COMPRESSED, CONVERTIBLE, Format


class FetchJob(Protocol):
    """``fetch.fetch_job``: there is a job within the job."""

    def __call__(
        self,
        sources: Sequence[str],
        target: str,
        options: FetchOptions,
        *,
        progress: ProgressCallback | None,
        cancel: Cancel | None,
    ) -> Result:
        """Bring *sources* to *target*."""


def fetch_staged(
    fetch_job: FetchJob,
    sources: Sequence[str],
    need: NeedsStaging,
    workspace: Workspace,
    options: FetchOptions,
    progress: ProgressCallback | None,
    cancel: Cancel,
    started: float,
    warnings: list[str],
) -> Result:
    """Fetch to a file, verified; inspect it; land it from there."""
    with workspace.staging() as folder:
        path = folder / "source"
        first = fetch_job(
            sources,
            str(path),
            stage_options(options, need),
            progress=progress,
            cancel=cancel,
        )
        image, now, came = raw_or_qcow2(path, workspace, options, cancel)
        second = landing_options(options, now)
        resolved = resolve([str(image)], second, cancel)
        try:
            landed = attempt(resolved, workspace, second, progress, cancel, started, [])
        finally:
            resolved.close()
    kept = [w for w in (*first.warnings, *landed.warnings) if w not in warnings]
    return landed._replace(
        source_bytes=first.source_bytes,
        fetched_bytes=first.fetched_bytes,
        digests=first.digests,
        integrity=first.integrity,
        consistency=first.consistency,
        format=str(came),
        stages={k: round(v + first.stages.get(k, 0.0), 6) for k, v in landed.stages.items()},
        bottleneck=first.bottleneck,
        mirrors=first.mirrors,
        warnings=(*warnings, *kept),
        landing=f"{came}-staged-to-raw",
    )


def stage_options(options: FetchOptions, need: NeedsStaging) -> FetchOptions:
    """The options that bring the source, verified, to a plain file."""
    return options._replace(
        target_format="raw" if need.decode else "same",
        source_format="auto",
        overwrite=None,
        beneath=None,
        resume=False,
        verify_readback=False,
        staging=True,
    )


def landing_options(options: FetchOptions, fmt: str) -> FetchOptions:
    """The options that land a staged file: what it is was proven when it was staged."""
    return options._replace(
        checksum=None,
        require_checksum=False,
        source_format=fmt,
        target_format="raw",
        limit_rate=None,
        policy="user",
        headers=(),
        staging=False,
    )


def raw_or_qcow2(
    path: Path, workspace: Workspace, options: FetchOptions, cancel: Cancel
) -> tuple[Path, str, Format]:
    """What to land of a staged file, its format now, and the format it came in.

    What lands has the size of the disk that was inspected, or FormatError: a converter that
    reads another disk out of the same bytes would cut it short without a word.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        info = judge_fd(fd, os.fstat(fd).st_size, options)
    finally:
        os.close(fd)
    info.require_safe()
    fmt = info.format
    if fmt in COMPRESSED:
        raise FormatError("one layer of compression is decoded, not two", phase="decode")
    if fmt not in CONVERTIBLE:
        return path, str(fmt), fmt
    if info.details.get("subformat") == "fixed" and fmt is Format.VHD:
        # The disk as it is with a footer behind it: nothing is left to convert.
        os.truncate(path, info.virtual_size or 0)
        return path, "raw", fmt
    raw = path.with_suffix(".raw")
    workspace.convert(path, raw, fmt, cancel)
    size = raw.stat().st_size
    if size != info.virtual_size:
        raise FormatError(
            f"the {fmt} has a disk of {info.virtual_size} bytes, but qemu-img reads {size}",
            phase="decode",
        )
    return raw, "raw", fmt
