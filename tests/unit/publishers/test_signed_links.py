# SPDX-License-Identifier: Apache-2.0
"""Is it known until when a signed link is good?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastdl.publishers.signed_links import expires_at


@pytest.mark.parametrize(
    ("query", "end"),
    [
        ("X-Amz-Date=20260101T000000Z&X-Amz-Expires=60&X-Amz-Signature=a", 1767225660.0),
        ("X-Goog-Date=20260101T000000Z&X-Goog-Expires=60", 1767225660.0),
        ("Expires=1767225660&Signature=a", 1767225660.0),
        ("sv=1&se=2026-01-01T00%3A01%3A00Z&sig=a", 1767225660.0),
        ("X-Amz-Expires=60", None),
        ("X-Amz-Date=x&X-Amz-Expires=60", None),
        ("se=2026-01-01T00:01:00Z", None),
        ("Expires=soon", None),
        ("", None),
        (None, None),
    ],
)
def test_each_store_has_its_way_to_say_it(query: str | None, end: float | None) -> None:
    """S3 and Google: a date and seconds; CloudFront and older ones: a time; Azure: a date."""
    assert expires_at(query) == end


@given(st.text())
def test_anything_else_says_nothing(query: str) -> None:
    """A server's link may hold anything."""
    expires_at(query)
