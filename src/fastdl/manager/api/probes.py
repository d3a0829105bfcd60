# SPDX-License-Identifier: Apache-2.0
"""What hosts are asked when somebody registers a source, and what that user may read of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import TypeVar

from fastdl.errors import ApiParamError, FastdlError, InternalError, NetError
from fastdl.manager.api.spec import Call
from fastdl.manager.downloads import checksums, disclosure, objects, products, transfers
from fastdl.manager.downloads.checksums import Fixed
from fastdl.manager.downloads.probing import HostRefusal
from fastdl.model.url import Url
from fastdl.publishers.s3 import is_object
from fastdl.wire import codec
from fastdl.wire import messages as m

T = TypeVar("T")


async def locate(call: Call) -> Url:
    """Where the source that *call* names is, without a signature; ApiParamError where it cannot
    be an origin."""
    settings, text = call.context.settings, call.args["url"]
    if not is_object(text):
        return transfers.check_origin(settings, text)
    objects.check_object(settings, text, admin=call.user.admin)
    url = await asyncio.to_thread(objects.location, settings, text)
    return transfers.check_origin(settings, url.request_text())


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
    call: Call, zone_ids: list[str], text: str, source: Url, headers: tuple[tuple[str, str], ...]
) -> Fixed:
    """What the list at *text* says of the template; its errors are those of the registration."""
    s = call.context
    reference = checksums.check_reference(s.settings, text)
    what = f"checksum: {reference.url.display()} failed"
    keyring = checksums.keyring_for(s.settings, source, reference.url)
    args = checksums.documents_args(
        s.settings, reference.url, source, headers=headers, keyring=keyring
    )
    done = await _documents(call, zone_ids, args, what)
    with _told(call, what, public=done.public_source):
        return await asyncio.to_thread(checksums.fixed, reference, source, done, keyring)


async def signed_metalink(
    call: Call, zone_ids: list[str], url: Url, headers: tuple[tuple[str, str], ...]
) -> Fixed | None:
    """What the metalink that *call* registers says, where a rule demands that it is signed."""
    settings = call.context.settings
    keyring = checksums.keyring_for(settings, url)
    if keyring is None or not url.is_metalink_name():
        return None
    if is_object(call.args["url"]):
        raise ApiParamError("Signatures beside objects of a store are not looked for: name a list")
    what = f"url: {url.display()} failed"
    args = checksums.documents_args(
        settings, url, url, headers=headers, keyring=keyring, most=checksums.PRODUCTS_MAX
    )
    done = await _documents(call, zone_ids, args, what)
    with _told(call, what, public=done.public_source):
        return await asyncio.to_thread(checksums.signed_metalink, url, done, keyring)


async def product_file(call: Call, zone_ids: list[str], text: str) -> tuple[Url, Fixed]:
    """Where the file of a product of simplestreams is now, and its checksum."""
    what = "url: the product failed"

    async def ask(args: m.DocumentsArgs, use: Callable[[m.DocumentsDone], T]) -> T:
        done = await _documents(call, zone_ids, args, what)
        with _told(call, what, public=done.public_source):
            return await asyncio.to_thread(use, done)

    return await products.find_file(call.context.settings, text, ask)


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
