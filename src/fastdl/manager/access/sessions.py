# SPDX-License-Identifier: Apache-2.0
"""Sessions: stored in the ledger, so that each manager knows every login, and cached here.

The cache spares a read for every request and a write for most. What one manager ends, it tells the
others; they then ask the ledger again.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.errors import ApiAuthError
from fastdl.manager.access.auth import UNVERIFIED
from fastdl.manager.ledger import sessions as table
from fastdl.manager.ledger.engine import Ledger
from fastdl.manager.notices import Notices

IDLE_S: Final = 1800.0
LIFE_S: Final = 86_400.0
"""A session ends this long after its login, even if it is in use."""
SESSIONS_MAX: Final = 10_000
PER_USER_MAX: Final = 100
"""Command-line clients log in for every command and never log out."""
STORE_S: Final = 60.0
"""The ledger knows when a session was used last to within so many seconds."""
LOGOUT: Final = "logout"
"""The topic of messages to other managers: sessions of a user ended."""


@dataclass(slots=True, eq=False)
class Session:
    """A login. *key* must come with every request: the cookie alone proves only which browser sent
    it, not that the page did (CSRF). It is known where the session was opened; *key_digest*
    everywhere. *ended* is set when this manager no longer knows whether it is valid.
    """

    user: str
    cookie: str
    key_digest: str
    opened: float
    until: float
    stored: float
    """Until when it lasts, by the ledger."""
    key: str = ""
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class Sessions:
    """All logins. Every time is in seconds of a clock that does not jump (``Clock.steady``)."""

    def __init__(self, ledger: Ledger, notices: Notices) -> None:
        self._ledger = ledger
        self._notices = notices
        self._known: dict[str, Session] = {}
        self._endings = 0
        """How often sessions were forgotten."""

    async def open(self, user: str, *, now: float) -> Session:
        """Return a new session of *user*. If there are many, *user*'s least recently used one is
        ended; logging in never ends others' sessions."""
        cookie, key = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        until = now + IDLE_S
        session = Session(user, cookie, _digest(key), now, until, until, key)

        async def work(tx: AsyncConnection) -> list[str]:
            ended = await table.surplus(tx, now=now, user=user, most=PER_USER_MAX - 1)
            ended = ended or await table.surplus(tx, now=now, most=SESSIONS_MAX - 1)
            await table.remove(tx, ended)
            await table.add(
                tx, _digest(cookie), user=user, key_digest=_digest(key), now=now, until=until
            )
            return ended

        ended = set(await self._ledger.write(work))
        for old in [s for s in self._known.values() if ended and _digest(s.cookie) in ended]:
            self._forget(old)
        self._known[cookie] = session
        return session

    async def check(self, cookie: str | None, key: str | None, *, now: float) -> Session:
        """Return the session of *cookie* and use it; ApiAuthError if it or its key is wrong."""
        session = self._known.get(cookie or "")
        if session is None or session.until < now:
            session = await self._read(cookie or "", now=now)
        if not hmac.compare_digest(session.key_digest, _digest(key or "")):
            raise ApiAuthError(UNVERIFIED)
        session.until = min(now + IDLE_S, session.opened + LIFE_S)
        if session.until - session.stored >= STORE_S:
            session.stored = until = session.until
            await self._ledger.write(lambda tx: table.use(tx, _digest(session.cookie), until=until))
        return session

    async def _read(self, cookie: str, *, now: float) -> Session:
        """Return a session that was opened, or used last, at another manager; ApiAuthError if it
        is none, or over."""
        row = None
        endings = -1
        while cookie and endings != self._endings:  # it may have ended while it was read
            endings = self._endings
            async with self._ledger.read() as tx:
                row = await table.get(tx, _digest(cookie))
        session = self._known.get(cookie)
        if row is None or row.until < now:
            if session is not None:
                self._forget(session)
            raise ApiAuthError(UNVERIFIED)
        if session is None:
            session = Session(row.user, cookie, row.key_digest, row.opened, row.until, row.until)
            if len(self._known) >= SESSIONS_MAX:
                self._forget(min(self._known.values(), key=_used))
            self._known[cookie] = session
        session.until = session.stored = row.until
        return session

    async def close(self, cookie: str | None) -> None:
        """Log out. The cookie is enough: other sites cannot send it (SameSite)."""
        if not cookie:
            return
        digest = _digest(cookie)

        async def work(tx: AsyncConnection) -> str | None:
            row = await table.get(tx, digest)
            await table.remove(tx, [digest])
            return row.user if row is not None else None

        user = await self._ledger.write(work)
        self._endings += 1
        if session := self._known.get(cookie):
            self._forget(session)
        if user is not None:
            self._notices.tell(LOGOUT, user)

    async def close_user(self, user: str, *, but: str | None = None) -> None:
        """End every session of *user*, except the one with the cookie *but*."""
        await self._ledger.write(lambda tx: self.end_user(tx, user, but=but))
        self.ended_user(user, but=but)

    async def end_user(self, tx: AsyncConnection, user: str, *, but: str | None = None) -> None:
        """``close_user`` in the transaction of a change, which ``ended_user`` follows."""
        await table.remove_user(tx, user, but=_digest(but) if but else None)

    def ended_user(self, user: str, *, but: str | None = None) -> None:
        """Note, here and at the other managers, that sessions of *user* have ended."""
        self._notices.tell(LOGOUT, user)
        self.forget(user, but=but)

    def forget(self, user: str, *, but: str | None = None) -> None:
        """Ask the ledger again about the sessions of *user*, and end their streams."""
        self._endings += 1
        for session in [s for s in self._known.values() if s.user == user]:
            if session.cookie != but:
                self._forget(session)

    def forget_all(self) -> None:
        """Ask the ledger again about every session, and end the streams."""
        self._endings += 1
        for session in list(self._known.values()):
            self._forget(session)

    def _forget(self, session: Session) -> None:
        self._known.pop(session.cookie, None)
        session.ended.set()


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _used(session: Session) -> float:
    return session.until
