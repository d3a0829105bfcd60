# SPDX-License-Identifier: Apache-2.0
"""Which POSIX features do file systems lack, and what is still safe without them?

NFS without a lock daemon, SMB, exFAT and many FUSE file systems lack locks, modes, owners or
the flush of a folder. Each function's result shows whether the file system supports it, so that a
caller can continue with a warning; every other failure stays an OSError. Nothing here depends on
fastdl's errors; it is below everything else.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import time
from collections.abc import Callable

from fastdl.named_tuple import NamedTuple

_ABSENT = frozenset({errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL})
_F_OFD_SETLK = 37  # fcntl(2): a lock of the open file, as flock's is, that network mounts know
_FLOCK = struct.Struct("hhqqi4x")  # l_type, l_whence, l_start, l_len, l_pid
_KERNEL = "/proc/sys/kernel"
MOUNTS = "/proc/self/mountinfo"
"""The kernel marks it as exceptional when a mount comes or goes, see proc(5)."""
_FOLDER = os.O_DIRECTORY | os.O_CLOEXEC


class Mount(NamedTuple):
    """One line of the mount table. *device*: ``major:minor``; *kind*: of file system."""

    device: str
    path: str
    kind: str
    source: str


def lock_exclusively(fd: int) -> bool:
    """Lock the file of *fd* against other jobs until it is closed; False if locks are unsupported.

    Raises BlockingIOError where another job holds it, OSError for what is no lack of support.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _ABSENT | {errno.ENOLCK}:
            raise
    else:
        return True
    try:
        fcntl.fcntl(fd, _F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    except OSError as error:
        if error.errno == errno.EACCES:  # the other spelling of "held", fcntl(2)
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from None
        if error.errno not in _ABSENT | {errno.ENOLCK}:
            raise
        return False
    return True


def once_free(take: Callable[[], int], busy: int, seconds: float = 1.0) -> int:
    """What *take*() returns, tried for *seconds* while it fails with the error number *busy*.

    A job that was killed holds its locks and devices until its memory, and that of a child that it
    was about to start, is freed: the same command, run again at once, must not find them taken.
    """
    end = time.monotonic() + seconds
    while True:
        try:
            return take()
        except OSError as error:
            if error.errno != busy or time.monotonic() > end:
                raise
        time.sleep(0.02)


def lock_once_free(fd: int) -> bool:
    """``lock_exclusively``, once the last moments of whoever holds it are over."""
    return bool(once_free(lambda: lock_exclusively(fd), errno.EAGAIN))


def open_locked(path: os.PathLike[str]) -> int:
    """A descriptor of the lock file *path*, created and locked: the lock lasts until it is closed.

    Raises BlockingIOError if another process holds it; OSError, also if locks are unsupported.
    """
    fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        if not lock_exclusively(fd):
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
    except BaseException:
        close(fd)
        raise
    return fd


def read_at_most(path: str, size: int) -> bytes:
    """The bytes of the file *path*. OSError, also if there are more than *size*."""
    with open(path, "rb") as file:  # noqa: PTH123
        data = file.read(size + 1)
    if len(data) > size:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    return data


def why(error: Exception) -> str:
    """What went wrong, in words: the system's without its number and the path, which the message
    has."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def close(fd: int) -> None:
    """Close *fd*. A failure means nothing: the kernel has freed the descriptor, and what was
    written was flushed before or is not needed."""
    with contextlib.suppress(OSError):
        os.close(fd)


def open_folder(path: str, *, dir_fd: int | None = None, flags: int = 0) -> int:
    """A descriptor of the folder *path*: readable, or for use as a start only where it is not.

    A folder that may be written to but not listed (a drop box) can still take a file.
    Raises OSError.
    """
    try:
        return os.open(path, os.O_RDONLY | _FOLDER | flags, dir_fd=dir_fd)
    except PermissionError:
        return os.open(path, os.O_PATH | _FOLDER | flags, dir_fd=dir_fd)


def sync_folder(fd: int) -> bool:
    """Make the names in the folder of *fd* durable; False if that is unsupported.

    Raises OSError if it is supported but fails.
    """
    try:
        os.fsync(fd)
    except OSError as error:
        # EBADF: opened by `open_folder` without the right to read it.
        if error.errno not in _ABSENT | {errno.EBADF, errno.EISDIR}:
            raise
        return False
    return True


def make_folders(path: str) -> None:
    """Create the folder *path*, for this user alone, and what is missing above it; durable.

    What is flushed in a folder whose own name is not may be lost with it. Raises OSError.
    """
    missing = []
    name = path
    while not os.path.isdir(name):  # noqa: PTH112 - pathlib is slow to load
        missing.append(name)
        name = os.path.dirname(name) or "."  # noqa: PTH120
    os.makedirs(path, mode=0o700, exist_ok=True)  # noqa: PTH103
    for name in missing:
        fd = open_folder(os.path.dirname(name) or ".")  # noqa: PTH120
        try:
            sync_folder(fd)
        finally:
            close(fd)


def replace_file(
    path: str | os.PathLike[str],
    data: bytes,
    *,
    durable: bool = True,
    folder_fd: int | None = None,
    prepare: Callable[[int], object] | None = None,
    put: Callable[[int, str, str], bool] | None = None,
) -> bool:
    """Replace the file *path* with *data*: atomically, and durable on return.

    *durable*    False waits for no disk, for an event loop: a crash of the host may leave the old
                 file, the new one or an empty one
    *folder_fd*  what *path*, a name then, is relative to
    *prepare*    is called with the new file's descriptor before it is filled: its mode is 0600
    *put*        gives the new file its name, instead of a rename: is called with the folder's
                 descriptor, the new file's name and the one that it gets. Where it says no,
                 nothing has happened, and False is returned

    Raises OSError; then the old file stays, unless it was the folder that could not be flushed.
    """
    folder, name = os.path.split(os.fspath(path))
    parent = open_folder(folder or ".") if folder_fd is None else folder_fd
    fresh = f".{name}.{os.urandom(6).hex()}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(fresh, flags, 0o600, dir_fd=parent)
        try:
            with open(fd, "wb") as file:  # noqa: PTH123 - pathlib is slow to load
                if prepare is not None:
                    prepare(fd)
                file.write(data)
                file.flush()
                if durable:
                    os.fsync(fd)
            if put is None:
                os.rename(fresh, name, src_dir_fd=parent, dst_dir_fd=parent)
            elif not put(parent, fresh, name):
                return False
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(fresh, dir_fd=parent)
        if durable:
            sync_folder(parent)
    finally:
        if folder_fd is None:
            close(parent)
    return True


def boot_id() -> str:
    """The running kernel's boot id, or an empty string."""
    with contextlib.suppress(OSError), open(f"{_KERNEL}/random/boot_id", "rb") as file:  # noqa: PTH123
        return file.read().decode("ascii", "replace").strip()
    return ""


def mounts() -> list[Mount]:
    """The mount table of this process; empty if the kernel does not report it.

    Raises OSError.
    """
    with open(MOUNTS, encoding="utf-8", errors="surrogateescape") as file:  # noqa: PTH123
        lines = [line.split(" ") for line in file.read().splitlines()]
    return [
        Mount(
            device=fields[2],
            path=unescaped(fields[4]),
            kind=fields[fields.index("-") + 1],
            source=unescaped(fields[fields.index("-") + 2]),
        )
        for fields in lines
        if len(fields) > 6
    ]


def unescaped(text: str) -> str:
    """*text* of a mount table, of /proc/swaps or fstab, without the escapes of its fields."""
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, char)
    return text


def mount_of(fd: int) -> str | None:
    """The number of the mount that *fd* lies in, None if the kernel does not report it.

    Device numbers do not: on an overlay (containers, live systems) a file has its layer's and
    a folder the overlay's.
    """
    with contextlib.suppress(OSError), open(f"/proc/self/fdinfo/{fd}") as lines:  # noqa: PTH123
        return next((line.split()[1] for line in lines if line.startswith("mnt_id:")), None)
    return None


def set_mode(fd: int, mode: int) -> bool:
    """Give the file of *fd* the permission bits *mode*; False where bits mean nothing.

    Not tried where it has them already: who maps owners may refuse even that. Raises OSError.
    """
    if os.fstat(fd).st_mode & 0o7777 == mode:
        return True
    try:
        os.fchmod(fd, mode)
    except OSError as error:
        if error.errno not in _ABSENT | {errno.EPERM, errno.EACCES}:
            raise
        return False
    return True


def owner_of_new_files(folder_fd: int) -> int:
    """The user id that a file gets which this process makes in the folder; tried, then removed.

    It is another one than the process's own where a server squashes or a mount maps owners.
    Raises OSError.
    """
    name = f".fastdl-{os.urandom(8).hex()}.probe"
    fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder_fd)
    try:
        return os.fstat(fd).st_uid
    finally:
        close(fd)
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=folder_fd)


def is_ours(found: os.stat_result, folder_fd: int | None) -> bool:
    """Whether a file with the status *found* in that folder may be one that we made."""
    if found.st_uid == os.geteuid():
        return True
    return folder_fd is not None and found.st_uid == owner_of_new_files(folder_fd)
