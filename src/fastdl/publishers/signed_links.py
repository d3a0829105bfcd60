# SPDX-License-Identifier: Apache-2.0
"""Until when is a signed link valid? Reads the forms of S3, Google, Azure and CloudFront."""

from __future__ import annotations

import datetime as dt
from urllib.parse import parse_qsl


def expires_at(query: str | None) -> float | None:
    """Seconds since 1970 from which a URL with *query* is refused; None if it does not say."""
    try:
        given = {name.lower(): value for name, value in parse_qsl(query or "", max_num_fields=100)}
        for store in ("x-amz", "x-goog"):
            if f"{store}-expires" in given:
                start = _moment(given[f"{store}-date"])
                return start + int(given[f"{store}-expires"])
        if "expires" in given:
            return float(int(given["expires"]))
        if "sig" in given and "se" in given:
            return _moment(given["se"])
    except (ValueError, KeyError, OverflowError):
        pass
    return None


def _moment(text: str) -> float:
    """Seconds since 1970 of a date with a time zone; ValueError for anything else."""
    found = dt.datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError("a date without a zone")
    return found.timestamp()
