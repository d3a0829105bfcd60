# SPDX-License-Identifier: Apache-2.0
"""Who signed this? Signatures of ``ssh-keygen -Y sign`` (OpenSSH's PROTOCOL.sshsig).

The keyring is an allowed signers file, or public keys as ``ssh-keygen`` writes them. The namespace
must be ``file``, unless the key's line has ``namespaces="…"``: a key's signature of something else
(a commit, a login) proves nothing of a file.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from typing import TYPE_CHECKING, Final, NamedTuple

from fastdl.errors import UsageError
from fastdl.publishers.signer import MAX_SIGNATURE, Content, Signer, lines_of, printable

if TYPE_CHECKING:
    from cryptography.hazmat.primitives import hashes

KEY_TYPES: Final = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "ssh-rsa",
)
_NAMESPACE: Final = "file"
_MAGIC: Final = b"SSHSIG"
_HASHES: Final = frozenset({"sha256", "sha512"})
_MAX_KEYS: Final = 256
_MIN_RSA_BITS: Final = 2048
_ARMOR: Final = re.compile(
    rb"\s*-----BEGIN SSH SIGNATURE-----\r?\n([A-Za-z0-9+/=\r\n]+)-----END SSH SIGNATURE-----\s*"
)
_KEY: Final = re.compile(
    rf"(?:(?P<who>\S+)\s+)?(?:(?P<options>(?:\"[^\"]*\"|[^\s\"])+)\s+)??(?P<type>{'|'.join(KEY_TYPES)})"
    r"\s+(?P<key>[A-Za-z0-9+/=]+)(?:\s+(?P<comment>.*))?"
)
_OPTION: Final = re.compile(r'namespaces="([^"]+)"', re.IGNORECASE)


class AllowedKey(NamedTuple):
    """A public key, as the wire has it: who has it, and what it may sign."""

    blob: bytes
    who: str
    namespaces: tuple[str, ...]


def read_keys(data: bytes) -> tuple[AllowedKey, ...]:
    """The keys in an allowed signers file; UsageError for what is not read: a certificate
    authority, and options other than namespaces."""
    found = []
    for raw in lines_of(data):
        line = raw.decode("utf-8", "replace")
        if not line or line.startswith("#"):
            continue
        match = _KEY.fullmatch(line)
        if match is None:
            raise UsageError("the keyring has a line that is no ssh public key of a known type")
        namespaces: tuple[str, ...] = (_NAMESPACE,)
        if options := match["options"]:
            given = _OPTION.fullmatch(options)
            if given is None:
                raise UsageError('of an ssh key\'s options only namespaces="…" is understood')
            namespaces = tuple(given[1].split(","))
        try:
            blob = binascii.a2b_base64(match["key"].encode(), strict_mode=True)
            _public_key(blob)
        except (ValueError, binascii.Error):
            raise UsageError("the keyring has an ssh public key that is damaged or weak") from None
        who = printable(match["who"] or match["comment"] or "ssh key")
        found.append(AllowedKey(blob, who, namespaces))
    if not 0 < len(found) <= _MAX_KEYS:
        raise UsageError(f"a keyring has 1 to {_MAX_KEYS} ssh public keys")
    return tuple(found)


def verify(content: Content, signature: bytes, keys: tuple[AllowedKey, ...]) -> Signer:
    """The key of *keys* that made *signature* of *content*; IntegrityError if none did."""
    from cryptography.exceptions import InvalidSignature

    armor = _ARMOR.fullmatch(signature) if len(signature) <= MAX_SIGNATURE else None
    if armor is None:
        raise content.refused("is none of ssh-keygen")
    try:
        reader = _Reader(binascii.a2b_base64(armor[1].replace(b"\r", b"").replace(b"\n", b"")))
        head, version = reader.take(len(_MAGIC)), reader.number()
        blob, space, reserved, algorithm, made = (reader.string() for _ in range(5))
        reader.end()
        namespace, hashed_by = space.decode("ascii"), algorithm.decode("ascii")
    except (ValueError, binascii.Error):
        raise content.refused("is damaged") from None
    if head != _MAGIC or version != 1 or hashed_by not in _HASHES:
        raise content.refused("is of a form that is not known")
    known = [key for key in keys if key.blob == blob]
    if not known:
        raise content.refused("is of a key that the keyring does not have")
    allowed = next((key for key in known if namespace in key.namespaces), None)
    if allowed is None:
        shown = ascii(namespace[:40])
        raise content.refused(f"is for {shown}, not for a file (ssh-keygen -Y sign -n file)")
    digest = hashlib.new(hashed_by)
    for piece in content.pieces():
        digest.update(piece)
    signed = _MAGIC + b"".join(map(_string, (space, reserved, algorithm, digest.digest())))
    try:
        _check(blob, made, signed)
    except (InvalidSignature, ValueError):
        raise content.refused("is wrong") from None
    text = base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
    return Signer(f"SHA256:{text}", allowed.who)


def _check(blob: bytes, made: bytes, signed: bytes) -> None:
    """InvalidSignature or ValueError if *made* is no signature of *signed* by the key *blob*."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

    reader = _Reader(made)
    algorithm, raw = reader.string().decode("ascii"), reader.string()
    reader.end()
    key = _public_key(blob)
    if isinstance(key, ed25519.Ed25519PublicKey) and algorithm == "ssh-ed25519":
        key.verify(raw, signed)
    elif isinstance(key, ec.EllipticCurvePublicKey) and algorithm == _type_of(blob):
        pair = _Reader(raw)
        r, s = (int.from_bytes(pair.string()) for _ in range(2))
        pair.end()
        key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(_hash_of(key.curve.key_size)))
    elif isinstance(key, rsa.RSAPublicKey) and algorithm in ("rsa-sha2-256", "rsa-sha2-512"):
        key.verify(raw, signed, padding.PKCS1v15(), _hash_of(int(algorithm[-3:])))
    else:  # ssh-rsa is SHA-1
        raise ValueError("an algorithm that does not belong to the key")


def _hash_of(bits: int) -> hashes.HashAlgorithm:
    from cryptography.hazmat.primitives import hashes

    sizes: dict[int, hashes.HashAlgorithm] = {256: hashes.SHA256(), 384: hashes.SHA384()}
    return sizes.get(bits, hashes.SHA512())


def _public_key(blob: bytes) -> object:
    """The key in *blob*; ValueError if it is none, or of RSA and too short."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import load_ssh_public_key

    line = _type_of(blob).encode() + b" " + base64.b64encode(blob)
    try:
        key = load_ssh_public_key(line)
    except (UnsupportedAlgorithm, NotImplementedError):  # the latter: a compressed point
        raise ValueError("an unknown type of key") from None
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < _MIN_RSA_BITS:
        raise ValueError("a short key")
    return key


def _type_of(blob: bytes) -> str:
    return _Reader(blob).string().decode("ascii")


def _string(data: bytes) -> bytes:
    return len(data).to_bytes(4) + data


class _Reader:
    """RFC 4251's encoding, read in order; ValueError where it ends early or late."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, length: int) -> bytes:
        if length > len(self._data) - self._at:
            raise ValueError("truncated")
        self._at += length
        return self._data[self._at - length : self._at]

    def number(self) -> int:
        return int.from_bytes(self.take(4))

    def string(self) -> bytes:
        return self.take(self.number())

    def end(self) -> None:
        if self._at != len(self._data):
            raise ValueError("more than was expected")
