# SPDX-License-Identifier: Apache-2.0
"""How a source becomes bytes on the target: as it is, unless a kind of landing knows better."""

from __future__ import annotations

import os
from typing import Any

from fastdl.core.sink import Sink as CoreSink
from fastdl.engine.cancel import Cancel
from fastdl.engine.landing.head import judge_fd
from fastdl.engine.options import FetchOptions, ProgressCallback
from fastdl.engine.resolve import Resolved
from fastdl.engine.transfer import Checkpoint, Outcome, run_job, start_job
from fastdl.engine.verdict import EndsReader, judge
from fastdl.model.image import TAIL_BYTES, Format
from fastdl.sinks.base import Sink


class NeedsStaging(Exception):
    """Not an error: this source has to be staged, verified and converted.

    *decode*  the staged file is what comes out of the decompressor
    """

    def __init__(self, why: str, *, fmt: Format, decode: bool = False) -> None:
        super().__init__(why)
        self.why = why
        self.format = fmt
        self.decode = decode


class Landing:
    """The source lands as it is: every block at its own offset.

    *format* is the source's; *target_size* and *virtual_size* in bytes, None where not known yet.
    *judge_whole*: an image is kept as it is, and judged as a whole before it is published.
    *disk_head*: the first bytes of what becomes a disk as it is: with its last ones they are
    judged before it is published, and a fixed VHD loses its footer.
    """

    kind = "same"
    sparse = False

    def __init__(
        self,
        options: FetchOptions,
        *,
        format: str,  # noqa: A002 - the word for it everywhere
        target_size: int | None,
        virtual_size: int | None = None,
        resumable: bool = False,
        judge_whole: bool = False,
        disk_head: bytes | None = None,
    ) -> None:
        self.options = options
        self.format = format
        self.target_size = target_size
        self.virtual_size = virtual_size
        self.resumable = resumable
        self.judge_whole = judge_whole
        self.disk_head = disk_head
        self.disk_size: int | None = None
        self.warnings: list[str] = []

    def check_room(self, sink: Sink) -> None:
        """Refuse what cannot fit before the first write."""
        if self.target_size is not None:
            sink.check_size(self.target_size)

    def run(
        self,
        resolved: Resolved,
        sink: Sink,
        core_sink: CoreSink,
        checkpoint: Checkpoint,
        progress: ProgressCallback | None,
        cancel: Cancel,
    ) -> Outcome:
        """Transfer everything; the bytes are flushed on return, nothing is published."""
        decoding = self.decoding(resolved, sink, core_sink)
        job = start_job(resolved, sink, core_sink, self.options, checkpoint, **decoding)
        outcome = run_job(job, core_sink, checkpoint, cancel, progress)
        self.landed()
        return outcome

    def decoding(self, _resolved: Resolved, sink: Sink, _core_sink: CoreSink) -> dict[str, Any]:
        """What the job has to know of this way to land: fields of ``core.config.JobConfig``."""
        return {"detect_zeros": self.detects_zeros(sink)}

    def landed(self) -> None:
        """Note what only the decoder can tell: it ends with its job."""

    def detects_zeros(self, sink: Sink) -> bool:
        """Zeroing beats writing zeros on devices and where holes are wanted."""
        if self.options.detect_zeros is not None:
            return self.options.detect_zeros
        return sink.kind in ("block", "nbd") or self.sparse

    def finish(self, sink: Sink, core_sink: CoreSink, outcome: Outcome) -> None:
        """Judge the whole image, tables included, before it is published."""
        if self.judge_whole and sink.buffered_fd >= 0:
            info = judge_fd(sink.buffered_fd, outcome.total, self.options)
            info.require_safe()
            self.virtual_size = info.virtual_size
        elif self.disk_head is not None:
            self._finish_disk(sink, core_sink, self.disk_head, self.landed_size(outcome))

    def _finish_disk(self, sink: Sink, core_sink: CoreSink, head: bytes, size: int) -> None:
        """Judge what landed by both its ends: a fixed VHD shows itself at its end alone."""
        tail = self.last_bytes(sink, core_sink, size)
        if tail is None:
            return
        info = judge(
            EndsReader(head[:size], tail, size),
            declared=self.declared(),
            max_virtual_size=self.options.max_virtual_size,
        )
        info.require_safe()
        self.virtual_size = info.virtual_size
        if info.format is Format.VHD and info.virtual_size is not None:
            self.disk_size = info.virtual_size
            if sink.capacity is not None:
                core_sink.zero(self.disk_size, size - self.disk_size)
            self.note_footer()

    def declared(self) -> str:
        """What the disk that lands is said to be."""
        return self.options.source_format

    def note_footer(self) -> None:
        """What landed was a fixed VHD."""
        self.format = str(Format.VHD)
        self.kind = "vhd-to-raw"

    def last_bytes(self, sink: Sink, core_sink: CoreSink, size: int) -> bytes | None:
        """The last bytes of what has landed; None where nobody can read them."""
        length = min(TAIL_BYTES, size)
        if sink.kind == "file":
            return os.pread(sink.buffered_fd, length, size - length)
        return core_sink.held(size - length, length)

    def landed_size(self, outcome: Outcome) -> int:
        """Bytes that have come to lie on the target."""
        return outcome.total

    def final_size(self, outcome: Outcome) -> int:
        """Bytes of the image on the target."""
        return self.landed_size(outcome) if self.disk_size is None else self.disk_size


def decode_threads() -> int:
    """Two for each processor: while one waits for its direct write another decodes.

    Measured on two processors, 64 KiB clusters: four took a quarter off the time of two, six
    gave nothing more.
    """
    return min(8, max(4, 2 * len(os.sched_getaffinity(0))))
