# SPDX-License-Identifier: Apache-2.0
"""What is known of a source once it has been resolved. Nothing here changes afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from fastdl.model.digest import DigestSet, DigestSource
from fastdl.model.url import Url

if TYPE_CHECKING:
    from fastdl.core.net import Mirror
    from fastdl.sources.metalink import Pieces


class Offer(NamedTuple):
    """A mirror that somebody at a class of address (*from_class*) named."""

    url: Url
    priority: int
    max_connections: int
    from_class: int


class SourceFacts(NamedTuple):
    """Who has the bytes, how many there are, and what proves them.

    *sources* as they were typed; *urls* and *mirrors* run in parallel. *size* in bytes, None where
    nobody says it. *offers*: the mirrors that were not typed. *metalink*: a metalink described the
    source. *one_response*: parts of several responses cannot be joined. *name*: what the metalink
    calls the file, None without one.
    *signed_by*: who signed the list or metalink that said what the bytes must be.
    """

    sources: tuple[str, ...]
    urls: tuple[Url, ...]
    mirrors: tuple[Mirror, ...]
    size: int | None
    digests: DigestSet
    pieces: Pieces | None
    offers: tuple[Offer, ...]
    metalink: bool
    one_response: bool
    warnings: tuple[str, ...]
    name: str | None = None
    signed_by: str | None = None

    @property
    def provable(self) -> bool:
        """Whether a digest decides, so that bytes of different origins may be joined."""
        return len(self.digests) > 0 or self.pieces is not None

    @property
    def piece_length(self) -> int | None:
        """Bytes of a piece, None where no pieces are known."""
        return self.pieces.length if self.pieces else None

    @property
    def consistency(self) -> str:
        """Why the bytes cannot be of two versions: ``Result.consistency``."""
        if self.provable:
            return "digest"
        return "response" if self.one_response else "validator"

    def disqualified(self) -> set[str]:
        """The URLs, as shown, of the mirrors that are not used any more."""
        pairs = zip(self.urls, self.mirrors, strict=True)
        return {url.display() for url, mirror in pairs if mirror.state == "disqualified"}


class Earlier(NamedTuple):
    """What an attempt before this one has learned.

    *facts*        its source's, None where the source may have changed since
    *left_out*     URLs, as shown, of mirrors that are not asked now
    *any_version*  servers behind one name gave different tags: a digest decides alone
    """

    facts: SourceFacts | None = None
    left_out: frozenset[str] = frozenset()
    any_version: bool = False

    @property
    def has_proof(self) -> bool:
        """Whether no checksum list has to be asked again."""
        known = () if self.facts is None else self.facts.digests.items()
        return any(source is DigestSource.LIST for _, source in known)
