# SPDX-License-Identifier: Apache-2.0
"""Does a list of pieces that crosses the wire fit its file, and stay small?"""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastdl.errors import AgentRefusedError
from fastdl.wire import pieces

MIB = 1 << 20


@given(size=st.integers(0, 1 << 50))
def test_a_list_stays_below_its_limit(size: int) -> None:
    """However large the file is; small ones have none."""
    length = pieces.length_for(size)
    if not length:
        assert size < pieces.LEAST_SOURCE or size > pieces.PIECES_MAX * pieces.LENGTH_MAX
        return
    hashes = bytes(32 * -(-size // length))
    text = pieces.packed(hashes)
    assert len(text) <= pieces.HASHES_MAX
    assert pieces.unpacked(text, size=size, length=length) == hashes


@pytest.mark.parametrize(
    ("text", "size", "length"),
    [
        ("", 40 * MIB, MIB),
        ("!!!!", 40 * MIB, MIB),
        (pieces.packed(bytes(32 * 39)), 40 * MIB, MIB),
        (pieces.packed(bytes(32 * 41)), 40 * MIB, MIB),
        (pieces.packed(bytes(32 * 40))[:-1], 40 * MIB, MIB),
        (pieces.packed(bytes(32 * 40)) + "\n", 40 * MIB, MIB),
        (pieces.packed(bytes(32 * 40)), 40 * MIB, MIB + 1),
        (pieces.packed(bytes(32 * 80)), 40 * MIB, MIB // 2),
        (pieces.packed(bytes(32)), 40 * MIB, 2 << 30),
        (pieces.packed(bytes(0)), 0, MIB),
        (base64.b64encode(bytes(32 * 8193)).decode(), 8193 * MIB, MIB),
    ],
)
def test_what_does_not_fit_is_refused(text: str, size: int, length: int) -> None:
    """Whoever sent it."""
    with pytest.raises(AgentRefusedError):
        pieces.unpacked(text, size=size, length=length)


def test_only_a_sha256_can_have_a_list() -> None:
    """It is computed next to that one."""
    digits = "ab" * 32
    assert pieces.sha256_in("{SHA-256}" + digits.upper()) == digits
    assert pieces.sha256_in(digits) == digits
    for other in (None, "", "{MD5}" + "ab" * 16, "{SHA-512}" + "ab" * 64, "https://x/SUMS"):
        assert pieces.sha256_in(other) is None
