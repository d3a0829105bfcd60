# SPDX-License-Identifier: Apache-2.0
"""RESOLVE: which mirrors have these bytes, how many, and which digests prove them.

The first request is a ranged GET that provides everything; its open response and the bytes read so
far are passed to the transfer, so that nothing is requested twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

from fastdl.engine.source.draft import Draft
from fastdl.engine.source.facts import Earlier, SourceFacts
from fastdl.engine.source.first_response import FirstResponse, open_stream
from fastdl.engine.source.offers import (
    is_metalink,
    learn_from_dead_ends,
    learn_from_fields,
    note_dead_end,
    read_metalink,
    take_metalink,
)
from fastdl.errors import (
    Cancelled,
    FastdlError,
    IntegrityError,
    MetalinkError,
    NetError,
    PolicyError,
    SizeError,
    UsageError,
)
from fastdl.model.digest import DigestSource
from fastdl.model.referral import refused_source
from fastdl.model.url import Url
from fastdl.sources.locate import make_mirror
from fastdl.sources.origin_rules import refused_by

if TYPE_CHECKING:
    from fastdl.core.net import Stream
    from fastdl.engine.cancel import Cancel
    from fastdl.engine.context import TransferContext

HEDGE_PROBE_S = 0.4

Resolved = tuple[SourceFacts, FirstResponse]


class Source:
    """One job's source: the only way into this stage, which is entered when it is needed first.

    What was looked at before the transfer is what the transfer starts with.
    """

    def __init__(self, sources: Sequence[str], ctx: TransferContext) -> None:
        self.sources = sources
        self._ctx = ctx
        self._resolved: Resolved | None = None

    @property
    def known(self) -> SourceFacts | None:
        """The facts, if the source is resolved already."""
        return self._resolved[0] if self._resolved is not None else None

    def look(self, *, probe: bool = False) -> Resolved:
        """As ``resolve``, once; the response remains this object's."""
        if self._resolved is None:
            self._resolved = resolve(self.sources, self._ctx, probe=probe)
        return self._resolved

    def open(self, earlier: Earlier) -> Resolved:
        """As ``resolve``; the response is the caller's. What is known already is used first."""
        found, self._resolved = self._resolved, None
        return found or resolve(self.sources, self._ctx, earlier=earlier)

    def __enter__(self) -> Self:
        """Close the response at the end, if nobody took it."""
        return self

    def __exit__(self, *_: object) -> None:
        if self._resolved is not None:
            self._resolved[1].close()


def resolve(
    sources: Sequence[str],
    ctx: TransferContext,
    *,
    earlier: Earlier | None = None,
    probe: bool = False,
) -> tuple[SourceFacts, FirstResponse]:
    """The facts of *sources*, and the response that is open behind its first bytes: the caller's.

    *earlier*  what an attempt for the same bytes has learned
    *probe*    nothing will be transferred: the response need not support that

    Raises a FastdlError: no source can be used, or they contradict each other.
    """
    earlier = earlier or Earlier()
    if not sources:
        raise UsageError("at least one source is needed")
    draft = Draft(ctx, sources)
    for url in draft.typed:
        if reason := refused_source(url, ctx.options.policy):
            raise PolicyError(f"{url.display()}: {reason}", phase="resolve")
        if reason := refused_by(ctx.options.origin_rules, url):
            raise PolicyError(reason, phase="resolve")
    try:
        _collect(draft, earlier)
        _open_best(draft)
        assert draft.response is not None
        if not draft.metalink and is_metalink(draft.response.content_type):
            _follow_metalink_response(draft)
        else:
            _learn(draft)
        draft.limit_where_it_leads()
        if ctx.options.keyring is not None:
            from fastdl.engine.source.vouched import require_signature

            require_signature(draft)
        unproven = draft.integrity == "none" and not draft.signatures
        if ctx.options.require_checksum and unproven:
            raise PolicyError(
                "no checksum is known and --require-checksum asks for one", phase="resolve"
            )
        if earlier.any_version and draft.provable:
            for mirror in draft.mirrors:
                mirror.ignore_validators()
        one_response = not probe and _keep_to_one_response(draft)
    except BaseException:
        draft.close()
        raise
    response, draft.response = draft.response, None
    assert response is not None
    response.only = one_response
    return draft.facts(one_response=one_response), response


def _collect(draft: Draft, earlier: Earlier) -> None:
    """The mirrors that are typed, those of typed metalinks, and those that are known."""
    options = draft.ctx.options
    if options.checksum is not None:
        draft.digests.add(options.checksum, DigestSource.USER)
    if draft.ctx.product is not None:
        draft.digests.add(draft.ctx.product.digest, DigestSource.PRODUCT)
    _ = draft.ctx.net  # a broken certificate shows before any request
    if draft.ctx.wants_a_list and not earlier.has_proof:
        from fastdl.engine.source.vouched import learn_from_lists

        learn_from_lists(draft)
    for url in draft.typed:
        if url.is_metalink_name():
            take_metalink(draft, url)
    for url in draft.typed:
        if not url.is_metalink_name():
            mirror = make_mirror(
                url,
                headers=draft.headers_for(url),
                priority=1,
                max_connections=draft.connections_to(url),
            )
            draft.add(url, mirror)
    draft.add_from_rules()
    if earlier.facts is not None:
        draft.take_earlier(earlier.facts)
    for url, mirror in zip(draft.urls, draft.mirrors, strict=True):
        if url.display() in earlier.left_out:
            mirror.disqualify("it was found to be bad before")


# ---- the first response --------------------------------------------------------


def _open_best(draft: Draft) -> None:
    """Open the best mirror's response; the next one is tried too if the first is slow.

    A mirror with a file other than the known one is disqualified, and the next one tried.
    """
    while True:
        try:
            _open_one(draft)
        except Cancelled:
            raise
        except FastdlError:
            if not learn_from_dead_ends(draft):
                raise
            continue
        if (wrong := _misfit(draft)) is None:
            break
        _disqualify(draft, *wrong)
    response = draft.response
    assert response is not None
    if draft.size is None:
        draft.size = response.mirror.total


def _open_one(draft: Draft) -> None:
    ctx = draft.ctx
    for mirror in draft.mirrors:
        mirror.prove(draft.provable)
        if draft.size is not None:
            mirror.expect(draft.size)
    order = sorted(
        (i for i, mirror in enumerate(draft.mirrors) if mirror.state == "ok"),
        key=lambda i: draft.mirrors[i].priority,
    )
    if not order:
        raise NetError("no usable mirror is left", phase="resolve")

    def attempt(index: int, cancel: Cancel) -> tuple[Stream, bytes]:
        return open_stream(
            ctx,
            draft.mirrors[index],
            draft.urls[index],
            cancel,
            give_up=lambda stream: note_dead_end(draft, index, stream),
        )

    index = order[0]
    if len(order) == 1:
        stream, head = attempt(index, ctx.cancel)
    else:
        from fastdl.engine.source.race import first_of  # threads where needed

        index, (stream, head), failed = first_of(order, attempt, ctx.cancel, HEDGE_PROBE_S)
        for other, exc in failed.items():
            if not exc.retryable:
                draft.mirrors[other].disqualify(exc.message)
            draft.warnings.append(f"{draft.urls[other].display()}: {exc.message}")
    draft.response = FirstResponse.opened(ctx, draft.mirrors[index], index, stream, head)


def _misfit(draft: Draft) -> tuple[FastdlError, str] | None:
    """Why the response cannot be the source, and the reason to disqualify its mirror; or None."""
    response = draft.response
    assert response is not None
    total, url = response.mirror.total, draft.urls[response.index]
    if reason := _blocked_hop(draft, response):
        return PolicyError(reason, phase="resolve"), "it leads to where nothing may come from"
    if draft.size is not None and (
        _is_longer(response, draft.size) if total is None else total != draft.size
    ):
        has = "more" if total is None else total
        said = "the metalink says" if draft.metalink else "expected are"
        text = f"{url.display()} has {has} bytes, {said} {draft.size}"
        return SizeError(text, phase="resolve"), "its file has another size"
    if draft.metalink and is_metalink(response.content_type) and not url.is_metalink_name():
        text = f"{url.display()}: a metalink leads to another metalink"
        return MetalinkError(text, phase="resolve"), "it responds with another metalink"
    return None


def _blocked_hop(draft: Draft, response: FirstResponse) -> str | None:
    """Why the response may not be used, where redirects led through a blocked place."""
    rules = draft.ctx.options.origin_rules
    if not rules or response.stream is None or response.mirror.final_url is None:
        return None
    hops = [hop[0] for hop in response.stream.redirects()] + [response.mirror.final_url]
    reasons = (refused_by(rules, Url.parse_sent(hop)) for hop in hops)
    return next(filter(None, reasons), None)


def _is_longer(response: FirstResponse, size: int) -> bool:
    """Whether a response without a stated size continues after *size* bytes."""
    if len(response.head) == size and response.stream is not None:
        response.head += response.stream.read(1)
    return len(response.head) > size


def _disqualify(draft: Draft, error: FastdlError, reason: str) -> None:
    """Leave out the mirror that responded; raise *error* if no other is left."""
    response = draft.response
    assert response is not None
    draft.close()
    response.mirror.note_error()
    response.mirror.disqualify(reason)
    if all(mirror.state != "ok" for mirror in draft.mirrors):
        raise error
    draft.warnings.append(error.message)


# ---- what it says --------------------------------------------------------------


def _follow_metalink_response(draft: Draft) -> None:
    """A plain URL responded with a metalink: the media type says so."""
    response = draft.response
    assert response is not None
    assert response.stream is not None
    url = draft.urls[response.index]
    if not draft.ctx.options.metalink_by_type:
        raise PolicyError(
            f"{url.display()} responds with a metalink instead of an image: a metalink's "
            "URL ends in .metalink or .meta4",
            phase="resolve",
        )
    document = read_metalink(draft, response.stream, response.head, url)
    peer = response.stream.peer_class
    draft.close()
    draft.urls.clear()
    draft.mirrors.clear()
    draft.size = None
    draft.name = document.name
    draft.merge(document, url, peer)
    _open_best(draft)
    _learn(draft)


def _learn(draft: Draft) -> None:
    """Add what header fields offer; a mirror whose digest belongs to another file is left out."""
    while True:
        try:
            learn_from_fields(draft)
            return
        except IntegrityError as exc:
            _disqualify(draft, exc, "its digest is another file's")
            _open_best(draft)


def _keep_to_one_response(draft: Draft) -> bool:
    """Require a single response if parts of several cannot be combined.

    They can under a strong validator, or if a digest decides. Returns whether they cannot.
    """
    response = draft.response
    assert response is not None
    stream = response.stream
    if stream is None or response.mirror.can_join:
        return False
    draft.warnings.append(
        "the server sends no strong validator and no checksum is known: all data must come "
        "from one response"
    )
    if stream.whole or (stream.end is not None and stream.end == draft.size):
        return True
    mirror, index = response.mirror, response.index
    draft.close()
    mirror.ask_for_the_whole()
    draft.size = mirror.expected
    stream, head = open_stream(draft.ctx, mirror, draft.urls[index], draft.ctx.cancel)
    draft.response = FirstResponse.opened(draft.ctx, mirror, index, stream, head)
    if (wrong := _misfit(draft)) is not None:
        _disqualify(draft, *wrong)
        _open_best(draft)
        return _keep_to_one_response(draft)
    if draft.size is None:
        draft.size = mirror.total
    return True
