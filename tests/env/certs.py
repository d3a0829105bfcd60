# SPDX-License-Identifier: Apache-2.0
"""Which certificates, right and wrong, can a test server or client show?

A small authority: each method of :class:`CertLab` makes one identity as PEM files in its
folder. Everything is made on demand and kept, so a session pays for each key once.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
DAY = dt.timedelta(days=1)
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


class CertLab:
    """One root, its intermediates and every leaf a test asks for by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._made: dict[str, Identity] = {}
        self.ca = self.make("ca", issuer=None, san=(), ca=True)

    def leaf(self, name: str) -> Identity:
        """The identity called *name* in :data:`KINDS` (or ``ca``), made at first use."""
        if name not in self._made:
            KINDS[name](self, name)
        return self._made[name]

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
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name or name)])
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer.certificate.subject if issuer else subject)
            .public_key(private.public_key())
            .serial_number(serial or x509.random_serial_number())
            .not_valid_before(now + begins)
            .not_valid_after(now + ends)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=path_length), critical=True)
            .add_extension(_key_usage(ca=ca), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(private.public_key()), critical=False
            )
        )
        if san:
            builder = builder.add_extension(x509.SubjectAlternativeName(san), critical=False)
        if not ca:
            usage = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical=critical)
        signer = issuer.private if issuer else private
        return self._keep(name, builder.sign(signer, hashes.SHA256()), private, sends)

    def make_sha1(self, name: str) -> Identity:
        """A leaf of the root signed with SHA-1: only the command-line tool still does that."""
        leaf = self.leaf("good")
        request, out = self.folder / f"{name}.csr", self.folder / f"{name}.raw.pem"
        extensions = self.folder / f"{name}.ext"
        extensions.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
        _openssl("req", "-new", "-key", leaf.key, "-subj", f"/CN={name}", "-out", request)
        _openssl(
            *("x509", "-req", "-in", request, "-CA", self.ca.cert_file, "-CAkey", self.ca.key),
            *("-CAcreateserial", "-sha1", "-days", "30", "-extfile", extensions, "-out", out),
        )
        certificate = x509.load_pem_x509_certificate(out.read_bytes())
        return self._keep(name, certificate, leaf.private, ())

    def _keep(
        self,
        name: str,
        certificate: x509.Certificate,
        private: PrivateKey,
        sends: Sequence[Identity],
    ) -> Identity:
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
        self._made[name] = identity
        return identity


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _openssl(*words: str | Path) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True, timeout=30)


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


def _under(
    name: str, *, sent: bool = True, ca: bool = True, path_length: int | None = None
) -> Callable[[CertLab, str], Identity]:
    """A leaf below an intermediate of its own; *sent* says whether the server shows that one."""

    def build(lab: CertLab, leaf: str) -> Identity:
        middle = lab.make(name, issuer=lab.ca, san=(), ca=ca, path_length=path_length)
        return lab.make(leaf, issuer=middle, sends=(middle,) if sent else ())

    return build


def _path_length_exceeded(lab: CertLab, leaf: str) -> Identity:
    upper = lab.make("upper", issuer=lab.ca, san=(), ca=True, path_length=0)
    lower = lab.make("lower", issuer=upper, san=(), ca=True)
    return lab.make(leaf, issuer=lower, sends=(lower, upper))


def _name_constraint(lab: CertLab, leaf: str) -> Identity:
    only = x509.NameConstraints([x509.DNSName("example.org")], None)
    middle = lab.make("narrow", issuer=lab.ca, san=(), ca=True, extensions=[(only, True)])
    san = (x509.DNSName("localhost"),)
    return lab.make(leaf, issuer=middle, san=san, sends=(middle,))


def _unknown_ca(lab: CertLab, leaf: str) -> Identity:
    other = lab.make("other-ca", issuer=None, san=(), ca=True)
    return lab.make(leaf, issuer=other)


def _san(*names: x509.GeneralName, common_name: str | None = None) -> Callable[..., Identity]:
    return lambda lab, leaf: lab.make(leaf, issuer=lab.ca, san=names, common_name=common_name)


def _long_chain(lab: CertLab, leaf: str) -> Identity:
    above = [lab.ca]
    for number in range(120):
        above.append(lab.make(f"link-{number}", issuer=above[-1], san=(), ca=True))
    return lab.make(leaf, issuer=above[-1], sends=above[:0:-1])


_CRITICAL = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\0")

KINDS: dict[str, Callable[[CertLab, str], Identity]] = {
    "good": lambda lab, leaf: lab.make(leaf, issuer=lab.ca),
    "expired": lambda lab, leaf: lab.make(leaf, issuer=lab.ca, begins=-9 * DAY, ends=-DAY),
    "not-yet-valid": lambda lab, leaf: lab.make(leaf, issuer=lab.ca, begins=DAY, ends=9 * DAY),
    "wrong-host": _san(x509.DNSName("mirror.example.org")),
    "cn-only": lambda lab, leaf: lab.make(leaf, issuer=lab.ca, san=(), common_name="localhost"),
    "bad-wildcard": _san(x509.DNSName("*"), x509.DNSName("local*"), x509.DNSName("*.localhost")),
    "ip-in-dns-name": _san(x509.DNSName("127.0.0.1")),
    "unknown-ca": _unknown_ca,
    "with-intermediate": _under("middle"),
    "missing-intermediate": _under("unsent", sent=False),
    "intermediate-not-ca": _under("not-a-ca", ca=False),
    "path-length-exceeded": _path_length_exceeded,
    "unknown-critical-extension": lambda lab, leaf: lab.make(
        leaf, issuer=lab.ca, extensions=[(_CRITICAL, True)]
    ),
    "name-constraint": _name_constraint,
    "self-signed": lambda lab, leaf: lab.make(leaf, issuer=None),
    "self-signed-wrong-host": lambda lab, leaf: lab.make(
        leaf, issuer=None, san=(x509.DNSName("mirror.example.org"),)
    ),
    "long-chain": _long_chain,
    "rsa-1024": lambda lab, leaf: lab.make(leaf, issuer=lab.ca, rsa_bits=1024),
    "sha-1": CertLab.make_sha1,
    "client": lambda lab, leaf: lab.make(leaf, issuer=lab.ca, san=(), client=True),
    "client-unknown-ca": lambda lab, leaf: lab.make(leaf, issuer=None, san=(), client=True),
}
"""What each identity is: name → how it is made."""
