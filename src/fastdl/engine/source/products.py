# SPDX-License-Identifier: Apache-2.0
"""From a product of simplestreams to the file that it is now, with its digest and size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastdl.engine.context import TransferContext
from fastdl.engine.source.documents import fetch_document
from fastdl.engine.source.facts import Product
from fastdl.errors import ChecksumListError, UsageError
from fastdl.publishers.signatures import read_keyring
from fastdl.publishers.simplestreams import (
    MAX_DOCUMENT,
    Item,
    find_item,
    index_url,
    parse_source,
    product_files,
)
from fastdl.publishers.vouching import signed_part

if TYPE_CHECKING:
    from fastdl.engine.cancel import Cancel
    from fastdl.engine.options import FetchOptions
    from fastdl.model.url import Url


def with_product(
    sources: Sequence[str], options: FetchOptions, cancel: Cancel
) -> tuple[list[str], Product]:
    """The file that the one product among *sources* is, and what is known of it.

    Where a keyring is given, the index and the products have to be clear-signed (``.sjson``).
    ChecksumListError: there is no such product; else as any source.
    """
    from fastdl.engine.rules import under_rules

    if len(sources) != 1:
        raise UsageError("a product of simplestreams is the one source of a download")
    product = parse_source(sources[0])
    index = product.base.request_text()
    options = under_rules(options, [index])
    ctx = TransferContext(options, cancel)
    keyring = None if options.keyring is None else read_keyring(options.keyring)
    signers: list[str] = []

    def document(url: Url) -> bytes:
        found = fetch_document(
            ctx, url, MAX_DOCUMENT, what="a file of simplestreams", headers=options.headers
        )
        text, signer = signed_part(url, found.data, keyring, ())
        signers.extend([] if signer is None else [str(signer)])
        return text

    signed = keyring is not None
    item: Item | None = None
    for url in product_files(document(index_url(product, signed=signed)), product, signed=signed):
        item = find_item(document(url), product)
        if item is not None:
            break
    if item is None:
        raise ChecksumListError(f"{product} is in no file of products", phase="resolve")
    signed_by = signers[-1] if signers else None
    return [item.url.request_text()], Product(item.digest, item.size, signed_by)
