# SPDX-License-Identifier: Apache-2.0
"""What a manager and one host leave for each other at a third party: encrypted and authenticated.

A key belongs to one host with one key pair: managers derive it, the host is given it in its
``Welcome``. What is sealed for one purpose opens for no other.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_NONCE: Final = 12
OVERHEAD: Final = _NONCE + 16
"""Bytes that sealing adds."""


class Seal:
    """AES-256-GCM with *key*, 32 bytes."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def close(self, purpose: str, text: str) -> bytes:
        """Return *text* as only this key opens it, for *purpose*."""
        nonce = secrets.token_bytes(_NONCE)
        return nonce + self._cipher.encrypt(nonce, text.encode(), purpose.encode())

    def open(self, purpose: str, data: bytes) -> str | None:
        """Return the text in *data*; None if it was not sealed with this key for *purpose*."""
        if len(data) < OVERHEAD:
            return None
        try:
            return self._cipher.decrypt(data[:_NONCE], data[_NONCE:], purpose.encode()).decode()
        except (InvalidTag, ValueError):
            return None


def key_of(derive: Callable[[str], bytes], host: str, key_hash: str) -> bytes:
    """Return the key of *host* while *key_hash* is the hash of its key; *derive* returns 32 bytes
    for a purpose that only managers of this ledger know."""
    return derive(f"hosts on nats: {host} {key_hash}")


def document(host: str, session: str) -> str:
    """Return the purpose of a document for *host*: it is void in any other session."""
    return f"document {host} {session}"


def result(host: str) -> str:
    """Return the purpose of a result of *host*."""
    return f"result {host}"
