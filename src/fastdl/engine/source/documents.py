# SPDX-License-Identifier: Apache-2.0
"""Small documents next to a source: fetched whole, under the same rules as the source."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastdl.engine.source.first_response import open_stream
from fastdl.errors import FastdlError, HttpStatusError, LimitError, PolicyError
from fastdl.model.referral import refused_source
from fastdl.model.url import Url
from fastdl.named_tuple import NamedTuple
from fastdl.sources.locate import make_mirror
from fastdl.sources.origin_rules import refused_by

if TYPE_CHECKING:
    from fastdl.core.net import Stream
    from fastdl.engine.cancel import Cancel
    from fastdl.engine.context import TransferContext
    from fastdl.engine.options import FetchOptions


class Document(NamedTuple):
    """*data*, from an address of class *peer*."""

    data: bytes
    peer: int


def fetch_document(
    ctx: TransferContext,
    url: Url,
    limit: int,
    *,
    what: str,
    headers: Sequence[tuple[str, str]] = (),
    linked_from: int | None = None,
    optional: bool = False,
) -> Document:
    """The document at *url*, of at most *limit* bytes, called *what* in errors.

    *linked_from*: class of the address that named it, None if the operator did. *optional*:
    no retries. LimitError if it is larger, otherwise as any source.
    """
    if reason := refused_by(ctx.options.origin_rules, url):
        raise PolicyError(reason, phase="resolve")
    mirror = make_mirror(url, headers=headers, linked_from=linked_from)
    stream, head = open_stream(ctx, mirror, url, ctx.cancel, give_up=lambda _: optional)
    try:
        return Document(read_all(stream, head, limit, what), stream.peer_class)
    except FastdlError as exc:
        exc.add_context(phase="resolve", origin=url.display())
        raise
    finally:
        stream.close()


def documents_job(
    sources: Sequence[str], options: FetchOptions, cancel: Cancel, *, limit: int
) -> list[bytes | None]:
    """The documents at *sources*, of at most *limit* bytes each; None for those behind the first
    that do not exist. Raises what ``fetch_sync`` would."""
    from fastdl.engine.context import TransferContext
    from fastdl.engine.rules import under_rules

    ctx = TransferContext(under_rules(options, sources), cancel)
    found: list[bytes | None] = []
    try:
        for source in sources:
            url = Url.parse(source)
            if reason := refused_source(url, options.policy):
                raise PolicyError(f"{url.display()}: {reason}", phase="resolve")
            try:
                document = fetch_document(
                    ctx,
                    url,
                    limit,
                    what="the document",
                    headers=options.headers,
                    optional=bool(found),
                )
            except HttpStatusError:
                if not found:
                    raise
                found.append(None)
            else:
                found.append(document.data)
    except FastdlError as exc:
        exc.add_context(public_source=ctx.public_only)
        raise
    return found


def read_all(stream: Stream, head: bytes, limit: int, what: str) -> bytes:
    """The rest of a small document, requested on until its end. LimitError behind *limit* bytes.

    Where two responses cannot be joined, one more is requested, with all of it.
    """
    parts, have = [head], len(head)
    anew = not stream.mirror.can_join
    while True:
        if have > limit:
            raise LimitError(f"{what} is larger than {limit >> 20} MiB", phase="resolve")
        data = stream.read(1 << 16)
        if not data:
            total = stream.mirror.total
            if total is None or have >= total:
                return b"".join(parts)
            if anew:
                anew, parts, have = False, [], 0
            stream.begin(have, min(total, limit + 1) - have)
            continue
        parts.append(data)
        have += len(data)
