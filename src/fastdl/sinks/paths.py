# SPDX-License-Identifier: Apache-2.0
"""Which folder and name a file target may have."""

from __future__ import annotations

import errno
import os
import re
import stat
from typing import Literal

from fastdl import fs
from fastdl.errors import SinkRefusedError, UsageError
from fastdl.sinks import syscalls
from fastdl.sinks.base import sink_error

Policy = Literal["user", "strict"]

PART_SUFFIX = ".fastdl-part"
JOURNAL_SUFFIX = ".fastdl-journal"
RELEASE_SUFFIX = ".fastdl-release"

_NAME_MAX = 255
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NO_LINKS = syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_NO_MAGICLINKS
_DRIVE = r"[A-Za-z]:"
_ESCAPED = r"(?i)%(?:2[ef]|5c|00)"


def part_name(name: str) -> str:
    """The hidden name that *name* has until it is published."""
    return f".{name}{PART_SUFFIX}"


def journal_name(name: str) -> str:
    """The hidden name of the journal next to the file *name*."""
    return f".{name}{JOURNAL_SUFFIX}"


def release_name(name: str) -> str:
    """The hidden name of the note next to *name* while it is published."""
    return f".{name}{RELEASE_SUFFIX}"


def check_name(name: str) -> str:
    """*name* as the last component of a path that the user typed, or SinkRefusedError."""
    if name in {"", ".", ".."} or "/" in name or "\0" in name:
        raise SinkRefusedError(f"{name!r} is not the name of a file")
    longest = max(len(os.fsencode(part_name(name))), len(os.fsencode(journal_name(name))))
    if longest > _NAME_MAX:
        raise SinkRefusedError(f"the file name {name[:40]!r}… is too long")
    return name


def safe_name(name: str) -> str:
    """*name* as a stranger's proposal (the last segment of a URL), or SinkRefusedError.

    Refused besides what is no name at all: hidden files, control characters, separators of
    other systems, drive letters, and escapes that a second decoding would turn into a path.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        raise SinkRefusedError("the source proposes a file name that is not UTF-8") from None
    if (
        name.startswith((".", "~", "-"))
        or "\\" in name
        or not name.isprintable()
        or (":" in name and re.match(_DRIVE, name))
        or ("%" in name and re.search(_ESCAPED, name))
    ):
        raise SinkRefusedError(
            f"the source proposes the unsafe file name {name[:80]!r}: name the file yourself"
        )
    return check_name(name)


def open_folder(path: str, *, policy: Policy, beneath: str | None) -> int:
    """Open the folder *path*, readable, to be used by descriptor alone.

    Policy ``user``: the way there is the user's business. ``strict``: no symbolic link and
    no ``..`` on the way; with *beneath* (under either policy) nothing outside that folder.
    """
    try:
        if beneath is not None:
            base = os.open(beneath, _FOLDER)
            try:
                inside = _relative(path, beneath)
                return _resolve(base, inside, _NO_LINKS | syscalls.RESOLVE_BENEATH)
            finally:
                fs.close(base)
        if policy == "strict":
            if ".." in path.split("/"):
                raise SinkRefusedError(f"{path}: '..' is not allowed in a target")
            return _resolve(syscalls.AT_FDCWD, path, _NO_LINKS)
        return fs.open_folder(path)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.EXDEV}:
            raise SinkRefusedError(f"{path}: it contains a symbolic link") from None
        if error.errno == errno.ENOENT:
            raise SinkRefusedError(f"{path}: the folder does not exist") from None
        raise sink_error(error, f"opening the folder {path}") from None
    except ValueError:
        raise UsageError(f"{path!r} cannot be the name of a folder") from None


def _relative(path: str, beneath: str) -> str:
    """*path* as seen from *beneath*, compared as text: the kernel checks the rest."""
    parts = [part for part in path.split("/") if part not in {"", "."}]
    base = [part for part in beneath.split("/") if part not in {"", "."}]
    if ".." in parts:
        raise SinkRefusedError(f"{path}: '..' is not allowed in a target")
    if path.startswith("/"):
        if not beneath.startswith("/") or parts[: len(base)] != base:
            raise SinkRefusedError(f"{path} is outside {beneath}")
        parts = parts[len(base) :]
    return "/".join(parts) or "."


def _resolve(base: int, path: str, resolve: int) -> int:
    try:
        return syscalls.openat2(base, path, _FOLDER, resolve)
    except PermissionError as error:
        if error.errno != errno.EPERM:  # EACCES is the folder's own word
            raise
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
    return walk(base, path)


def walk(base: int, path: str) -> int:
    """What openat2 does, one component at a time, if it is unavailable; no ``..`` in *path*."""
    start = "/" if path.startswith("/") else "."
    here = os.open(start, _FOLDER, dir_fd=None if base == syscalls.AT_FDCWD else base)
    for part in path.split("/"):
        if part in {"", "."}:
            continue
        try:
            inner = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=here)
        except NotADirectoryError as error:
            if stat.S_ISLNK(os.stat(part, dir_fd=here, follow_symlinks=False).st_mode):
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path) from error
            raise
        finally:
            fs.close(here)
        here = inner
    return here
