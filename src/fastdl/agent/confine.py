# SPDX-License-Identifier: Apache-2.0
"""What may the process that reads hostile bytes still do to this host?

It gives up, for good: gaining privileges (no_new_privs), leaving a core file or being
traced (dumpable), writing anywhere but the places it is given, listening on TCP, and
signalling other processes (Landlock, as far as the kernel has it). What the kernel does
not have is reported, not pretended.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_VERSION_FLAG = 1
_PATH_BENEATH = 1

_WRITE_FILE, _TRUNCATE, _IOCTL_DEV = 1 << 1, 1 << 14, 1 << 15
_REFER = 1 << 13
_IN_FOLDER = sum(1 << bit for bit in range(4, 13))  # remove and make, of every kind of file
_BIND_TCP = 1
_SCOPES = 0b11  # abstract sockets and signals stay inside the process's own domain


def confine(writable: Iterable[Path]) -> int:
    """Confine this process and its children; the version of Landlock in force, 0 for none.

    *writable*: files, devices and folders that may still be written; missing ones are left
    out. Raises OSError when a protection that the kernel has cannot be put in force.
    """
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_DUMPABLE, 0)
    version = landlock_version()
    if version:
        _landlock(version, (*writable, Path("/dev/null")))
    return version


def die_with_parent(number: int) -> None:
    """Ask the kernel to send signal *number* to this process when its parent dies."""
    _prctl(_PR_SET_PDEATHSIG, number)


def landlock_version() -> int:
    """The kernel's Landlock version, 0 where it has none or it is switched off."""
    return max(0, int(_libc().syscall(_CREATE_RULESET, None, 0, _VERSION_FLAG)))


def _landlock(version: int, writable: Iterable[Path]) -> None:
    handled = _WRITE_FILE | _IN_FOLDER
    handled |= _REFER if version >= 2 else 0
    handled |= _TRUNCATE if version >= 3 else 0
    handled |= _IOCTL_DEV if version >= 5 else 0
    attributes = struct.pack("Q", handled)
    if version >= 4:
        attributes += struct.pack("Q", _BIND_TCP)
    if version >= 6:
        attributes += struct.pack("Q", _SCOPES)
    rules = _call(_CREATE_RULESET, attributes, len(attributes), 0)
    try:
        for path in writable:
            _allow(rules, path, handled)
        _call(_RESTRICT_SELF, rules, 0)
    finally:
        os.close(rules)


def _allow(rules: int, path: Path, handled: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        allowed = handled
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            allowed &= _WRITE_FILE | _TRUNCATE | _IOCTL_DEV
        _call(_ADD_RULE, rules, _PATH_BENEATH, struct.pack("=Qi", allowed, fd), 0)
    finally:
        os.close(fd)


def _prctl(option: int, value: int) -> None:
    if _libc().prctl(option, ctypes.c_ulong(value), 0, 0, 0):
        raise _error("prctl")


def _call(number: int, *arguments: int | bytes) -> int:
    result = int(_libc().syscall(number, *arguments))
    if result < 0:
        raise _error("landlock")
    return result


def _error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
