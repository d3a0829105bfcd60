# SPDX-License-Identifier: Apache-2.0
"""Which certificates are in this text, and may each of them become an anchor of trust?

Pure functions over what an administrator pasted: PEM with any line ends (or none), comments
around it, OpenSSL's TRUSTED CERTIFICATE, PKCS#7, bare base64 as CloudStack's documentation
shows it, DER, and bundles of several certificates. The one answer for the API, the hosts and
the command line.
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
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa
from cryptography.hazmat.primitives.serialization import pkcs7

from fastdl.errors import CertRejectedError

MAX_TEXT = 65_535
"""Characters of one upload: the length CloudStack's API gives the parameter."""

_MIN_RSA_BITS = 2048
_MAX_RSA_BITS = 16_384
"""OpenSSL's own limit: each handshake with a larger key costs seconds."""
_MIN_EC_BITS = 224
_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----(.*?)-----END \1-----", re.DOTALL)
_EDGE = re.compile(rb"-----(?:BEGIN|END) ")
_PKCS7 = frozenset({b"PKCS7", b"PKCS #7 SIGNED DATA", b"CMS"})
_AUXILIARY = b"TRUSTED CERTIFICATE"
_LABELS = frozenset({b"CERTIFICATE", b"X509 CERTIFICATE", _AUXILIARY, *_PKCS7})


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
    bundle = read(text)
    moment = now or datetime.now(UTC)
    for certificate in bundle:
        problem = certificate.dates_problem(moment) or weakness(certificate)
        if problem:
            raise CertRejectedError(
                f"the certificate of {certificate.subject or 'an empty subject'} "
                f"cannot be used: {problem}"
            )
    return bundle


def read(text: str | bytes) -> list[Certificate]:
    """The certificates in *text*, in their order and each once. CertRejectedError for none,
    for a private key next to them, and for what is no certificate."""
    raw = text.encode("utf-8", "replace") if isinstance(text, str) else text
    if len(text) > MAX_TEXT and len(raw.decode("utf-8", "replace")) > MAX_TEXT:
        raise CertRejectedError(f"the certificate text is longer than {MAX_TEXT} characters")
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):  # an editor's "Unicode"
        raw = raw.decode("utf-16", "replace").encode("utf-8", "replace")
    raw = raw.removeprefix(b"\xef\xbb\xbf")
    if b"PRIVATE KEY-----" in raw:
        raise CertRejectedError(
            "the text contains a private key: send certificates only, and replace that key"
        )
    found = {one: parse(one) for one in _split(raw)}
    if not found:
        raise CertRejectedError("there is no certificate in it")
    return list(found.values())


def parse(der: bytes) -> Certificate:
    """One certificate from its DER; CertRejectedError when it is none."""
    with reading():
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


def weakness(one: Certificate) -> str | None:
    """Why today's TLS would not accept the certificate as an anchor, or None.

    Nobody verifies the signature or the number of one that signed itself: it is trusted for
    being there. Many roots in use carry SHA-1 or the number 0.
    """
    certificate = _load(one.der)
    try:
        with reading():
            key: Any = certificate.public_key()
    except CertRejectedError as exc:
        return f"its key is not understood: {exc}"
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < _MIN_RSA_BITS:
        return f"its RSA key has {key.key_size} bits, {_MIN_RSA_BITS} is the least"
    if isinstance(key, rsa.RSAPublicKey) and key.key_size > _MAX_RSA_BITS:
        return f"its RSA key has {key.key_size} bits, {_MAX_RSA_BITS} is the most"
    if isinstance(key, ec.EllipticCurvePublicKey) and key.key_size < _MIN_EC_BITS:
        return f"its EC key has {key.key_size} bits, {_MIN_EC_BITS} is the least"
    if isinstance(key, dsa.DSAPublicKey):
        return "DSA keys are no longer accepted by TLS"
    if certificate.issuer == certificate.subject:
        return None
    if certificate.serial_number <= 0:
        return "its serial number is not positive"
    try:
        with reading():
            digest = certificate.signature_hash_algorithm
    except CertRejectedError as exc:
        return f"its signature is not understood: {exc}"
    if isinstance(digest, hashes.MD5 | hashes.SHA1):
        return f"it is signed with {digest.name.upper()}, which can be forged"
    return None


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """CertRejectedError for whatever the library cannot parse: it parses each part when that is
    first asked for, and says so with exceptions of many kinds."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old CA certificates are listed as they are
            yield
    except CertRejectedError:
        raise
    except Exception as exc:  # noqa: BLE001 - a parser of hostile bytes
        reason = str(exc)[:200] or type(exc).__name__
        raise CertRejectedError(f"the certificate cannot be parsed: {reason}") from None


def _split(raw: bytes) -> list[bytes]:
    """The DER of each certificate in *raw*, whatever its spelling."""
    blocks = _BLOCK.findall(raw)
    if blocks:
        foreign = {label for label, _ in blocks} - _LABELS
        if foreign:
            raise CertRejectedError(
                f"the text contains a {foreign.pop().decode()} block where only certificates belong"
            )
        # What stands around the blocks is a comment: of openssl, of s_client, of somebody.
        if _EDGE.search(_BLOCK.sub(b"", raw)):
            raise CertRejectedError("the certificate's BEGIN and END lines do not match")
        return [one for label, body in blocks for one in _block(label, _decode(body))]
    if b"-----" in raw:
        raise CertRejectedError("the certificate's BEGIN and END lines do not match")
    # A zero is also a digit of base64: only DER continues with a length.
    return _der(raw if raw[:1] == b"\x30" and raw[1:2] >= b"\x80" else _decode(raw))


def _block(label: bytes, body: bytes) -> list[bytes]:
    if label in _PKCS7:
        return _pkcs7(body)
    if label == _AUXILIARY:
        return [body[: _first_length(body)]]  # behind it: OpenSSL's own notes on its use
    return [body]


def _der(body: bytes) -> list[bytes]:
    """A certificate, or a PKCS#7 that holds some (its type follows the outer frame)."""
    signed_data = bytes.fromhex("06092a864886f70d010702")
    return _pkcs7(body) if signed_data in body[:20] else [body]


def _pkcs7(body: bytes) -> list[bytes]:
    with reading():
        found = pkcs7.load_der_pkcs7_certificates(body)
        return [one.public_bytes(serialization.Encoding.DER) for one in found]


def _first_length(body: bytes) -> int:
    """Octets of the first DER element in *body*."""
    width = body[1] & 0x7F if len(body) > 1 and body[1] & 0x80 else 0
    length = int.from_bytes(body[2 : 2 + width], "big") if width else (body + b"\0\0")[1]
    return 2 + width + length


def _decode(body: bytes) -> bytes:
    plain = body.replace(b"\\r", b"").replace(b"\\n", b"")  # line ends that JSON left as text
    try:
        der = base64.b64decode(b"".join(plain.split()), validate=True)
    except binascii.Error:
        der = b""
    if not der:
        raise CertRejectedError("the text is neither PEM, nor base64 of a certificate, nor DER")
    return der


def _load(der: bytes) -> x509.Certificate:
    with reading():
        certificate = x509.load_der_x509_certificate(der)
        whole = certificate.public_bytes(serialization.Encoding.DER) == der
    if not whole:
        raise CertRejectedError("the certificate is followed by other bytes")
    return certificate


def _is_ca(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _stamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
