# SPDX-License-Identifier: Apache-2.0
"""The note in a pool's folder: the pool's id, and a secret that only its readers know.

The note is created once, by the first host that needs it; every host that mounts the folder reads
the same note. The secret itself never leaves a host. ``proof`` does, and shows a manager that two
hosts that report the same id read the same storage.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from fastdl.errors import SinkRefusedError

HIDDEN: Final = ".fastdl"
FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NAME: Final = "pool"
_SIZE_MAX: Final = 4096


@dataclass(frozen=True, slots=True)
class Note:
    """*id*: of a pool that has no other; *secret*: hexadecimal, empty in notes without one."""

    id: str
    secret: str

    def proof(self, pool: str) -> str | None:
        """Return what proves to a manager that this host reads the folder as the pool *pool*."""
        if not self.secret:
            return None
        return hashlib.sha256(f"fastdl pool\0{pool}\0{self.secret}".encode()).hexdigest()


def read(folder_fd: int) -> Note | None:
    """Return the note of the pool folder *folder_fd*, None if there is none.

    SinkRefusedError for a damaged one; OSError.
    """
    try:
        with opened(HIDDEN, folder_fd, make=False) as fd:
            return _parse(_bytes(_NAME, fd))
    except FileNotFoundError:
        return None
    except ValueError:
        raise _damaged() from None


def kept(folder_fd: int) -> Note:
    """Return the note of the pool folder *folder_fd*, created if there is none.

    SinkRefusedError for a damaged one; OSError. If two hosts create it concurrently, one wins and
    both read the same note.
    """
    with opened(HIDDEN, folder_fd, make=True) as fd:
        for _ in range(2):
            with contextlib.suppress(FileNotFoundError, ValueError):
                return _parse(_bytes(_NAME, fd))
            made = json.dumps({"id": str(uuid.uuid4()), "secret": secrets.token_hex(32)}).encode()
            fresh = f".pool.{uuid.uuid4().hex}"
            try:
                _write(fresh, made, fd)
                with contextlib.suppress(FileExistsError):
                    try:
                        os.link(fresh, _NAME, src_dir_fd=fd, dst_dir_fd=fd)
                    except PermissionError:  # a file system without links
                        _write(_NAME, made, fd)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(fresh, dir_fd=fd)
    raise _damaged()


@contextlib.contextmanager
def opened(name: str, folder: int, *, make: bool) -> Iterator[int]:
    """The folder *name* in *folder*, opened; never through a link. OSError."""
    if make:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o755, dir_fd=folder)
    fd = os.open(name, FOLDER | os.O_NOFOLLOW, dir_fd=folder)
    try:
        yield fd
    finally:
        os.close(fd)


def _damaged() -> SinkRefusedError:
    return SinkRefusedError(f"{HIDDEN}/{_NAME} is damaged: remove it, and the pool gets a new id")


def _parse(data: bytes) -> Note:
    """Return the note in *data*; ValueError if it is not one."""
    try:
        plain: Any = json.loads(data)
        secret = plain.get("secret", "")
        if not isinstance(secret, str):
            raise ValueError(secret)
        return Note(str(uuid.UUID(plain["id"])), secret)
    except (KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise ValueError(data) from exc


def _bytes(name: str, folder_fd: int) -> bytes:
    # Without blocking: others who write to the folder may put a FIFO there.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    with os.fdopen(os.open(name, flags, dir_fd=folder_fd), "rb") as file:
        return file.read(_SIZE_MAX) or b""


def _write(name: str, data: bytes, folder_fd: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    with os.fdopen(os.open(name, flags, 0o600, dir_fd=folder_fd), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
