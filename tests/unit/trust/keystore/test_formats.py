# SPDX-License-Identifier: Apache-2.0
"""Do the two formats keep what they do not understand, and refuse what is damaged? (K01, K02)"""

from __future__ import annotations

import hashlib
import hmac
import random
import time
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    pkcs12,
)
from hypothesis import given
from hypothesis import strategies as st

from fastdl.errors import KeystoreAuthError, KeystoreCorruptError
from fastdl.model import der
from fastdl.model.der import DerError
from fastdl.trust.keystore.entry import Document
from fastdl.trust.keystore.jks import Jks
from fastdl.trust.keystore.pkcs12 import Pkcs12
from fastdl.trust.keystore.store import parse
from tests.env.certs import CertLab

PASSPHRASE = "correct horse"
NSS = Path(__file__).parents[3] / "vectors" / "nss.p12"


def _filled(document: Document, certs: CertLab) -> Document:
    for name in ("good", "self-signed"):
        data = certs.leaf(name).certificate.public_bytes(Encoding.DER)
        document = document.with_trusted(name, data, now_ms=1_700_000_000_000)
    return document


@pytest.fixture(scope="module", params=["jks", "pkcs12"])
def stored(request: pytest.FixtureRequest, certs: CertLab) -> bytes:
    """A keystore of each format with two certificates."""
    empty: Document = (
        Jks(version=2, slots=(), original=None) if request.param == "jks" else Pkcs12.new()
    )
    return _filled(empty, certs).encode(PASSPHRASE)


def test_an_unedited_store_is_given_back_byte_for_byte(stored: bytes) -> None:
    """Reading alone must never be able to change a host's identity."""
    assert parse(stored, PASSPHRASE).encode(PASSPHRASE) == stored


def test_adding_and_removing_gives_back_the_same_entries(stored: bytes, certs: CertLab) -> None:
    """An import that is revoked leaves no trace in what is listed."""
    before = parse(stored, PASSPHRASE)
    data = certs.ca.certificate.public_bytes(Encoding.DER)
    edited = parse(before.with_trusted("Extra", data, now_ms=0).encode(PASSPHRASE), PASSPHRASE)
    assert [e.key for e in edited.entries()] == [*(e.key for e in before.entries()), "extra"]
    again = parse(edited.without_trusted("EXTRA").encode(PASSPHRASE), PASSPHRASE)
    assert again.entries() == before.entries()


@pytest.mark.parametrize("wrong", ["", "wrong", "Correct horse", "correct horsé", "密码"])
def test_a_wrong_passphrase_is_told_apart_from_damage(stored: bytes, wrong: str) -> None:
    """K01: the operator must know whether to look at the passphrase or at a backup."""
    with pytest.raises(KeystoreAuthError):
        parse(stored, wrong)


def test_every_truncation_is_damage(stored: bytes) -> None:
    """K02: a store cut anywhere is recognised before its passphrase is tried."""
    for size in range(1, len(stored)):
        with pytest.raises(KeystoreCorruptError):
            parse(stored[:size], PASSPHRASE)


def test_no_flipped_byte_goes_unnoticed(stored: bytes) -> None:
    """K02: every byte is under the MAC or under the structure's own rules."""
    rng = random.Random(7)
    for at in sorted(rng.sample(range(len(stored)), 150)):
        damaged = bytearray(stored)
        damaged[at] ^= 1 << rng.randrange(8)
        with pytest.raises((KeystoreCorruptError, KeystoreAuthError)):
            parse(bytes(damaged), PASSPHRASE)


def test_damage_inside_a_pkcs12_is_not_blamed_on_the_passphrase(certs: CertLab) -> None:
    """The encrypted safe opens with the right passphrase even where the MAC does not match."""
    stored = _filled(Pkcs12.new(), certs).encode(PASSPHRASE)
    damaged = bytearray(stored)
    damaged[len(stored) // 2] ^= 1
    with pytest.raises(KeystoreCorruptError, match="MAC"):
        parse(bytes(damaged), PASSPHRASE)


def test_a_pkcs12_without_a_mac_is_refused(certs: CertLab) -> None:
    """K02: nothing would vouch for which certificates are trusted."""
    parts = der.read_one(_filled(Pkcs12.new(), certs).encode(PASSPHRASE)).children()
    with pytest.raises(KeystoreCorruptError, match="without a MAC"):
        parse(der.sequence(*(part.raw for part in parts[:2])), PASSPHRASE)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"\xce\xce\xce\xce\0\0\0\2\0\0\0\0", "JCEKS"),
        (b"-----BEGIN CERTIFICATE-----\n", "PEM"),
        (b"hello", "neither"),
        (b"\xfe\xed\xfe\xed\0\0\0\2\x80\0\0\0" + bytes(20), "claims 2147483648 entries"),
        (b"\xfe\xed\xfe\xed\0\0\0\2\0\0\0\1\0\0\0\2\xff\xff" + bytes(20), "more bytes"),
        (b"\xfe\xed\xfe\xed\0\0\0\7\0\0\0\0" + bytes(20), "version 7"),
    ],
)
def test_what_is_no_keystore_is_named(data: bytes, words: str) -> None:
    """K02, K03: the message says what the file is instead."""
    with pytest.raises(KeystoreCorruptError, match=words):
        parse(data, PASSPHRASE)


@pytest.mark.parametrize(
    ("rounds", "why"), [(0, "iteration count 0"), (2**31, "3,000,000"), (3_000_001, "3,000,000")]
)
def test_an_absurd_iteration_count_costs_nothing(certs: CertLab, rounds: int, why: str) -> None:
    """K02: a count in a damaged file must not become an hour of hashing."""
    version, content, mac = der.read_one(_filled(Pkcs12.new(), certs).encode(PASSPHRASE)).children()
    digest, salt, _ = mac.children()
    changed = der.sequence(digest.raw, salt.raw, der.integer(rounds))
    began = time.process_time()
    with pytest.raises(KeystoreCorruptError, match=why):
        parse(der.sequence(version.raw, content.raw, changed), PASSPHRASE)
    assert time.process_time() - began < 0.5


def test_many_keys_share_one_limit(certs: CertLab) -> None:
    """A thousand safes with a modest count each come before any check of who wrote them."""
    whole = der.read_one(_filled(Pkcs12.new(), certs).encode(PASSPHRASE))
    version, content, mac = whole.children()
    (safe,) = der.read_one(content.children()[1].only_child().content).children()
    # Sealed with another passphrase, so that no safe shows whether this one was right.
    many = der.octets(der.sequence(*[safe.raw] * 1000))
    changed = der.sequence(content.children()[0].raw, der.explicit(0, many))
    began = time.process_time()
    with pytest.raises(KeystoreCorruptError, match="3,000,000 iterations together"):
        parse(der.sequence(version.raw, changed, mac.raw), "wrong")
    assert time.process_time() - began < 10


def test_a_store_of_the_strongest_tools_is_within_the_limit(certs: CertLab) -> None:
    """NSS asks for 600,000 iterations a key; this store asks a million for its MAC."""
    document = _filled(Pkcs12.new(), certs)
    document = replace(document, mac=replace(document.mac, count=1_000_000))
    assert len(parse(document.encode(PASSPHRASE), PASSPHRASE).entries()) == 2


def test_a_wrong_passphrase_does_not_make_slow_ciphers_run(certs: CertLab) -> None:
    """A file whose MAC does not match is told apart by its first bytes, not by all of them."""
    whole = der.read_one(_filled(Pkcs12.new(), certs).encode(PASSPHRASE))
    version, content, mac = whole.children()
    scheme = der.sequence(
        der.oid("1.2.840.113549.1.12.1.6"), der.sequence(der.octets(b"salt"), der.integer(1))
    )
    inner = der.sequence(der.oid("1.2.840.113549.1.7.1"), scheme, der.encode(0x80, bytes(8 << 20)))
    safe = der.sequence(
        der.oid("1.2.840.113549.1.7.6"), der.explicit(0, der.sequence(der.integer(0), inner))
    )
    changed = der.sequence(
        content.children()[0].raw, der.explicit(0, der.octets(der.sequence(safe)))
    )
    began = time.process_time()
    with pytest.raises(KeystoreAuthError):
        parse(der.sequence(version.raw, changed, mac.raw), PASSPHRASE)
    assert time.process_time() - began < 3


def test_a_store_in_ber_is_read_and_edited(certs: CertLab, tmp_path: Path) -> None:
    """Written by NSS (pk12util 3.87): indefinite lengths, strings in pieces, inside and outside."""
    data = NSS.read_bytes()
    with pytest.raises(DerError, match="indefinite"):
        der.read_one(data)
    document = parse(data, "changeit")
    assert [(e.alias, e.kind) for e in document.entries()] == [("cloud", "key")]
    assert document.encode("changeit") == data
    with pytest.raises(KeystoreAuthError):
        parse(data, "wrong")
    edited = _filled(document, certs).encode("changeit")
    assert [e.alias for e in parse(edited, "changeit").entries()] == [
        "cloud",
        "good",
        "self-signed",
    ]
    path = tmp_path / "edited.p12"
    path.write_bytes(edited)
    key, leaf, others = pkcs12.load_key_and_certificates(edited, b"changeit")
    assert key is not None
    assert leaf is not None
    assert len(others) == 2


def test_no_truncation_of_a_store_in_ber_is_accepted() -> None:
    """Without lengths a file that was cut off looks like the beginning of a whole one."""
    data = NSS.read_bytes()
    for end in range(0, len(data), 7):
        with pytest.raises(KeystoreCorruptError):
            parse(data[:end], "changeit")


def test_a_store_with_the_newer_kind_of_mac_is_edited_in_its_kind(certs: CertLab) -> None:
    """RFC 9579: PBMAC1, which newer tools write, computed here by the standard library alone."""
    version, content, _ = der.read_one(_filled(Pkcs12.new(), certs).encode(PASSPHRASE)).children()
    salt = b"sixteen octets!!"
    prf = der.sequence(der.oid("1.2.840.113549.2.11"), der.null())
    derivation = der.sequence(
        der.oid("1.2.840.113549.1.5.12"),
        der.sequence(der.octets(salt), der.integer(2048), der.integer(32), prf),
    )
    hmac_sha256 = der.sequence(der.oid("1.2.840.113549.2.9"), der.null())
    algorithm = der.sequence(
        der.oid("1.2.840.113549.1.5.14"), der.sequence(derivation, hmac_sha256)
    )

    def sealed(content: der.Element) -> bytes:
        key = hashlib.pbkdf2_hmac("sha512", PASSPHRASE.encode(), salt, 2048, 32)
        data = content.children()[1].only_child().content
        value = hmac.digest(key, data, "sha256")
        mac = der.sequence(der.sequence(algorithm, der.octets(value)), der.octets(b"unused"))
        return der.sequence(version.raw, content.raw, mac)

    document = parse(sealed(content), PASSPHRASE)
    with pytest.raises(KeystoreAuthError):
        parse(sealed(content), "wrong")
    edited = document.without_trusted("good").encode(PASSPHRASE)
    assert edited == sealed(der.read_one(edited).children()[1])
    assert [e.alias for e in parse(edited, PASSPHRASE).entries()] == ["self-signed"]


@given(data=st.binary(max_size=400), head=st.sampled_from([b"", b"\xfe\xed\xfe\xed", b"\x30\x82"]))
def test_any_bytes_are_refused_with_one_class(data: bytes, head: bytes) -> None:
    """A file that an attacker could place leads to nothing but a refusal."""
    with pytest.raises((KeystoreCorruptError, KeystoreAuthError)):
        parse(head + data, PASSPHRASE)


@pytest.mark.parametrize("scheme", ["PBESv1SHA1And3KeyTripleDESCBC", "PBESv2SHA256AndAES256CBC"])
def test_a_private_key_of_another_library_passes_through_untouched(
    certs: CertLab, scheme: str
) -> None:
    """The shrouded key's bytes are in the rewritten file exactly as they were."""
    identity = certs.leaf("good")
    encryption = (
        PrivateFormat.PKCS12.encryption_builder()
        .key_cert_algorithm(getattr(pkcs12.PBES, scheme))
        .hmac_hash(hashes.SHA1() if "SHA1" in scheme else hashes.SHA256())
        .build(PASSPHRASE.encode())
    )
    stored = pkcs12.serialize_key_and_certificates(
        b"cloud", identity.private, identity.certificate, [certs.ca.certificate], encryption
    )
    document = parse(stored, PASSPHRASE)
    (key,) = document.entries()
    assert (key.alias, key.kind) == ("cloud", "key")
    data = certs.leaf("self-signed").certificate.public_bytes(Encoding.DER)
    rewritten = document.with_trusted("mirror", data, now_ms=0).encode(PASSPHRASE)
    assert _shrouded(rewritten) == _shrouded(stored)
    loaded = pkcs12.load_pkcs12(rewritten, PASSPHRASE.encode())
    assert loaded.key is not None
    assert loaded.cert is not None
    assert loaded.cert.certificate == identity.certificate
    assert {c.friendly_name for c in loaded.additional_certs} == {None, b"mirror"}


def test_what_the_library_calls_a_java_truststore_is_listed(certs: CertLab) -> None:
    """Oracle's attribute written by others is recognised."""
    stored = pkcs12.serialize_java_truststore(
        [pkcs12.PKCS12Certificate(certs.ca.certificate, b"Root")],
        BestAvailableEncryption(PASSPHRASE.encode()),
    )
    assert [(e.alias, e.kind) for e in parse(stored, PASSPHRASE).entries()] == [("Root", "trusted")]


def _shrouded(stored: bytes) -> bytes:
    """The bytes of the shrouded key bag."""
    content = der.read_one(stored).children()[1].children()[1].only_child().content
    for info in der.read_one(content).children():
        if info.children()[0].oid() == "1.2.840.113549.1.7.1":
            plain = info.children()[1].only_child().content
            for bag in der.read_one(plain).children():
                if bag.children()[0].oid() == "1.2.840.113549.1.12.10.1.2":
                    return bag.raw
    raise AssertionError("no shrouded key")
