# SPDX-License-Identifier: Apache-2.0
"""NATS' own formats: keys as text, and claims that a key has signed.

A key is written as base32 of its kind (one byte), its 32 bytes and their CRC-16. Signed claims are
a JSON Web Token with the algorithm ``ed25519-nkey``, which names the key that signed it.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fastdl.errors import AgentRefusedError

TOKEN_MAX: Final = 128 << 10
"""Bytes of a token that is read: a chain of certificates, twice in base64, has a tenth."""
_KEY: Final = re.compile(r"[A-Z2-7]{56}")
_TOKEN: Final = re.compile(rb"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]{86})")
_HEADER: Final = {"typ": "JWT", "alg": "ed25519-nkey"}


class Kind(Enum):
    """What a key is for; as text it begins with A, N, U or X."""

    ACCOUNT = 0
    SERVER = 13 << 3
    USER = 20 << 3
    CURVE = 23 << 3


def key_text(kind: Kind, raw: bytes) -> str:
    """Return a public key, 32 bytes, as NATS writes it."""
    data = bytes([kind.value]) + raw
    return base64.b32encode(data + _sum(data)).decode()


def key_bytes(kind: Kind, text: object) -> bytes:
    """Return the 32 bytes of a public key of this *kind*. AgentRefusedError if it is none."""
    if isinstance(text, str) and _KEY.fullmatch(text):
        data = base64.b32decode(text)
        if data[0] == kind.value and _sum(data[:-2]) == data[-2:]:
            return data[1:-2]
    raise AgentRefusedError(f"not the key of a NATS {kind.name.lower()}")


def _sum(data: bytes) -> bytes:
    return binascii.crc_hqx(data, 0).to_bytes(2, "little")


class Issuer:
    """The key of an account, of which managers sign. *seed*: 32 bytes."""

    def __init__(self, seed: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public: Final = key_text(Kind.ACCOUNT, self._key.public_key().public_bytes_raw())
        """The key as NATS' configuration names it."""

    def sign(self, claims: Mapping[str, Any]) -> str:
        """Return *claims*, with their issuer, as a token."""
        body = f"{_encoded(_HEADER)}.{_encoded({**claims, 'iss': self.public})}"
        return f"{body}.{_base64(self._key.sign(body.encode()))}"


def issuer(derive: Callable[[str], bytes]) -> Issuer:
    """Return what signs for all managers that share what *derive* derives from."""
    return Issuer(derive("hosts on nats: issuer"))


def verified(token: bytes, kind: Kind) -> dict[str, Any]:
    """Return the claims in *token*, which the key that they name as the issuer, of this *kind*, has
    signed. AgentRefusedError if that is not so."""
    found = _TOKEN.fullmatch(token) if len(token) <= TOKEN_MAX else None
    if found is None:
        raise AgentRefusedError("not a signed token")
    header, claims = _object(found[1]), _object(found[2])
    if header != _HEADER:
        raise AgentRefusedError("a token with another algorithm")
    key = Ed25519PublicKey.from_public_bytes(key_bytes(kind, claims.get("iss")))
    try:
        key.verify(_decoded(found[3]), token[: found.end(2)])
    except InvalidSignature:
        raise AgentRefusedError("a token that its issuer has not signed") from None
    return claims


def _object(text: bytes) -> dict[str, Any]:
    try:
        value = json.loads(_decoded(text))
    except (ValueError, RecursionError):
        raise AgentRefusedError("a token without JSON") from None
    if not isinstance(value, dict):
        raise AgentRefusedError("a token whose JSON is no object")
    return value


def _encoded(value: Mapping[str, Any]) -> str:
    return _base64(json.dumps(value, separators=(",", ":")).encode())


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decoded(text: bytes) -> bytes:
    return base64.urlsafe_b64decode(text + b"=" * (-len(text) % 4))
