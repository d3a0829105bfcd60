# SPDX-License-Identifier: Apache-2.0
"""Is the RC2 of old keystores the RC2 of RFC 2268?"""

from __future__ import annotations

import pytest

from fastdl.trust.keystore import rc2


@pytest.mark.parametrize(
    ("key", "sealed", "plain"),
    [
        ("ffffffffffffffff", "278b27e42e2f0d49", "ffffffffffffffff"),
        ("3000000000000000", "30649edf9be7d2c2", "1000000000000001"),
        ("88bca90e90875a7f0f79c384627bafb2", "2269552ab0f85ca6", "0000000000000000"),
    ],
)
def test_blocks_match_the_vectors_of_the_standard(key: str, sealed: str, plain: str) -> None:
    """The vectors of section 5 whose effective bits are all the bits of the key."""
    got = rc2.decrypt_cbc(bytes.fromhex(key), bytes(8), bytes.fromhex(sealed))
    assert got.hex() == plain
