# SPDX-License-Identifier: Apache-2.0
"""What servers say about a source besides its bytes: metalinks, Link fields, digests.

Their parsers are loaded only when needed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastdl.engine.source.facts import Offer
from fastdl.errors import FastdlError
from fastdl.model.digest import DigestSource
from fastdl.model.url import Url

if TYPE_CHECKING:
    from fastdl.core.net import Stream
    from fastdl.engine.source.draft import Draft
    from fastdl.sources.metalink import Metalink

_A_METALINK = "the metalink"
HTTP_OK = 200
_STORE_FIELDS = frozenset(
    {
        "x-goog-hash",
        "x-ms-blob-content-md5",
        "content-md5",
        "x-amz-checksum-sha256",
        "x-amz-checksum-sha1",
    }
)
_OFFERS = frozenset({"link", "digest", "repr-digest"})

Fields = Sequence[tuple[str, str]]


def is_metalink(content_type: str | None) -> bool:
    """Whether a Content-Type says so."""
    if "metalink" not in (content_type or "").lower():
        return False
    from fastdl.sources.metalink import is_metalink_media_type

    return is_metalink_media_type(content_type)


def take_metalink(draft: Draft, url: Url) -> None:
    """Fetch the typed metalink at *url*, and add its content."""
    from fastdl.engine.source.documents import fetch_document
    from fastdl.sources.metalink_xml import MAX_DOCUMENT

    found = fetch_document(
        draft.ctx, url, MAX_DOCUMENT, what=_A_METALINK, headers=draft.headers_for(url)
    )
    document = _parsed(draft, found.data, url, draft.ctx.options.metalink_file)
    draft.name = document.name
    draft.merge(document, url, found.peer)


def read_metalink(draft: Draft, stream: Stream, head: bytes, url: Url) -> Metalink:
    """The metalink whose beginning is *head* and whose rest *stream* gives: *url* was typed, and
    responded with it."""
    from fastdl.engine.source.documents import read_all
    from fastdl.sources.metalink_xml import MAX_DOCUMENT

    data = read_all(stream, head, MAX_DOCUMENT, _A_METALINK)
    return _parsed(draft, data, url, draft.ctx.options.metalink_file)


def _parsed(draft: Draft, data: bytes, url: Url, file_name: str | None) -> Metalink:
    """The content of *data*, if its signature is valid or none is required."""
    from fastdl.sources.metalink import parse_metalink

    document = parse_metalink(data, base_url=url, file_name=file_name)
    if draft.ctx.options.keyring is not None:
        from fastdl.engine.source.vouched import vouch_for_metalink

        vouch_for_metalink(draft, url, data, document.signatures)
    return document


def learn_from_fields(draft: Draft) -> None:
    """Add what header fields offer (RFC 6249, RFC 9530), including those of redirects.

    Redirectors know their mirrors. IntegrityError: a digest is another file's than is known.
    """
    response = draft.response
    if response is None or response.stream is None or not draft.urls[response.index].is_http:
        return
    stream = response.stream
    final = response.mirror.final_url or draft.urls[response.index].request_text()
    status, headers = stream.head()
    if not draft.provable:
        _learn_from_store(draft, headers, whole=status == HTTP_OK)
    for base, peer, fields in [*stream.redirects(), (final, stream.peer_class, headers)]:
        if _OFFERS & {name for name, _ in fields}:
            _learn(draft, base, final, fields, peer)


def _learn_from_store(draft: Draft, headers: Fields, *, whole: bool) -> None:
    """Take in what an object store says of the object, where nobody else says anything."""
    names = {name for name, _ in headers}
    if not names & _STORE_FIELDS or _OFFERS & names or "content-encoding" in names:
        return
    from fastdl.sources.store_digests import store_digests

    digests = store_digests(headers, whole=whole)
    draft.take_digests([(digest, DigestSource.STORE) for digest in digests])


def note_dead_end(draft: Draft, index: int, stream: Stream) -> bool:
    """Whether redirects of mirror *index* led to nothing and name other mirrors, for the first
    time: ``learn_from_dead_ends`` adds them."""
    redirects = stream.redirects()
    if index in draft.dead_ends or not any(_OFFERS & {n for n, _ in r[2]} for r in redirects):
        return False
    draft.dead_ends[index] = redirects
    return True


def learn_from_dead_ends(draft: Draft) -> bool:
    """Add the offers of redirects whose target failed; False if there are none.

    IntegrityError: a digest is another file's than is known.
    """
    found = {index: redirects for index, redirects in draft.dead_ends.items() if redirects}
    for index, redirects in found.items():
        draft.dead_ends[index] = ()
        for base, peer, fields in redirects:
            if _OFFERS & {name for name, _ in fields}:
                _learn(draft, base, None, fields, peer)
    return bool(found)


def _learn(draft: Draft, base_text: str, final_text: str | None, fields: Fields, peer: int) -> None:
    """Add the offers of a URL's response, sent by a peer of address class *peer*.

    *final_text*: where the bytes come from; None where that failed.
    """
    from fastdl.sources.discovery import discover

    try:
        base = Url.parse_sent(base_text)
        final = None if final_text is None else Url.parse_sent(final_text)
    except FastdlError as exc:  # the core followed it, so it is merely unusual
        draft.warnings.append(f"a redirect's offers are not used: {exc.message}")
        return
    found = discover(fields, base_url=base, provable=draft.provable)
    draft.warnings.extend(found.warnings)
    # A redirector's digests are independent of the server that sends the bytes.
    leads = final is None or base.origin != final.origin
    draft.take_digests(
        [(d, DigestSource.REDIRECT if leads else source) for d, source in found.digests]
    )
    if not draft.metalink:
        for url in found.metalinks[:1]:
            with contextlib.suppress(FastdlError):  # optional
                _merge_described(draft, base, Url.parse_sent(url), peer)
    for entry in found.mirrors:
        mirror = Url.parse_sent(entry.url)
        if final and (mirror.origin, mirror.target) == (final.origin, final.target):
            continue
        downgrade = base.scheme == "https" and mirror.scheme == "http"
        if downgrade and draft.integrity != "strong":
            continue
        # RFC 6249, 6: one request at a time to each mirror.
        draft.take_offer(Offer(mirror, entry.priority, 1, peer))


def _merge_described(draft: Draft, referrer: Url, url: Url, peer: int) -> None:
    """A metalink that a Link field of *referrer* names: an offer, its absence is not an error."""
    if referrer.scheme == "https" and url.scheme == "http":
        draft.warnings.append(f"{url.display()} is not used: an https source leads to http")
        return
    from fastdl.engine.source.documents import fetch_document
    from fastdl.sources.metalink import parse_metalink
    from fastdl.sources.metalink_xml import MAX_DOCUMENT

    found = fetch_document(draft.ctx, url, MAX_DOCUMENT, what=_A_METALINK, linked_from=peer)
    document = parse_metalink(found.data, base_url=url)
    if document.size is None or document.size == draft.size:
        # A document from outside does not lead inside because somebody inside named it.
        draft.merge(document, url, found.peer)
    else:
        draft.warnings.append(f"{url.display()} states a different size: it is not used")
