# SPDX-License-Identifier: Apache-2.0
"""Certificates as operators paste them and as CloudStack shows them. Pure functions."""

from __future__ import annotations

import binascii
import datetime as dt
import re
from base64 import b64decode
from dataclasses import dataclass
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from fastdl.errors import CertRejectedError

TEXT_MAX: Final = 65535
BUNDLE_MAX: Final = 10
_ARMOUR: Final = re.compile(
    r"-----BEGIN ([A-Z0-9 ]+)-----([A-Za-z0-9+/=\s]*)-----END \1-----", re.ASCII
)
_UNREADABLE: Final = (
    ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion, x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)  # fmt: skip
_BODY: Final = re.compile(r"[A-Za-z0-9+/=\s]+", re.ASCII)
_WEAK: Final = {"md5", "md2", "sha1"}
# Java's names where they differ from RFC 4514's.
_NAMES: Final = {
    "1.2.840.113549.1.9.1": "EMAILADDRESS",
    "2.5.4.3": "CN",
    "2.5.4.5": "SERIALNUMBER",
    "2.5.4.6": "C",
    "2.5.4.7": "L",
    "2.5.4.8": "ST",
    "2.5.4.9": "STREET",
    "2.5.4.10": "O",
    "2.5.4.11": "OU",
    "0.9.2342.19200300.100.1.1": "UID",
    "0.9.2342.19200300.100.1.25": "DC",
}


@dataclass(frozen=True, slots=True)
class Upload:
    """A certificate (or a bundle) fit to be pushed. *pem* is normalised."""

    pem: str
    sha256: str
    not_after: float


def read_upload(text: str, *, now: float) -> Upload:
    """Return the certificates in *text*: bare base64, PEM (line breaks lost or not), a bundle.

    Raises CertRejectedError, in CloudStack's words, for what is not X.509, not valid at
    *now*, holds a private key, or is more than ten certificates.
    """
    certificates = [_load(der) for der in _bodies(text)]
    moment = dt.datetime.fromtimestamp(now, dt.UTC)
    for certificate in certificates:
        _check_dates(certificate, moment)
        _check_strength(certificate)
    return Upload(
        pem="".join(c.public_bytes(serialization.Encoding.PEM).decode() for c in certificates),
        sha256=certificates[0].fingerprint(hashes.SHA256()).hex(),
        not_after=min(c.not_valid_after_utc.timestamp() for c in certificates),
    )


def _rejected(reason: str) -> CertRejectedError:
    return CertRejectedError(
        f"Cannot parse the certificate provided, please provide a PEM certificate. Error: {reason}"
    )


def _invalid(reason: str) -> CertRejectedError:
    return CertRejectedError(
        f"Certificate is invalid. Please provide a valid certificate. Error: {reason}"
    )


def _bodies(text: str) -> list[bytes]:
    text = text.strip()
    if not text or len(text) > TEXT_MAX:
        raise _rejected("it is empty" if not text else f"more than {TEXT_MAX} characters")
    if "-----" not in text:
        if not _BODY.fullmatch(text):
            raise _rejected("neither PEM nor base64")
        return [_decode(text)]
    found = _ARMOUR.findall(text)
    if any("PRIVATE KEY" in label for label, _ in found) or "PRIVATE KEY" in text:
        raise _rejected("it holds a private key, which must stay where it is")
    if not found or _ARMOUR.sub("", text).strip():
        raise _rejected("text that is not part of a certificate")
    if any(label not in {"CERTIFICATE", "X509 CERTIFICATE", "TRUSTED CERTIFICATE"}
           for label, _ in found):  # fmt: skip
        raise _rejected("it holds something other than certificates")
    if len(found) > BUNDLE_MAX:
        raise _rejected(f"more than {BUNDLE_MAX} certificates")
    return [_decode(body) for _, body in found]


def _decode(body: str) -> bytes:
    try:
        return b64decode("".join(body.split()), validate=True)
    except (binascii.Error, ValueError) as exc:
        raise _rejected(str(exc)) from exc


def _load(der: bytes) -> x509.Certificate:
    try:
        certificate = x509.load_der_x509_certificate(der)
        if certificate.serial_number <= 0:  # RFC 5280, 4.1.2.2: hosts refuse it too
            raise _invalid("its serial number is not positive")
        # The library parses each part when it is first asked for: now, or a list fails later.
        certificate.public_key()
        _ = certificate.extensions, certificate.signature_hash_algorithm, _described(certificate)
    except _UNREADABLE as exc:
        raise _rejected(str(exc)[:200] or type(exc).__name__) from exc
    return certificate


def _check_dates(certificate: x509.Certificate, now: dt.datetime) -> None:
    if certificate.not_valid_after_utc < now:
        raise _invalid(f"NotAfter: {java_date(certificate.not_valid_after_utc)}")
    if certificate.not_valid_before_utc > now:
        raise _invalid(f"NotBefore: {java_date(certificate.not_valid_before_utc)}")


def _check_strength(certificate: x509.Certificate) -> None:
    algorithm = certificate.signature_hash_algorithm
    self_signed = certificate.issuer == certificate.subject
    if algorithm is not None and algorithm.name in _WEAK and not self_signed:
        raise _invalid(f"it is signed with {algorithm.name.upper()}, which can be forged")
    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < 2048:
        raise _invalid(f"its RSA key has only {key.key_size} bits")


def describe(pem: str) -> dict[str, Any]:
    """Return version, subject, issuer, validity and serialnum as Java prints them."""
    return _described(x509.load_pem_x509_certificate(pem.encode()))


def _described(certificate: x509.Certificate) -> dict[str, Any]:
    serial = certificate.serial_number.to_bytes(
        (certificate.serial_number.bit_length() + 7) // 8 or 1, "big"
    )
    return {
        "version": str(certificate.version.value + 1),
        "subject": java_name(certificate.subject),
        "issuer": java_name(certificate.issuer),
        "validity": (
            f"From: [{java_date(certificate.not_valid_before_utc)}] - "
            f"To: [{java_date(certificate.not_valid_after_utc)}]"
        ),
        "serialnum": "SerialNumber: " + serial.hex(":"),
    }


def java_date(moment: dt.datetime) -> str:
    """Return *moment* (UTC) as Java's ``Date.toString`` does."""
    return moment.strftime("%a %b %d %H:%M:%S UTC %Y")


def java_name(name: x509.Name) -> str:
    """Return *name* as Java prints a subject: last RDN first."""
    return ", ".join(" + ".join(map(_pair, rdn)) for rdn in reversed(list(name.rdns)))


def _pair(attribute: x509.NameAttribute[Any]) -> str:
    oid = attribute.oid.dotted_string
    return f"{_NAMES.get(oid, 'OID.' + oid)}={_quoted(attribute)}"


def _quoted(attribute: x509.NameAttribute[Any]) -> str:
    value = str(attribute.value)
    if re.search(r'[,+="<>#;\n\\]|^\s|\s$', value):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return value
