# SPDX-License-Identifier: Apache-2.0
"""What is taken of a damaged copy? Its right pieces, and no byte of the others."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from fastdl.engine.cancel import Cancel
from fastdl.engine.mending import Mended, PieceCheck, mend
from fastdl.engine.workspace import Existing
from fastdl.sinks.open import open_sink
from fastdl.sources.metalink import Pieces


def pieces_of(content: bytes, length: int) -> Pieces:
    parts = [content[at : at + length] for at in range(0, len(content), length)]
    hashes = b"".join(hashlib.sha256(part).digest() for part in parts)
    return Pieces(algorithm="sha-256", length=length, hashes=hashes)


CONTENT = bytes(hashlib.shake_128(b"x").digest(40_000))


@given(
    st.integers(300, 9000),
    st.lists(st.integers(0, len(CONTENT) - 1), max_size=4),
    st.lists(st.integers(100, 12_000), min_size=1),
    st.integers(0, len(CONTENT) + 10_000),
)
@settings(max_examples=100, deadline=None)
def test_however_it_is_cut(length: int, flips: list[int], cuts: list[int], end: int) -> None:
    """A piece is right where all of its bytes are, and there; what is behind the list is nobody's
    piece."""
    data = bytearray(CONTENT + bytes(10_000))
    for at in flips:
        data[at] ^= 1
    data = data[:end]
    check = PieceCheck(pieces_of(CONTENT, length))
    at = number = 0
    while at < len(data):
        step = cuts[number % len(cuts)]
        check.feed(data[at : at + step])
        at, number = at + step, number + 1
    check.end()
    count = -(-len(CONTENT) // length)
    wrong = [
        i
        for i in range(count)
        if bytes(data[i * length : (i + 1) * length]) != CONTENT[i * length : (i + 1) * length]
    ]
    if end > len(CONTENT) and len(CONTENT) % length and count - 1 not in wrong:
        wrong.append(count - 1)
    assert check.wrong() == [i for i in range(count) if i in wrong]


class Target:
    """A new file of the content's size, and a damaged copy."""

    def __init__(self, folder: Path) -> None:
        self.old = folder / "old"
        self.sink = open_sink(str(folder / "new"))
        self.sink.preallocate(len(CONTENT), sparse=False)

    def mend(self, damaged: bytes, *, length: int, block: int) -> Mended:
        self.old.write_bytes(damaged)
        fd = os.open(self.old, os.O_RDONLY)
        try:
            source = Existing(str(self.old), fd)
            pieces = pieces_of(CONTENT, length)
            return mend(source, pieces, self.sink, len(CONTENT), block, Cancel())
        finally:
            os.close(fd)


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    made = Target(tmp_path)
    yield made
    made.sink.abort(keep=False)
    made.sink.close()


@pytest.mark.parametrize(("length", "block"), [(4096, 4096), (8192, 4096), (1024, 4096)])
def test_blocks_of_right_pieces_are_on_the_target(target: Target, length: int, block: int) -> None:
    """Whether a piece is larger than a block or smaller."""
    damaged = bytearray(CONTENT)
    damaged[9000] ^= 1
    mended = target.mend(bytes(damaged), length=length, block=block)
    assert (mended.wrong, mended.pieces) == ([9000 // length], -(-len(CONTENT) // length))
    bad = range(9000 // length * length // block, -(-(9000 // length + 1) * length // block))
    starts = [at for at in range(0, len(CONTENT), block) if at // block not in bad]
    assert [record[0] for record in mended.records] == starts
    for at, size, xxh3 in mended.records:
        part = os.pread(target.sink.buffered_fd, size, at)
        assert part == CONTENT[at : at + size]
        assert xxh3 == xxhash.xxh3_64_intdigest(part)


@pytest.mark.parametrize("damaged", [b"", CONTENT[:10_000], CONTENT + b"more", bytes(40_000)])
def test_another_length_or_nothing_right(target: Target, damaged: bytes) -> None:
    """What is not there is as wrong as what is."""
    mended = target.mend(damaged, length=4096, block=4096)
    right = 0 if not any(damaged) else min(len(damaged), len(CONTENT)) // 4096
    if len(damaged) > len(CONTENT):
        right = mended.pieces  # what follows the source's end is not read
    assert mended.pieces - len(mended.wrong) == len(mended.records) == right
