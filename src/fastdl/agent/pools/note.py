# SPDX-License-Identifier: Apache-2.0
"""What does a folder say of itself? The pool's id, and a secret that only its readers know.

The note is made once, by the first host that needs it; every host that mounts the folder reads the
same. The secret itself leaves no host: ``proof`` does, and shows a manager that two hosts that
report one id read one storage.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fastdl.errors import SinkRefusedError

HIDDEN: Final = ".fastdl"
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


def kept(folder: Path) -> Note:
    """Return the note of *folder*, made where there is none; SinkRefusedError for a damaged one.

    Of two hosts that make it at once, one wins and both read the same.
    """
    path = folder / HIDDEN / "pool"
    for _ in range(2):
        with contextlib.suppress(FileNotFoundError, ValueError):
            return _parse(_bytes(path))
        path.parent.mkdir(mode=0o755, exist_ok=True)
        made = json.dumps({"id": str(uuid.uuid4()), "secret": secrets.token_hex(32)}).encode()
        fresh = path.parent / f".pool.{uuid.uuid4().hex}"
        try:
            _write(fresh, made)
            with contextlib.suppress(FileExistsError):
                try:
                    os.link(fresh, path)
                except PermissionError:  # a file system without links
                    _write(path, made)
        finally:
            fresh.unlink(missing_ok=True)
    raise SinkRefusedError(f"{path} is damaged: remove it, and the pool gets a new id")


def _parse(data: bytes) -> Note:
    """Return the note in *data*; ValueError where it is none."""
    try:
        plain: Any = json.loads(data)
        secret = plain.get("secret", "")
        if not isinstance(secret, str):
            raise ValueError(secret)
        return Note(str(uuid.UUID(plain["id"])), secret)
    except (KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise ValueError(data) from exc


def _bytes(path: Path) -> bytes:
    # Without waiting for anybody: who else writes to the folder may put a FIFO there.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(fd, "rb") as file:
        return file.read(_SIZE_MAX) or b""


def _write(path: Path, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
