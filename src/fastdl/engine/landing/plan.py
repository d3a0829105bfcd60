# SPDX-License-Identifier: Apache-2.0
"""PLAN: how is the source written? Depends on its first bytes, the target and the options."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastdl.engine.landing.base import Job, Lander, Landing
from fastdl.engine.landing.head import inspect_head
from fastdl.errors import FormatError, LimitError, UnsafeImageError
from fastdl.model.image import (
    COMPRESSED,
    CONVERTIBLE,
    DISKS,
    HEAD_BYTES,
    TAIL_BYTES,
    Format,
    ImageInfo,
)
from fastdl.sinks.base import Sink

if TYPE_CHECKING:
    from fastdl.engine.context import TransferContext
    from fastdl.engine.options import FetchOptions
    from fastdl.engine.source.facts import SourceFacts
    from fastdl.engine.source.first_response import FirstResponse


def plan(
    facts: SourceFacts,
    response: FirstResponse,
    sink: Sink,
    ctx: TransferContext,
    inner: Job,
) -> Landing:
    """Check the first bytes and decide how the source is written.

    *inner* runs a nested job if the source must be staged. Raises the image's refusal before
    anything is written. One mirror's bytes are not final if others are available and the whole
    will be verified.
    """
    while True:
        try:
            return _Plan(facts, response, sink, ctx, inner).choose()
        except (FormatError, UnsafeImageError, LimitError):
            if not response.next_mirror(facts, reason="its first bytes are no usable image"):
                raise


def is_an_image(info: ImageInfo, options: FetchOptions, *, raw: bool) -> bool:
    """Whether anybody takes the source for an image: a file that happens to be an archive or
    a web page, and stays what it is, is refused by nobody."""
    return (
        raw
        or options.source_format != "auto"
        or info.format in (Format.QCOW2, *CONVERTIBLE)
        or info.refusal in (UnsafeImageError, LimitError)
    )


class _Plan:
    """Check the first bytes of one mirror."""

    def __init__(
        self,
        facts: SourceFacts,
        response: FirstResponse,
        sink: Sink,
        ctx: TransferContext,
        inner: Job,
    ) -> None:
        self.facts = facts
        self.response = response
        self.sink = sink
        self.ctx = ctx
        self.inner = inner
        target = ctx.options.target_format
        # Whether the target is to contain the guest's disk instead of the file.
        self.raw = sink.kind in ("block", "nbd") if target == "auto" else target == "raw"

    def choose(self) -> Landing:
        """The way to land. Raises the image's refusal."""
        options = self.ctx.options
        if self.facts.signatures and not self.raw and self.sink.kind != "file":
            from fastdl.engine.signed import refuse_unreadable

            refuse_unreadable(self.sink.kind)
        if not self.response.head and options.source_format in ("auto", "raw") and not self.raw:
            return Lander(options, format="raw", target_size=self.facts.size, resumable=False)
        info = inspect_head(self.facts, self.response, self.ctx)
        if is_an_image(info, options, raw=self.raw):
            info.require_safe()
        named = self.raw or options.source_format != "auto"
        return self._by_format(info, info.warnings if named else ())

    def _by_format(self, info: ImageInfo, warnings: tuple[str, ...]) -> Landing:
        fmt = info.format
        if not self.raw:
            return self._as_it_is(info, warnings)
        if self.facts.signatures:
            return self._staged("the file itself is signed, and is checked as it came")
        if fmt in (Format.RAW, Format.ISO):
            return self._as_disk(info, warnings)
        self.ctx.events.warn(*warnings)
        if fmt is Format.QCOW2:
            from fastdl.engine.landing.qcow2 import plan_qcow2

            return plan_qcow2(self.facts, self.response, self.ctx, self._staged)
        if fmt in COMPRESSED:
            from fastdl.engine.landing.stream import plan_stream

            return plan_stream(self.facts, self.response, self.sink, self.ctx, info, self._unpacked)
        return self._staged(f"{fmt} is converted by qemu-img from a verified file")

    def _staged(self, why: str, *, unpacking: bool = False) -> Landing:
        from fastdl.engine.landing.staged import StagedLanding

        return StagedLanding(self.inner, why=why, unpacking=unpacking)

    def _unpacked(self, why: str) -> Landing:
        return self._staged(why, unpacking=True)

    def _as_it_is(self, info: ImageInfo, warnings: tuple[str, ...]) -> Landing:
        """The file stays what it is: checked whole where somebody takes it for an image."""
        declared = self.ctx.options.source_format != "auto"
        whole = info.format in (Format.QCOW2, *CONVERTIBLE) or (declared and info.format in DISKS)
        return Lander(
            self.ctx.options,
            format=str(info.format),
            target_size=self.facts.size,
            virtual_size=None if info.format in COMPRESSED else info.virtual_size,
            check_whole=whole,
            resumable=self.sink.kind in ("file", "block"),
            warnings=warnings,
        )

    def _as_disk(self, info: ImageInfo, warnings: tuple[str, ...]) -> Landing:
        """The file is the disk, or the disk followed by the footer of a fixed VHD."""
        options, size, room = self.ctx.options, self.facts.size, self.sink.capacity
        tight = size is not None and room is not None and 0 < size - room <= TAIL_BYTES
        if options.source_format == Format.VHD or tight:
            info = inspect_head(self.facts, self.response, self.ctx, reach=True)
            info.require_safe()
        if tight and Format.VHD in (info.format, options.source_format):
            return self._staged("the footer behind the disk does not fit the target")
        return Lander(
            options,
            format=str(Format.RAW if info.format is Format.VHD else info.format),
            target_size=size,
            virtual_size=info.virtual_size,
            resumable=self.sink.kind in ("file", "block"),
            disk_head=self.response.head[:HEAD_BYTES],
            warnings=warnings,
        )
