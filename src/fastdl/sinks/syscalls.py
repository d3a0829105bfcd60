# SPDX-License-Identifier: Apache-2.0
"""Linux calls that the standard library lacks: openat2, renameat2, fallocate, statx, prctl."""

from __future__ import annotations

import ctypes
import errno
import os
import struct

RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08

AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_RENAME_NOREPLACE = 1
_RENAME_EXCHANGE = 2
_PR_SET_PDEATHSIG = 1
_SYS_OPENAT2 = 437  # the same on every architecture
_STATX_DIOALIGN = 0x2000
_NO_SUCH_CALL = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM})
"""How kernels, file systems and system call filters say that they do not know a call."""

_FALLOC_FL_KEEP_SIZE = 1
_FALLOC_FL_PUNCH_HOLE = 2

libc = ctypes.CDLL(None, use_errno=True)
"""What is called by its name; made once, before any fork: each function of it is a class."""


def _check(result: int, path: str | None = None) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), path)
    return result


def die_with_parent(number: int) -> None:
    """Ask the kernel to send signal *number* to this process when the thread that started it ends,
    as it does with its process. A change of user makes the kernel forget it. OSError.
    """
    _check(int(libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(number), 0, 0, 0)))


def openat2(folder_fd: int, path: str, flags: int, resolve: int) -> int:
    """Open *path* from *folder_fd* under the RESOLVE_* rules.

    OSError(ENOSYS) before Linux 5.6, or EPERM behind a system call filter that is older.
    """
    how = struct.pack("=QQQ", flags, 0, resolve)
    number, size = ctypes.c_long(_SYS_OPENAT2), ctypes.c_size_t(len(how))
    return _check(
        int(libc.syscall(number, ctypes.c_int(folder_fd), os.fsencode(path), how, size)), path
    )


def _renameat2(folder_fd: int, old: str, to_fd: int, new: str, flag: int) -> bool:
    """False where it is not supported."""
    try:
        _check(
            int(
                libc.renameat2(
                    ctypes.c_int(folder_fd),
                    os.fsencode(old),
                    ctypes.c_int(to_fd),
                    os.fsencode(new),
                    ctypes.c_uint(flag),
                )
            ),
            new,
        )
    except OSError as error:
        if error.errno not in _NO_SUCH_CALL:
            raise
        return False
    return True


def exchange(folder_fd: int, one: str, other: str) -> bool:
    """Exchange two names in a folder at once. False: this file system knows no such thing, and
    nothing has happened. OSError, FileNotFoundError among others."""
    return _renameat2(folder_fd, one, folder_fd, other, _RENAME_EXCHANGE)


def rename_new(folder_fd: int, old: str, new: str, to_fd: int | None = None) -> bool:
    """Rename inside one folder, or into that of *to_fd*; FileExistsError where *new* exists.

    True: the kernel or the server looked, at the moment of the rename. False: this file system
    knows neither such a rename nor links, so we looked ourselves, an instant before.
    """
    to_fd = folder_fd if to_fd is None else to_fd
    if _renameat2(folder_fd, old, to_fd, new, _RENAME_NOREPLACE):
        return True
    try:
        # Some network and FUSE file systems: a link refuses an existing name as well.
        os.link(old, new, src_dir_fd=folder_fd, dst_dir_fd=to_fd, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_SUCH_CALL | {errno.EMLINK}:
            raise
    else:
        os.unlink(old, dir_fd=folder_fd)
        return True
    try:
        os.stat(new, dir_fd=to_fd, follow_symlinks=False)
    except FileNotFoundError:
        os.rename(old, new, src_dir_fd=folder_fd, dst_dir_fd=to_fd)
        return False
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new)


def fallocate(fd: int, size: int) -> None:
    """Allocate [0, size) without writing: unlike posix_fallocate it never falls back to that."""
    if size:
        _check(
            int(
                libc.fallocate64(
                    ctypes.c_int(fd), ctypes.c_int(0), ctypes.c_int64(0), ctypes.c_int64(size)
                )
            )
        )


def punch_hole(fd: int, offset: int, length: int) -> bool:
    """Give the room of a range back; False where the file system cannot."""
    mode = ctypes.c_int(_FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE)
    place = ctypes.c_int64(offset), ctypes.c_int64(length)
    return int(libc.fallocate64(ctypes.c_int(fd), mode, *place)) == 0


def direct_align(fd: int) -> int | None:
    """What direct I/O on *fd* must be aligned to, in bytes; 0: refused; None: unknown.

    statx(2), STATX_DIOALIGN: Linux 6.1 and the larger file systems.
    """
    buffer = ctypes.create_string_buffer(256)
    if not hasattr(libc, "statx"):
        return None
    failed = libc.statx(
        ctypes.c_int(fd), b"", ctypes.c_int(_AT_EMPTY_PATH), ctypes.c_uint(_STATX_DIOALIGN), buffer
    )
    (mask,) = struct.unpack_from("=I", buffer, 0)
    if failed or not mask & _STATX_DIOALIGN:
        return None
    memory, offset = struct.unpack_from("=II", buffer, 152)
    return max(memory, offset) if memory and offset else 0
