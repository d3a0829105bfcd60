# SPDX-License-Identifier: Apache-2.0
"""Does only that count of what an object store says which is about the whole object?"""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastdl.sources.store_digests import store_digests

MD5, SHA = (base64.b64encode(hashlib.new(n, b"x").digest()).decode() for n in ("md5", "sha256"))
OTHER = base64.b64encode(hashlib.md5(b"y").digest()).decode()


@pytest.mark.parametrize(
    ("fields", "part", "whole"),
    [
        ([("x-goog-hash", f"crc32c=AAAAAA==,md5={MD5}")], {"md5"}, {"md5"}),
        ([("x-goog-hash", "crc32c=AAAAAA=="), ("x-goog-hash", f"md5={MD5}")], {"md5"}, {"md5"}),
        ([("x-goog-hash", f"md5={MD5}"), ("x-goog-stored-content-encoding", "gzip")], set(), set()),
        ([("x-ms-blob-content-md5", MD5)], {"md5"}, {"md5"}),
        ([("content-md5", MD5)], set(), {"md5"}),
        ([("x-amz-checksum-sha256", SHA)], set(), {"sha-256"}),
        ([("x-amz-checksum-sha256", SHA + "-3")], set(), set()),
        ([("x-amz-checksum-sha256", SHA), ("x-amz-checksum-type", "COMPOSITE")], set(), set()),
        (
            [("x-amz-checksum-sha256", SHA), ("x-amz-checksum-type", "FULL_OBJECT")],
            set(),
            {"sha-256"},
        ),
        ([("content-md5", MD5), ("x-ms-blob-content-md5", OTHER)], {"md5"}, set()),
        ([("content-md5", SHA)], set(), set()),
        ([("content-md5", "!")], set(), set()),
        ([("etag", f'"{hashlib.md5(b"x").hexdigest()}"')], set(), set()),
    ],
)
def test_what_counts_of_a_part_and_of_the_whole(
    fields: list[tuple[str, str]], part: set[str], whole: set[str]
) -> None:
    """A sum of parts' sums, a part's digest or a packed object's would refuse right bytes."""
    assert {d.algorithm for d in store_digests(fields, whole=False)} == part
    assert {d.algorithm for d in store_digests(fields, whole=True)} == whole


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["x-goog-hash", "content-md5", "x-amz-checksum-sha1"]),
            st.text(max_size=60),
        )
    )
)
def test_any_fields_are_digests_or_nothing(fields: list[tuple[str, str]]) -> None:
    """They are an offer: nothing in them fails a download."""
    store_digests(fields, whole=True)
