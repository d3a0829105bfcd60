# SPDX-License-Identifier: Apache-2.0
"""RESOLVE: who has these bytes, how many, and which digests prove them.

The first request is a ranged GET that answers everything at once; its open answer and the
bytes read so far go on into the transfer, nothing is asked twice.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from fastdl.core.net import Mirror, Net, Stream
from fastdl.engine.cancel import Cancel
from fastdl.engine.net import make_net
from fastdl.engine.options import FetchOptions
from fastdl.errors import (
    FastdlError,
    HttpStatusError,
    IntegrityError,
    MetalinkError,
    NetError,
    PolicyError,
    SizeError,
    UsageError,
)
from fastdl.model.digest import Digest, DigestSet, DigestSource
from fastdl.model.referral import refused_source
from fastdl.model.url import Origin, Url
from fastdl.sources.locate import make_mirror

if TYPE_CHECKING:
    from fastdl.sources.metalink import Metalink, Pieces

MAX_DOCUMENT = 8 << 20
HEAD_BYTES = 64 << 10
"""Read before the transfer starts: enough for every format's magic but an ISO's."""
FIRST_RANGE = 1 << 20
HEDGE_PROBE_S = 0.4
RETRY_AFTER_MAX_S = 600
MAX_MIRRORS = 64
_OFFERS = frozenset({"link", "digest", "repr-digest"})


class Offer(NamedTuple):
    """A mirror that somebody at a class of address (*from_class*) named."""

    url: Url
    priority: int
    max_connections: int
    from_class: int


class Resolved:
    """The answer. *urls* and *mirrors* run in parallel; *stream* is open on ``mirrors[first]``."""

    def __init__(self, net: Net) -> None:
        self.net = net
        self.urls: list[Url] = []
        self.mirrors: list[Mirror] = []
        self.typed: frozenset[Origin] = frozenset()
        self.offers: list[Offer] = []
        self.size: int | None = None
        self.digests = DigestSet()
        self.pieces: Pieces | None = None
        self.head = b""
        self.stream: Stream | None = None
        self.first = -1
        self.metalink = False
        self.one_response = False
        self.content_type: str | None = None
        self.warnings: list[str] = []

    @property
    def provable(self) -> bool:
        """Whether bytes of different origins may be joined."""
        return len(self.digests) > 0 or self.pieces is not None

    @property
    def piece_length(self) -> int | None:
        """Bytes of a piece, None where no pieces are known."""
        return self.pieces.length if self.pieces else None

    def note_reach(self, exc: BaseException) -> None:
        """Put into *exc* whether it may be told to whoever named the source."""
        if isinstance(exc, FastdlError):
            exc.add_context(public_source=self.net.public_only)

    def close(self) -> None:
        """Drop the open answer, where nobody took it."""
        if self.stream is not None:
            self.stream.close()
            self.stream = None


def resolve(
    sources: Sequence[str],
    options: FetchOptions,
    cancel: Cancel,
    *,
    struck: Sequence[str] = (),
    earlier: Resolved | None = None,
) -> Resolved:
    """Find mirrors, size, digests and the first bytes.

    *struck*   URLs that are not to be used
    *earlier*  an answer for the same bytes: who told of other mirrors then may be struck now
    """
    if not sources:
        raise UsageError("at least one source is needed")
    urls = [Url.parse(text) for text in sources]
    for url in urls:
        if reason := refused_source(url, options.policy):
            raise PolicyError(f"{url.display()}: {reason}", phase="resolve")
    out = Resolved(make_net(options))
    out.typed = frozenset(url.origin for url in urls)
    if options.checksum is not None:
        out.digests.add(options.checksum, DigestSource.USER)
    try:
        plain = [url for url in urls if not url.is_metalink_name()]
        for url in urls:
            if url.is_metalink_name():
                _take_metalink(out, url, options, cancel)
        for url in plain:
            mirror = make_mirror(
                url,
                headers=options.headers,
                priority=1,
                max_connections=options.max_connections_per_origin,
            )
            _add(out, url, mirror)
        if earlier is not None and earlier.provable:
            # What a mirror said of its own bytes went with the mirror.
            _take_digests(out, [(d, s) for d, s in earlier.digests.items() if s.independent])
            if earlier.metalink:
                out.pieces, out.size = out.pieces or earlier.pieces, out.size or earlier.size
            for offer in earlier.offers:
                _take_offer(out, offer, options)
        for index, url in enumerate(out.urls):
            if url.display() in struck:
                out.mirrors[index].strike("it was found to be bad before")
        _open_first(out, options, cancel)
        if not out.metalink and is_metalink(out.content_type):
            _follow_metalink_answer(out, options, cancel)
        else:
            _learn_from_head(out, options, cancel)
        _check_policy(out, options)
    except BaseException as exc:
        out.note_reach(exc)
        out.close()
        raise
    return out


def _add(out: Resolved, url: Url, mirror: Mirror) -> None:
    shown = [u.request_text() for u in out.urls]
    if url.request_text() not in shown and len(out.mirrors) < MAX_MIRRORS:
        out.urls.append(url)
        out.mirrors.append(mirror)


def _take_offer(out: Resolved, offer: Offer, options: FetchOptions) -> None:
    """Add the mirror; a warning where it cannot be one."""
    try:
        mirror = make_mirror(
            offer.url,
            # The operator's headers are for what the operator typed, whoever leads there.
            headers=options.headers if offer.url.origin in out.typed else (),
            priority=offer.priority,
            max_connections=offer.max_connections,
            linked_from=offer.from_class,
        )
    except FastdlError as exc:
        out.warnings.append(f"{offer.url.display()} is not used: {exc.message}")
        return
    out.offers.append(offer)
    _add(out, offer.url, mirror)


# ---- metalinks ---------------------------------------------------------------


def _read_all(stream: Stream, head: bytes, limit: int) -> bytes:
    """The rest of a small document, asked for on until its end.

    Where two responses cannot be joined, one more is asked for, with all of it.
    """
    parts, have = [head], len(head)
    anew = not stream.mirror.can_join
    while True:
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
        if have > limit:
            raise MetalinkError(f"the metalink is larger than {limit >> 20} MiB", phase="resolve")


def _take_metalink(out: Resolved, url: Url, options: FetchOptions, cancel: Cancel) -> None:
    mirror = make_mirror(url, headers=options.headers)
    stream, head = _open(out.net, mirror, url, options, cancel)
    try:
        data = _read_all(stream, head, MAX_DOCUMENT)
        peer = stream.peer_class
    finally:
        stream.close()
    from fastdl.sources.metalink import parse_metalink  # noqa: PLC0415 - only for metalinks

    document = parse_metalink(data, base_url=url, file_name=options.metalink_file)
    _merge(out, document, url, peer, options)


def _merge(out: Resolved, document: Metalink, url: Url, peer: int, options: FetchOptions) -> None:
    """Take the document's mirrors, size and digests in; contradictions are errors.

    *peer*: class of the address that *url* led to.
    """
    if document.size is not None and out.size not in (None, document.size):
        raise SizeError("two metalinks give different sizes", phase="resolve")
    _take_digests(out, [(digest, DigestSource.METALINK) for digest in document.digests])
    out.metalink = True
    out.warnings.extend(document.warnings)
    out.size = out.size if document.size is None else document.size
    out.pieces = out.pieces or document.pieces
    strong = any(d.strength == "strong" for d in out.digests) or (
        out.pieces is not None and out.pieces.algorithm not in ("md5", "sha-1")
    )
    for entry in document.mirrors:
        where = Url.parse_sent(entry.url)
        if url.scheme == "https" and where.scheme == "http" and not strong:
            out.warnings.append(
                f"{where.display()} is not used: an https metalink leads to http without a "
                "strong digest"
            )
            continue
        per_origin = options.max_connections_per_origin
        most = min(entry.maxconnections or per_origin, per_origin)
        _take_offer(out, Offer(where, entry.priority, most, peer), options)
    if not out.mirrors:
        raise PolicyError("the metalink leaves no mirror that may be used", phase="resolve")


def is_metalink(content_type: str | None) -> bool:
    """Whether a Content-Type says so; what reads metalinks is loaded for them only."""
    if "metalink" not in (content_type or "").lower():
        return False
    from fastdl.sources.metalink import is_metalink_media_type  # noqa: PLC0415

    return is_metalink_media_type(content_type)


def _follow_metalink_answer(out: Resolved, options: FetchOptions, cancel: Cancel) -> None:
    """A plain URL answered with a metalink: the media type says so."""
    url, stream = out.urls[out.first], out.stream
    if not options.metalink_by_type:
        raise PolicyError(
            f"{url.display()} answers with a metalink where an image was named: a metalink's "
            "URL ends in .metalink or .meta4",
            phase="resolve",
        )
    from fastdl.sources.metalink import parse_metalink  # noqa: PLC0415

    if stream is None:
        raise MetalinkError("the metalink's answer is gone", phase="resolve")
    data = _read_all(stream, out.head, MAX_DOCUMENT)
    peer = stream.peer_class
    out.close()
    out.urls.clear()
    out.mirrors.clear()
    out.size = None
    out.head = b""
    _merge(
        out, parse_metalink(data, base_url=url, file_name=options.metalink_file), url, peer, options
    )
    _open_first(out, options, cancel)
    _learn_from_head(out, options, cancel)


# ---- the first answer --------------------------------------------------------


def backoff(attempt: int, retry_after_s: float | None) -> float:
    """Seconds to wait after the failure number *attempt* (from 0), or what the server asks for."""
    return max(min(0.2 * 2.0**attempt, 8.0), retry_after_s or 0.0)


def _open(
    net: Net, mirror: Mirror, url: Url, options: FetchOptions, cancel: Cancel
) -> tuple[Stream, bytes]:
    """A stream at offset 0 with its first bytes; temporary failures are retried."""
    stream = Stream(net, mirror, cancel.wake)
    for attempt in range(options.retry + 1):
        try:
            stream.begin(0, FIRST_RANGE)
            return stream, _read_head(stream)
        except FastdlError as exc:
            exc.add_context(phase="resolve", origin=url.display())
            after = exc.retry_after_s
            last = attempt == options.retry
            again = isinstance(exc, NetError) or (
                isinstance(exc, HttpStatusError) and exc.retryable
            )
            mirror.note_error()
            cancel.check()
            if last or not again or (after or 0) > RETRY_AFTER_MAX_S:
                stream.close()
                raise
            pause(backoff(attempt, after), cancel)
    raise AssertionError("unreachable")


def pause(seconds: float, cancel: Cancel) -> None:
    """Sleep; Cancelled as soon as that is asked for."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        cancel.check()
        time.sleep(min(left, 0.1))


def _read_head(stream: Stream) -> bytes:
    parts, have = [], 0
    while have < HEAD_BYTES:
        data = stream.read(HEAD_BYTES - have)
        if not data:
            break
        parts.append(data)
        have += len(data)
    return b"".join(parts)


def _open_first(out: Resolved, options: FetchOptions, cancel: Cancel) -> None:
    """Open the best mirror; the next one is asked too where the first is slow to answer."""
    for mirror in out.mirrors:
        mirror.prove(out.provable)
        if out.size is not None:
            mirror.expect(out.size)
    order = sorted(
        (i for i in range(len(out.mirrors)) if out.mirrors[i].state == "ok"),
        key=lambda i: out.mirrors[i].priority,
    )
    if not order:
        raise NetError("no usable mirror is left", phase="resolve")
    if len(order) == 1:
        out.stream, out.head = _open(
            out.net, out.mirrors[order[0]], out.urls[order[0]], options, cancel
        )
        _use(out, order[0], options, cancel)
        return
    from fastdl.engine.race import first_answer  # noqa: PLC0415 - threads only where needed

    def attempt(index: int, wake: Cancel) -> tuple[Stream, bytes]:
        return _open(out.net, out.mirrors[index], out.urls[index], options, wake)

    index, (out.stream, out.head), failed = first_answer(order, attempt, cancel, HEDGE_PROBE_S)
    for other, exc in failed.items():
        if not exc.retryable:
            out.mirrors[other].strike(exc.message)
        out.warnings.append(f"{out.urls[other].display()}: {exc.message}")
    _use(out, index, options, cancel)


def _use(out: Resolved, index: int, options: FetchOptions, cancel: Cancel) -> None:
    """Take the answer of a mirror; what has another file is disqualified and the next asked."""
    out.first = index
    assert out.stream is not None
    _, headers = out.stream.head()
    out.content_type = dict(headers).get("content-type")
    total, shown = out.mirrors[index].total, out.urls[index].display()
    if out.size is not None and (_surplus(out) if total is None else total != out.size):
        has = "more" if total is None else total
        text = f"{shown} has {has} bytes, the metalink says {out.size}"
        wrong: FastdlError = SizeError(text, phase="resolve")
        _disqualify_first(out, wrong, "its file has another size", options, cancel)
    elif out.metalink and is_metalink(out.content_type) and not out.urls[index].is_metalink_name():
        wrong = MetalinkError(f"{shown}: a metalink leads to another metalink", phase="resolve")
        _disqualify_first(out, wrong, "it answers with another metalink", options, cancel)
    elif out.size is None:
        out.size = total


def _disqualify_first(
    out: Resolved, wrong: FastdlError, reason: str, options: FetchOptions, cancel: Cancel
) -> None:
    """Go on from another mirror than the one that answered; raise *wrong* where none is left."""
    out.close()
    out.mirrors[out.first].note_error()
    out.mirrors[out.first].strike(reason)
    if all(mirror.state != "ok" for mirror in out.mirrors):
        raise wrong
    out.warnings.append(wrong.message)
    _open_first(out, options, cancel)


def keep_to_one_response(out: Resolved, options: FetchOptions, cancel: Cancel) -> None:
    """See to it that all bytes come in one response where parts of several cannot be joined.

    They can under a strong validator, or where a digest decides.
    """
    mirror, stream = out.mirrors[out.first], out.stream
    if stream is None or mirror.can_join:
        return
    out.one_response = True
    out.warnings.append(
        "the server sends no strong validator and no checksum is known: everything has to come "
        "in one response"
    )
    if stream.whole or (stream.end is not None and stream.end == out.size):
        return
    out.close()
    mirror.ask_for_the_whole()
    out.size = mirror.expected
    out.stream, out.head = _open(out.net, mirror, out.urls[out.first], options, cancel)
    _use(out, out.first, options, cancel)


def _surplus(out: Resolved) -> bool:
    """Whether an answer that does not tell its size goes on behind the one that is known."""
    assert out.stream is not None
    assert out.size is not None
    if len(out.head) == out.size:
        out.head += out.stream.read(1)
    return len(out.head) > out.size


def _learn_from_head(out: Resolved, options: FetchOptions, cancel: Cancel) -> None:
    """Mirrors and digests that header fields offer (RFC 6249, RFC 9530), on the way and at its
    end: redirectors know their mirrors. A mirror whose own digest is another file's is
    disqualified, and the next one asked."""
    stream, url = out.stream, out.urls[out.first]
    if stream is None or not url.is_http:
        return
    final = out.mirrors[out.first].final_url or url.request_text()
    _, headers = stream.head()
    told = [*stream.redirects(), (final, stream.peer_class, headers)]
    try:
        for base, peer, fields in told:
            if _OFFERS & {name for name, _ in fields}:
                _learn(out, base, final, fields, peer, options, cancel)
    except IntegrityError as exc:
        _disqualify_first(out, exc, "its digest is another file's", options, cancel)
        _learn_from_head(out, options, cancel)


def _learn(
    out: Resolved,
    base_text: str,
    final_text: str,
    fields: Sequence[tuple[str, str]],
    peer: int,
    options: FetchOptions,
    cancel: Cancel,
) -> None:
    """Take in what the response of a URL offers, which a class of address *peer* sent.

    IntegrityError: its digests are of another file than those that are known.
    """
    from fastdl.sources.discovery import discover  # noqa: PLC0415 - rare

    try:
        base, final = Url.parse_sent(base_text), Url.parse_sent(final_text)
    except FastdlError as exc:  # the core followed it, so it is no more than odd
        out.warnings.append(f"what a redirect offers is not used: {exc.message}")
        return
    found = discover(fields, base_url=base, provable=out.provable)
    out.warnings.extend(found.warnings)
    # Who only leads to the bytes vouches for what others send.
    leads = base.origin != final.origin
    _take_digests(
        out, [(d, DigestSource.REDIRECT if leads else source) for d, source in found.digests]
    )
    if not out.metalink:
        for where in found.metalinks[:1]:
            with contextlib.suppress(FastdlError):  # an offer, not a must
                _merge_described(out, base, Url.parse_sent(where), peer, options, cancel)
    for entry in found.mirrors:
        where_url = Url.parse_sent(entry.url)
        if (where_url.origin, where_url.target) == (final.origin, final.target):
            continue
        if (
            base.scheme == "https"
            and where_url.scheme == "http"
            and out.digests.integrity() != "strong"
        ):
            continue
        # RFC 6249, 6: one request at a time to each mirror.
        _take_offer(out, Offer(where_url, entry.priority, 1, peer), options)


def _take_digests(out: Resolved, digests: Sequence[tuple[Digest, DigestSource]]) -> None:
    """Take all of *digests* in, or none: IntegrityError where one contradicts what is known."""
    for digest, source in digests:
        out.digests.check(digest, source)
    for digest, source in digests:
        out.digests.add(digest, source)


def _merge_described(
    out: Resolved, referrer: Url, url: Url, peer: int, options: FetchOptions, cancel: Cancel
) -> None:
    """A metalink that a Link field of *referrer* names: an offer, its absence does not hurt."""
    if referrer.scheme == "https" and url.scheme == "http":
        out.warnings.append(f"{url.display()} is not used: an https source leads to http")
        return
    from fastdl.sources.metalink import parse_metalink  # noqa: PLC0415

    mirror = make_mirror(url, linked_from=peer)
    stream, head = _open(out.net, mirror, url, options, cancel)
    try:
        document = parse_metalink(_read_all(stream, head, MAX_DOCUMENT), base_url=url)
        # A document from outside does not lead inside because somebody inside named it.
        from_class = stream.peer_class
    finally:
        stream.close()
    if document.size is None or document.size == out.size:
        _merge(out, document, url, from_class, options)
    else:
        out.warnings.append(f"{url.display()} describes another size: it is not used")


def _check_policy(out: Resolved, options: FetchOptions) -> None:
    if options.require_checksum and out.digests.integrity() == "none":
        raise PolicyError(
            "no checksum is known and --require-checksum asks for one", phase="resolve"
        )
