# SPDX-License-Identifier: Apache-2.0
"""Who made a signature, what was signed, and what becomes of one that does not count."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final, NamedTuple

from fastdl.errors import IntegrityError

MAX_SIGNATURE: Final = 256 << 10
MAX_IN_MEMORY: Final = 64 << 20
"""Bytes of signed content where its signature can only be checked on all of them at once."""
_PIECE: Final = 1 << 20


class Signer(NamedTuple):
    """The maker of a valid signature: the key's *fingerprint* and, if known, its *uid*."""

    fingerprint: str
    uid: str

    def __str__(self) -> str:
        return f"{self.uid} ({self.fingerprint})" if self.uid else self.fingerprint


class Content:
    """The first *size* bytes of the open file *fd*, or *data*; called *what* in errors."""

    def __init__(self, what: str, data: bytes = b"", *, fd: int | None = None, size: int = 0):
        self.what = what
        self._data = data
        self._fd = fd
        self.size = len(data) if fd is None else size

    def pieces(self) -> Iterator[bytes]:
        """The bytes in order, as often as they are asked for."""
        if self._fd is None:
            yield self._data
            return
        at = 0
        while at < self.size:
            piece = os.pread(self._fd, min(_PIECE, self.size - at), at)
            if not piece:
                raise self.refused("is of a file that has become shorter")
            at += len(piece)
            yield piece

    def whole(self) -> bytes:
        """All bytes at once; IntegrityError if they are too many for that."""
        if self.size > MAX_IN_MEMORY:
            raise self.refused(f"is of a form that needs all of {self.size} bytes at once")
        return b"".join(self.pieces())

    def refused(self, why: str) -> IntegrityError:
        """The error for a signature that does not count; *why* continues "the signature …"."""
        return IntegrityError(f"{self.what}: the signature {why}", phase="resolve", retryable=False)


def printable(text: str) -> str:
    """*text*, which the key's maker chose, made safe to display."""
    return "".join(c for c in text if c.isprintable())[:200]


def lines_of(data: bytes) -> list[bytes]:
    """The lines of a small text file, whatever they end with."""
    return [line.strip(b" \t\r") for line in data.split(b"\n")]
