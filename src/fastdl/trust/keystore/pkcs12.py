# SPDX-License-Identifier: Apache-2.0
"""What is inside a PKCS#12 keystore, and how is a certificate added to it or taken out?

RFC 7292. The file is a list of safes, each a list of bags. Bags are kept as the bytes
they are, known or not; only the safe that gains or loses a certificate is sealed again.
Java shows a certificate as trusted only when its bag carries Oracle's trusted-key-usage
attribute, so that is what is written and what is listed.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

from fastdl.errors import KeystoreAuthError, KeystoreCorruptError
from fastdl.model import der
from fastdl.model.der import DerError, Element
from fastdl.trust.alias import fold
from fastdl.trust.keystore import pbe
from fastdl.trust.keystore.entry import Entry

_DATA = "1.2.840.113549.1.7.1"
_ENCRYPTED_DATA = "1.2.840.113549.1.7.6"
_BAGS = "1.2.840.113549.1.12.10.1."
_KEY_BAGS = frozenset((_BAGS + "1", _BAGS + "2", _BAGS + "5"))  # plain key, shrouded key, secret
_CERT_BAG = _BAGS + "3"
_X509 = "1.2.840.113549.1.9.22.1"
_FRIENDLY_NAME = "1.2.840.113549.1.9.20"
_LOCAL_KEY_ID = "1.2.840.113549.1.9.21"
_TRUSTED_KEY_USAGE = "2.16.840.1.113894.746875.1.1"
_ANY_USAGE = "2.5.29.37.0"


@dataclass(frozen=True, slots=True)
class _Bag:
    raw: bytes
    kind: str
    alias: str | None
    key_id: bytes | None
    trusted: bool
    certificate: bytes | None


@dataclass(frozen=True, slots=True)
class _Safe:
    """One ContentInfo. ``bags`` is None where it cannot be opened (it is passed on as it is)."""

    raw: bytes | None  # None once it was edited, or must be sealed by a better scheme
    bags: tuple[_Bag, ...] | None
    encrypted: bool
    sealer: pbe.Sealer | None


@dataclass(frozen=True, slots=True)
class _Mac:
    algorithm: Element
    salt: bytes
    count: int


@dataclass(frozen=True, slots=True)
class Pkcs12:
    """A PKCS#12 keystore taken apart."""

    safes: tuple[_Safe, ...]
    mac: _Mac
    original: bytes | None

    @classmethod
    def new(cls) -> Self:
        """An empty store."""
        mac = _Mac(pbe.new_mac_algorithm(), secrets.token_bytes(20), pbe.ITERATIONS)
        return cls(safes=(), mac=mac, original=None)

    @classmethod
    def parse(cls, data: bytes, passphrase: str) -> Self:
        """The store in *data*, its MAC checked before anything inside is believed.

        KeystoreAuthError when the passphrase does not open it, KeystoreCorruptError for damage.
        """
        work = pbe.Work()
        try:
            try:
                safes, mac = _read(data, passphrase, lambda part: part, work)
            except pbe.Unsupported:
                raise
            except DerError as exc:
                safes, mac = _read_ber(data, passphrase, exc, work)
        except pbe.Unsupported as exc:
            raise KeystoreCorruptError(f"the PKCS#12 keystore cannot be read: {exc}") from None
        except DerError as exc:
            raise KeystoreCorruptError(f"the PKCS#12 keystore is damaged: {exc}") from None
        return cls(safes=safes, mac=mac, original=data)

    def entries(self) -> list[Entry]:
        """The entries in the order of the file; chain certificates belong to their key."""
        bags = [bag for safe in self.safes for bag in safe.bags or ()]
        leaves = {
            bag.key_id: bag.certificate
            for bag in bags
            if bag.certificate is not None and bag.key_id
        }
        found: list[Entry] = []
        for bag in bags:
            if bag.trusted:
                found.append(Entry(bag.alias or "", "trusted", bag.certificate))
            elif bag.kind in _KEY_BAGS:
                found.append(Entry(bag.alias or "", "key", leaves.get(bag.key_id or b"")))
        return found

    def with_trusted(self, alias: str, certificate: bytes, *, now_ms: int) -> Self:
        """This store plus one trusted certificate (PKCS#12 keeps no time of its making)."""
        del now_ms
        bag = _read_bag(der.read_one(_trusted_bag(alias, certificate)))
        safes = list(self.safes)
        for at, safe in enumerate(safes):
            if safe.bags is not None and any(b.kind == _CERT_BAG for b in safe.bags):
                # Appended: Java ties the first certificate of a safe to a lone private key.
                safes[at] = replace(safe, raw=None, bags=(*safe.bags, bag))
                break
        else:
            safes.append(_Safe(raw=None, bags=(bag,), encrypted=True, sealer=None))
        return replace(self, safes=tuple(safes), original=None)

    def without_trusted(self, alias: str) -> Self:
        """This store minus the trusted certificate under *alias*."""
        safes: list[_Safe] = []
        for safe in self.safes:
            kept = tuple(
                bag
                for bag in safe.bags or ()
                if not (bag.trusted and fold(bag.alias or "") == fold(alias))
            )
            if len(kept) == len(safe.bags or ()):
                safes.append(safe)
            elif kept:
                safes.append(replace(safe, raw=None, bags=kept))
        changed = tuple(safes)
        return self if changed == self.safes else replace(self, safes=changed, original=None)

    def encode(self, passphrase: str) -> bytes:
        """The file's bytes. Safes and MACs of outdated strength come out as PBES2 and SHA-256."""
        if self.original is not None:
            return self.original
        if not (passphrase.isascii() and passphrase.isprintable()):
            raise KeystoreAuthError(
                "Java can open no PKCS#12 keystore with this passphrase: "
                "it has characters outside ASCII"
            )
        content = der.sequence(*(_write_safe(safe, passphrase) for safe in self.safes))
        mac = self.mac
        if pbe.is_weak_mac(mac.algorithm):
            count = max(mac.count, pbe.ITERATIONS)
            mac = _Mac(pbe.new_mac_algorithm(), secrets.token_bytes(20), count)
        value = pbe.mac_of(mac.algorithm, mac.salt, mac.count, passphrase, content, pbe.Work())
        mac_data = der.sequence(
            der.sequence(mac.algorithm.raw, der.octets(value)),
            der.octets(mac.salt),
            *((der.integer(mac.count),) if mac.count != 1 else ()),
        )
        info = der.sequence(der.oid(_DATA), der.explicit(0, der.octets(content)))
        return der.sequence(der.integer(3), info, mac_data)


Normal = Callable[[bytes], bytes]
"""What makes encoded bytes DER: nothing, or ``der.definite``."""


def _read(
    data: bytes, passphrase: str, normal: Normal, work: pbe.Work
) -> tuple[tuple[_Safe, ...], _Mac]:
    content, expected, mac = _take_apart(normal(data))
    computed = pbe.mac_of(mac.algorithm, mac.salt, mac.count, passphrase, content, work)
    if not hmac.compare_digest(computed, expected):
        raise _mismatch(normal(content), passphrase, work)
    infos = der.read_one(normal(content)).expect(der.SEQUENCE).children()
    return tuple(_read_safe(info, passphrase, normal, work) for info in infos), mac


def _read_ber(
    data: bytes, passphrase: str, why: DerError, work: pbe.Work
) -> tuple[tuple[_Safe, ...], _Mac]:
    """The same of a file in BER; *why* it is no DER, where it is not BER either."""
    try:
        return _read(data, passphrase, der.definite, work)
    except pbe.Unsupported:
        raise
    except DerError:
        raise why from None


def _take_apart(data: bytes) -> tuple[bytes, bytes, _Mac]:
    """(the authenticated bytes, the MAC's value, how it was made)."""
    parts = der.read_one(data).expect(der.SEQUENCE).children()
    if len(parts) < 2 or parts[0].integer() != 3:
        raise DerError("not version 3 of PKCS#12")
    if len(parts) != 3:
        raise pbe.Unsupported(
            "it was made without a MAC, so nothing vouches for its content; "
            "make it again with keytool's own settings"
        )
    kind, value = _content_info(parts[1])
    if kind != _DATA:
        raise pbe.Unsupported(f"integrity mode {kind} is not supported")
    content = value.expect(der.OCTET_STRING).content
    fields = parts[2].expect(der.SEQUENCE).children()
    if not 2 <= len(fields) <= 3:
        raise DerError("malformed MAC")
    digest = fields[0].expect(der.SEQUENCE).children()
    if len(digest) != 2:
        raise DerError("malformed MAC")
    count = fields[2].integer() if len(fields) == 3 else 1
    mac = _Mac(digest[0], fields[1].expect(der.OCTET_STRING).content, count)
    return content, digest[1].expect(der.OCTET_STRING).content, mac


def _mismatch(
    content: bytes, passphrase: str, work: pbe.Work
) -> KeystoreAuthError | KeystoreCorruptError:
    """Why the MAC does not match: when the passphrase opens a safe, the file is damaged."""
    for info in der.read_one(content).expect(der.SEQUENCE).children():
        kind, value = _content_info(info)
        if kind != _ENCRYPTED_DATA:
            continue
        algorithm, sealed = _encrypted_content(value)
        # Nothing vouches for these bytes, and their start is enough: ciphers may be slow.
        start, _ = pbe.open_sealed(algorithm, sealed[:16], passphrase, work)
        if _frames(start, len(sealed)):
            return KeystoreCorruptError("the PKCS#12 keystore is damaged: its MAC does not match")
    return KeystoreAuthError("the keystore's passphrase is wrong (or the file was altered)")


def _frames(start: bytes, size: int) -> bool:
    """Whether *start* begins a sequence that *size* bytes hold, padded: a chance of 2^-20."""
    width = start[1] & 0x7F if start[1] & 0x80 else 0
    if start[0] != der.SEQUENCE or width > 4:
        return False
    length = int.from_bytes(start[2 : 2 + width], "big") if width else start[1]
    return 1 <= size - (2 + width + length) <= 16


def _content_info(element: Element) -> tuple[str, Element]:
    parts = element.expect(der.SEQUENCE).children()
    if len(parts) != 2:
        raise DerError("malformed content info")
    return parts[0].oid(), parts[1].expect(0xA0).only_child()


def _encrypted_content(value: Element) -> tuple[Element, bytes]:
    parts = value.expect(der.SEQUENCE).children()
    if len(parts) < 2:
        raise DerError("malformed encrypted data")
    inner = parts[1].expect(der.SEQUENCE).children()
    if len(inner) != 3 or inner[0].oid() != _DATA:
        raise DerError("malformed encrypted content")
    if inner[2].tag == 0xA0:  # in pieces: BER
        return inner[1], b"".join(p.expect(der.OCTET_STRING).content for p in inner[2].children())
    return inner[1], inner[2].expect(0x80).content


def _read_safe(info: Element, passphrase: str, normal: Normal, work: pbe.Work) -> _Safe:
    kind, value = _content_info(info)
    if kind == _DATA:
        plain = value.expect(der.OCTET_STRING).content
        return _Safe(info.raw, _read_bags(normal(plain)), encrypted=False, sealer=None)
    if kind != _ENCRYPTED_DATA:
        return _Safe(info.raw, None, encrypted=True, sealer=None)
    algorithm, sealed = _encrypted_content(value)
    padded, sealer = pbe.open_sealed(algorithm, sealed, passphrase, work)
    bags = _read_bags(normal(pbe.strip_padding(padded)))
    return _Safe(info.raw if sealer else None, bags, encrypted=True, sealer=sealer)


def _write_safe(safe: _Safe, passphrase: str) -> bytes:
    if safe.raw is not None:
        return safe.raw
    assert safe.bags is not None  # a safe that cannot be opened always keeps its bytes
    plain = der.sequence(*(bag.raw for bag in safe.bags))
    if not safe.encrypted:
        return der.sequence(der.oid(_DATA), der.explicit(0, der.octets(plain)))
    algorithm, sealed = (safe.sealer or pbe.new_sealer(passphrase)).seal(plain)
    content = der.sequence(der.oid(_DATA), algorithm, der.encode(0x80, sealed))
    data = der.sequence(der.integer(0), content)
    return der.sequence(der.oid(_ENCRYPTED_DATA), der.explicit(0, data))


def _read_bags(plain: bytes) -> tuple[_Bag, ...]:
    return tuple(_read_bag(bag) for bag in der.read_one(plain).expect(der.SEQUENCE).children())


def _read_bag(element: Element) -> _Bag:
    parts = element.expect(der.SEQUENCE).children()
    if not 2 <= len(parts) <= 3:
        raise DerError("malformed bag")
    kind = parts[0].oid()
    attributes = _read_attributes(parts[2]) if len(parts) == 3 else {}
    name = attributes.get(_FRIENDLY_NAME)
    key_id = attributes.get(_LOCAL_KEY_ID)
    certificate = _read_certificate(parts[1]) if kind == _CERT_BAG else None
    return _Bag(
        raw=element.raw,
        kind=kind,
        alias=_text(name) if name else None,
        key_id=key_id.content if key_id else None,
        trusted=certificate is not None and _TRUSTED_KEY_USAGE in attributes,
        certificate=certificate,
    )


def _read_certificate(value: Element) -> bytes | None:
    """DER of an X.509 certificate; None for the other kinds a certificate bag may hold."""
    parts = value.expect(0xA0).only_child().expect(der.SEQUENCE).children()
    if len(parts) != 2:
        raise DerError("malformed certificate bag")
    if parts[0].oid() != _X509:
        return None
    return parts[1].expect(0xA0).only_child().expect(der.OCTET_STRING).content


def _read_attributes(element: Element) -> dict[str, Element]:
    """Attribute type → its first value."""
    found: dict[str, Element] = {}
    for attribute in element.expect(der.SET).children():
        parts = attribute.expect(der.SEQUENCE).children()
        if len(parts) != 2:
            raise DerError("malformed attribute")
        values = parts[1].expect(der.SET).children()
        if values:
            found[parts[0].oid()] = values[0]
    return found


def _text(element: Element) -> str:
    try:
        return element.expect(der.BMP_STRING).content.decode("utf-16-be")
    except UnicodeDecodeError:
        raise DerError("an alias is not text") from None


def _trusted_bag(alias: str, certificate: bytes) -> bytes:
    cert_bag = der.sequence(der.oid(_X509), der.explicit(0, der.octets(certificate)))
    name = der.sequence(der.oid(_FRIENDLY_NAME), der.set_of(der.bmp_string(alias)))
    usage = der.sequence(der.oid(_TRUSTED_KEY_USAGE), der.set_of(der.oid(_ANY_USAGE)))
    return der.sequence(der.oid(_CERT_BAG), der.explicit(0, cert_bag), der.set_of(name, usage))
