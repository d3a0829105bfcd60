# SPDX-License-Identifier: Apache-2.0
"""The size in the indexes of .xz files: as ``xz`` itself tells it, and of hostile ones nothing."""

from __future__ import annotations

import lzma
import random
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastdl.engine.inspection import inspect_image
from fastdl.errors import LimitError
from fastdl.model import image_xz
from fastdl.model.image_xz import INDEX_MAX, STREAMS_MAX, unpacked_size
from tests.env.xz import stream

MIB = 1 << 20


class Bytes:
    """A file in memory as an image reader, which counts what is read of it."""

    distant = False

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.read = 0

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return len(self.data)

    def read_at(self, offset: int, length: int) -> bytes:
        """Up to *length* bytes."""
        part = self.data[offset : offset + length]
        self.read += len(part)
        return part


@pytest.mark.parametrize("size", [0, 1, 4095, MIB, 3 * MIB + 1])
def test_one_stream(size: int) -> None:
    """As Python's lzma writes it."""
    assert unpacked_size(Bytes(lzma.compress(bytes(size)))) == (size or None)


def test_streams_behind_each_other_and_padding() -> None:
    """What ``cat a.xz b.xz`` makes, and zeros by fours between and behind them."""
    parts = [lzma.compress(bytes(n)) for n in (10, 0, 70_000)]
    for padding in (0, 4, 4096, 8196):
        whole = b"".join(part + bytes(padding) for part in parts)
        assert unpacked_size(Bytes(whole)) == 70_010
    assert unpacked_size(Bytes(parts[0] + bytes(3))) is None
    assert unpacked_size(Bytes(parts[0] + b"rest")) is None
    assert unpacked_size(Bytes(b"rest" + parts[0])) is None


@pytest.mark.skipif(not shutil.which("xz"), reason="xz is not installed")
@pytest.mark.parametrize("words", [("-T2", "--block-size=65536"), ("-0",), ("--check=none",)])
def test_as_xz_packs_and_lists_it(tmp_path: Path, words: tuple[str, ...]) -> None:
    """Blocks, checks and threads make no difference."""
    content = random.Random(1).randbytes(700_001) + bytes(MIB)
    (tmp_path / "x").write_bytes(content)
    subprocess.run(["xz", "-k", *words, tmp_path / "x"], check=True)
    packed = (tmp_path / "x.xz").read_bytes()
    reader = Bytes(packed)
    assert unpacked_size(reader) == len(content)
    assert reader.read < 10_000
    assert inspect_image(Bytes(packed)).virtual_size == len(content)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(100),
        bytes(200_000),
        stream((8, 1 << 63)),
        stream(*[(8, 1 << 62)] * 4),
        stream((8, 8), count=1 << 62),
        stream((8, 8), count=0),
        stream((1 << 60, 8), body=8),
        stream((8, 8), body=4),
        stream((8, 8))[:-1] + b"z",
        stream((8, 8))[:-12] + stream((8, 8))[-12:-8] + b"\xff\xff\xff\xff" + b"\x00\x01YZ",
        stream((8, 8))[1:],
        stream((8, 8)) * (STREAMS_MAX + 1),
        b"\x00" * 12 + stream((8, 8))[12:],
    ],
    ids=range(14),
)
def test_what_cannot_be_says_nothing(data: bytes) -> None:
    """Hostile numbers: no disk has that size, or the file is not what they say."""
    assert unpacked_size(Bytes(data)) is None


def test_indexes_are_read_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of a file's together: what they cost is bounded."""
    one = stream(*[(4, 4)] * 100)
    monkeypatch.setattr(image_xz, "INDEX_MAX", 700)
    assert unpacked_size(Bytes(one * 3)) == 1200
    assert unpacked_size(Bytes(one * 4)) is None
    assert INDEX_MAX <= 4 * MIB


def test_a_size_above_the_limit_is_refused_before_a_byte_is_unpacked() -> None:
    """The index is enough for a refusal, as a header is for other formats."""
    packed = lzma.compress(bytes(3 * MIB))
    assert inspect_image(Bytes(packed), max_virtual_size=3 * MIB).safe
    assert inspect_image(Bytes(packed), max_virtual_size=3 * MIB - 1).refusal is LimitError


@given(st.data())
def test_nothing_that_the_bytes_say_is_an_error(data: st.DataObject) -> None:
    """Any file: a size or none, never an exception."""
    whole = bytearray(
        stream(
            *data.draw(
                st.lists(st.tuples(st.integers(0, 1 << 63), st.integers(0, 1 << 63)), max_size=4)
            ),
            body=8,
        )
    )
    for at in data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=4)):
        whole[at] = data.draw(st.integers(0, 255))
    found = unpacked_size(Bytes(bytes(whole)))
    assert found is None or 0 < found < 1 << 63
