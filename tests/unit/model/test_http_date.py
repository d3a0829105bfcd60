# SPDX-License-Identifier: Apache-2.0
"""Are dates of HTTP fields read as the standard library reads them?"""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastdl.model.http_date import parse_http_date


@given(st.integers(0, 253_000_000_000))
def test_every_date(seconds: int) -> None:
    """Leap years included."""
    date = datetime.fromtimestamp(seconds, UTC)
    assert parse_http_date(format_datetime(date, usegmt=True)) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "Sun, 06 Nov 1969 08:49:37 GMT",
        "Sun, 31 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 24:49:37 GMT",
        "Sun, 06 Nox 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 08:49:37 +0100",
        "Sunday, 06-Nov-94 08:49:37 GMT",
    ],
)
def test_no_date(text: str) -> None:
    """Nothing is guessed."""
    assert parse_http_date(text) is None
