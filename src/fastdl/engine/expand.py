# SPDX-License-Identifier: Apache-2.0
"""Sources that stand for a URL which has to be found first: products, objects of a store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastdl.engine.cancel import Cancel
    from fastdl.engine.options import FetchOptions


def expanded(
    sources: Sequence[str], options: FetchOptions, cancel: Cancel
) -> tuple[Sequence[str], FetchOptions]:
    """URLs and paths for *sources*, and *options* with what was learned on the way.

    UsageError, ChecksumListError; else as any source.
    """
    if any(source[:14].lower() == "simplestreams:" for source in sources):
        from fastdl.engine.source.products import with_product

        return with_product(sources, options, cancel)
    return sources, options
