# SPDX-License-Identifier: Apache-2.0
"""Which certificates are in this text, and may each of them become an anchor of trust?

Pure functions over what an administrator pasted: PEM with any line ends (or none), bare
base64 as CloudStack's documentation shows it, DER, and bundles of several certificates.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa

from fastdl.errors import CertRejectedError

MAX_TEXT = 65_535
"""Octets of one upload: the length CloudStack's API gives the parameter."""

MAX_CERTIFICATES = 10
_MIN_RSA_BITS = 2048
_MIN_EC_BITS = 224
_UNREADABLE = (
    ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion, x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)  # fmt: skip
_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----(.*?)-----END \1-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Certificate:
    """One parsed certificate. ``sha256`` is lower-case hex over the DER; times are UTC."""

    der: bytes
    sha256: str
    subject: str
    issuer: str
    not_before: datetime
    not_after: datetime
    is_ca: bool

    def pem(self) -> str:
        """The certificate in PEM, 64 columns."""
        body = base64.b64encode(self.der).decode()
        lines = (body[at : at + 64] for at in range(0, len(body), 64))
        return "\n".join(("-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""))

    def dates_problem(self, now: datetime) -> str | None:
        """Why the certificate is not valid at *now*, or None."""
        clock = f"(this host's clock: {_stamp(now)})"
        if now < self.not_before:
            return f"it is not valid before {_stamp(self.not_before)} {clock}"
        if now > self.not_after:
            return f"it expired on {_stamp(self.not_after)} {clock}"
        return None


def read_bundle(text: str | bytes, *, now: datetime | None = None) -> list[Certificate]:
    """The certificates of an upload, each fit to be an anchor *now*, in their order.

    CertRejectedError with the reason when any of them is not: unreadable, outside its
    dates, a weak key or signature, or accompanied by a private key.
    """
    raw = text.encode("utf-8", "replace") if isinstance(text, str) else text
    if len(raw) > MAX_TEXT:
        raise CertRejectedError(f"the certificate text is longer than {MAX_TEXT} bytes")
    if b"PRIVATE KEY-----" in raw:
        raise CertRejectedError(
            "the text contains a private key: send certificates only, and replace that key"
        )
    ders = _split(raw)
    if len(ders) > MAX_CERTIFICATES:
        raise CertRejectedError(
            f"the text holds {len(ders)} certificates, at most {MAX_CERTIFICATES} are accepted"
        )
    moment = now or datetime.now(UTC)
    bundle = [parse(one) for one in ders]
    for certificate in bundle:
        problem = certificate.dates_problem(moment) or _weakness(certificate.der)
        if problem:
            raise CertRejectedError(
                f"the certificate of {certificate.subject or 'an empty subject'} "
                f"cannot be used: {problem}"
            )
    return bundle


def parse(der: bytes) -> Certificate:
    """One certificate from its DER; CertRejectedError when it is none."""
    with _reading():
        certificate = _load(der)
        return Certificate(
            der=der,
            sha256=hashlib.sha256(der).hexdigest(),
            subject=certificate.subject.rfc4514_string(),
            issuer=certificate.issuer.rfc4514_string(),
            not_before=certificate.not_valid_before_utc,
            not_after=certificate.not_valid_after_utc,
            is_ca=_is_ca(certificate),
        )


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    """CertRejectedError for whatever the library cannot parse: it parses each part when that is
    first asked for."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old CA certificates are listed as they are
            yield
    except _UNREADABLE as exc:
        raise CertRejectedError(f"the certificate cannot be parsed: {str(exc)[:200]}") from None


def _split(raw: bytes) -> list[bytes]:
    """The DER of each certificate in *raw*, whatever its spelling."""
    blocks = _BLOCK.findall(raw)
    if blocks:
        foreign = {label for label, _ in blocks} - {b"CERTIFICATE", b"X509 CERTIFICATE"}
        if foreign:
            raise CertRejectedError(
                f"the text contains a {foreign.pop().decode()} block where only certificates belong"
            )
        return [_decode(body) for _, body in blocks]
    if b"-----" in raw:
        raise CertRejectedError("the certificate's BEGIN and END lines do not match")
    if raw[:1] == b"\x30":
        return [raw]
    return [_decode(raw)]


def _decode(body: bytes) -> bytes:
    try:
        der = base64.b64decode(b"".join(body.split()), validate=True)
    except binascii.Error:
        der = b""
    if not der:
        raise CertRejectedError("the text is neither PEM, nor base64 of a certificate, nor DER")
    return der


def _load(der: bytes) -> x509.Certificate:
    with _reading():
        certificate = x509.load_der_x509_certificate(der)
    if certificate.public_bytes(serialization.Encoding.DER) != der:
        raise CertRejectedError("the certificate is followed by other bytes")
    return certificate


def _weakness(der: bytes) -> str | None:
    """Why today's TLS would not accept the certificate anyway, or None."""
    certificate = _load(der)
    if certificate.serial_number <= 0:
        return "its serial number is not positive"
    try:
        key: Any = certificate.public_key()
        digest = certificate.signature_hash_algorithm
    except _UNREADABLE as exc:
        return f"its key or signature is not understood: {exc}"
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < _MIN_RSA_BITS:
        return f"its RSA key has {key.key_size} bits, {_MIN_RSA_BITS} is the least"
    if isinstance(key, ec.EllipticCurvePublicKey) and key.key_size < _MIN_EC_BITS:
        return f"its EC key has {key.key_size} bits, {_MIN_EC_BITS} is the least"
    if isinstance(key, dsa.DSAPublicKey):
        return "DSA keys are no longer accepted by TLS"
    if isinstance(digest, hashes.MD5 | hashes.SHA1):
        return f"it is signed with {digest.name.upper()}, which can be forged"
    return None


def _is_ca(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _stamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
