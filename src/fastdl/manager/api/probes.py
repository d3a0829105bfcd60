# SPDX-License-Identifier: Apache-2.0
"""What hosts are asked when somebody registers a source, and what that user may read of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import TypeVar

from fastdl.errors import ApiParamError, FastdlError, InternalError, NetError, UsageError
from fastdl.manager.api.spec import Call
from fastdl.manager.downloads import checksums, disclosure, transfers
from fastdl.manager.downloads.checksums import Fixed
from fastdl.manager.downloads.probing import HostRefusal
from fastdl.model.url import Url
from fastdl.publishers import simplestreams
from fastdl.wire import codec
from fastdl.wire import messages as m

T = TypeVar("T")


async def probe_source(
    call: Call, zone_ids: list[str], format_: str, headers: tuple[tuple[str, str], ...]
) -> m.ProbeDone:
    """What a host reports about the source that *call* registers; why none could look at it."""
    s, url = call.context, call.args["url"]
    args = m.ProbeArgs(
        transfer=transfers.for_sources(s.settings, [url], headers=headers), format=format_
    )
    try:
        done = await call.context.probing.probe(zone_ids, args, account=call.user.account)
    except HostRefusal as refusal:
        raise _refused(call, f"URL: {url} validation failed", refusal) from refusal.error
    if done is None:
        raise InternalError(f"Couldn't find a host to validate URL {url}")
    return done


def _refused(call: Call, what: str, refusal: HostRefusal) -> FastdlError:
    """Why a host could not look at a source, in as many words as the user may read."""
    exc = refusal.error
    why = disclosure.reason(codec.failure_of(exc), admin=call.user.admin)
    cls = NetError if why == disclosure.HIDDEN else type(exc)
    where = f"host {refusal.host.name}"
    if refusal.asked > 1:
        where += f", the last of {refusal.asked} that were asked"
    return cls(f"{what} on {where}: {why}")


async def listed_checksum(
    call: Call, zone_ids: list[str], text: str, headers: tuple[tuple[str, str], ...]
) -> Fixed:
    """What the list at *text* says of the template; its errors are those of the registration."""
    s = call.context
    reference = checksums.check_reference(s.settings, text)
    source, what = Url.parse(call.args["url"]), f"checksum: {reference.url.display()} failed"
    keyring = checksums.keyring_for(s.settings, source, reference.url)
    args = checksums.documents_args(
        s.settings, reference.url, source, headers=headers, keyring=keyring
    )
    done = await _documents(call, zone_ids, args, what)
    with _told(call, what, public=done.public_source):
        return await asyncio.to_thread(checksums.fixed, reference, source, done, keyring)


async def signed_metalink(
    call: Call, zone_ids: list[str], headers: tuple[tuple[str, str], ...]
) -> Fixed | None:
    """What the metalink that *call* registers says, where a rule demands that it is signed."""
    settings, url = call.context.settings, Url.parse(call.args["url"])
    keyring = checksums.keyring_for(settings, url)
    if keyring is None or not url.is_metalink_name():
        return None
    what = f"url: {url.display()} failed"
    args = checksums.documents_args(
        settings, url, url, headers=headers, keyring=keyring, most=checksums.PRODUCTS_MAX
    )
    done = await _documents(call, zone_ids, args, what)
    with _told(call, what, public=done.public_source):
        return await asyncio.to_thread(checksums.signed_metalink, url, done, keyring)


async def product_file(call: Call, zone_ids: list[str], text: str) -> tuple[Url, Fixed]:
    """Where the file of a product of simplestreams is now, and its checksum."""
    settings, what = call.context.settings, "url: the product failed"
    try:
        product = simplestreams.parse_source(text)
    except UsageError as exc:
        raise ApiParamError(f"Please specify a valid URL: {exc}") from None
    transfers.check_origin(settings, product.base.request_text())
    keyring = checksums.keyring_for(settings, product.base)
    signers: list[str] = []

    async def read(url: Url, use: Callable[[bytes], T]) -> T:
        args = m.DocumentsArgs(
            transfer=transfers.for_sources(settings, [url.request_text()]),
            most=checksums.PRODUCTS_MAX,
        )
        done = await _documents(call, zone_ids, args, what)
        with _told(call, what, public=done.public_source):
            signer, data = await asyncio.to_thread(checksums.document, url, done, keyring)
            signers.extend([signer] if signer else [])
            return await asyncio.to_thread(use, data)

    signed = keyring is not None
    files = await read(
        simplestreams.index_url(product, signed=signed),
        lambda data: simplestreams.product_files(data, product, signed=signed),
    )
    for url in files:
        item = await read(url, lambda data: simplestreams.find_item(data, product))
        if item is not None:
            source = f"{text.partition('@')[0]}@{item.version}"
            signed_by = signers[-1] if signers else None
            return item.url, Fixed(item.digest.cloudstack(), source, signed_by, ())
    raise ApiParamError(f"Please specify a valid URL: there is no product {product}")


async def _documents(
    call: Call, zone_ids: list[str], args: m.DocumentsArgs, what: str
) -> m.DocumentsDone:
    try:
        done = await call.context.probing.documents(zone_ids, args, account=call.user.account)
    except HostRefusal as refusal:
        raise _refused(call, what, refusal) from refusal.error
    if done is None:
        raise InternalError(
            "Couldn't find a host to fetch the checksum list: none is connected, or their agents "
            "are older than this manager"
        )
    return done


@contextlib.contextmanager
def _told(call: Call, what: str, *, public: bool) -> Iterator[None]:
    """What is wrong with a document, in as many words as the user may read."""
    try:
        yield
    except FastdlError as exc:
        failure = codec.failure_of(exc.add_context(public_source=public))
        raise type(exc)(f"{what}: {disclosure.reason(failure, admin=call.user.admin)}") from exc
