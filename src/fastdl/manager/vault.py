# SPDX-License-Identifier: Apache-2.0
"""Secrets in the ledger: encrypted with a key in the state folder.

A dump, a backup or a replica of the database reveals no secret; anybody who can read the state
folder can act as the manager. AES-256-GCM; the setting's name is authenticated too, so that one
setting's value cannot be substituted for another's. Users' secret keys and templates' request
headers are encrypted too (sealed.py).
"""

from __future__ import annotations

import base64
import hmac
import secrets
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fastdl.errors import ApiParamError, UsageError

_PREFIX: Final = "aes-256-gcm:"
_NONCE: Final = 12


class Vault:
    """Seals and opens values with one key of 32 bytes."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._cipher = AESGCM(key)

    def derive(self, purpose: str) -> bytes:
        """Return 32 bytes that only whoever has the key can know, others for each purpose."""
        return hmac.digest(self._key, b"fastdl " + purpose.encode(), "sha256")

    def seal(self, name: str, value: str) -> str:
        """Return *value* as text that only this key can open."""
        nonce = secrets.token_bytes(_NONCE)
        sealed = self._cipher.encrypt(nonce, value.encode(), name.encode())
        return _PREFIX + base64.b64encode(nonce + sealed).decode()

    def is_sealed(self, text: str) -> bool:
        """Whether *text* looks like the output of ``seal``."""
        return text.startswith(_PREFIX)

    def open(self, name: str, text: str) -> str:
        """Return the sealed value; text that never was sealed is returned as it is.

        ApiParamError if another key sealed it, or for another name.
        """
        if not self.is_sealed(text):
            return text
        try:
            data = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
            return self._cipher.decrypt(data[:_NONCE], data[_NONCE:], name.encode()).decode()
        except (InvalidTag, ValueError):
            raise ApiParamError(
                f"{name} was encrypted with another key than secret.key in the state folder: "
                f"restore that file or set it again"
            ) from None


def read_key(path: Path) -> bytes:
    """Return the key in *path*; UsageError if the file holds none."""
    try:
        key = bytes.fromhex(path.read_text().strip())
    except (OSError, ValueError) as exc:
        raise UsageError(f"the key file {path} cannot be read: restore it from the backup") from exc
    if len(key) != 32:
        raise UsageError(f"the key file {path} does not hold a 32-byte key: restore it")
    return key
