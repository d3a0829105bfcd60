# SPDX-License-Identifier: Apache-2.0
"""Which digests a source must have, where they come from, and how much they prove.

A digest is written in CloudStack's way (``{SHA-256}HEX``), in metalink's
(``sha-256:HEX``) or as bare hex, whose length names the algorithm.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from fastdl.errors import IntegrityError, UsageError

if TYPE_CHECKING:
    from _hashlib import HASH

HEX_LENGTHS = {"md5": 32, "sha-1": 40, "sha-224": 56, "sha-256": 64, "sha-384": 96, "sha-512": 128}
"""Algorithm → hex digits, the weakest first. The names are metalink's (RFC 5854)."""

ALGORITHMS = tuple(HEX_LENGTHS)
"""Every algorithm that fastdl computes, the weakest first."""

_WEAK = frozenset({"md5", "sha-1"})
_NAMES = {spelling: name for name in HEX_LENGTHS for spelling in (name, name.replace("-", ""))}
_BY_LENGTH = {length: name for name, length in HEX_LENGTHS.items()}
_HEX = frozenset("0123456789abcdef")
# Compiled where they are used: a command without a checksum needs neither.
_LIST_NAME = r"(?s).*[/.].*|[A-Za-z0-9-]*SUMS?|CHECKSUM"
_BRACED = r"(?s)\{([^{}]*)\}(.*)"


class DigestSource(StrEnum):
    """The source of a digest; the value is its name in messages."""

    USER = "the command's checksum"
    METALINK = "the metalink"
    PRODUCT = "the product"
    LIST = "the checksum list"
    LIST_BESIDE = "the checksum list next to the image"
    REDIRECT = "the redirector's digest"
    REPR_DIGEST = "the origin's Repr-Digest"
    DIGEST_HEADER = "the origin's Digest header"
    STORE = "the object store's own digest"

    @property
    def independent(self) -> bool:
        """False if the digest comes from the server that sends the bytes.

        Such a digest detects corruption; anyone who can change the bytes can change it too.
        """
        return self in (
            DigestSource.USER,
            DigestSource.METALINK,
            DigestSource.PRODUCT,
            DigestSource.LIST,
            DigestSource.REDIRECT,
        )


def hasher(algorithm: str) -> HASH:
    """Return a digest of nothing yet; *algorithm* is one of ``ALGORITHMS``."""
    import hashlib  # most digests are the core's

    return hashlib.new(algorithm.replace("sha-", "sha"), usedforsecurity=False)


def algorithm_named(text: str) -> str | None:
    """Return our name (``sha-256``) of the algorithm called *text*, or None if unknown.

    ``SHA-256``, ``sha256`` and ``SHA256`` are the same.
    """
    return _NAMES.get(text.lower()) if text.isascii() else None


class Digest:
    """One digest of a whole file: *algorithm* as in HEX_LENGTHS, *hex* in lower case.

    The constructor accepts the usual spellings of both; UsageError for anything else.
    """

    __slots__ = ("algorithm", "hex")

    def __init__(self, algorithm: str, hex: str) -> None:  # noqa: A002 - the word for it
        name = algorithm_named(algorithm)
        if name is None:
            raise UsageError(
                f"unknown checksum algorithm {algorithm[:40]!a}: use one of {', '.join(ALGORITHMS)}"
            )
        digits = hex.lower()
        expected = HEX_LENGTHS[name]
        if not hex.isascii() or not _HEX.issuperset(digits):
            raise UsageError(f"the {name} checksum contains characters other than hex digits")
        if len(digits) != expected:
            raise UsageError(
                f"a {name} checksum has {expected} hex digits, this one has {len(digits)}"
            )
        self.algorithm: Final = name
        self.hex: Final = digits

    @classmethod
    def from_bytes(cls, algorithm: str, value: bytes) -> Digest:
        """Return the digest whose binary form is *value*; UsageError as the constructor."""
        return cls(algorithm, value.hex())

    @property
    def raw(self) -> bytes:
        """The digest's binary form."""
        return bytes.fromhex(self.hex)

    @property
    def strength(self) -> str:
        """``weak`` for md5 and sha-1, whose collisions can be made; ``strong`` otherwise."""
        return "weak" if self.algorithm in _WEAK else "strong"

    def cloudstack(self) -> str:
        """Return CloudStack's spelling, ``{SHA-256}hex``."""
        return f"{{{self.algorithm.upper()}}}{self.hex}"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Digest):
            return NotImplemented
        return (self.algorithm, self.hex) == (other.algorithm, other.hex)

    def __hash__(self) -> int:
        return hash((self.algorithm, self.hex))

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"

    def __repr__(self) -> str:
        return f"Digest({self.algorithm!r}, {self.hex!r})"


def parse_checksum(text: str) -> Digest:
    """Return the digest written as ``{SHA-256}HEX``, ``sha-256:HEX``, ``sha256=HEX`` or bare hex.

    Hex may be in either case; bare hex is known by its length, and ``=`` is aria2's. UsageError
    otherwise.
    """
    stripped = text.strip(" \t\r\n")
    if braced := re.fullmatch(_BRACED, stripped):
        return Digest(braced[1], braced[2])
    name, between, digits = stripped.partition(":" if ":" in stripped else "=")
    if between:
        return Digest(name, digits)
    algorithm = _BY_LENGTH.get(len(stripped))
    if algorithm is None:
        raise UsageError(
            "a checksum is written {SHA-256}HEX, sha-256:HEX or as the bare hex digits of "
            f"{', '.join(ALGORITHMS)}"
        )
    return Digest(algorithm, stripped)


def names_a_list(text: str) -> bool:
    """Whether *text*, given as a checksum, is the URL or path of a list of checksums instead."""
    stripped = text.strip(" \t\r\n")
    prefix, colon, _ = stripped.partition(":")
    if stripped.startswith("{") or (colon and algorithm_named(prefix) is not None):
        return False
    return re.fullmatch(_LIST_NAME, stripped) is not None


class DigestSet:
    """Every digest known of one file, one per algorithm, with its source.

    All of them are to be verified: a file is good when each one matches.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[Digest, DigestSource]] = {}
        self._said_by: dict[str, set[DigestSource]] = {}

    def add(self, digest: Digest, source: DigestSource) -> None:
        """Take *digest* in; IntegrityError as ``check``."""
        self.check(digest, source)
        self._said_by.setdefault(digest.algorithm, set()).add(source)
        held = self._known.get(digest.algorithm)
        if held is None or (source.independent and not held[1].independent):
            self._known[digest.algorithm] = (digest, source)

    def check(self, digest: Digest, source: DigestSource) -> None:
        """Raise IntegrityError, naming both sources, if *digest* contradicts what is known."""
        held = self._known.get(digest.algorithm)
        if held is not None and held[0] != digest:
            raise IntegrityError(
                f"{held[1]} and {source} give different {digest.algorithm} values: "
                "one of them describes another file",
                phase="resolve",
            )

    def __iter__(self) -> Iterator[Digest]:
        """Yield the digests, the strongest first."""
        for algorithm in reversed(ALGORITHMS):
            if algorithm in self._known:
                yield self._known[algorithm][0]

    def __len__(self) -> int:
        return len(self._known)

    def items(self) -> tuple[tuple[Digest, DigestSource], ...]:
        """Return every digest with its source."""
        return tuple(self._known.values())

    def get(self, algorithm: str) -> Digest | None:
        """Return the digest of *algorithm*, if known."""
        held = self._known.get(algorithm)
        return held[0] if held else None

    def source_of(self, algorithm: str) -> DigestSource | None:
        """Return the source of the digest of *algorithm*, if known."""
        held = self._known.get(algorithm)
        return held[1] if held else None

    def rests_on_metalink(self, algorithm: str) -> bool:
        """Whether nobody but a metalink, and the server of the bytes, said this digest."""
        said_by = self._said_by.get(algorithm, set())
        return DigestSource.METALINK in said_by and not any(
            source.independent for source in said_by - {DigestSource.METALINK}
        )

    def strongest(self) -> Digest | None:
        """Return the digest of the strongest algorithm, or None if the set is empty."""
        return next(iter(self), None)

    def integrity(self, pieces: str | None = None) -> str:
        """Return what a match of every digest proves: ``strong``, ``weak`` or ``none``.

        *pieces*: the algorithm of a metalink's digests of every piece, if it has them.
        ``strong`` needs a strong algorithm *and* a source other than the server of the
        bytes; ``weak`` finds accidents, not attackers.
        """
        known = [(d.algorithm, s.independent) for d, s in self._known.values()]
        if pieces is not None:
            known.append((pieces, DigestSource.METALINK.independent))
        if any(independent and algorithm not in _WEAK for algorithm, independent in known):
            return "strong"
        return "weak" if known else "none"

    def to_dict(self) -> dict[str, str]:
        """Return ``{algorithm: hex}``, the strongest first."""
        return {digest.algorithm: digest.hex for digest in self}
