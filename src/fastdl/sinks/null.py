# SPDX-License-Identifier: Apache-2.0
"""The target ``null:``: everything is fetched, checked and thrown away."""

from __future__ import annotations

from fastdl.sinks.base import DescriptorSink, Identity


class NullSink(DescriptorSink):
    """A :class:`fastdl.sinks.base.Sink` without a descriptor."""

    kind = "null"
    path = "null:"
    capacity: int | None = None
    sector_size = 1
    blank = True
    resumable = False
    folder_fd: int | None = None
    name: str | None = None
    warnings: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.identity: Identity = {"kind": "null"}

    def check_size(self, size: int) -> None:
        """Anything fits."""

    def preallocate(self, size: int | None, *, sparse: bool = False) -> None:
        """Nothing to allocate."""

    def publish(self, size: int) -> None:
        """Nothing to publish."""

    def abort(self, *, keep: bool) -> None:
        """Nothing to undo."""

    def close(self) -> None:
        """Nothing to close."""
