# SPDX-License-Identifier: Apache-2.0
"""What hosts are asked when somebody registers a source, and what that user may read of it."""

from __future__ import annotations

import asyncio

from fastdl.errors import FastdlError, InternalError, NetError
from fastdl.manager.api.spec import Call
from fastdl.manager.downloads import checksums, disclosure, transfers
from fastdl.manager.downloads.checksums import Fixed
from fastdl.manager.downloads.probing import HostRefusal
from fastdl.model.url import Url
from fastdl.wire import codec
from fastdl.wire import messages as m


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
        s.settings, reference, source, headers=headers, signed=keyring is not None
    )
    try:
        done = await s.probing.documents(zone_ids, args, account=call.user.account)
    except HostRefusal as refusal:
        raise _refused(call, what, refusal) from refusal.error
    if done is None:
        raise InternalError(
            "Couldn't find a host to fetch the checksum list: none is connected, or their agents "
            "are older than this manager"
        )
    try:
        return await asyncio.to_thread(checksums.fixed, reference, source, done, keyring)
    except FastdlError as exc:
        failure = codec.failure_of(exc.add_context(public_source=done.public_source))
        raise type(exc)(f"{what}: {disclosure.reason(failure, admin=call.user.admin)}") from exc
