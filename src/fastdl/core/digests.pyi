# SPDX-License-Identifier: Apache-2.0
from typing import final

@final
class Digests:
    """The digest of a stream, and those of its pieces of *piece_length* bytes, in one pass.

    *algorithm*: as in ``model.digest.HEX_LENGTHS``; ValueError for another, and for a length of 0.
    One thread at a time; the interpreter's lock is released while it computes.
    """

    def __new__(cls, algorithm: str, piece_length: int) -> Digests: ...
    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Take the next bytes. LimitError: too many pieces."""

    def finish(self) -> tuple[bytes, bytes]:
        """(the digest of all, the pieces' one after the other; empty without a byte); once."""
