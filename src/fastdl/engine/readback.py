# SPDX-License-Identifier: Apache-2.0
"""Reading the written data back, around the page cache, during the transfer."""

from __future__ import annotations

import contextlib
import mmap
import os
import threading

from fastdl.core.sink import Sink as CoreSink
from fastdl.errors import FastdlError, SinkIOError, UsageError
from fastdl.sinks.base import Sink

PIECE = 1 << 20
IDLE_S = 0.02


class Readback:
    """A thread that compares the target with the log of what was written to it.

    Start it after ``core_sink.begin()``; ``finish`` raises SinkIOError for the first
    difference. Data is flushed before it is read if the page cache could serve it instead of the
    device.
    """

    def __init__(self, sink: Sink, core_sink: CoreSink) -> None:
        if sink.fd < 0:
            raise UsageError(f"a {sink.kind} target cannot be read back")
        self._sink = sink
        self._core = core_sink
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self.compared = 0
        # Page-aligned for direct reads. Never closed: the views of a failed read may outlive it.
        self._memory = memoryview(mmap.mmap(-1, PIECE + 8192, mmap.MAP_PRIVATE))
        core_sink.keep_log()
        self._thread = threading.Thread(target=self._run, name="readback")
        self._thread.start()

    def finish(self) -> None:
        """Compare the rest; SinkIOError if the target differs."""
        self._stop.set()
        self._thread.join()
        if self._error is None:
            self._pass()
        if self._error is not None:
            raise self._error

    def cancel(self) -> None:
        """Stop without a result."""
        self._error = self._error or SinkIOError("cancelled")
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while self._error is None and not self._stop.is_set():
                if not self._pass():
                    self._stop.wait(IDLE_S)
        except BaseException as exc:  # noqa: BLE001 - a dead thread has compared nothing: no pass
            self._error = exc

    def _pass(self) -> int:
        """Compare everything that is in the log now; returns the number of records."""
        try:
            records = self._core.drain_log()
            if records and self._sink.align == 1:
                self._core.flush()
            for offset, length, xxh3 in records:
                if self._error is not None:
                    break
                self._compare(offset, length, xxh3)
        except FastdlError as exc:
            self._error = exc
            return 0
        except OSError as exc:
            self._error = SinkIOError(
                f"{self._sink.path} cannot be read back: {exc.strerror}", phase="verify"
            )
            return 0
        return len(records)

    def _compare(self, offset: int, length: int, xxh3: int | None) -> None:
        import xxhash  # loads hashlib

        digest = xxhash.xxh3_64()
        at, end = offset, offset + length
        while at < end:
            piece = self._read(at, min(PIECE, end - at))
            if xxh3 is None:
                if bytes(piece).count(0) != len(piece):
                    self._differs(at)
            else:
                digest.update(piece)
            self.compared += len(piece)
            at += len(piece)
        if xxh3 is not None and digest.intdigest() != xxh3:
            self._differs(offset)

    def _read(self, offset: int, length: int) -> memoryview:
        """[offset, offset + length) of the target; aligned as direct reads require."""
        align = self._sink.align
        fd = self._sink.fd
        if align == 1:
            with contextlib.suppress(OSError):
                os.posix_fadvise(fd, offset, length, os.POSIX_FADV_DONTNEED)
        start = offset - offset % align
        want = -(-(offset + length - start) // align) * align
        got = os.preadv(fd, [self._memory[:want]], start)
        if got < offset - start + length:
            self._differs(offset)
        return self._memory[offset - start : offset - start + length]

    def _differs(self, offset: int) -> None:
        raise SinkIOError(
            f"{self._sink.path} does not hold what was written to it",
            phase="verify",
            offset=offset,
        )
