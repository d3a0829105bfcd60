# SPDX-License-Identifier: Apache-2.0
"""A block device as a target: opened once, claimed, checked, never opened by name again.

The first and the last MiB are zero while a job runs and after one that failed; the C sink
writes them last. Nothing is written before ``preallocate``, so a job that fails earlier leaves the
device unchanged.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from fastdl import fs
from fastdl.errors import SinkBusyError, SinkRefusedError
from fastdl.sinks import device
from fastdl.sinks.base import (
    HOLD_BYTES,
    DescriptorSink,
    DeviceEnds,
    Identity,
    Permit,
    sink_error,
    stale_tail,
)
from fastdl.sinks.direct import open_direct


class BlockSink(DeviceEnds, DescriptorSink):
    """A :class:`fastdl.sinks.base.Sink` over the block device *path*.

    overwrite  the signatures that may be destroyed, as blkid spells them, joined by commas
    permit     see ``DeviceEnds.check_signature``
    resume     an earlier job's body may be on the device
    """

    kind = "block"
    hold = HOLD_BYTES
    blank = False
    folder_fd: int | None = None
    name: str | None = None
    warnings: tuple[str, ...] = ()

    def __init__(
        self, path: str, *, overwrite: str | None, resume: bool, permit: Permit | None = None
    ) -> None:
        self.path = path
        self.resumable = resume
        try:
            self.buffered_fd = self.fd = _claim(path)
            _check_unused(self.fd, path)
            self.size = device.size(self.fd)
            self.capacity: int | None = self.size
            self.sector_size = device.sector_size(self.fd)
            self.identity: Identity = device.identity(self.fd)
            self._generation = device.generation(self.fd)
            fd = self.fd
            self.check_signature(lambda length, at: os.pread(fd, length, at), overwrite, permit)
            self.fd, self.align = open_direct(self.fd, blank=False)
            if self.align > 1:
                self.align = max(self.align, self.sector_size)
        except OSError as error:
            self.close()
            raise sink_error(error, f"opening {path}") from None
        except BaseException:
            self.close()
            raise

    def preallocate(self, size: int | None, *, sparse: bool = False) -> None:
        """Take possession: what the former content left at the very end (backup GPT) goes."""
        self.taken(size)
        start, end = stale_tail(self.size, size)
        self._zero(start, end)

    def publish(self, size: int) -> None:
        """Check through the descriptor that the device is still the one that was opened."""
        try:
            same = (
                device.size(self.buffered_fd) == self.size >= size
                and device.identity(self.buffered_fd) == self.identity
                and device.generation(self.buffered_fd) == self._generation
            )
        except OSError as error:
            raise sink_error(error, f"publishing {self.path}") from None
        if not same:
            raise SinkRefusedError(
                f"{self.path} changed its size or its identity during the job", phase="publish"
            )
        self._ours = False

    def abort(self, *, keep: bool) -> None:
        """Zero head and tail, durably; the body stays for a resume whatever *keep* says."""
        if not self._ours:
            return
        for start, end in self.ends():
            self._zero(start, end)

    def close(self) -> None:
        """Close both descriptors; closing the first drops the claim."""
        for fd in {self.fd, self.buffered_fd} - {-1}:
            with contextlib.suppress(OSError):  # data was flushed before, or is discarded
                fs.close(fd)
        self.fd = self.buffered_fd = -1

    def _zero(self, start: int, end: int) -> None:
        zeros = bytes(min(HOLD_BYTES, max(end - start, 0)))
        try:
            while start < end:
                start += os.pwrite(self.buffered_fd, zeros[: end - start], start)
            os.fsync(self.buffered_fd)
        except OSError as error:
            raise sink_error(error, f"zeroing the ends of {self.path}") from None


def _claim(path: str) -> int:
    """Open the device so that no other claimant (mount, swap, md, dm, O_EXCL) may have it."""
    try:
        flags = os.O_RDWR | os.O_EXCL | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        fd = fs.once_free(lambda: os.open(path, flags), errno.EBUSY)
    except OSError as error:
        if error.errno == errno.EBUSY:
            use = device.user_of(os.stat(path).st_rdev)  # noqa: PTH116
            raise SinkBusyError(
                f"{path} is {use or 'claimed by another process'}", phase="land"
            ) from None
        if error.errno in {errno.EROFS, errno.EACCES, errno.EPERM}:
            raise SinkRefusedError(
                f"{path} cannot be opened for writing: {error.strerror}", phase="land"
            ) from None
        raise
    if not stat.S_ISBLK(os.fstat(fd).st_mode):
        fs.close(fd)
        raise SinkRefusedError(f"{path} is no longer a block device", phase="land")
    return fd


def _check_unused(fd: int, path: str) -> None:
    if device.is_read_only(fd):
        raise SinkRefusedError(f"{path} is read-only", phase="land")
    use = device.user_of(os.fstat(fd).st_rdev)
    if use:
        raise SinkBusyError(f"{path} is {use}", phase="land")
