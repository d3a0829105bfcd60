# SPDX-License-Identifier: Apache-2.0
"""Lists that are short enough to be filtered in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from fastdl.manager.api import filters
from fastdl.manager.api.spec import Call, Listing


def page_of(
    call: Call,
    name: str,
    items: Iterable[dict[str, Any]],
    *,
    also: tuple[str, Callable[[dict[str, Any]], dict[str, Any]]] | None = None,
) -> Listing:
    """Return the page that was asked for of those *items*, rows as they are shown, that match the
    request's filters. *also*: a second name of the list, and how its rows look there."""
    first, size = call.page()
    kept = filters.narrow(call.command.narrows, call.args, items)
    page = kept[first : first + size]
    second = None if also is None else (also[0], [also[1](item) for item in page])
    return Listing(name, page, len(kept), second)
