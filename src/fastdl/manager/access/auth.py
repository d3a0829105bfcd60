# SPDX-License-Identifier: Apache-2.0
"""Authentication: CloudStack's signatures, their dates, and passwords."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

from fastdl.errors import ApiAuthError

UNVERIFIED: Final = "unable to verify user credentials and/or request signature"
NAME: Final = re.compile(r"[A-Za-z0-9_.:\[\]-]{1,300}")
"""A parameter's name. Names enter the signed string unencoded: one containing ``=`` or ``&`` could
replace other parameters under the same signature."""
_DATE: Final = re.compile(
    r"(\d{4}-\d{2}-\d{2})[T ](\d{2}:\d{2}:\d{2})(\.\d{1,9})?(Z|'Z'Z|[+-]\d{2}:?\d{2})", re.ASCII
)


def canonical(params: Mapping[str, str]) -> str:
    """Return the string that is signed: sorted by name as given, encoded, lower-cased."""
    pairs = sorted((k, v) for k, v in params.items() if k.lower() != "signature")
    return "&".join(f"{name}={_encode(value)}" for name, value in pairs).lower()


def _encode(value: str) -> str:
    # Java's URLEncoder with + as %20: '*' stays, '~' does not; Python has it the other way.
    return quote(value, safe="*").replace("~", "%7E")


def sign(params: Mapping[str, str], secret_key: str) -> str:
    """Return the signature (HMAC-SHA1, base64) of *params*, not yet URL-encoded."""
    return _digest(canonical(params), secret_key)


def _digest(text: str, secret_key: str) -> str:
    digest = hmac.new(secret_key.encode(), text.encode(), hashlib.sha1).digest()
    return base64.b64encode(digest).decode()


def signature_matches(params: Mapping[str, str], signature: str, secret_key: str) -> bool:
    """Whether *signature* is correct, in constant time.

    Python clients do not encode ``~``, as RFC 3986 says, but Java does: both are
    accepted, because both cover every byte of the request.
    """
    given = signature.strip().encode()
    text = canonical(params)
    forms = (text, text.replace("%7e", "~"))
    matches = [hmac.compare_digest(_digest(form, secret_key).encode(), given) for form in forms]
    return any(matches)


def claim_of(params: Mapping[str, str], api_key: str) -> str:
    """Return a key that is the same for every copy of a signed request, regardless of the order and
    encoding of its parameters and the spelling of its signature."""
    return hashlib.sha256(f"{api_key}\0{canonical(params)}".encode()).hexdigest()


def expiry_of(
    params: Mapping[str, str], *, now: float, required: bool, ahead_max: float, skew: float
) -> float | None:
    """Return until when a signed request may be used; None for a request without a version.

    *params* have lower-case names; times in seconds. ApiAuthError where ``expires`` is missing,
    unreadable, more than *skew* past, or more than *ahead_max* (and *skew*) ahead.
    """
    if params.get("signatureversion") != "3":
        if required:
            raise ApiAuthError(UNVERIFIED)
        return None
    moment = parse_date(params.get("expires", ""))
    if moment is None or not -skew <= moment - now <= ahead_max + skew:
        raise ApiAuthError(UNVERIFIED)
    return moment + skew


def parse_date(text: str) -> float | None:
    """Return *text* (the ISO 8601 forms that CloudStack accepts) as a time, None otherwise."""
    # An unencoded plus arrives as a space.
    match = _DATE.fullmatch(re.sub(r" (?=\d{2}:?\d{2}$)", "+", text.strip()))
    if match is None:
        return None
    day, clock, fraction, offset = match.groups()
    zone = "+00:00" if "Z" in offset else offset
    if ":" not in zone:
        zone = f"{zone[:3]}:{zone[3:]}"
    try:
        moment = dt.datetime.fromisoformat(f"{day}T{clock}{(fraction or '')[:7]}{zone}")
        return moment.timestamp()
    except (ValueError, OverflowError):
        return None


def hash_password(password: str) -> str:
    """Return *password* hashed with scrypt and a fresh salt."""
    salt = secrets.token_bytes(16)
    digest = hashlib.scrypt(password.encode(), salt=salt, n=1 << 14, r=8, p=1)
    return f"scrypt${salt.hex()}${digest.hex()}"


def password_matches(password: str, stored: str) -> bool:
    """Whether *password* is the one that *stored* was made from, in constant time."""
    _, salt, digest = stored.split("$")
    found = hashlib.scrypt(password.encode(), salt=bytes.fromhex(salt), n=1 << 14, r=8, p=1)
    return hmac.compare_digest(found.hex(), digest)


NO_PASSWORD: Final = f"scrypt${'00' * 16}${'00' * 64}"
"""Matches nothing: for users that do not exist, so that a login takes equally long."""
