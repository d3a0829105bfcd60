# SPDX-License-Identifier: Apache-2.0
"""Where does a job keep what it unpacks or converts? In a hidden folder that goes with the job.

A killed job leaves its folder; the next job in the same place removes it, or resumes from what
is there (``resumable``). What nobody came back to for a day is removed by any job next to it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from fastdl import fs
from fastdl.errors import SinkBusyError
from fastdl.sinks.base import sink_error

SUFFIX = ".fastdl-staging"
_LEFT = (f".*{SUFFIX}", f"{SUFFIX}-*")
"""Names that sweeping looks at: today's, and an earlier one's, of folders without a lock."""
OLD_S = 86400.0
SWEEP_S = 30.0
"""Whoever may read a folder can hold its lock; jobs do while they remove what others left."""
_TRIES = 3


class Staging:
    """A private folder. *keep*: what lies in it is worth something to the job's next run."""

    __slots__ = ("keep", "path")

    def __init__(self, path: Path) -> None:
        self.path = path
        self.keep = False


def path_beside(target: Path, key: str = "") -> Path:
    """Return the folder of the job that fills the file *target*; *key*: what else tells it from
    other jobs."""
    return target.with_name(f".{target.name}{key and '.'}{key}{SUFFIX}")


@contextlib.contextmanager
def within(folder: Path, *, ids: Sequence[int] | None = None) -> Iterator[Path]:
    """A folder in *folder*, where many jobs have one that nobody finds again.

    Each is locked while its job lives, which tells those of killed jobs. Only the user *ids* (uid,
    gid; None: this one) may enter it. SinkError where none can be made.
    """
    made = folder / f".{os.urandom(8).hex()}{SUFFIX}"
    with contextlib.ExitStack() as held:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _locked(folder):  # nobody sweeps what is not locked yet
                _sweep(folder)
                sweep(folder)
                fcntl.flock(held.enter_context(_made(made, ids)), fcntl.LOCK_EX)
        except OSError as exc:
            raise sink_error(exc, f"making a folder in {folder}") from None
        yield made


@contextlib.contextmanager
def resumable(made: Path, *, ids: Sequence[int] | None = None) -> Iterator[Staging]:
    """The folder *made* of the caller's own target, with what an earlier run left in it.

    Where another job works in it, one that is not found again. *ids*: see ``within``. SinkError
    where none can be made.
    """
    try:
        fs.make_folders(str(made.parent))
        sweep(made.parent)
        claimed = _claimed(made)
        if claimed is not None and ids is not None:
            _give(claimed, ids)
    except OSError as exc:
        raise sink_error(exc, f"making {made}") from None
    if claimed is None:
        with within(made.parent, ids=ids) as fresh:
            yield Staging(fresh)
        return
    staging = Staging(made)
    try:
        yield staging
    finally:
        if not staging.keep:
            _remove(made)
        else:
            with contextlib.suppress(OSError):  # there is something in it
                made.rmdir()
        fs.close(claimed)


def forget(made: Path) -> None:
    """Remove the folder *made* where there is one and nobody works in it."""
    with contextlib.suppress(OSError):
        fd = _opened(made)
        try:
            if fs.lock_exclusively(fd):
                _remove(made)
        finally:
            fs.close(fd)


def _remove(made: Path) -> None:
    """Remove the folder *made*; what resists twice is swept when it is old."""
    import shutil  # loads three decompressors

    for _ in range(2):
        with contextlib.suppress(OSError):  # a failing close is not ignored by rmtree
            shutil.rmtree(made, ignore_errors=True)
        if not os.path.lexists(made):
            return


def sweep(folder: Path) -> None:
    """Remove what nobody works with in *folder* and nobody has come back to."""
    with contextlib.suppress(OSError):
        for left in (found for names in _LEFT for found in folder.glob(names)):
            with contextlib.suppress(OSError):
                if time.time() - left.lstat().st_mtime > OLD_S:
                    forget(left)


def _opened(made: Path) -> int:
    """A descriptor of the folder *made*; OSError where it is none, or others may enter it."""
    fd = fs.open_folder(str(made), flags=os.O_NOFOLLOW)
    found = os.fstat(fd)
    # Root's are also those of the users that its jobs run as.
    if os.geteuid() not in (0, found.st_uid) or stat.S_IMODE(found.st_mode) & 0o077:
        fs.close(fd)
        raise PermissionError(f"{made} is not ours")
    return fd


def _claimed(made: Path) -> int | None:
    """The lock of the folder *made*, created if missing; None: unavailable."""
    for _ in range(_TRIES):
        ours = False
        with contextlib.suppress(FileExistsError):
            made.mkdir(mode=0o700)
            ours = True
        try:
            fd = _opened(made)
        except FileNotFoundError:  # the job in it has just ended
            continue
        except OSError:
            return None
        try:
            locked = fs.lock_once_free(fd)
            still = os.path.samestat(made.lstat(), os.fstat(fd))
        except OSError:
            locked = still = False
        if locked and still:
            with contextlib.suppress(OSError):  # a confined process may not; its parent's is young
                os.utime(made)
            return fd
        fs.close(fd)
        if not locked:
            if ours:
                with contextlib.suppress(OSError):  # it is in use
                    made.rmdir()
            return None
    return None


def _give(folder: int, ids: Sequence[int]) -> None:
    """Make *ids* the owner of the folder and of what lies in it, which an earlier process may have
    written as another user; no link is followed."""
    for _, folders, files, fd in os.fwalk(dir_fd=folder):
        for name in (*folders, *files):
            os.chown(name, *ids, dir_fd=fd, follow_symlinks=False)
    os.fchown(folder, *ids)


@contextlib.contextmanager
def _made(made: Path, ids: Sequence[int] | None) -> Iterator[int]:
    """Make the folder; yield it open. It is removed at the end."""
    try:
        try:
            made.mkdir(mode=0o700)
            # Another user may have put a link in its place in the meantime.
            fd = fs.open_folder(str(made), flags=os.O_NOFOLLOW)
        except OSError as exc:
            raise sink_error(exc, f"making {made}") from None
        try:
            if ids is not None:
                os.fchown(fd, *ids)
            yield fd
        finally:
            fs.close(fd)
    finally:
        _remove(made)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    fd = fs.open_folder(str(folder))
    try:
        try:
            fs.once_free(lambda: _flocked(fd), errno.EAGAIN, SWEEP_S)
        except BlockingIOError:
            raise SinkBusyError(
                f"another process has held the lock of {folder} for {SWEEP_S:.0f} s"
            ) from None
        yield
    finally:
        fs.close(fd)


def _flocked(fd: int) -> int:
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return fd


def _sweep(folder: Path) -> None:
    """Remove what killed jobs left in *folder*."""
    for left in folder.glob(f".*{SUFFIX}"):
        with contextlib.suppress(OSError):
            fd = fs.open_folder(str(left), flags=os.O_NOFOLLOW)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(left)
            finally:
                fs.close(fd)
