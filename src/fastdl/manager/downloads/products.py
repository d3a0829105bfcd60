# SPDX-License-Identifier: Apache-2.0
"""Where is the file of a product of simplestreams now? Hosts fetch the publisher's documents."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

from fastdl.errors import ApiParamError, ChecksumListError, UsageError
from fastdl.manager.downloads import checksums, transfers
from fastdl.manager.downloads.checksums import Fixed
from fastdl.manager.settings import Settings
from fastdl.model.url import Url
from fastdl.publishers import simplestreams
from fastdl.publishers.signatures import Keyring
from fastdl.publishers.simplestreams import Product
from fastdl.wire import messages as m

T = TypeVar("T")
Ask = Callable[[m.DocumentsArgs, Callable[[m.DocumentsDone], Any]], Awaitable[Any]]
"""Has a host fetch documents, and applies a function to them in a thread."""


def parse_product(settings: Settings, text: str) -> Product:
    """The product that *text* names; ApiParamError where it cannot be asked for now."""
    try:
        product = simplestreams.parse_source(text)
    except UsageError as exc:
        raise ApiParamError(f"Please specify a valid URL: {exc}") from None
    transfers.check_origin(settings, product.base.request_text())
    return product


async def find_file(settings: Settings, text: str, ask: Ask) -> tuple[Url, Fixed]:
    """The URL of the newest file of the product *text*, and its checksum.

    ApiParamError, ChecksumListError and the errors of *ask* and of signatures.
    """
    product = parse_product(settings, text)
    keyring = checksums.keyring_for(settings, product.base)
    signers: list[str] = []

    async def read(url: Url, use: Callable[[bytes], T]) -> T:
        args = m.DocumentsArgs(
            transfer=transfers.for_sources(settings, [url.request_text()]),
            most=checksums.PRODUCTS_MAX,
        )
        signer, found = await ask(args, lambda done: _used(url, done, keyring, use))
        signers.extend([signer] if signer else [])
        return cast("T", found)

    signed = keyring is not None
    files = await read(
        simplestreams.index_url(product, signed=signed),
        lambda data: simplestreams.product_files(data, product, signed=signed),
    )
    for url in files:
        item = await read(url, lambda data: simplestreams.find_item(data, product))
        if item is not None:
            return item.url, Fixed(
                item.digest.cloudstack(),
                f"{text.partition('@')[0]}@{item.version}",
                signers[-1] if signers else None,
                (),
                item.version,
            )
    raise ChecksumListError(f"{product} is in no file of products", phase="resolve")


def _used(
    url: Url, done: m.DocumentsDone, keyring: Keyring | None, use: Callable[[bytes], T]
) -> tuple[str | None, T]:
    signer, data = checksums.document(url, done, keyring)
    return signer, use(data)
