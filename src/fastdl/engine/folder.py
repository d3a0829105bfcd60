# SPDX-License-Identifier: Apache-2.0
"""Which file of a folder does a job fill? A metalink or a response may name it.

So the source is resolved first; the response stays open for the transfer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastdl.core.net import Stream
from fastdl.engine.source.first_response import HEAD_BYTES
from fastdl.engine.workspace import Workspace, open_workspace
from fastdl.errors import Cancelled, FastdlError, UsageError
from fastdl.model.url import Url
from fastdl.sources.locate import make_mirror, with_login
from fastdl.sources.naming import disposition_name, named, url_name

if TYPE_CHECKING:
    from fastdl.engine.context import TransferContext
    from fastdl.engine.source.facts import SourceFacts
    from fastdl.engine.source.first_response import FirstResponse
    from fastdl.engine.source.resolve import Source


def open_named(folder: str, source: Source, ctx: TransferContext) -> Workspace:
    """The workspace of the file in *folder* that *source* names.

    UsageError: it is several files, or names none; else as ``resolve`` and ``open_workspace``.
    """
    try:
        facts, response = source.look()
    except FastdlError as exc:
        exc.add_context(public_source=ctx.public_only)
        raise
    if ctx.options.checksum is None and not facts.metalink:
        _check_same_file(facts, response, ctx)
    name = named(_name(facts, response, ctx), folder)
    return open_workspace(folder, ctx.options, ctx.placement, name_hint=name)


def _name(facts: SourceFacts, response: FirstResponse, ctx: TransferContext) -> str | None:
    if facts.name is not None:
        return facts.name.rpartition("/")[2]
    proposed = None
    if ctx.options.content_disposition and response.disposition is not None:
        proposed = disposition_name(response.disposition)
    return proposed or url_name(facts.sources)


def _check_same_file(facts: SourceFacts, response: FirstResponse, ctx: TransferContext) -> None:
    """Refuse several typed sources that are different files: only one of them would be fetched.

    Nothing vouches here for what they have in common but their length and first bytes, so each
    is asked for these.
    """
    typed = {Url.parse(text).request_text() for text in facts.sources}
    mine = facts.urls[response.index]
    for index, url in enumerate(facts.urls):
        if index == response.index or url.request_text() not in typed:
            continue
        try:
            why = _difference(facts, response, index, ctx)
        except Cancelled:
            raise
        except FastdlError as exc:
            if url.last_segment() == mine.last_segment():
                continue  # a mirror that is away; where it is needed the transfer says so
            why = f"the first cannot be asked ({exc.message})"
        if why:
            raise UsageError(
                f"{url.display()} and {mine.display()} are not known to be one file: {why}. "
                "Several sources are mirrors; to fetch each as a file of its own add -Z, or list "
                "them for -i; for mirrors give --checksum"
            )


def _difference(
    facts: SourceFacts, response: FirstResponse, index: int, ctx: TransferContext
) -> str | None:
    if facts.mirrors[index].state == "disqualified":
        return facts.mirrors[index].reason
    # Of its own: what it learns here would keep the transfer from joining its responses.
    url = facts.urls[index]
    headers = with_login(url, ctx.options.headers, ctx.options.credentials)
    mirror = make_mirror(url, headers=headers)
    stream = Stream(ctx.net, mirror, ctx.cancel.wakeup)
    try:
        stream.begin(0, HEAD_BYTES)
        if mirror.total is None or facts.size is None:
            return "a length is not known"
        if mirror.total != facts.size:
            return f"they have {mirror.total} and {facts.size} bytes"
        head = b""
        while len(head) < len(response.head) and (
            data := stream.read(len(response.head) - len(head))
        ):
            head += data
    finally:
        stream.close()
    if not response.head.startswith(head[: len(response.head)]):
        return "they begin with other bytes"
    return None
