# SPDX-License-Identifier: Apache-2.0
"""A small certificate authority for servers and clients on this machine."""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
DAY = dt.timedelta(days=1)
SERIAL = 0x0EF70DFD
"""Of every self-signed certificate; begins with a zero, which some ways of writing it lose."""
LOCAL: tuple[x509.GeneralName, ...] = (
    x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
    x509.DNSName("localhost"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A certificate with its key: objects for signing, ``chain`` and ``key`` as PEM files.

    ``chain`` holds the leaf first, then what the server sends besides it; ``cert_file``
    the certificate alone.
    """

    certificate: x509.Certificate
    private: PrivateKey
    cert_file: Path
    chain: Path
    key: Path

    def server_context(self, *, client_ca: Path | None = None) -> ssl.SSLContext:
        """A server's TLS context that shows this chain; with *client_ca* clients must too.

        The security level is 0 on purpose: it is the client that must refuse weak keys.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
        context.load_cert_chain(self.chain, self.key)
        if client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(client_ca)
        return context


class Authority:
    """One root, and what it signs: identities as PEM files in *folder*, by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.made: dict[str, Identity] = {}
        self.ca = self.make("ca", issuer=None, san=(), ca=True)

    def make(
        self,
        name: str,
        *,
        issuer: Identity | None,
        san: Sequence[x509.GeneralName] = LOCAL,
        common_name: str | None = None,
        ca: bool = False,
        path_length: int | None = None,
        begins: dt.timedelta = -DAY,
        ends: dt.timedelta = 30 * DAY,
        sends: Sequence[Identity] = (),
        client: bool = False,
        rsa_bits: int | None = None,
        extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
        serial: int | None = None,
    ) -> Identity:
        """Make one identity, signed by *issuer* (None: by itself). *sends* follow the leaf."""
        private: PrivateKey = (
            rsa.generate_private_key(65537, rsa_bits)
            if rsa_bits
            else ec.generate_private_key(ec.SECP256R1())
        )
        certificate = _signed(
            private,
            _name(common_name or name),
            issuer=issuer,
            begins=begins,
            ends=ends,
            serial=serial,
            extensions=[
                *_usual(private, san, ca=ca, path_length=path_length, client=client),
                *extensions,
            ],
        )
        return self.keep(name, certificate, private, sends)

    def keep(
        self,
        name: str,
        certificate: x509.Certificate,
        private: PrivateKey,
        sends: Sequence[Identity],
    ) -> Identity:
        """Write *certificate* and its key as PEM files, and remember them as *name*."""
        cert_file = self.folder / f"{name}.pem"
        chain, key = self.folder / f"{name}.chain.pem", self.folder / f"{name}.key"
        cert_file.write_bytes(_pem(certificate))
        chain.write_bytes(b"".join(_pem(c) for c in (certificate, *(i.certificate for i in sends))))
        key.write_bytes(
            private.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        key.chmod(0o600)
        identity = Identity(
            certificate=certificate, private=private, cert_file=cert_file, chain=chain, key=key
        )
        self.made[name] = identity
        return identity


def self_signed(
    name: str = "mirror.example", *, days: float = 30, start: float = -1, organization: str = "Org"
) -> str:
    """Return a certificate (PEM) whose key nobody keeps, valid from *start* days on for *days*."""
    private = ec.generate_private_key(ec.SECP256R1())
    certificate = _signed(
        private,
        _name(name, organization),
        issuer=None,
        begins=start * DAY,
        ends=(start + days) * DAY,
        serial=SERIAL,
    )
    return _pem(certificate).decode()


def _name(common_name: str, organization: str | None = None) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    if organization is not None:
        parts.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
    return x509.Name(parts)


def _signed(
    private: PrivateKey,
    subject: x509.Name,
    *,
    issuer: Identity | None,
    begins: dt.timedelta,
    ends: dt.timedelta,
    serial: int | None = None,
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
) -> x509.Certificate:
    """The certificate of the key *private*, signed by *issuer* (None: by itself)."""
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(private.public_key())
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(now + begins)
        .not_valid_after(now + ends)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(issuer.private if issuer else private, hashes.SHA256())


def _usual(
    private: PrivateKey,
    san: Sequence[x509.GeneralName],
    *,
    ca: bool,
    path_length: int | None,
    client: bool,
) -> Iterator[tuple[x509.ExtensionType, bool]]:
    """(extension, whether it is critical) of every certificate of an authority."""
    yield x509.BasicConstraints(ca=ca, path_length=path_length), True
    yield _key_usage(ca=ca), True
    yield x509.SubjectKeyIdentifier.from_public_key(private.public_key()), False
    if san:
        yield x509.SubjectAlternativeName(san), False
    if not ca:
        usage = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
        yield x509.ExtendedKeyUsage([usage]), False


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )
