# SPDX-License-Identifier: Apache-2.0
"""What is this host's identity at its manager, and how is it obtained?

The state folder holds the key, the certificate for it, the manager's CA (two of them while it is
rotated) and the ids. A token is exchanged for the certificate once; the CA is trusted because its
fingerprint is in the token. The key is generated before the request, and replaces a former one only
when the reply has arrived.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import aiohttp
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fastdl import fs
from fastdl.errors import AgentLostError, AgentRefusedError, CertRejectedError, UsageError
from fastdl.trust.certificate import reading
from fastdl.wire import codec
from fastdl.wire import messages as m
from fastdl.wire.token import EnrolToken, parse_token

RENEW_BEFORE: Final = timedelta(days=30)
_TIMEOUT = aiohttp.ClientTimeout(total=30)


_KEY: Final = "host.key"
_NEXT_KEY: Final = "host.key.next"


@dataclass(frozen=True, slots=True)
class Identity:
    """An enrolled host. *token*: the id of the token that enrolled it."""

    folder: Path
    host_id: str
    zone_id: str
    token: str = ""

    def context(self) -> ssl.SSLContext:
        """TLS to the manager: our certificate, and only its CA trusted."""
        context = _trusting((self.folder / "ca.pem").read_text())
        context.load_cert_chain(self.folder / "host.pem", self.folder / _KEY)
        return context

    def authorities(self) -> tuple[str, ...]:
        """SHA-256 of the CAs accepted as the manager's, lower-case hex."""
        found = x509.load_pem_x509_certificates((self.folder / "ca.pem").read_bytes())
        return tuple(_fingerprint(ca) for ca in found)

    def csr(self) -> str:
        """A request for a new certificate for the same key."""
        return _csr(_key(self.folder / _KEY), self.host_id)

    def renew(self, certificate: str, ca: str = "") -> bool:
        """Store *certificate* as the new one, and *ca* as the trusted CAs (empty = unchanged);
        AgentRefusedError when it is not for our key. Return whether the trust changed."""
        _check_certificate(certificate, _key(self.folder / _KEY), self.host_id)
        changed = bool(ca) and frozenset(map(_fingerprint, _bundle(ca))) != frozenset(
            self.authorities()
        )
        if changed:  # first: until the certificate is stored, the old one is valid too
            _write(self.folder / "ca.pem", ca)
        _write(self.folder / "host.pem", certificate)
        return changed

    def until(self) -> datetime:
        """When the certificate expires."""
        held = x509.load_pem_x509_certificate((self.folder / "host.pem").read_bytes())
        return held.not_valid_after_utc

    def due(self, now: datetime | None = None) -> bool:
        """Whether less than 30 days of the certificate are left."""
        return self.until() - (now or datetime.now(UTC)) < RENEW_BEFORE

    def valid(self) -> bool:
        """Whether the certificate has not expired."""
        return self.until() >= datetime.now(UTC)

    def require_valid(self) -> None:
        """HostUnknownError, with instructions, when the certificate has expired."""
        if not self.valid():
            until = self.until()
            raise HostUnknownError(
                f"this host's certificate expired on {until:%Y-%m-%d}: create a token "
                f"(createHostToken) and start the agent with it (--token)"
            )


class HostUnknownError(AgentRefusedError):
    """The manager no longer knows, or would no longer know, this host: it needs a token."""


def load(folder: Path) -> Identity | None:
    """The identity stored in *folder*, None before enrolment; UsageError when it is damaged."""
    note = folder / "host.json"
    try:
        plain = json.loads(note.read_bytes())
        token = str(plain.get("token", ""))
        found = Identity(folder, str(plain["host_id"]), str(plain["zone_id"]), token)
        if found.until() and found.authorities():  # readable: validity is checked later
            return found
        raise ValueError("no CA")
    except FileNotFoundError as exc:
        if exc.filename == str(note):
            return None
        raise UsageError(f"{exc.filename} is missing: restore it, or enrol again") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise UsageError(
            f"{note} or its contents cannot be read ({exc}): restore it, or enrol again"
        ) from None


async def enrol(managers: Sequence[str], token_text: str, folder: Path, *, name: str) -> Identity:
    """Exchange the token for an identity in *folder*, with the first manager that responds.

    UsageError for a malformed token, AgentRefusedError when the manager refuses it or is
    not the one that the token names, AgentLostError when none can be reached. The former identity
    stays until the reply has arrived.
    """
    token = parse_token(token_text)
    key, request = await asyncio.to_thread(_request, folder, token, name)
    problems: list[str] = []
    for manager in managers:
        try:
            reply = await _ask(manager, token, request)
        except (aiohttp.ClientError, OSError, TimeoutError) as exc:
            problems.append(f"{manager}: {why_unreachable(exc)}")
            continue
        _check_certificate(reply.certificate, key, reply.host_id)
        return await asyncio.to_thread(_take, folder, reply, token.id)
    raise AgentLostError(f"no manager can be reached: {'; '.join(problems)}")


def why_unreachable(exc: BaseException) -> str:
    """Why a manager could not be talked to, for the operator: which port, and what it did."""
    if not isinstance(exc, aiohttp.ClientConnectorError):
        return str(exc) or type(exc).__name__
    error = exc.os_error
    if isinstance(error, ssl.SSLError) and error.reason:
        what = f"TLS: {error.reason.replace('_', ' ').lower()}"
    elif error.errno is not None and error.errno > 0:
        what = os.strerror(error.errno).lower()
    else:
        what = error.strerror or str(error)
    return f"cannot connect to {exc.host}:{exc.port}: {what}"


def _request(
    folder: Path, token: EnrolToken, name: str
) -> tuple[ec.EllipticCurvePrivateKey, m.EnrolRequest]:
    """A request for a new key, signed by the former one too if there is one."""
    former = _key(folder / _KEY) if (folder / _KEY).exists() else None
    key = _key(folder / _NEXT_KEY)
    if former is not None and former.private_numbers() == key.private_numbers():
        (folder / _NEXT_KEY).unlink()  # left by a crash after it was put in place
        key = _key(folder / _NEXT_KEY)
    request = m.EnrolRequest(
        token=str(token),
        csr=_csr(key, name),
        name=name,
        former=_csr(former, name) if former is not None else "",
    )
    return key, request


def _take(folder: Path, reply: m.EnrolReply, token: str) -> Identity:
    """Store the identity in *reply*. Without host.json there is none: after a crash in between, the
    same key may exchange the same token again."""
    (folder / "host.json").unlink(missing_ok=True)
    _write(folder / "ca.pem", reply.ca)
    _write(folder / "host.pem", reply.certificate)
    _write(folder / _KEY, (folder / _NEXT_KEY).read_text())
    note = {"host_id": reply.host_id, "zone_id": reply.zone_id, "token": token}
    _write(folder / "host.json", json.dumps(note))
    (folder / _NEXT_KEY).unlink()
    return Identity(folder, reply.host_id, reply.zone_id, token)


async def _ask(manager: str, token: EnrolToken, request: m.EnrolRequest) -> m.EnrolReply:
    async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
        ca = await _authority(session, manager, token)
        sent = session.post(
            f"{manager.rstrip('/')}/enrol",
            data=codec.encode(request),
            ssl=_trusting(ca),
            server_hostname=m.MANAGER_NAME,
        )
        async with sent as answer:
            reply = codec.decode(await answer.read(), limit=m.ENROL_MAX)
    if isinstance(reply, m.Refused):
        raise AgentRefusedError(f"the manager refused the enrolment: {reply.message}")
    if not isinstance(reply, m.EnrolReply):
        raise AgentRefusedError("the manager's reply to the enrolment is not an enrolment")
    if token.ca_sha256 not in map(_fingerprint, _bundle(reply.ca)):
        raise AgentRefusedError("the manager's reply names a different CA than the token")
    return reply


async def _authority(session: aiohttp.ClientSession, manager: str, token: EnrolToken) -> str:
    """The manager's CA, accepted only by its fingerprint: this connection proves nothing."""
    async with session.get(f"{manager.rstrip('/')}/ca", ssl=False) as answer:
        text = (await answer.content.read(m.ENROL_MAX)).decode("ascii", "replace")
    for ca in _bundle(text):
        if _fingerprint(ca) == token.ca_sha256:
            return ca.public_bytes(serialization.Encoding.PEM).decode()
    raise AgentRefusedError(
        f"{manager} is not the manager that issued this token (its CA is different)"
    )


def _bundle(pem: str) -> list[x509.Certificate]:
    try:
        with reading():
            return x509.load_pem_x509_certificates(pem.encode())
    except CertRejectedError:
        return []


def _fingerprint(certificate: x509.Certificate) -> str:
    return certificate.fingerprint(hashes.SHA256()).hex()


def _trusting(ca: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.hostname_checks_common_name = False
    context.load_verify_locations(cadata=ca)
    return context


def _check_certificate(pem: str, key: ec.EllipticCurvePrivateKey, host_id: str) -> None:
    try:
        with reading():
            found = x509.load_pem_x509_certificate(pem.encode())
            names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except CertRejectedError as exc:
        raise AgentRefusedError(f"the manager's certificate cannot be used: {exc}") from None
    if found.public_key() != key.public_key() or names.get_values_for_type(x509.DNSName) != [
        host_id
    ]:
        raise AgentRefusedError("the manager's certificate is for another key or host")


def _key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The private key in *path*, generated at first use."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        found = serialization.load_pem_private_key(path.read_bytes(), password=None)
        if not isinstance(found, ec.EllipticCurvePrivateKey):
            raise UsageError(f"{path} holds a kind of key that fastdl does not create")
        return found
    made = ec.generate_private_key(ec.SECP256R1())
    pem = made.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    _write(path, pem.decode())
    return made


def _csr(key: ec.EllipticCurvePrivateKey, name: str) -> str:
    # The subject is ignored; a hash keeps odd host names out of it.
    common = hashlib.sha256(name.encode()).hexdigest()[:16]
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common)])
    made = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM).decode()


def _write(path: Path, text: str) -> None:
    """Write *path* with mode 0600, whole or not at all, durably."""
    fs.replace_file(path, text.encode())
