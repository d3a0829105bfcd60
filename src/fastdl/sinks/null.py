# SPDX-License-Identifier: Apache-2.0
"""The target ``null:``: everything is fetched, checked and thrown away."""

from __future__ import annotations

from fastdl.sinks.base import Identity


class NullSink:
    """A :class:`fastdl.sinks.base.Sink` without a descriptor."""

    kind = "null"
    path = "null:"
    fd = -1
    buffered_fd = -1
    align = 1
    capacity: int | None = None
    sector_size = 1
    hold = 0
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

    def descriptors(self) -> tuple[int, ...]:
        """There is none."""
        return ()

    def let_go(self) -> None:
        """Nothing to let go."""

    def taken(self, size: int | None) -> None:
        """Nothing to take."""

    def hurry(self) -> None:
        """No other machine is waited for here."""

    def close(self) -> None:
        """Nothing to close."""
