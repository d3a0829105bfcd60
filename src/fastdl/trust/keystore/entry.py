# SPDX-License-Identifier: Apache-2.0
"""What does a keystore hold, whatever its format? Values and the contract of a format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, Self

from fastdl.trust.alias import fold

Kind = Literal["trusted", "key"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry as Java's tools would list it.

    ``certificate`` is DER: the trusted certificate, or the first of a private key's
    chain (None where the key has none, as secret keys do).
    """

    alias: str
    kind: Kind
    certificate: bytes | None

    @property
    def key(self) -> str:
        """The alias for comparison: keystores ignore case."""
        return fold(self.alias)


class Document(Protocol):
    """A keystore file taken apart. Immutable: an edit returns another document.

    What an edit does not name stays byte for byte what it was; private keys are never
    decrypted. ``encode`` of an unedited document gives back the bytes it came from.
    """

    def entries(self) -> list[Entry]:
        """The entries in the order of the file."""

    def with_trusted(self, alias: str, certificate: bytes, *, now_ms: int) -> Self:
        """This store plus one trusted certificate (DER); the alias must be free."""

    def without_trusted(self, alias: str) -> Self:
        """This store minus the trusted certificate under *alias*."""

    def encode(self, passphrase: str) -> bytes:
        """The file's bytes, protected by *passphrase*."""
