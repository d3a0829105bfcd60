# SPDX-License-Identifier: Apache-2.0
"""Sources that cannot be converted while they arrive: fetched to a file, verified, converted."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from fastdl import fs
from fastdl.engine.landing.base import Job, can_continue
from fastdl.engine.landing.head import inspect_fd
from fastdl.engine.options import FetchOptions
from fastdl.engine.release import Showing, of_source
from fastdl.engine.result import Result
from fastdl.engine.workspace import Workspace, open_workspace
from fastdl.errors import FormatError, SinkRefusedError
from fastdl.model.image import COMPRESSED, CONVERTIBLE, Format
from fastdl.sinks.base import sink_error

if TYPE_CHECKING:
    from fastdl.engine.context import TransferContext
    from fastdl.engine.source.facts import SourceFacts
    from fastdl.engine.source.first_response import FirstResponse


class StagedLanding:
    """Two nested jobs: from the origin to a file, and from the file to the target.

    *why*: for the result's warnings. *unpacking*: the staged file comes out of a decompressor.
    """

    def __init__(self, inner: Job, *, why: str, unpacking: bool) -> None:
        self._inner = inner
        self._why = why
        self._unpacking = unpacking

    def land(
        self,
        facts: SourceFacts,
        response: FirstResponse,
        workspace: Workspace,
        ctx: TransferContext,
    ) -> Result:
        """Fetch to a file, verified; inspect it; write it to the target."""
        response.close()
        ctx.events.warn(f"staged to a file first: {self._why}")
        with workspace.staging() as staging:
            try:
                first, came, landed = self._land_staged(staging.path, facts, workspace, ctx)
            except BaseException as exc:
                staging.keep = ctx.options.resume and can_continue(exc)
                raise
        return landed._replace(
            source_bytes=first.source_bytes,
            fetched_bytes=first.fetched_bytes,
            resumed_bytes=first.resumed_bytes,
            digests=first.digests,
            integrity=first.integrity,
            consistency=first.consistency,
            format=str(came),
            stages={k: round(v + first.stages.get(k, 0.0), 6) for k, v in landed.stages.items()},
            bottleneck=first.bottleneck,
            mirrors=first.mirrors,
            signed_by=first.signed_by,
            by_pieces=first.by_pieces,
            landing=f"{came}-staged-to-raw",
        )

    def _land_staged(
        self, folder: Path, facts: SourceFacts, workspace: Workspace, ctx: TransferContext
    ) -> tuple[Result, Format, Result]:
        """What came of staging, the format it came in, and what came of landing it."""
        path = folder / "source"
        first = self._staged(path, facts, ctx)
        with _file_of_ours(path):
            image, now, came = _raw_or_qcow2(path, workspace, ctx, unpacked=self._unpacking)
        local = ctx.within(_from_file(ctx.options, now), ctx.placement, proven=True)
        local.asked = of_source(facts, ctx.options)._replace(
            showing=Showing(first.source_bytes, 0, str(came), None, f"{came}-staged-to-raw")
        )
        with _removed_on_failure(image if image != path else None):
            return first, came, self._inner(workspace, [str(image)], local)

    def _staged(self, path: Path, facts: SourceFacts, ctx: TransferContext) -> Result:
        """The source, verified, in a plain file at *path*: from an earlier run, or fetched."""
        options = ctx.options._replace(
            target_format="raw" if self._unpacking else "same",
            source_format="auto",
            overwrite=None,
            verify_readback=False,
        )
        placement = ctx.placement._replace(beneath=None, unpacking=self._unpacking)
        within = ctx.within(options, placement)
        file = open_workspace(str(path), options, placement)
        if file.existing is not None:
            known = options.resume and file.earlier is not None
            try:
                if known:
                    return self._published(file, facts, within)
            except SinkRefusedError:
                pass  # of another source, or changed since
            file.close()
            with _file_of_ours(path):
                path.unlink()
            file = open_workspace(str(path), options, placement)
        return self._published(file, facts, within)

    def _published(self, file: Workspace, facts: SourceFacts, ctx: TransferContext) -> Result:
        file.staged = True
        return file.publishing(lambda: self._inner(file, facts.sources, ctx), ctx)


@contextlib.contextmanager
def _file_of_ours(path: Path) -> Iterator[None]:
    """A staged file that cannot be read or removed is the storage's fault: SinkError."""
    try:
        yield
    except OSError as exc:
        raise sink_error(exc, f"working with {path}") from None


@contextlib.contextmanager
def _removed_on_failure(made: Path | None) -> Iterator[None]:
    """What was converted is converted again by the next run, and is as large as the disk."""
    try:
        yield
    except BaseException:
        if made is not None:
            with contextlib.suppress(OSError):
                made.unlink(missing_ok=True)
        raise


def _from_file(options: FetchOptions, fmt: str) -> FetchOptions:
    """The options for writing a staged file: its format was checked when it was staged."""
    return options._replace(
        checksum=None,
        checksum_list=None,
        discover=False,
        keyring=None,
        require_checksum=False,
        source_format=fmt,
        target_format="raw",
        limit_rate=None,
        policy="user",
        headers=(),
    )


def _raw_or_qcow2(
    path: Path, workspace: Workspace, ctx: TransferContext, *, unpacked: bool
) -> tuple[Path, str, Format]:
    """What to write of a staged file, its current format, and its original format.

    What lands has the size of the disk that was inspected, or FormatError: a converter that reads a
    different disk size would silently truncate it.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        info = inspect_fd(fd, os.fstat(fd).st_size, ctx.options)
    finally:
        fs.close(fd)
    info.require_safe()
    fmt = info.format
    if fmt in COMPRESSED and unpacked:
        raise FormatError("one layer of compression is decoded, not two", phase="decode")
    if fmt in COMPRESSED:
        return path, "auto", fmt
    if fmt not in CONVERTIBLE:
        return path, str(fmt), fmt
    if info.details.get("subformat") == "fixed" and fmt is Format.VHD:
        # The unchanged disk followed by a footer: nothing to convert.
        os.truncate(path, info.virtual_size or 0)
        return path, "raw", fmt
    # The converter of a killed run may live on, and may not have opened its file yet: each run has
    # a name of its own for it.
    for left in path.parent.glob("source.raw.*"):
        left.unlink(missing_ok=True)
    raw = path.with_name(f"source.raw.{os.urandom(8).hex()}")
    with _removed_on_failure(raw):
        workspace.convert(path, raw, fmt, ctx.cancel)
        size = raw.stat().st_size
        if size != info.virtual_size:
            raise FormatError(
                f"the {fmt} has a disk of {info.virtual_size} bytes, but qemu-img reads {size}",
                phase="decode",
            )
    return raw, "raw", fmt
