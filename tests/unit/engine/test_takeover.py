# SPDX-License-Identifier: Apache-2.0
"""Which bytes are there, by aria2's control file?"""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from fastdl.engine.takeover import parse_control


def control(piece: int, total: int, bits: bytes, *, version: int = 1, info: bytes = b"") -> bytes:
    head = struct.pack(">HII", version, 0, len(info)) + info
    return head + struct.pack(">IQQI", piece, total, 0, len(bits)) + bits + struct.pack(">I", 0)


def test_complete_pieces() -> None:
    """Neighbours are joined, the last one ends with the file."""
    assert parse_control(control(10, 95, b"\xc0\x40"), 95) == [(0, 20), (90, 95)]
    assert parse_control(control(10, 95, b"\xff\xc0", info=b"h" * 20), 95) == [(0, 95)]
    assert parse_control(control(10, 95, b"\x00\x00"), 95) == []


def test_what_is_no_control_file_of_it() -> None:
    """Another length, version or number of pieces: then nothing is known."""
    for data in (
        b"",
        control(10, 95, b"\xc0\x40", version=2),
        control(10, 96, b"\xc0\x40"),
        control(0, 95, b"\xc0\x40"),
        control(10, 95, b"\xc0"),
        control(10, 95, b"\xc0\x40")[:-5],
    ):
        assert parse_control(data, 95) is None


@given(st.binary(max_size=200), st.integers(0, 10000))
def test_any_bytes(data: bytes, size: int) -> None:
    """Every range lies in the file."""
    for start, end in parse_control(data, size) or []:
        assert 0 <= start < end <= size
