# SPDX-License-Identifier: Apache-2.0
"""What do file systems refuse that POSIX promises, and what is still safe then?

NFS without a lock daemon, SMB, exFAT and many FUSE file systems lack locks, modes, owners or
the flush of a folder. Each function tells by its result whether the file system can do it, so
that a caller can go on with a warning; every other failure stays an OSError. Nothing here
knows fastdl's errors: it stands beside them, below everything else.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct

_ABSENT = frozenset({errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL})
_F_OFD_SETLK = 37  # fcntl(2): a lock of the open file, as flock's is, that network mounts know
_FLOCK = struct.Struct("hhqqi4x")  # l_type, l_whence, l_start, l_len, l_pid
_FOLDER = os.O_DIRECTORY | os.O_CLOEXEC


def lock_exclusively(fd: int) -> bool:
    """Lock the file of *fd* against other jobs until it is closed; False where none can be had.

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
    """Make the names in the folder of *fd* durable; False where it knows no such flush.

    Raises OSError where it knows it and fails.
    """
    try:
        os.fsync(fd)
    except OSError as error:
        # EBADF: opened by `open_folder` without the right to read it.
        if error.errno not in _ABSENT | {errno.EBADF, errno.EISDIR}:
            raise
        return False
    return True


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
        os.close(fd)
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=folder_fd)


def is_ours(found: os.stat_result, folder_fd: int | None) -> bool:
    """Whether a file with the status *found* in that folder may be one that we made."""
    if found.st_uid == os.geteuid():
        return True
    return folder_fd is not None and found.st_uid == owner_of_new_files(folder_fd)
