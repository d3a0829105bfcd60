# SPDX-License-Identifier: Apache-2.0
"""How a source becomes bytes on the target: as it is, unless a kind of landing knows better."""

from __future__ import annotations

import os
from typing import Any

from fastdl.core.sink import Sink as CoreSink
from fastdl.engine.cancel import Cancel
from fastdl.engine.landing.head import inspect_fd
from fastdl.engine.options import FetchOptions, ProgressCallback
from fastdl.engine.resolve import Resolved
from fastdl.engine.transfer import Checkpoint, Outcome, run_job, start_job
from fastdl.model.image import Format
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
    ) -> None:
        self.options = options
        self.format = format
        self.target_size = target_size
        self.virtual_size = virtual_size
        self.resumable = resumable
        self.judge_whole = judge_whole
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
        """What the job has to know of this way to land, in the words of ``core.job.Job``."""
        return {"detect_zeros": self.detects_zeros(sink)}

    def landed(self) -> None:
        """Note what only the decoder can tell: it ends with its job."""

    def detects_zeros(self, sink: Sink) -> bool:
        """Zeroing beats writing zeros on devices and where holes are wanted."""
        if self.options.detect_zeros is not None:
            return self.options.detect_zeros
        return sink.kind in ("block", "nbd") or self.sparse

    def finish(self, sink: Sink, outcome: Outcome) -> None:
        """Judge the whole image, tables included, before it is published."""
        if self.judge_whole and sink.buffered_fd >= 0:
            info = inspect_fd(sink.buffered_fd, outcome.total, self.options)
            info.require_safe()
            self.virtual_size = info.virtual_size

    def final_size(self, outcome: Outcome) -> int:
        """Bytes of the image on the target."""
        return outcome.total


def decode_threads() -> int:
    """Two for each processor: while one waits for its direct write another decodes.

    Measured on two processors, 64 KiB clusters: four took a quarter off the time of two, six
    gave nothing more.
    """
    return min(8, max(4, 2 * len(os.sched_getaffinity(0))))
