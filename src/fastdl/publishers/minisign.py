# SPDX-License-Identifier: Apache-2.0
"""Who signed this? Minisign's Ed25519 signatures: prehashed (``ED``) and legacy (``Ed``).

A public key is ``Ed`` with a key id of 8 bytes and 32 of the key; a signature is its algorithm,
the key id and 64 bytes, then a trusted comment with a signature of its own. All in base64.
"""

from __future__ import annotations

import binascii
import hashlib
from typing import TYPE_CHECKING, Final

from fastdl.errors import UsageError
from fastdl.publishers.signer import MAX_SIGNATURE, Content, Signer, lines_of

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

COMMENT: Final = b"untrusted comment:"
_TRUSTED: Final = b"trusted comment: "
_KEY: Final = 42
_SIGNATURE: Final = 74
_MAX_KEYS: Final = 64


def read_keys(data: bytes) -> dict[bytes, bytes]:
    """Key id → public key, from files as ``minisign -G`` writes them; UsageError for others."""
    keys: dict[bytes, bytes] = {}
    for line in lines_of(data):
        if not line or line.startswith(COMMENT):
            continue
        raw = _decoded(line, _KEY)
        if raw is None or raw[:2] != b"Ed":
            raise UsageError("the keyring has a line that is no minisign public key")
        keys[raw[2:10]] = raw[10:]
    if not 0 < len(keys) <= _MAX_KEYS:
        raise UsageError(f"a keyring has 1 to {_MAX_KEYS} minisign public keys")
    return keys


def verify(content: Content, signature: bytes, keys: dict[bytes, bytes]) -> Signer:
    """The key of *keys* that made *signature* of *content*; IntegrityError if none did."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    lines = lines_of(signature) if len(signature) <= MAX_SIGNATURE else []
    while lines and not lines[-1]:
        lines.pop()
    # The trusted comment's own blanks are signed.
    raw = signature.split(b"\n")[2].removesuffix(b"\r") if len(lines) == 4 else b""
    if not raw.startswith(_TRUSTED) or not lines[0].startswith(COMMENT):
        raise content.refused("is none of minisign")
    made, sealed = _decoded(lines[1], _SIGNATURE), _decoded(lines[3], 64)
    if made is None or sealed is None or made[:2] not in (b"ED", b"Ed"):
        raise content.refused("is damaged")
    if (public := keys.get(made[2:10])) is None:
        raise content.refused("is of a key that the keyring does not have")
    key: Ed25519PublicKey = Ed25519PublicKey.from_public_bytes(public)
    try:
        key.verify(made[10:], _hashed(content) if made[:2] == b"ED" else content.whole())
        key.verify(sealed, made[10:] + raw.removeprefix(_TRUSTED))
    except InvalidSignature:
        raise content.refused("is wrong") from None
    return Signer(made[9:1:-1].hex().upper(), "minisign key")


def _hashed(content: Content) -> bytes:
    digest = hashlib.blake2b()
    for piece in content.pieces():
        digest.update(piece)
    return digest.digest()


def _decoded(line: bytes, length: int) -> bytes | None:
    """The *length* bytes that *line* is in base64, None if it is not."""
    try:
        raw = binascii.a2b_base64(line, strict_mode=True)
    except binascii.Error:
        return None
    return raw if len(raw) == length else None
