# SPDX-License-Identifier: Apache-2.0
"""Documents inside messages: zlib, then base64. Who unpacks says how large one may be."""

from __future__ import annotations

import base64
import binascii
import zlib
from typing import Final

from fastdl.errors import AgentRefusedError, LimitError

TOTAL_MAX: Final = 1_900_000
"""Characters of all documents of one message: less than ``messages.TO_MANAGER_MAX``."""


def pack(document: bytes | None) -> str:
    """*document* as a text; empty for None."""
    if document is None:
        return ""
    return base64.b64encode(zlib.compress(document, 6)).decode("ascii")


def unpack(text: str, *, most: int) -> bytes | None:
    """What ``pack`` was given. LimitError behind *most* bytes, AgentRefusedError for what is no
    packed document."""
    if not text:
        return None
    try:
        packed = binascii.a2b_base64(text, strict_mode=True)
        reader = zlib.decompressobj()
        data = reader.decompress(packed, most + 1)
    except (ValueError, zlib.error):
        raise AgentRefusedError("a document that cannot be unpacked") from None
    if len(data) > most:
        raise LimitError(f"a document of more than {most} bytes")
    if not reader.eof or reader.unused_data:
        raise AgentRefusedError("a document that cannot be unpacked")
    return data
