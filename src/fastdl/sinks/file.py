# SPDX-License-Identifier: Apache-2.0
"""A file as a target: a hidden part file next to it, published by a rename.

Until ``publish`` the name is unchanged: absent, or the complete old file.
The folder is opened once; everything after that goes through its descriptor.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from fastdl import fs
from fastdl.errors import SinkBusyError, SinkRefusedError, SinkSpaceError
from fastdl.sinks import syscalls
from fastdl.sinks.base import DescriptorSink, Identity, sink_error
from fastdl.sinks.direct import open_direct
from fastdl.sinks.paths import part_name

_LOCKLESS = (
    "this file system has no locks: the download has a part file of its own, a stopped one "
    "starts over, and one that is killed leaves it behind"
)
_MODELESS = "this file system refuses permission bits: who may read the file is the mount's affair"
_PART = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_LOCK_TRIES = 3


class FileSink(DescriptorSink):
    """A :class:`fastdl.sinks.base.Sink` over the part file of *name* in *folder_fd*.

    folder_fd  owned: closed with the sink
    path       for messages
    replace    publishing may replace a regular file
    resume     keep what a part file holds; otherwise it is emptied

    ``published``: it has its name, durable or not.
    """

    kind = "file"
    capacity: int | None = None

    def __init__(
        self, folder_fd: int, name: str, *, path: str, replace: bool, resume: bool
    ) -> None:
        self.path = path
        self.folder_fd: int | None = folder_fd
        self.name: str | None = name
        self._folder = folder_fd
        self._name = name
        self._part = part_name(name)
        self._replace = replace
        self.published = False
        self._complete = False
        self._lockless = False
        self.mtime: float | None = None
        self.warnings: list[str] = []
        try:
            check_target(folder_fd, name, path=path, replace=replace)
            self.buffered_fd = self.fd = self._open_part()
            found = os.fstat(self.fd)
            if found.st_size and not resume:
                os.ftruncate(self.fd, 0)
            self.blank = not (resume and found.st_size)
            self.resumable = not self.blank
            # Not st_dev: the next mount of a share, or start of a host, may give another number.
            self.identity: Identity = {"kind": "file", "ino": found.st_ino}
            self.fd, self.align = open_direct(self.fd, blank=self.blank)
            self.sector_size = self.align
        except OSError as error:
            self.close()
            raise sink_error(error, f"opening {path}") from None
        except BaseException:
            self.close()
            raise

    def check_size(self, size: int) -> None:
        """Compare *size* with the free space of the file system; SinkSpaceError."""
        room = os.fstatvfs(self.buffered_fd)
        free = room.f_bavail * room.f_frsize + os.fstat(self.buffered_fd).st_blocks * 512
        # Some file systems (FUSE, network) report nothing: all zero.
        if room.f_blocks and free < size:
            raise SinkSpaceError(
                f"{self.path}: the image needs {size} bytes, the file system has {free}",
                phase="land",
            )

    def preallocate(self, size: int | None, *, sparse: bool = False) -> None:
        """Allocate *size* bytes, so that a full disk shows before the download."""
        try:
            if self.blank:  # an earlier attempt of this job may have left data: remove it
                os.ftruncate(self.buffered_fd, 0)
            if size is None:
                return
            if not sparse:
                with contextlib.suppress(_NotSupported):
                    _allocate(self.buffered_fd, size)
            os.ftruncate(self.buffered_fd, size)
        except OSError as error:
            what = "emptying it" if size is None else f"making room for {size} bytes"
            raise sink_error(error, f"{self.path}: {what}") from None

    def seal(self, size: int) -> int:
        """Cut to *size* and flush: what is left is the name."""
        try:
            self._check_ours()
            os.ftruncate(self.buffered_fd, size)
            self._set_mode(0o666 & ~_umask())
            if self.mtime is not None:
                os.utime(self.buffered_fd, (self.mtime, self.mtime))
            os.fsync(self.buffered_fd)
            if self.fd != self.buffered_fd:
                os.fsync(self.fd)
            self._complete = True
            return os.fstat(self.buffered_fd).st_mtime_ns
        except OSError as error:
            raise sink_error(error, f"publishing {self.path}", phase="publish") from None

    def publish(self, size: int) -> None:
        """Give the sealed file its name, flush the folder."""
        try:
            if not self._complete:
                self.seal(size)
            if self._replace:
                check_target(self._folder, self._name, path=self.path, replace=True)
                os.rename(self._part, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            elif not syscalls.rename_new(self._folder, self._part, self._name):
                self.warnings.append(
                    "this file system cannot rename without replacing: the name was checked to be "
                    "free just before the rename"
                )
            self.published = True
        except FileExistsError:
            raise SinkRefusedError(
                f"{self.path} appeared during the job: it was not replaced; the verified bytes "
                f"are in {self._part} next to it",
                phase="publish",
            ) from None
        except OSError as error:
            what = f"publishing {self.path} (the verified bytes are in {self._part} next to it)"
            raise sink_error(error, what, phase="publish") from None
        try:
            if not fs.sync_folder(self._folder):
                self.warnings.append(
                    "this folder cannot be flushed: the file system decides when it is durable"
                )
        except OSError as error:
            # The name exists, and a second run can make it durable.
            what = (
                f"{self.path} is complete, but its folder cannot be flushed: a power cut may "
                "take the name away; the same command, run again, flushes it"
            )
            raise sink_error(error, what, phase="publish") from None

    def abort(self, *, keep: bool) -> None:
        """Leave the part file for a resume (*keep*) or remove it.

        It also stays if it is complete and only the rename failed.
        """
        if self.published or self._complete or self.buffered_fd < 0:
            return
        if keep and not self._lockless:
            return
        try:
            if self._part_is(self.buffered_fd):
                os.unlink(self._part, dir_fd=self._folder)
        except OSError as error:
            raise sink_error(error, f"{self.path}: removing the part file") from None

    def close(self) -> None:
        """Close all descriptors; closing the part file drops its lock."""
        for fd in {self.fd, self.buffered_fd, self._folder} - {-1}:
            with contextlib.suppress(OSError):  # data was flushed before, or is to be dropped
                fs.close(fd)
        self.fd = self.buffered_fd = self._folder = -1
        self.folder_fd = None

    def _open_part(self) -> int:
        """The part file, checked, locked, mode 0600, and still under its name."""
        busy = SinkBusyError(f"another job is writing to {self.path}", phase="land")
        waited = False
        for _ in range(_LOCK_TRIES):
            fd, made = _open_or_create(self._part, self._folder)
            try:
                self._check_part(fd, made=made)
                try:
                    locked = fs.lock_exclusively(fd)
                except BlockingIOError:
                    locked, waited = fs.lock_once_free(fd), True
                if not locked:
                    if made:
                        os.unlink(self._part, dir_fd=self._folder)
                    fs.close(fd)
                    return self._open_own_part()
                # Between open and lock the other job may have published or removed it.
                if self._part_is(fd):
                    self._set_mode(0o600, fd)
                    return fd
                if waited:  # it did not die, it published
                    raise busy
            except BlockingIOError:
                fs.close(fd)
                raise busy from None
            except BaseException:
                fs.close(fd)
                raise
            fs.close(fd)
        raise SinkBusyError(f"other jobs keep writing to {self.path}", phase="land")

    def _open_own_part(self) -> int:
        """A part file under a unique name, if locks cannot separate jobs."""
        self._lockless = True
        self.warnings.append(_LOCKLESS)
        self._part = part_name(f"{self._name[:80]}.{os.urandom(6).hex()}")
        return os.open(self._part, _PART | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=self._folder)

    def _set_mode(self, mode: int, fd: int | None = None) -> None:
        if not fs.set_mode(self.buffered_fd if fd is None else fd, mode) and (
            _MODELESS not in self.warnings
        ):
            self.warnings.append(_MODELESS)

    def _check_part(self, fd: int, *, made: bool) -> None:
        found = os.fstat(fd)
        where = f"the part file of {self.path}"
        if not stat.S_ISREG(found.st_mode):
            raise SinkRefusedError(f"{where} is not a regular file: remove it")
        if not made and not fs.is_ours(found, self._folder):
            raise SinkRefusedError(f"{where} belongs to another user: remove it")
        if found.st_nlink > 1:
            raise SinkRefusedError(f"{where} has other hard links: remove it")
        if fs.mount_of(fd) != fs.mount_of(self._folder):
            raise SinkRefusedError(f"{where} is on another file system")

    def _part_is(self, fd: int) -> bool:
        """Whether the part file's name still refers to *fd*."""
        try:
            named = os.stat(self._part, dir_fd=self._folder, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(named, os.fstat(fd))

    def _check_ours(self) -> None:
        # Some FUSE file systems count no links at all.
        if not self._part_is(self.buffered_fd) or os.fstat(self.buffered_fd).st_nlink > 1:
            raise SinkRefusedError(
                f"the part file of {self.path} was replaced or linked during the job",
                phase="publish",
            )


def check_target(folder_fd: int, name: str, *, path: str, replace: bool) -> None:
    """Refuse (33) a name that is taken; with *replace*, one taken by other than a plain file."""
    try:
        found = os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
    except FileNotFoundError:
        return
    if stat.S_ISLNK(found.st_mode):
        raise SinkRefusedError(f"{path} is a symbolic link: name the file itself")
    if not stat.S_ISREG(found.st_mode):
        raise SinkRefusedError(f"{path} is neither a regular file nor a block device")
    if found.st_nlink > 1:
        raise SinkRefusedError(f"{path} has other hard links")
    if not replace:
        raise SinkRefusedError(
            f"{path} already exists: remove it, or replace it (overwrite 'file')"
        )


def _open_or_create(name: str, folder_fd: int) -> tuple[int, bool]:
    """The descriptor of the file *name*, and whether this call made it."""
    make = _PART | os.O_CREAT | os.O_EXCL
    with contextlib.suppress(FileExistsError):
        return os.open(name, make, 0o600, dir_fd=folder_fd), True
    with contextlib.suppress(FileNotFoundError):  # gone in between: the other job has finished
        return os.open(name, _PART, dir_fd=folder_fd), False
    return os.open(name, make, 0o600, dir_fd=folder_fd), True


class _NotSupported(Exception):
    """The file system cannot allocate without writing."""


def _allocate(fd: int, size: int) -> None:
    try:
        syscalls.fallocate(fd, size)
    except OSError as error:
        # EPERM: a system call filter. EACCES: NFS 4.2 asks its server as who allocates,
        # not as who opened the file. Where the file itself is meant, the first write says so.
        refusals = (errno.EPERM, errno.EACCES)
        if error.errno in {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, *refusals}:
            raise _NotSupported from None
        raise


def _umask() -> int:
    """The process's umask, read without changing it for other threads where /proc is there."""
    with contextlib.suppress(OSError), open("/proc/self/status", "rb") as status:  # noqa: PTH123
        for line in status:
            if line.startswith(b"Umask:"):
                return int(line.removeprefix(b"Umask:"), 8)
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
