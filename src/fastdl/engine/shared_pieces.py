# SPDX-License-Identifier: Apache-2.0
"""A list of pieces that somebody shares who transferred the same file: it shows which bytes are
wrong, and proves nothing.

The whole file's digest is computed all the same. A wrong list costs time, therefore, and never
bytes: what fails with it is tried once more without it, and the list that is made on the way shows
whether it or a mirror was wrong.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from fastdl.named_tuple import NamedTuple

if TYPE_CHECKING:
    from fastdl.engine.context import Events
    from fastdl.engine.options import Placement
    from fastdl.sources.metalink import Pieces


class SharedPieces(NamedTuple):
    """The SHA-256 values (*hashes*, one after the other) of the pieces, of *length* bytes, of the
    file that has *size* bytes and the digest *sha256* (hexadecimal)."""

    sha256: str
    size: int
    length: int
    hashes: bytes

    @property
    def pieces(self) -> Pieces:
        """The list as a metalink would have it."""
        from fastdl.sources.metalink import Pieces

        return Pieces(algorithm="sha-256", length=self.length, hashes=self.hashes)


def shared_in(plain: Any) -> SharedPieces | None:
    """The list in *plain*: its fields, the last one in base64; None if there is none."""
    if plain is None:
        return None
    sha256, size, length, text = plain
    return SharedPieces(sha256, size, length, base64.b64decode(text))


def listed(events: Events, placement: Placement) -> dict[str, Any] | None:
    """What the job that ended reports of the file's pieces; None: nothing that is not known.

    ``refused``: the list that was shared is another one.
    """
    shared = placement.shared
    if not events.listed or (shared is not None and shared.hashes == events.listed):
        return None
    return {
        "length": placement.list_pieces if shared is None else shared.length,
        "hashes": base64.b64encode(events.listed).decode("ascii"),
        "refused": shared is not None,
    }
