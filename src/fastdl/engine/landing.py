# SPDX-License-Identifier: Apache-2.0
"""How a source becomes bytes on the target: as it is, or decoded while it arrives."""

from __future__ import annotations

from dataclasses import dataclass, field

from fastdl.core.sink import Sink as CoreSink
from fastdl.engine.cancel import Cancel
from fastdl.engine.options import FetchOptions, ProgressCallback
from fastdl.engine.resolve import Resolved
from fastdl.engine.transfer import Checkpoint, Outcome, run_job, start_job
from fastdl.sinks.base import Sink


@dataclass(slots=True)
class Landing:
    """The source lands as it is: every block at its own offset."""

    options: FetchOptions
    format: str
    target_size: int | None
    kind: str = "same"
    virtual_size: int | None = None
    sparse: bool = False
    resumable: bool = True
    warnings: list[str] = field(default_factory=list)

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
        job = start_job(resolved, sink, core_sink, self.options, checkpoint)
        return run_job(job, core_sink, checkpoint, cancel, progress)

    def finish(self, core_sink: CoreSink, outcome: Outcome) -> None:
        """What is left to do between the proof and the publication."""

    def final_size(self, outcome: Outcome) -> int:
        """Bytes of the image on the target."""
        return outcome.total


def plan_landing(
    resolved: Resolved, sink: Sink, options: FetchOptions, cancel: Cancel
) -> Landing:
    """Judge the first bytes and decide how the source lands."""
    return Landing(options=options, format=options.source_format, target_size=resolved.size)


def detect_file(path: str) -> str:
    """The format of a file that is there already."""
    return "raw"
