# SPDX-License-Identifier: Apache-2.0
"""A compressed source onto raw storage: decoded in order while it arrives."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fastdl.core.lander import StreamLander as CoreLander
from fastdl.core.sink import Sink as CoreSink
from fastdl.engine.inspection import peek
from fastdl.engine.landing.base import Lander, Landing, decode_threads
from fastdl.engine.landing.head import HeadReader
from fastdl.engine.options import FetchOptions
from fastdl.engine.proof import Outcome
from fastdl.engine.result import Result
from fastdl.errors import FormatError, Reason
from fastdl.model.image import CONVERTIBLE, Format, ImageInfo
from fastdl.sinks.base import Sink

if TYPE_CHECKING:
    from fastdl.engine.context import TransferContext
    from fastdl.engine.source.facts import SourceFacts
    from fastdl.engine.source.first_response import FirstResponse
    from fastdl.engine.workspace import Workspace


class StreamLander(Lander):
    """A compressed source: decoded in order while it arrives.

    *staged*: how to land, given the reason, if the image's tables come too late.
    """

    sparse = True
    decodes = True

    def __init__(
        self,
        options: FetchOptions,
        *,
        outer: Format,
        inner: Format,
        target_size: int | None,
        disk_head: bytes | None,
        staged: Callable[[str], Landing],
    ) -> None:
        super().__init__(options, format=str(outer), target_size=target_size, disk_head=disk_head)
        qcow2 = "qcow2." if inner is Format.QCOW2 else ""
        self.kind = f"{qcow2}{outer}-to-raw"
        self.inner = inner
        self.decoded = 0
        self.tail = b""
        self.lander: CoreLander | None = None
        self._staged = staged

    def land(
        self,
        facts: SourceFacts,
        response: FirstResponse,
        workspace: Workspace,
        ctx: TransferContext,
    ) -> Result:
        """Transfer and decode; nothing has been written if that is impossible in one pass."""
        try:
            return super().land(facts, response, workspace, ctx)
        except FormatError as exc:
            if exc.reason is not Reason.NEEDS_STAGING:
                raise
            why = exc.message
        return self._staged(why).land(facts, response, workspace, ctx)

    def decoding(
        self, _facts: SourceFacts, sink: Sink, core_sink: CoreSink, _block: int
    ) -> dict[str, Any]:
        """The decoder, which writes in the order of its output."""
        self.lander = CoreLander(
            self.format,
            core_sink,
            threads=decode_threads(),
            qcow2=self.inner is Format.QCOW2,
            max_output=self.options.max_virtual_size,
            sink_size=sink.capacity,
            max_virtual_size=self.options.max_virtual_size,
            max_ratio=self.options.max_ratio,
            detect_zeros=self.detects_zeros(sink),
        )
        return {"lander": self.lander}

    def landed(self) -> None:
        """The decoded size, and the bytes left over."""
        assert self.lander is not None
        if self.lander.trailing:
            self.warnings.append(
                f"{self.lander.trailing} bytes after the {self.format} data were ignored"
            )
        self.decoded = self.virtual_size = self.lander.virtual_size or self.lander.decoded
        self.tail = self.lander.tail

    def landed_size(self, _outcome: Outcome) -> int:
        """Bytes of the decoded image."""
        return self.decoded

    def last_bytes(self, _sink: Sink, _core_sink: CoreSink, _size: int) -> bytes | None:
        """For every target: the decoder has just produced them."""
        return self.tail

    def declared(self) -> str:
        """Of what is packed; the packing itself may have been named as well."""
        named = self.options.source_format
        return "auto" if named == self.format else named

    def note_footer(self) -> None:
        """The format stays that of the compression."""
        self.kind = f"vhd.{self.format}-to-raw"


def plan_stream(
    facts: SourceFacts,
    response: FirstResponse,
    sink: Sink,
    ctx: TransferContext,
    info: ImageInfo,
    staged: Callable[[str], Landing],
) -> Landing:
    """Decide by the format inside the compression."""
    options, unpacking = ctx.options, ctx.placement.unpacking
    outer, inner = info.format, info.inner or Format.RAW
    if unpacking:
        inner = Format.RAW  # any format: the decoded file is wanted
    elif inner in CONVERTIBLE:
        return staged(f"{inner} under {outer} is unpacked first")
    elif options.source_format == Format.VHD and sink.capacity is not None:
        # The footer after the disk may not fit on a device that the disk fits.
        return staged(f"a VHD under {outer} is unpacked first")
    target = info.virtual_size if inner is Format.QCOW2 else None
    raw = inner is not Format.QCOW2 and not unpacking
    if sink.capacity is not None and target is not None:
        sink.check_size(target)
    return StreamLander(
        options,
        outer=outer,
        inner=inner,
        target_size=target,
        disk_head=peek(outer, HeadReader(facts, response)) if raw else None,
        staged=staged,
    )
