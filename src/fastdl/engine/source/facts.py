# SPDX-License-Identifier: Apache-2.0
"""The facts of a resolved source. Immutable."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastdl.model.digest import Digest, DigestSet, DigestSource
from fastdl.model.url import Url
from fastdl.named_tuple import NamedTuple

if TYPE_CHECKING:
    from fastdl.core.net import Mirror
    from fastdl.sources.metalink import Pieces


class Product(NamedTuple):
    """What a product's publisher says of its file, before the file's server is asked.

    *size* in bytes, None if unknown; *signed_by*: who signed it, if a keyring was given.
    """

    digest: Digest
    size: int | None
    signed_by: str | None


class Offer(NamedTuple):
    """A mirror named by a peer of address class *from_class*."""

    url: Url
    priority: int
    max_connections: int
    from_class: int


class SourceFacts(NamedTuple):
    """Which mirrors have the bytes, how many there are, and the digests that prove them.

    *sources* as they were typed; *urls* and *mirrors* run in parallel. *size* in bytes, None if
    unknown. *offers*: the mirrors that were not typed. *metalink*: a metalink described the source.
    *one_response*: parts of several responses cannot be joined. *name*: what the metalink calls the
    file, None without one. *signed_by*: who signed the list or metalink that said what the bytes
    must be.
    *signatures*: of the file itself: one must be valid before it is published.
    *covered*: algorithms of digests that the pieces stand for: nothing has to compute them.
    *shared*: the pieces are of ``engine.shared_pieces``, which stand for nothing.
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
    covered: frozenset[str] = frozenset()
    signatures: tuple[bytes, ...] = ()
    shared: bool = False

    @property
    def computed(self) -> tuple[Digest, ...]:
        """The digests of the whole file that are computed and compared."""
        return tuple(d for d in self.digests if d.algorithm not in self.covered)

    @property
    def by_pieces(self) -> bool:
        """Whether the pieces alone prove the bytes, so that no order is waited for."""
        return self.pieces is not None and not self.shared and not self.computed

    @property
    def integrity(self) -> str:
        """What is proven where all digests match, those of a metalink's pieces too."""
        pieces = None if self.shared else self.pieces
        return self.digests.integrity(pieces.algorithm if pieces else None)

    @property
    def provable(self) -> bool:
        """Whether a digest decides, so that data of different origins may be combined."""
        return len(self.digests) > 0 or self.pieces is not None

    @property
    def piece_length(self) -> int | None:
        """Bytes per piece, None without known pieces."""
        return self.pieces.length if self.pieces else None

    @property
    def consistency(self) -> str:
        """Why the bytes cannot be of two versions: ``Result.consistency``."""
        if self.provable:
            return "digest"
        return "response" if self.one_response else "validator"

    def disqualified(self) -> set[str]:
        """The URLs, as shown, of the mirrors no longer used."""
        pairs = zip(self.urls, self.mirrors, strict=True)
        return {url.display() for url, mirror in pairs if mirror.state == "disqualified"}


class Earlier(NamedTuple):
    """What an attempt before this one has learned.

    *facts*        its source's, None if the source may have changed since
    *left_out*     URLs, as shown, of mirrors not used now
    *any_version*  servers behind one name sent different tags: only a digest decides
    """

    facts: SourceFacts | None = None
    left_out: frozenset[str] = frozenset()
    any_version: bool = False

    @property
    def has_proof(self) -> bool:
        """Whether no checksum list needs to be fetched again."""
        known = () if self.facts is None else self.facts.digests.items()
        return any(source is DigestSource.LIST for _, source in known)
