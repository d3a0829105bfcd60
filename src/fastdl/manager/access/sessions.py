# SPDX-License-Identifier: Apache-2.0
"""Sessions, kept in memory: a restart of the manager ends them."""

from __future__ import annotations

import asyncio
import hmac
import secrets
from dataclasses import dataclass, field
from typing import Final

from fastdl.errors import ApiAuthError
from fastdl.manager.access.auth import UNVERIFIED

IDLE_S: Final = 1800.0
LIFE_S: Final = 86_400.0
"""A session ends this long after its login, even if it is in use."""
SESSIONS_MAX: Final = 10_000
PER_USER_MAX: Final = 100
"""Command-line clients log in for every command and never log out."""


@dataclass(slots=True, eq=False)
class Session:
    """A login. *key* must come with every request: the cookie alone proves only which browser sent
    it, not that the page did (CSRF). *ended* is set when the session is no longer valid."""

    user: str
    cookie: str
    key: str
    opened: float
    until: float
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class Sessions:
    """All logins. Every time is in seconds of a clock that does not jump (``Clock.steady``)."""

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}

    def open(self, user: str, *, now: float) -> Session:
        """Return a new session of *user*. If there are many, *user*'s least recently used one is
        ended; logging in never ends others' sessions."""
        for session in [s for s in self._sessions.values() if s.until < now]:
            self._end(session)
        theirs = [s for s in self._sessions.values() if s.user == user]
        if len(theirs) >= PER_USER_MAX:
            self._end(min(theirs, key=_used))
        elif len(self._sessions) >= SESSIONS_MAX:
            self._end(min(self._sessions.values(), key=_used))
        session = Session(
            user, secrets.token_urlsafe(32), secrets.token_urlsafe(32), now, now + IDLE_S
        )
        self._sessions[session.cookie] = session
        return session

    def check(self, cookie: str | None, key: str | None, *, now: float) -> Session:
        """Return the session of *cookie* and use it; ApiAuthError if it or its key is wrong."""
        session = self._sessions.get(cookie or "")
        if session is None:
            raise ApiAuthError(UNVERIFIED)
        if session.until < now:
            self._end(session)
            raise ApiAuthError(UNVERIFIED)
        if not hmac.compare_digest(session.key.encode(), (key or "").encode()):
            raise ApiAuthError(UNVERIFIED)
        session.until = min(now + IDLE_S, session.opened + LIFE_S)
        return session

    def close(self, cookie: str | None) -> None:
        """Log out. The cookie is enough: other sites cannot send it (SameSite)."""
        if session := self._sessions.get(cookie or ""):
            self._end(session)

    def close_user(self, user: str, *, but: str | None = None) -> None:
        """End every session of *user*, except the one with the cookie *but*."""
        for session in [s for s in self._sessions.values() if s.user == user]:
            if session.cookie != but:
                self._end(session)

    def close_all(self) -> None:
        """End every session."""
        for session in list(self._sessions.values()):
            self._end(session)

    def _end(self, session: Session) -> None:
        self._sessions.pop(session.cookie, None)
        session.ended.set()


def _used(session: Session) -> float:
    return session.until
