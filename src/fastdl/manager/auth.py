# SPDX-License-Identifier: Apache-2.0
"""Who calls: signatures as CloudStack computes them, passwords, sessions, request rates."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import hmac
import math
import re
import secrets
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote

from fastdl.errors import ApiAuthError, ApiLimitError

UNVERIFIED: Final = "unable to verify user credentials and/or request signature"
SKEW_S: Final = 300.0
SESSION_S: Final = 1800.0
SESSIONS_MAX: Final = 10_000
_DATE: Final = re.compile(
    r"(\d{4}-\d{2}-\d{2})[T ](\d{2}:\d{2}:\d{2})(\.\d{1,9})?(Z|'Z'Z|[+-]\d{2}:?\d{2})"
)
_BUCKETS_MAX: Final = 10_000


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
    """Whether *signature* is right, in constant time.

    Python clients leave ``~`` as it is, as RFC 3986 says, where Java encodes it: both are
    accepted, because both cover every byte of the request.
    """
    given = signature.strip().encode()
    text = canonical(params)
    forms = (text, text.replace("%7e", "~"))
    matches = [hmac.compare_digest(_digest(form, secret_key).encode(), given) for form in forms]
    return any(matches)


def expiry_of(
    params: Mapping[str, str], *, now: float, required: bool, ahead_max: float
) -> float | None:
    """Return until when a signed request may be used; None for a request without a version.

    *params* have lower-case names. ApiAuthError where ``expires`` is missing, unreadable,
    past (five minutes of clock difference are allowed) or too far ahead.
    """
    if params.get("signatureversion") != "3":
        if required:
            raise ApiAuthError(UNVERIFIED)
        return None
    moment = parse_date(params.get("expires", ""))
    if moment is None or not -SKEW_S <= moment - now <= ahead_max + SKEW_S:
        raise ApiAuthError(UNVERIFIED)
    return moment + SKEW_S


def parse_date(text: str) -> float | None:
    """Return *text* (the ISO 8601 forms that CloudStack accepts) as a time, None otherwise."""
    # A plus that nobody encoded arrives as a space.
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


@dataclass(slots=True)
class Session:
    """A login from the page. *key* must come with every request: the cookie alone proves
    only which browser asks, not that the page asked (CSRF)."""

    user: str
    key: str
    until: float


@dataclass(slots=True)
class Sessions:
    """Logins, in memory: a restart of the manager ends them."""

    _sessions: OrderedDict[str, Session] = field(default_factory=OrderedDict)

    def open(self, user: str, *, now: float) -> tuple[str, Session]:
        """Return (cookie, session) of a new login."""
        while len(self._sessions) >= SESSIONS_MAX:
            self._sessions.popitem(last=False)
        cookie = secrets.token_urlsafe(32)
        session = Session(user, secrets.token_urlsafe(32), now + SESSION_S)
        self._sessions[cookie] = session
        return cookie, session

    def check(self, cookie: str | None, key: str | None, *, now: float) -> Session:
        """Return the session of *cookie*; ApiAuthError where it or its key is wrong."""
        session = self._sessions.get(cookie or "")
        if session is None or session.until < now:
            self._sessions.pop(cookie or "", None)
            raise ApiAuthError(UNVERIFIED)
        if not hmac.compare_digest(session.key.encode(), (key or "").encode()):
            raise ApiAuthError(UNVERIFIED)
        session.until = now + SESSION_S
        return session

    def close(self, cookie: str | None) -> None:
        """Forget a login."""
        self._sessions.pop(cookie or "", None)


@dataclass(slots=True)
class Rates:
    """A token bucket for each caller: refilled at the rate, twice the rate deep."""

    _buckets: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict)

    def take(self, caller: str, *, per_second: float, now: float) -> None:
        """Count one request; ApiLimitError where *caller* sends too many."""
        full = 2 * per_second
        left, then = self._buckets.pop(caller, (full, now))
        left = min(full, left + max(0.0, now - then) * per_second)
        if len(self._buckets) >= _BUCKETS_MAX:
            self._buckets.popitem(last=False)
        self._buckets[caller] = (max(0.0, left - 1), now)
        if left < 1:
            raise ApiLimitError("Too many requests: wait a moment and send fewer")


@dataclass(slots=True)
class Quotas:
    """CloudStack's throttling: a count for each account, which starts again every interval."""

    _counts: OrderedDict[str, tuple[float, int]] = field(default_factory=OrderedDict)

    def take(self, account: str, *, most: int, interval: float, now: float) -> None:
        """Count one request; ApiLimitError, in CloudStack's words, where it is one too many."""
        until, count = self._counts.pop(account, (now + interval, 0))
        if now >= until:
            until, count = now + interval, 0
        if len(self._counts) >= _BUCKETS_MAX:
            self._counts.popitem(last=False)
        self._counts[account] = (until, count + 1)
        if count >= most:
            left = math.ceil(1000 * (until - now))
            raise ApiLimitError(
                "The given user has reached his/her account api limit, please retry after "
                f"{left} ms."
            )
