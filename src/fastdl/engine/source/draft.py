# SPDX-License-Identifier: Apache-2.0
"""The facts of a source while they are collected: private to this stage, frozen at its end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastdl.engine.source.facts import Offer, SourceFacts
from fastdl.errors import FastdlError, PolicyError, SizeError
from fastdl.model.digest import ALGORITHMS, Digest, DigestSet, DigestSource
from fastdl.model.url import Url
from fastdl.sources.locate import connections_to, make_mirror, with_login
from fastdl.sources.origin_rules import mirrors_of, refused_by, rule_for

if TYPE_CHECKING:
    from fastdl.core.net import Mirror
    from fastdl.engine.context import TransferContext
    from fastdl.engine.source.first_response import FirstResponse
    from fastdl.sources.metalink import Metalink, Pieces

MAX_MIRRORS = 64

Redirects = Sequence[tuple[str, int, Sequence[tuple[str, str]]]]
"""As ``Stream.redirects`` gives them: (URL, class of address, header fields)."""


class Draft:
    """``typed``: the sources as URLs; ``response``: the open one. Otherwise the fields of
    ``SourceFacts``."""

    def __init__(self, ctx: TransferContext, sources: Sequence[str]) -> None:
        self.ctx = ctx
        self.sources = tuple(sources)
        self.typed = [Url.parse(text) for text in sources]
        self.urls: list[Url] = []
        self.mirrors: list[Mirror] = []
        self.size: int | None = ctx.product.size if ctx.product else None
        self.digests = DigestSet()
        self.pieces: Pieces | None = None
        self.offers: list[Offer] = []
        self.metalink = False
        self.name: str | None = None
        self.signed_by: str | None = ctx.product.signed_by if ctx.product else None
        self.signatures: tuple[bytes, ...] = ()
        self.warnings: list[str] = []
        self._documents = 0
        self.response: FirstResponse | None = None
        self.dead_ends: dict[int, Redirects] = {}
        """Mirror → redirects that failed but name other mirrors; empty once those are added."""
        self._origins = frozenset(url.origin for url in self.typed)

    @property
    def provable(self) -> bool:
        """See ``SourceFacts``."""
        return len(self.digests) > 0 or self.pieces is not None

    @property
    def integrity(self) -> str:
        """See ``SourceFacts``."""
        return self.digests.integrity(self.pieces.algorithm if self.pieces else None)

    def facts(self, *, one_response: bool) -> SourceFacts:
        """The collected facts, frozen."""
        shared = self._shared()
        return SourceFacts(
            sources=self.sources,
            urls=tuple(self.urls),
            mirrors=tuple(self.mirrors),
            size=self.size,
            digests=self.digests,
            pieces=self.pieces or shared,
            offers=tuple(self.offers),
            metalink=self.metalink,
            one_response=one_response,
            warnings=tuple(self.warnings),
            name=self.name,
            signed_by=self.signed_by,
            covered=self._covered(),
            signatures=() if self.signed_by else self.signatures,
            shared=shared is not None,
        )

    def _shared(self) -> Pieces | None:
        """The pieces that were shared, if a digest is computed next to them and no others are
        known; else None."""
        shared, known = self.ctx.shared, self.digests.get("sha-256")
        if shared is None or self.pieces is not None or known is None:
            return None
        if (known.hex, self.size) != (shared.sha256, shared.size):
            return None
        self.ctx.events.list_used = True
        return shared.pieces

    def _covered(self) -> frozenset[str]:
        """The digests that the pieces stand for: as strong, and of the one metalink there was.

        Where two described the file, or somebody else said the digest too, the list of pieces may
        be less worth than the digest is.
        """
        if self.pieces is None or self._documents != 1 or self.ctx.options.require_whole_digest:
            return frozenset()
        rank = ALGORITHMS.index
        strength = rank(self.pieces.algorithm)
        return frozenset(
            digest.algorithm
            for digest in self.digests
            if rank(digest.algorithm) <= strength
            and self.digests.rests_on_metalink(digest.algorithm)
        )

    def headers_for(self, url: Url) -> tuple[tuple[str, str], ...]:
        """The operator's headers are for what the operator typed or made a rule for, wherever it is
        named."""
        options = self.ctx.options
        given: tuple[tuple[str, str], ...] = ()
        if url.origin in self._origins:
            given = with_login(url, options.headers, options.credentials)
        rule = rule_for(self.ctx.options.origin_rules, url)
        if rule is None or not rule.headers:
            return given
        names = {name.lower() for name, _ in given}
        return (*given, *(pair for pair in rule.headers if pair[0].lower() not in names))

    def connections_to(self, url: Url, most: int | None = None) -> int:
        """How many connections the origin of *url* gets: as the command says, else a rule, else
        its kind; never more than a rule or *most*."""
        rule = rule_for(self.ctx.options.origin_rules, url)
        allowed = rule.max_connections if rule is not None else None
        usual = self.ctx.options.max_connections_per_origin or allowed or connections_to(url)
        return min(usual, allowed or usual, most or usual)

    def limit_where_it_leads(self) -> None:
        """Where redirects led is what the connections go to: its kind and its rule count, and
        whatever was said of the URL that led there."""
        assert self.response is not None
        mirror, url = self.response.mirror, self.urls[self.response.index]
        if mirror.final_url is None:
            return
        try:
            final = Url.parse_sent(mirror.final_url)
        except FastdlError:  # an odd one, of no known kind
            return
        rule = rule_for(self.ctx.options.origin_rules, url)
        said = [rule.max_connections] if rule is not None else []
        if mirror.max_connections < self.connections_to(url):  # a metalink or a link said so
            said.append(mirror.max_connections)
        there = self.connections_to(final)
        mirror.limit(min([there, *filter(None, said)]))

    def add_from_rules(self) -> None:
        """Add the mirrors that rules know of those that are there."""
        rules = self.ctx.options.origin_rules
        for url in tuple(self.urls) if rules else ():
            for other in mirrors_of(rules, url):
                if reason := refused_by(rules, other):
                    self.warnings.append(reason)
                    continue
                mirror = make_mirror(
                    other,
                    headers=self.headers_for(other),
                    priority=1,
                    max_connections=self.connections_to(other),
                )
                self.add(other, mirror)

    def add(self, url: Url, mirror: Mirror) -> None:
        """Add a mirror if it is new and there is room."""
        known = {u.request_text() for u in self.urls}
        if url.request_text() not in known and len(self.mirrors) < MAX_MIRRORS:
            self.urls.append(url)
            self.mirrors.append(mirror)

    def take_offer(self, offer: Offer) -> None:
        """Add the mirror, or a warning if it cannot be one."""
        if reason := refused_by(self.ctx.options.origin_rules, offer.url):
            self.warnings.append(reason)
            return
        try:
            mirror = make_mirror(
                offer.url,
                headers=self.headers_for(offer.url),
                priority=offer.priority,
                max_connections=self.connections_to(offer.url, offer.max_connections),
                linked_from=offer.from_class,
            )
        except FastdlError as exc:
            self.warnings.append(f"{offer.url.display()} is not used: {exc.message}")
            return
        self.offers.append(offer)
        self.add(offer.url, mirror)

    def take_digests(self, digests: Sequence[tuple[Digest, DigestSource]]) -> None:
        """Add all of *digests*, or none: IntegrityError if one contradicts a known one."""
        for digest, source in digests:
            self.digests.check(digest, source)
        for digest, source in digests:
            self.digests.add(digest, source)

    def take_earlier(self, facts: SourceFacts) -> None:
        """Add what an earlier attempt learned, except what a mirror said about its own bytes."""
        if not facts.provable:
            return
        self.take_digests([(d, s) for d, s in facts.digests.items() if s.independent])
        if facts.metalink:
            known = None if facts.shared else facts.pieces
            self.pieces, self.size = self.pieces or known, self.size or facts.size
            self._documents += 2  # it may have been several: nothing is left out any more
        self.signed_by = self.signed_by or facts.signed_by
        self.signatures = self.signatures or facts.signatures
        for offer in facts.offers:
            self.take_offer(offer)

    def merge(self, document: Metalink, url: Url, peer: int) -> None:
        """Add a metalink's mirrors, size and digests; contradictions are errors.

        *peer*: class of the address that *url* led to.
        """
        if document.size is not None and self.size not in (None, document.size):
            raise SizeError("two metalinks give different sizes", phase="resolve")
        self.take_digests([(digest, DigestSource.METALINK) for digest in document.digests])
        self.metalink = True
        self._documents += 1
        self.warnings.extend(document.warnings)
        self.size = self.size if document.size is None else document.size
        self.pieces = self.pieces or document.pieces
        strong = self.integrity == "strong" or any(d.strength == "strong" for d in self.digests)
        for entry in document.mirrors:
            mirror = Url.parse_sent(entry.url)
            if url.scheme == "https" and mirror.scheme == "http" and not strong:
                self.warnings.append(
                    f"{mirror.display()} is not used: an https metalink leads to http without a "
                    "strong digest"
                )
                continue
            most = self.connections_to(mirror, entry.maxconnections)
            self.take_offer(Offer(mirror, entry.priority, most, peer))
        if not self.mirrors:
            raise PolicyError("the metalink leaves no mirror that may be used", phase="resolve")

    def close(self) -> None:
        """Close the open response."""
        if self.response is not None:
            self.response.close()
            self.response = None
