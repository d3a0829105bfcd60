# SPDX-License-Identifier: Apache-2.0
"""fuzz_simplestreams.py - invariant: a document is refused with its own error class, or yields
only files below the publisher's URL, each with a strong digest from the document."""

from __future__ import annotations

from fastdl.errors import ChecksumListError
from fastdl.publishers.simplestreams import find_item, parse_source, product_files

BASE = "https://cloud.example/releases/"
SELECTORS = ("ubuntu:24.04:amd64:disk1.img", "com.ubuntu.cloud:server:24.04:amd64:disk1.img")


def one_input(data: bytes) -> None:
    """Read *data* as an index and as a file of products."""
    for selector in SELECTORS:
        product = parse_source(f"simplestreams:{BASE}#{selector}")
        try:
            for url in product_files(data, product, signed=False):
                assert url.request_text().startswith(BASE)
        except ChecksumListError:
            pass
        try:
            found = find_item(data, product)
        except ChecksumListError:
            continue
        if found is not None:
            assert found.url.request_text().startswith(BASE)
            assert "/../" not in found.url.path
            assert found.digest.strength == "strong"
            assert found.size is None or found.size > 0
