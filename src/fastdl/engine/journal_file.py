# SPDX-License-Identifier: Apache-2.0
"""The journal's file: opened by name, or opened and shared by another process.

It is locked by its writer and checked on the opened descriptor.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import Protocol

from fastdl import fs
from fastdl.errors import JournalError, SinkBusyError
from fastdl.named_tuple import NamedTuple


class JournalFile(Protocol):
    """What ``journal.Writer`` needs of its file; descriptors returned are the caller's."""

    @property
    def path(self) -> str:
        """The file's name, for messages."""

    def open(self) -> int | None:
        """Open an existing journal, locked and at its start; None if there is none.

        Raises SinkBusyError if another job holds it, JournalError if it cannot be ours.
        """

    def create(self) -> int:
        """Create an empty journal, locked; an old unlocked one is removed. SinkBusyError,
        OSError."""

    def sync(self) -> None:
        """Make its name durable. OSError."""

    def remove(self) -> None:
        """Remove the journal if there is one; best effort on a read-only disk."""


class Location(NamedTuple):
    """A journal at *path*, relative to the folder *folder_fd* (borrowed) if given."""

    path: str
    folder_fd: int | None = None

    def open(self) -> int | None:
        """See ``JournalFile``."""
        try:
            fd = self._open(os.O_RDWR)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise JournalError(f"{self.path}: {error.strerror}") from None
        try:
            _lock(fd, self.path)
            found = os.fstat(fd)
        except OSError as error:
            fs.close(fd)
            raise JournalError(f"{self.path}: {error.strerror}") from None
        except BaseException:
            fs.close(fd)
            raise
        ours = fs.is_ours(found, self.folder_fd)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1 or not ours:
            fs.close(fd)
            raise JournalError(f"{self.path} is not a journal file of this user")
        return fd

    def create(self) -> int:
        """See ``JournalFile``."""
        if self.folder_fd is None:
            fs.make_folders(self._folder())
        self._remove_unheld()
        fd = self._open(os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            _lock(fd, self.path)
        except BaseException:
            fs.close(fd)
            os.unlink(self.path, dir_fd=self.folder_fd)
            raise
        return fd

    def sync(self) -> None:
        """See ``JournalFile``."""
        if self.folder_fd is not None:
            fs.sync_folder(self.folder_fd)
            return
        fd = fs.open_folder(self._folder())
        try:
            fs.sync_folder(fd)
        finally:
            fs.close(fd)

    def remove(self) -> None:
        """See ``JournalFile``."""
        with contextlib.suppress(OSError):
            os.unlink(self.path, dir_fd=self.folder_fd)
            self.sync()

    def unlink(self) -> None:
        """Remove the file where it does not matter that a power cut undoes it."""
        with contextlib.suppress(OSError):
            os.unlink(self.path, dir_fd=self.folder_fd)

    def share(self) -> SharedFile:
        """The journal, opened for another process to read and write; created if missing.

        Raises SinkBusyError; OSError if it cannot be created, and the job continues without.
        """
        try:
            fd = self.open()
        except JournalError:
            fd = None
        return SharedFile(self.path, self.create() if fd is None else fd)

    def unshare(self, shared: SharedFile) -> None:
        """Close *shared*; an empty file is not a journal and is removed."""
        if os.fstat(shared.fd).st_size == 0:
            with contextlib.suppress(OSError):
                os.unlink(self.path, dir_fd=self.folder_fd)
        fs.close(shared.fd)

    def _open(self, flags: int) -> int:
        flags |= os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        return os.open(self.path, flags, 0o600, dir_fd=self.folder_fd)

    def _remove_unheld(self) -> None:
        try:
            fd = self._open(os.O_RDWR)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
        else:
            try:
                _lock(fd, self.path)
            finally:
                fs.close(fd)
        os.unlink(self.path, dir_fd=self.folder_fd)

    def _folder(self) -> str:
        # pathlib would take a tenth of a download's start-up time.
        return os.path.dirname(self.path) or "."  # noqa: PTH120


class SharedFile(NamedTuple):
    """A journal that another process opened, locked and will remove; only *fd* is available.

    An empty file is not a journal.
    """

    path: str
    fd: int

    def open(self) -> int | None:
        """See ``JournalFile``."""
        if os.fstat(self.fd).st_size == 0:
            return None
        os.lseek(self.fd, 0, os.SEEK_SET)
        return os.dup(self.fd)

    def create(self) -> int:
        """See ``JournalFile``."""
        os.ftruncate(self.fd, 0)
        os.lseek(self.fd, 0, os.SEEK_SET)
        return os.dup(self.fd)

    def sync(self) -> None:
        """Does nothing: if a power cut loses the name, the download starts over."""

    def remove(self) -> None:
        """See ``JournalFile``."""
        with contextlib.suppress(OSError):
            os.ftruncate(self.fd, 0)
            os.fsync(self.fd)


def default_state_dir() -> str:
    """$XDG_STATE_HOME/fastdl; without it /var/lib/fastdl for root, else ~/.local/state/fastdl."""
    home = os.environ.get("XDG_STATE_HOME", "")
    if home.startswith("/"):
        return f"{home}/fastdl"
    if os.geteuid() == 0:
        return "/var/lib/fastdl"
    return os.path.expanduser("~/.local/state/fastdl")  # noqa: PTH111


def _lock(fd: int, path: str) -> None:
    try:
        locked = fs.lock_once_free(fd)
    except BlockingIOError:
        raise SinkBusyError(f"another job holds the journal {path}") from None
    if not locked:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
