# SPDX-License-Identifier: Apache-2.0
"""What the lab writes is what the parser reads."""

from __future__ import annotations

import hashlib

from fastdl.lab.metalink import metalink_of
from fastdl.sources.metalink import parse_metalink

CONTENT = bytes(range(256)) * 100
URLS = ["https://a.example/i?x=1&y=2", "https://b.example/i"]


def test_size_digests_pieces_and_ranks_come_back() -> None:
    """Names and URLs with characters of XML's own included."""
    text = metalink_of(CONTENT, URLS, name="a&b.raw", piece=16384)
    found = parse_metalink(text.encode())
    assert (found.name, found.size) == ("a&b.raw", len(CONTENT))
    assert [(mirror.url, mirror.priority) for mirror in found.mirrors] == [
        (URLS[0], 1),
        (URLS[1], 2),
    ]
    assert found.pieces is not None
    assert found.pieces.length == 16384
    assert found.pieces.hashes[:32] == hashlib.sha256(CONTENT[:16384]).digest()
    assert hashlib.sha256(CONTENT).hexdigest() in {digest.hex for digest in found.digests}
    assert not found.warnings
