# SPDX-License-Identifier: Apache-2.0
"""The request headers among a template's details."""

from __future__ import annotations

from collections.abc import Iterator, Mapping


def header_items(details: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """Yield (key, header's name, value) of those *details* that are request headers."""
    for key, value in details.items():
        if key.upper().startswith("HTTP_HEADER"):
            yield key, key.split(":")[1] if ":" in key else "", value
