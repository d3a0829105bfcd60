# SPDX-License-Identifier: Apache-2.0
"""Encryption between NATS servers and whoever they ask, as NATS does it: NaCl's box.

It keeps others on a path without TLS, such as routes between servers, from reading who connects.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from nacl.exceptions import CryptoError
from nacl.public import Box, PrivateKey, PublicKey

from fastdl.errors import AgentRefusedError
from fastdl.manager.hosts.nats_claims import TOKEN_MAX, Kind, key_bytes, key_text

_VERSION: Final = b"xkv1"


class Curve:
    """What opens what servers encrypted for managers. *seed*: 32 bytes."""

    def __init__(self, seed: bytes) -> None:
        self._key = PrivateKey(seed)
        self.public: Final = key_text(Kind.CURVE, bytes(self._key.public_key))
        """The key as NATS' configuration names it."""

    def open(self, data: bytes, sender: str) -> bytes:
        """Return what *sender*, the key of a server, encrypted. AgentRefusedError if it did not, or
        not for this key."""
        box = self._box(sender)
        if data.startswith(_VERSION) and len(data) <= 2 * TOKEN_MAX:
            try:
                return box.decrypt(data[len(_VERSION) :])
            except (CryptoError, ValueError):
                pass
        raise AgentRefusedError("not encrypted for this manager")

    def close(self, data: bytes, recipient: str) -> bytes:
        """Return *data* as only *recipient* opens it."""
        return _VERSION + self._box(recipient).encrypt(data)

    def _box(self, other: str) -> Box:
        key = PublicKey(key_bytes(Kind.CURVE, other))
        try:
            return Box(self._key, key)
        except CryptoError:  # a point of low order
            raise AgentRefusedError("a key that encrypts nothing") from None


def curve(derive: Callable[[str], bytes]) -> Curve:
    """Return the key of all managers that share what *derive* derives from."""
    return Curve(derive("hosts on nats: curve"))
