# SPDX-License-Identifier: Apache-2.0
"""Lists that are short enough to be filtered in memory."""

from __future__ import annotations

from typing import Any

from fastdl.manager.api.spec import Call, Listing


def page_of(call: Call, name: str, items: list[dict[str, Any]]) -> Listing:
    """Return the page of *items* that was asked for."""
    first, size = call.page()
    return Listing(name, items[first : first + size], len(items))


def keyword(call: Call, name: str) -> bool:
    """Whether *name* has the keyword that was asked for, if one was."""
    word = call.get("keyword")
    return word is None or word.lower() in name.lower()
