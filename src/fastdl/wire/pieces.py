# SPDX-License-Identifier: Apache-2.0
"""The digests of a file's pieces, as hosts and their manager exchange them: how many, how packed.

A list is SHA-256 values, one after the other, in base64.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final

from fastdl.errors import AgentRefusedError, UsageError
from fastdl.model.digest import parse_checksum

LEAST_SOURCE: Final = 32 << 20
"""Bytes of a file that a list is made of: a smaller one is fetched again in less time than a list
takes to be asked for."""
PIECES_MAX: Final = 8192
"""Digests in a list: 256 KiB."""
HASHES_MAX: Final = 4 * -(-PIECES_MAX * 32 // 3)
"""Characters of a packed list."""
LENGTH_MIN: Final = 1 << 20
LENGTH_MAX: Final = 1 << 30


def length_for(size: int | None) -> int:
    """Bytes of the pieces that a file of *size* bytes is listed in; 0: it gets no list."""
    if size is None or not LEAST_SOURCE <= size <= PIECES_MAX * LENGTH_MAX:
        return 0
    length = LENGTH_MIN
    while size > length * PIECES_MAX:
        length *= 2
    return length


def packed(hashes: bytes) -> str:
    """*hashes* as a text."""
    return base64.b64encode(hashes).decode("ascii")


def unpacked(text: str, *, size: int, length: int) -> bytes:
    """The digests in *text* of a file of *size* bytes in pieces of *length*.

    AgentRefusedError for what is no such list.
    """
    try:
        hashes = binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        raise AgentRefusedError("a list of pieces that cannot be unpacked") from None
    if length & (length - 1) or not LENGTH_MIN <= length <= LENGTH_MAX:
        raise AgentRefusedError(f"a list of pieces of {length} bytes")
    count = -(-size // length)
    if not 0 < count <= PIECES_MAX or len(hashes) != 32 * count:
        raise AgentRefusedError(f"a list of pieces that does not fit {size} bytes")
    return hashes


def sha256_in(checksum: str | None) -> str | None:
    """The digits of *checksum* if it is a SHA-256, which a list can be bound to; else None."""
    if checksum is None:
        return None
    try:
        digest = parse_checksum(checksum)
    except UsageError:
        return None
    return digest.hex if digest.algorithm == "sha-256" else None
