# SPDX-License-Identifier: Apache-2.0
"""A compressed source onto raw storage: decoded in order while it arrives."""

from __future__ import annotations

from typing import Any

from fastdl.core.lander import StreamLander
from fastdl.core.sink import Sink as CoreSink
from fastdl.engine.cancel import Cancel
from fastdl.engine.landing.base import Landing, NeedsStaging, decode_threads
from fastdl.engine.landing.head import inner_format, inner_virtual_size
from fastdl.engine.options import FetchOptions, ProgressCallback
from fastdl.engine.resolve import Resolved
from fastdl.engine.transfer import Checkpoint, Outcome
from fastdl.errors import FormatError, UnsafeImageError
from fastdl.model.image import ARCHIVES, COMPRESSED, Format
from fastdl.sinks.base import Sink

NEEDS_STAGING = "the image's tables come too late to land it while it arrives"


class StreamLanding(Landing):
    """A compressed source: decoded in order while it arrives."""

    sparse = True

    def __init__(
        self, options: FetchOptions, *, outer: Format, inner: Format, target_size: int | None
    ) -> None:
        super().__init__(options, format=str(outer), target_size=target_size)
        qcow2 = "qcow2." if inner is Format.QCOW2 else ""
        self.kind = f"{qcow2}{outer}-to-raw"
        self.inner = inner
        self.lander: StreamLander | None = None

    def run(
        self,
        resolved: Resolved,
        sink: Sink,
        core_sink: CoreSink,
        checkpoint: Checkpoint,
        progress: ProgressCallback | None,
        cancel: Cancel,
    ) -> Outcome:
        """Transfer and decode. NeedsStaging where the image's tables turn out to come late."""
        try:
            return super().run(resolved, sink, core_sink, checkpoint, progress, cancel)
        except FormatError as exc:
            if NEEDS_STAGING in exc.message:
                raise NeedsStaging(exc.message, fmt=Format(self.format), decode=True) from None
            raise

    def decoding(self, _resolved: Resolved, sink: Sink, core_sink: CoreSink) -> dict[str, Any]:
        """The decoder, which writes in the order of its output."""
        self.lander = StreamLander(
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
        """The size that came out, and what was left over."""
        assert self.lander is not None
        if self.lander.trailing:
            self.warnings.append(
                f"{self.lander.trailing} bytes behind the {self.format} data were ignored"
            )
        self.virtual_size = self.lander.virtual_size or self.lander.decoded

    def final_size(self, outcome: Outcome) -> int:
        """Bytes of the decoded image."""
        assert self.virtual_size is not None
        return self.virtual_size


def plan_stream(
    resolved: Resolved, sink: Sink, options: FetchOptions, fmt: Format
) -> StreamLanding:
    """Judge what lies under the compression. The refusal, or NeedsStaging."""
    inner = inner_format(resolved, fmt)
    if inner in COMPRESSED or inner in ARCHIVES:
        raise FormatError(
            f"under {fmt} lies {inner}: one layer of compression is decoded", phase="decode"
        )
    if inner is Format.LUKS:
        raise UnsafeImageError("the compressed image is encrypted (LUKS)", phase="decode")
    if options.staging:
        inner = Format.RAW  # whatever it is, the decoded file is what is wanted
    if inner not in (Format.RAW, Format.ISO, Format.QCOW2):
        raise NeedsStaging(f"{inner} under {fmt} is unpacked first", fmt=fmt, decode=True)
    target: int | None = None
    if inner is Format.QCOW2:
        target = inner_virtual_size(resolved, fmt, options)
    landing = StreamLanding(options, outer=fmt, inner=inner, target_size=target)
    if sink.capacity is not None and target is not None:
        sink.check_size(target)
    return landing
