# SPDX-License-Identifier: Apache-2.0
"""Which key comes out of a passphrase, and how are PKCS#12's safes opened and sealed?

RFC 7292 appendix B (the PKCS#12 key derivation), RFC 8018 (PBKDF2, PBES2) and RFC 9579
(PBMAC1). Old schemes are read; only PBES2 with AES is written.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from typing import TypeVar

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from fastdl.model import der
from fastdl.model.der import DerError, Element
from fastdl.trust.keystore import rc2

ITERATIONS = 10_000
"""What the JDK writes; the certificates it protects are public."""

MAX_ITERATIONS = 3_000_000
"""Of all keys of one file together: two seconds, which anyone who can write the file can demand.

The keys come before the MAC is checked, so a count is not authenticated yet. The JDK asks for
10,000 a key, NSS for 600,000: a file has one for its MAC and one for each safe.
"""

_PBES2 = "1.2.840.113549.1.5.13"
_PBKDF2 = "1.2.840.113549.1.5.12"
_PBMAC1 = "1.2.840.113549.1.5.14"
_AES_256_CBC = "2.16.840.1.101.3.4.1.42"
_SHA_256 = "2.16.840.1.101.3.4.2.1"
_HMAC_SHA_256 = "1.2.840.113549.2.9"

_CIPHER_KEY_SIZES = {
    "2.16.840.1.101.3.4.1.2": 16,
    "2.16.840.1.101.3.4.1.22": 24,
    _AES_256_CBC: 32,
    "1.2.840.113549.3.7": 24,  # triple DES
}
_HMACS = {
    "1.2.840.113549.2.7": "sha1",
    "1.2.840.113549.2.8": "sha224",
    _HMAC_SHA_256: "sha256",
    "1.2.840.113549.2.10": "sha384",
    "1.2.840.113549.2.11": "sha512",
    "1.2.840.113549.2.12": "sha512_224",
    "1.2.840.113549.2.13": "sha512_256",
}
_DIGESTS = {
    "1.3.14.3.2.26": "sha1",
    "2.16.840.1.101.3.4.2.4": "sha224",
    _SHA_256: "sha256",
    "2.16.840.1.101.3.4.2.2": "sha384",
    "2.16.840.1.101.3.4.2.3": "sha512",
    "2.16.840.1.101.3.4.2.5": "sha512_224",
    "2.16.840.1.101.3.4.2.6": "sha512_256",
}
_LEGACY = {  # scheme → (cipher, octets of the key)
    "1.2.840.113549.1.12.1.3": ("3des", 24),
    "1.2.840.113549.1.12.1.4": ("3des", 16),
    "1.2.840.113549.1.12.1.5": ("rc2", 16),
    "1.2.840.113549.1.12.1.6": ("rc2", 5),
}
_KEY_ID, _IV_ID, _MAC_ID = 1, 2, 3


Value = TypeVar("Value")


class Unsupported(DerError):
    """A well-formed algorithm that this code does not know, or does not carry out."""


class Work:
    """The iterations that the keys of one file may still ask for."""

    def __init__(self) -> None:
        self._left = MAX_ITERATIONS

    def spend(self, count: int, blocks: int = 1) -> int:
        """*count*, which is iterated once for each of *blocks*; DerError, Unsupported."""
        if count < 1:
            raise DerError("iteration count 0 is absurd")
        self._left -= count * blocks
        if self._left < 0:
            raise Unsupported(
                f"its keys ask for more than {MAX_ITERATIONS:,} iterations together, which is the "
                "most that fastdl carries out for one file"
            )
        return count


@dataclass(frozen=True, slots=True)
class Sealer:
    """A key and how to seal with it: the scheme of a safe, ready for its next version."""

    scheme: str
    parameters: bytes  # the PBES2 key derivation, encoded
    cipher: str
    key: bytes

    def seal(self, plain: bytes) -> tuple[bytes, bytes]:
        """(encoded AlgorithmIdentifier, ciphertext), with a fresh initial vector."""
        iv = secrets.token_bytes(16)
        pad = 16 - len(plain) % 16
        run = Cipher(algorithms.AES(self.key), modes.CBC(iv)).encryptor()
        sealed = run.update(plain + bytes((pad,)) * pad) + run.finalize()
        encryption = der.sequence(der.oid(self.cipher), der.octets(iv))
        return der.sequence(der.oid(_PBES2), der.sequence(self.parameters, encryption)), sealed


def new_sealer(passphrase: str) -> Sealer:
    """PBES2: PBKDF2 with HMAC-SHA-256, AES-256-CBC, a fresh salt."""
    salt = secrets.token_bytes(20)
    key = hashlib.pbkdf2_hmac("sha256", passphrase.encode(), salt, ITERATIONS, 32)
    prf = der.sequence(der.oid(_HMAC_SHA_256), der.null())
    inner = der.sequence(der.octets(salt), der.integer(ITERATIONS), der.integer(32), prf)
    derivation = der.sequence(der.oid(_PBKDF2), inner)
    return Sealer(_PBES2, derivation, _AES_256_CBC, key)


def open_sealed(
    algorithm: Element, sealed: bytes, passphrase: str, work: Work
) -> tuple[bytes, Sealer | None]:
    """The padded plain bytes of *sealed* and, for PBES2 with AES, how to seal them again.

    The padding is left on: only the caller can distinguish a wrong key from damage.
    """
    scheme, parameters = _algorithm(algorithm)
    if scheme == _PBES2:
        return _open_pbes2(parameters, sealed, passphrase, work)
    if scheme not in _LEGACY:
        raise Unsupported(f"encryption scheme {scheme} is not supported")
    name, size = _LEGACY[scheme]
    salt, count = _salt_and_count(parameters)
    _whole_blocks(sealed, 8)
    key = _pkcs12_key("sha1", _KEY_ID, passphrase, salt, count, work, size=size)
    iv = _pkcs12_key("sha1", _IV_ID, passphrase, salt, count, work, size=8)
    if name == "rc2":
        return rc2.decrypt_cbc(key, iv, sealed), None
    return _decrypt(TripleDES(key + key[:8] if size == 16 else key), iv, sealed), None


def strip_padding(padded: bytes, block: int = 16) -> bytes:
    """*padded* without its PKCS#7 padding; DerError when it has none."""
    pad = padded[-1] if padded else 0
    if not 1 <= pad <= block or padded[-pad:] != bytes((pad,)) * pad:
        raise DerError("padding is wrong")
    return padded[:-pad]


def mac_of(
    parameters: Element, salt: bytes, count: int, passphrase: str, data: bytes, work: Work
) -> bytes:
    """The MAC over *data* as the DigestInfo's algorithm *parameters* ask (PKCS#12 or PBMAC1)."""
    scheme, inner = _algorithm(parameters)
    if scheme == _PBMAC1:
        derivation, mac = _exactly(inner, 2)
        digest = _lookup(_HMACS, _algorithm(mac)[0], "MAC")
        key = _pbkdf2(derivation, passphrase, None, work)
        return hmac.digest(key, data, digest)
    digest = _lookup(_DIGESTS, scheme, "MAC digest")
    size = _digest_size(digest)
    key = _pkcs12_key(digest, _MAC_ID, passphrase, salt, count, work, size=size)
    return hmac.digest(key, data, digest)


def is_weak_mac(parameters: Element) -> bool:
    """True for a MAC that is replaced when the store is rewritten."""
    return _DIGESTS.get(_algorithm(parameters)[0]) == "sha1"


def new_mac_algorithm() -> Element:
    """SHA-256 with the PKCS#12 key derivation, as the JDK writes it."""
    return der.read_one(der.sequence(der.oid(_SHA_256), der.null()))


def _open_pbes2(
    parameters: Element | None, sealed: bytes, passphrase: str, work: Work
) -> tuple[bytes, Sealer | None]:
    derivation, encryption = _exactly(parameters, 2)
    cipher, iv_element = _algorithm(encryption)
    size = _lookup(_CIPHER_KEY_SIZES, cipher, "cipher")
    if iv_element is None:
        raise DerError("cipher without an initial vector")
    iv = iv_element.expect(der.OCTET_STRING).content
    key = _pbkdf2(derivation, passphrase, size, work)
    triple = cipher == "1.2.840.113549.3.7"
    block = 8 if triple else 16
    _whole_blocks(sealed, block)
    if len(iv) != block:
        raise DerError("initial vector of a wrong size")
    plain = _decrypt(TripleDES(key) if triple else algorithms.AES(key), iv, sealed)
    return plain, None if triple else Sealer(_PBES2, derivation.raw, cipher, key)


def _decrypt(algorithm: TripleDES | algorithms.AES, iv: bytes, sealed: bytes) -> bytes:
    run = Cipher(algorithm, modes.CBC(iv)).decryptor()
    return run.update(sealed) + run.finalize()


def _pbkdf2(derivation: Element, passphrase: str, size: int | None, work: Work) -> bytes:
    """The key of an AlgorithmIdentifier for PBKDF2; *size* None takes the stated key length."""
    scheme, inner = _algorithm(derivation)
    if scheme != _PBKDF2 or inner is None:
        raise Unsupported(f"key derivation {scheme} is not supported")
    fields = inner.children()
    if len(fields) < 2:
        raise DerError("key derivation without salt or count")
    salt = fields[0].expect(der.OCTET_STRING).content
    count = fields[1].integer()
    digest, stated = "sha1", None
    for field in fields[2:]:
        if field.tag == der.INTEGER:
            stated = field.integer()
        else:
            digest = _lookup(_HMACS, _algorithm(field)[0], "key derivation")
    size = stated if size is None else size
    if not size or size > 64 or stated not in (None, size):
        raise DerError("key length missing or wrong")
    work.spend(count, -(-size // _digest_size(digest)))
    return hashlib.pbkdf2_hmac(digest, passphrase.encode(), salt, count, size)


def _pkcs12_key(
    digest: str, purpose: int, passphrase: str, salt: bytes, count: int, work: Work, *, size: int
) -> bytes:
    """RFC 7292 B.2, with the passphrase as a zero-terminated BMPString."""
    work.spend(count, -(-size // _digest_size(digest)))
    block = hashlib.new(digest, usedforsecurity=False).block_size
    password = passphrase.encode("utf-16-be") + b"\0\0"
    diversifier = bytes((purpose,)) * block
    state = _repeat(salt, block) + _repeat(password, block)
    out = b""
    while len(out) < size:
        a = diversifier + state
        for _ in range(count):
            a = hashlib.new(digest, a, usedforsecurity=False).digest()
        out += a
        add = int.from_bytes(_repeat(a, block)[:block], "big") + 1
        pieces = (state[at : at + block] for at in range(0, len(state), block))
        mask = (1 << 8 * block) - 1
        state = b"".join(
            ((int.from_bytes(piece, "big") + add) & mask).to_bytes(block, "big") for piece in pieces
        )
    return out[:size]


def _digest_size(digest: str) -> int:
    return hashlib.new(digest, usedforsecurity=False).digest_size


def _repeat(data: bytes, block: int) -> bytes:
    """*data* repeated to fill a whole number of blocks."""
    if not data:
        return b""
    size = -(-len(data) // block) * block
    return (data * (size // len(data) + 1))[:size]


def _algorithm(element: Element) -> tuple[str, Element | None]:
    parts = element.expect(der.SEQUENCE).children()
    if not 1 <= len(parts) <= 2:
        raise DerError("malformed algorithm identifier")
    return parts[0].oid(), parts[1] if len(parts) == 2 else None


def _salt_and_count(parameters: Element | None) -> tuple[bytes, int]:
    salt, count = _exactly(parameters, 2)
    return salt.expect(der.OCTET_STRING).content, count.integer()


def _exactly(element: Element | None, count: int) -> list[Element]:
    parts = element.expect(der.SEQUENCE).children() if element is not None else []
    if len(parts) != count:
        raise DerError("malformed algorithm parameters")
    return parts


def _lookup(table: dict[str, Value], name: str, what: str) -> Value:
    if name not in table:
        raise Unsupported(f"{what} {name} is not supported")
    return table[name]


def _whole_blocks(sealed: bytes, block: int) -> None:
    if not sealed or len(sealed) % block:
        raise DerError("encrypted content is not whole blocks")
