# SPDX-License-Identifier: Apache-2.0
"""The target ``-``: standard output, in order, as the bytes are verified.

What arrives out of order waits in a file without a name, in the state folder; what has left is
cut out of it. A reader that is slow slows the transfer down, since no more is fetched than is
handed on.
"""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Sequence

from fastdl.errors import Cancelled, FastdlError, SinkIOError
from fastdl.sinks import syscalls
from fastdl.sinks.base import DescriptorSink, Identity, sink_error

STEP = 1 << 20
PIECE = 4096
"""What a pipe that is ready to be written takes without blocking (PIPE_BUF)."""


class StreamSink(DescriptorSink):
    """A :class:`fastdl.sinks.base.Sink` that hands on to *out*. *folder*: where bytes wait.

    ``sent``: bytes that have left, for good.
    """

    kind = "stream"
    path = "-"
    capacity: int | None = None
    sector_size = 1
    blank = True
    resumable = False
    folder_fd: int | None = None
    name: str | None = None
    warnings: tuple[str, ...] = ()

    def __init__(self, out: int, folder: str) -> None:
        self.identity: Identity = {"kind": "stream"}
        self.sent = 0
        self._waiting: dict[int, int] = {}
        self._stopped = False
        try:
            self.fd = self.buffered_fd = _nameless(folder)
            self._out = os.dup(out)
        except OSError as error:
            raise sink_error(error, f"making a file for what waits in {folder}") from None

    def check_size(self, size: int) -> None:
        """Any size: what waits is bounded by the window."""

    def preallocate(self, size: int | None, *, sparse: bool = False) -> None:
        """Begin with nothing."""
        del size, sparse
        os.ftruncate(self.fd, 0)

    def written(self, records: Sequence[tuple[int, int, int]]) -> None:
        """(offset, length, XXH3) of verified blocks: hand on what is next in order."""
        self._waiting.update((offset, length) for offset, length, _ in records)
        while (length := self._waiting.pop(self.sent, None)) is not None:
            self._hand_on(self.sent + length)

    def hurry(self) -> None:
        """Wait no longer for a reader."""
        self._stopped = True

    def publish(self, size: int) -> None:
        """All is proven: hand on the rest."""
        self._hand_on(size)

    def abort(self, *, keep: bool) -> None:
        """What has left cannot be taken back."""

    def close(self) -> None:
        """Drop what waits."""
        for fd in {self.fd, self._out} - {-1}:
            os.close(fd)
        self.fd = self.buffered_fd = self._out = -1

    def _hand_on(self, end: int) -> None:
        """The bytes up to *end*. BrokenPipeError where nobody reads any more; Cancelled."""
        try:
            while self.sent < end:
                data = os.pread(self.fd, min(STEP, end - self.sent), self.sent)
                if not data:
                    raise OSError(errno.EIO, "what waited is gone")
                self._write(data)
                # A file system that cannot give room back keeps it until the end.
                syscalls.punch_hole(self.fd, self.sent, len(data))
                self.sent += len(data)
        except (BrokenPipeError, FastdlError):
            raise
        except OSError as error:
            what = "writing to standard output"
            if error.errno == errno.EBADF:
                raise SinkIOError(f"{what}: it is closed", phase="land") from None
            raise sink_error(error, what) from None

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        poll = select.poll()
        poll.register(self._out, select.POLLOUT)
        while view:
            if self._stopped:
                raise Cancelled("cancelled")
            if poll.poll(200):
                view = view[os.write(self._out, view[:PIECE]) :]


def _nameless(folder: str) -> int:
    import tempfile  # rare

    os.makedirs(folder, mode=0o700, exist_ok=True)  # noqa: PTH103
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        return os.dup(file.fileno())
