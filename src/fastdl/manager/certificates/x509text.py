# SPDX-License-Identifier: Apache-2.0
"""Uploads with CloudStack's messages, and certificates as CloudStack shows them. Pure functions.

Which certificates a text holds, and whether they can be trusted, is ``trust.certificate``'s.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from typing import Any, Final

from cryptography import x509

from fastdl.errors import CertRejectedError
from fastdl.trust import certificate as certs

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
    """Return the certificates in *text*, in any encoding that hosts also accept.

    Raises CertRejectedError, in CloudStack's words, for what is not X.509, not valid at
    *now*, too weak to be trusted, or holds a private key.
    """
    moment = dt.datetime.fromtimestamp(now, dt.UTC)
    try:
        found = certs.read(text)
        for one in found:
            describe(one.pem())  # the library reads some parts when they are first asked for
    except CertRejectedError as exc:
        raise CertRejectedError(
            "Cannot parse the certificate provided, please provide a PEM certificate. "
            f"Error: {exc.message}"
        ) from None
    for one in found:
        _check_dates(one, moment)
        problem = certs.weakness(one)
        if problem:
            raise _invalid(problem)
    return Upload(
        pem="".join(one.pem() for one in found),
        sha256=found[0].sha256,
        not_after=min(one.not_after.timestamp() for one in found),
    )


def _invalid(reason: str) -> CertRejectedError:
    return CertRejectedError(
        f"Certificate is invalid. Please provide a valid certificate. Error: {reason}"
    )


def _check_dates(one: certs.Certificate, now: dt.datetime) -> None:
    if one.not_after < now:
        raise _invalid(f"NotAfter: {java_date(one.not_after)}")
    if one.not_before > now:
        raise _invalid(f"NotBefore: {java_date(one.not_before)}")


def describe(pem: str) -> dict[str, Any]:
    """Return version, subject, issuer, validity and serialnum as Java prints them."""
    with certs.reading():
        return _described(x509.load_pem_x509_certificate(pem.encode()))


def _described(certificate: x509.Certificate) -> dict[str, Any]:
    serial = abs(certificate.serial_number)  # a negative one is shown by its digits alone
    digits = serial.to_bytes((serial.bit_length() + 7) // 8 or 1, "big")
    return {
        "version": str(certificate.version.value + 1),
        "subject": java_name(certificate.subject),
        "issuer": java_name(certificate.issuer),
        "validity": (
            f"From: [{java_date(certificate.not_valid_before_utc)}] - "
            f"To: [{java_date(certificate.not_valid_after_utc)}]"
        ),
        "serialnum": "SerialNumber: " + digits.hex(":"),
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
