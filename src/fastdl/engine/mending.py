# SPDX-License-Identifier: Apache-2.0
"""What a damaged copy of the source still has: its right pieces are taken, the others are fetched.

A list of pieces says which are right; the digest of the whole decides in the end, as it does for
bytes of mirrors.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from fastdl.model.digest import hasher
from fastdl.named_tuple import NamedTuple
from fastdl.sinks.base import sink_error

if TYPE_CHECKING:
    from fastdl.engine.cancel import Checked
    from fastdl.engine.workspace import Existing
    from fastdl.sinks.base import Sink
    from fastdl.sources.metalink import Pieces


class PieceCheck:
    """Which pieces of a file match their list? Its bytes come in order, and may end early.

    ``right``: one byte for each piece, 1 for those that match.
    """

    def __init__(self, pieces: Pieces) -> None:
        self.right = bytearray(pieces.count)
        self._pieces = pieces
        self._md = hasher(pieces.algorithm)
        self._index = self._have = 0

    def feed(self, data: bytes | memoryview) -> None:
        """The next bytes of the file."""
        view = memoryview(data)
        while view:
            part = view[: self._pieces.length - self._have]
            self._md.update(part)
            self._have += len(part)
            view = view[len(part) :]
            if self._have == self._pieces.length:
                self._decide()

    def end(self) -> None:
        """No more bytes come."""
        if self._have:
            self._decide()

    def wrong(self) -> list[int]:
        """The pieces that do not match, ascending."""
        return [index for index, right in enumerate(self.right) if not right]

    def _decide(self) -> None:
        size, at = self._pieces.digest_size, self._index * self._pieces.digest_size
        if self._index < len(self.right):
            wanted = self._pieces.hashes[at : at + size]
            self.right[self._index] = self._md.digest() == wanted
        self._md = hasher(self._pieces.algorithm)
        self._index, self._have = self._index + 1, 0


class Mended(NamedTuple):
    """*records*: (offset, length, XXH3) of what the target has now; *wrong*: those of the
    *pieces* that it lacks."""

    records: list[tuple[int, int, int]]
    wrong: list[int]
    pieces: int


def mend(
    damaged: Existing, pieces: Pieces, sink: Sink, size: int, block: int, cancel: Checked
) -> Mended:
    """Copy the blocks of *damaged* that consist of right pieces into *sink*, in one pass.

    *size*: of the source. What cannot be read is as wrong as what does not match. Raises as the
    sink's writes do.
    """
    import xxhash

    check, sums = PieceCheck(pieces), list[int]()
    try:
        for at in range(0, size, block):
            cancel.check()
            data = _read(damaged.fd, at, min(block, size - at))
            check.feed(data)
            _write(sink.buffered_fd, data, at)
            sums.append(xxhash.xxh3_64_intdigest(data))
        check.end()
        os.fsync(sink.buffered_fd)
    except OSError as error:
        raise sink_error(error, f"{sink.path}: copying what is right of {damaged.path}") from None
    records = [
        (number * block, min(block, size - number * block), xxh3)
        for number, xxh3 in enumerate(sums)
        if _all_right(check.right, pieces.length, number * block, min((number + 1) * block, size))
    ]
    return Mended(records, check.wrong(), pieces.count)


def _all_right(right: bytearray, length: int, start: int, end: int) -> bool:
    return all(right[start // length : -(-end // length)])


def _read(fd: int, at: int, length: int) -> bytes:
    """[at, at + length) of the damaged file; zeros for what it cannot give."""
    out = bytearray(length)
    view, have = memoryview(out), 0
    try:
        while have < length and (n := os.preadv(fd, [view[have:]], at + have)):
            have += n
    except OSError:
        return bytes(length)
    return bytes(out)


def _write(fd: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        n = os.pwrite(fd, view, at)
        at += n
        view = view[n:]
