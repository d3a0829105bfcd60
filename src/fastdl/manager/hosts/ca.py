# SPDX-License-Identifier: Apache-2.0
"""The manager's own certificate authority, which identifies the manager and its hosts.

A host's certificate names the host (SAN DNS = its id) and may only be a client; the
manager's names ``MANAGER_NAME`` and may only be a server. So no host can impersonate the manager,
and the manager's address does not matter.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import ipaddress
import os
import secrets
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fastdl.errors import AgentRefusedError, CertRejectedError, UsageError
from fastdl.manager.files import write_private
from fastdl.trust.certificate import reading
from fastdl.wire.messages import MANAGER_NAME
from fastdl.wire.nats.servers import NATS_NAME
from fastdl.wire.nats.subjects import MANAGER

HOST_DAYS: Final = 90
SERVER_DAYS: Final = 90
CA_DAYS: Final = 3650
NATS_DAYS: Final = 365
_CURRENT: Final = "ca.pem"
_NEXT: Final = "ca-next.pem"
_FORMER: Final = "ca-former.pem"
"""What the ledger's CA took the place of: needed if that came from a backup which was too old."""
_BACKDATE: Final = dt.timedelta(days=1)
"""A host whose clock is a little behind must accept a fresh certificate."""


@dataclass(frozen=True, slots=True)
class Ca:
    """One certificate authority: its certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> str:
        """The certificate, PEM."""
        return _pem(self.certificate)

    @property
    def private_pem(self) -> str:
        """The key and the certificate, PEM."""
        return _key_pem(self.key).decode() + self.pem

    @property
    def sha256(self) -> str:
        """The fingerprint that tokens carry."""
        return self.certificate.fingerprint(hashes.SHA256()).hex()

    def issued(self, certificate: x509.Certificate) -> bool:
        """Whether *certificate* is signed by this CA."""
        try:
            certificate.verify_directly_issued_by(self.certificate)
        except (ValueError, TypeError, InvalidSignature):
            return False
        return True


@dataclass(frozen=True, slots=True)
class Peer:
    """The peer of a connection, authenticated by TLS. *ca*: the issuer's fingerprint;
    *until*: when the certificate expires."""

    host: str
    key_hash: str
    ca: str
    until: float | None = None


class Authority:
    """The manager's CA, and during a rotation its successor.

    While there are two, both are valid: the current one signs the manager's certificate and is in
    tokens, because every host trusts it; the next one signs hosts' certificates.
    """

    def __init__(self, folder: Path, current: Ca, following: Ca | None = None) -> None:
        self.folder = folder
        self.current = current
        self.following = following
        self._context: ssl.SSLContext | None = None

    @property
    def cas(self) -> tuple[Ca, ...]:
        """Every valid CA, the current one first."""
        return (self.current,) if self.following is None else (self.current, self.following)

    @property
    def newest(self) -> Ca:
        """The CA that signs hosts' certificates."""
        return self.cas[-1]

    @property
    def pem(self) -> str:
        """The certificates that a host should trust, PEM."""
        return "".join(ca.pem for ca in self.cas)

    @property
    def fingerprints(self) -> frozenset[str]:
        """Their SHA-256, lower-case hex."""
        return frozenset(ca.sha256 for ca in self.cas)

    @property
    def sha256(self) -> str:
        """The fingerprint that tokens carry."""
        return self.current.sha256

    def sign_host(self, csr_pem: str, host_id: str) -> tuple[str, str]:
        """Return (certificate PEM, hash of its key) for the key of *csr_pem*.

        Only the key is taken from the request. AgentRefusedError for anything but a
        correctly signed request with an EC or an RSA key of at least 2048 bits.
        """
        key, key_hash = csr_key(csr_pem)
        certificate = _sign(
            self.newest,
            host_id,
            key,
            days=HOST_DAYS,
            names=[host_id],
            usage=ExtendedKeyUsageOID.CLIENT_AUTH,
        )
        return _pem(certificate), key_hash

    def peer(self, der: bytes) -> Peer:
        """Return the peer that a client certificate, verified by TLS, names.

        AgentRefusedError if it names no host, or comes from a CA that is no longer valid: the
        port's TLS context keeps every CA that it ever trusted.
        """
        return self._peer(x509.load_der_x509_certificate(der))

    def client(self, pem: str, *, now: float) -> Peer:
        """Return the peer that a certificate names which a client showed to somebody else, who says
        to have verified it: all of it is checked again, but for its key.

        AgentRefusedError if it is no certificate of a host, or not valid at *now*.
        """
        try:
            with reading():
                certificate = x509.load_pem_x509_certificate(pem.encode())
                begins = certificate.not_valid_before_utc.timestamp()
                usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
        except CertRejectedError as exc:
            raise AgentRefusedError(f"no certificate of a host: {exc}") from exc
        peer = self._peer(certificate)
        if ExtendedKeyUsageOID.CLIENT_AUTH not in usage.value:
            raise AgentRefusedError("the client certificate is none for clients")
        if not begins <= now < (peer.until or 0):
            raise AgentRefusedError("the client certificate is not valid now")
        return peer

    def _peer(self, certificate: x509.Certificate) -> Peer:
        issuer = next((ca for ca in self.cas if ca.issued(certificate)), None)
        if issuer is None:
            raise AgentRefusedError(
                "the client certificate was issued by a CA that has been replaced"
            )
        try:
            with reading():
                names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
                (host_id,) = names.value.get_values_for_type(x509.DNSName)
        except CertRejectedError as exc:
            raise AgentRefusedError("the client certificate names no host") from exc
        until = certificate.not_valid_after_utc.timestamp()
        return Peer(host_id, _key_hash(certificate.public_key()), issuer.sha256, until)

    def server_context(self) -> ssl.SSLContext:
        """Return the TLS context of the agent port, with a fresh server certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(cadata=self.pem)
        # Optional, because a host that enrols has none yet; /agent insists on it.
        context.verify_mode = ssl.CERT_OPTIONAL
        # Hosts stay connected for days: session tickets cost more than they save.
        context.num_tickets = 0
        self._context = context
        self.renew_server()
        return context

    def sign_api(self, names: Sequence[str]) -> tuple[bytes, x509.Certificate]:
        """Return (key PEM, certificate) for the API port, a server called *names* (DNS names and
        addresses). None of them is ``MANAGER_NAME``: it cannot impersonate the manager to agents.
        """
        return self._sign_server("fastdl manager API", names)

    def _sign_server(self, subject: str, names: Sequence[str]) -> tuple[bytes, x509.Certificate]:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _sign(
            self.current,
            subject,
            key.public_key(),
            days=SERVER_DAYS,
            names=names,
            usage=ExtendedKeyUsageOID.SERVER_AUTH,
        )
        return _key_pem(key), certificate

    def renew_server(self) -> None:
        """Give the port a fresh server certificate; open connections are not affected."""
        key, certificate = self._sign_server("fastdl manager", [MANAGER_NAME])
        chain = self.folder / "server.pem"
        write_private(chain, key + _pem(certificate).encode())
        if self._context is not None:
            self._context.load_cert_chain(chain)

    def nats_context(self) -> ssl.SSLContext:
        """Return the TLS context of this manager's connections to NATS servers, whose certificates
        this CA issued (``sign_nats``), with a fresh client certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.hostname_checks_common_name = False
        context.load_verify_locations(cadata=self.pem)
        chain = self.folder / "nats.pem"
        write_private(chain, self.sign_nats_client())
        context.load_cert_chain(chain)
        return context

    def sign_nats_client(self) -> bytes:
        """Return (PEM) a key and the certificate of managers as clients of NATS servers."""
        return self._sign_key("fastdl manager", MANAGER, ExtendedKeyUsageOID.CLIENT_AUTH)

    def sign_nats_server(self) -> bytes:
        """Return (PEM) a key and the certificate of NATS servers, wherever they are."""
        return self._sign_key("fastdl NATS server", NATS_NAME, ExtendedKeyUsageOID.SERVER_AUTH)

    def _sign_key(self, subject: str, name: str, usage: x509.ObjectIdentifier) -> bytes:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _sign(
            self.current, subject, key.public_key(), days=NATS_DAYS, names=[name], usage=usage
        )
        return _key_pem(key) + _pem(certificate).encode()

    # --- rotation ------------------------------------------------------------------------

    def begun(self) -> dict[str, str]:
        """Return the files (as ``kept``) of this authority with a next CA, for ``take``."""
        return {_CURRENT: self.current.private_pem, _NEXT: _create().private_pem}

    def finished(self) -> dict[str, str]:
        """Return the files of the next CA alone: the old one's key is in none of them."""
        return {_CURRENT: self.newest.private_pem}

    def take(self, files: Mapping[str, str]) -> bool:
        """Become the authority of *files*; whether that changed anything, whoever wrote them to the
        folder meanwhile."""
        restore(self.folder, files)
        before = [ca.sha256 for ca in self.cas]
        found = of(files, self.folder)
        self.current, self.following = found.current, found.following
        if before == [ca.sha256 for ca in self.cas]:
            return False
        if self._context is not None:
            self._context.load_verify_locations(cadata=self.pem)
        if before[0] != self.current.sha256:
            self.renew_server()
        return True


def kept(folder: Path) -> dict[str, str]:
    """Return name → content of the files in *folder* that make an authority."""
    paths = [folder / name for name in (_CURRENT, _NEXT)]
    return {path.name: path.read_text(errors="replace") for path in paths if path.exists()}


def keep_former(folder: Path, files: Mapping[str, str]) -> None:
    """Keep a copy of the CA in *folder* if it is none of *files*, which take its place."""
    if (former := kept(folder).get(_CURRENT)) is not None and former not in files.values():
        write_private(folder / _FORMER, former)


def restore(folder: Path, files: Mapping[str, str]) -> None:
    """Make *files* (as ``kept``) the authority in *folder*."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    known = kept(folder)
    if known == files:
        return
    for name in (_CURRENT, _NEXT):
        if name in files and files[name] != known.get(name):
            write_private(folder / name, files[name])
        elif name not in files:
            (folder / name).unlink(missing_ok=True)
    _sync(folder)


def of(files: Mapping[str, str], folder: Path) -> Authority:
    """Return the authority of *files* (as ``kept``), to be kept in *folder*: nothing is written."""
    current, *following = [
        _parse(files[name].encode(), folder / name) for name in (_CURRENT, _NEXT) if name in files
    ]
    return Authority(folder, current, *following)


def open_authority(folder: Path) -> Authority:
    """Return the authority kept in *folder*, created at the first start.

    UsageError if its files cannot be read: a new CA would lock every host out.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path, following = folder / _CURRENT, folder / _NEXT
    if not path.exists():
        write_private(path, _create().private_pem)
    return Authority(folder, _load(path), _load(following) if following.exists() else None)


def _create() -> Ca:
    key = ec.generate_private_key(ec.SECP256R1())
    # Two of them exist during a rotation: each needs its own name.
    common_name = f"fastdl manager CA {secrets.token_hex(4)}"
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    return Ca(_sign_ca(name, key), key)


def _load(path: Path) -> Ca:
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise _unreadable(path, exc) from exc
    return _parse(data, path)


def _parse(data: bytes, path: Path) -> Ca:
    """Return the CA of *data*, which *path* holds."""
    try:
        loaded = serialization.load_pem_private_key(data, password=None)
        with reading():
            certificate = x509.load_pem_x509_certificate(data)
    except (ValueError, CertRejectedError) as exc:
        raise _unreadable(path, exc) from exc
    if not isinstance(loaded, ec.EllipticCurvePrivateKey):
        raise UsageError(f"the manager's CA {path} holds a kind of key that fastdl does not create")
    return Ca(certificate, loaded)


def _unreadable(path: Path, why: Exception) -> UsageError:
    return UsageError(
        f"the manager's CA {path} cannot be read ({why}): restore it from the backup; "
        f"without it every host must enrol again"
    )


def csr_key(csr_pem: str) -> tuple[ec.EllipticCurvePublicKey | rsa.RSAPublicKey, str]:
    """Return (public key, its hash) of a certificate request, after checking its signature."""
    try:
        with reading():
            csr = x509.load_pem_x509_csr(csr_pem.encode())
            valid = csr.is_signature_valid
            key = csr.public_key()
    except CertRejectedError as exc:
        raise AgentRefusedError(f"the certificate request cannot be read: {exc}") from exc
    if not valid:
        raise AgentRefusedError("the certificate request is not signed by its own key")
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < 2048:
        raise AgentRefusedError("an RSA key of less than 2048 bits is not accepted")
    if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        raise AgentRefusedError("only EC and RSA keys are accepted")
    return key, _key_hash(key)


def _key_hash(key: object) -> str:
    der: bytes = key.public_bytes(  # type: ignore[attr-defined]
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(der).hexdigest()


def _builder(
    subject: x509.Name, issuer: x509.Name, key: object, *, days: int
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)  # type: ignore[arg-type]
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(now + dt.timedelta(days=days))
    )


def _sign_ca(name: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        _builder(name, name, key.public_key(), days=CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _sign(
    issuer: Ca,
    common_name: str,
    key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey,
    *,
    days: int,
    names: Sequence[str],
    usage: x509.ObjectIdentifier,
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key())
    return (
        _builder(subject, issuer.certificate.subject, key, days=days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([_general(name) for name in names]), critical=False
        )
        .add_extension(authority, critical=False)
        .sign(issuer.key, hashes.SHA256())
    )


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _sync(folder: Path) -> None:
    """Make renames in *folder* durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
