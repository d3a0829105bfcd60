# SPDX-License-Identifier: Apache-2.0
"""Do sessions need cookie and key, end when they should, and make room at nobody else's cost?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fastdl.errors import ApiAuthError
from fastdl.manager.access import sessions
from fastdl.manager.access.sessions import Session, Sessions
from fastdl.manager.ledger.engine import Ledger, default_url, open_ledger
from fastdl.manager.notices import Notices


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    """An empty one."""
    made = await asyncio.to_thread(open_ledger, default_url(tmp_path))
    yield made
    await made.close()


async def is_valid(made: Sessions, session: Session, *, now: float) -> bool:
    """Whether *session* can be used, which uses it."""
    try:
        await made.check(session.cookie, session.key, now=now)
    except ApiAuthError:
        return False
    return True


async def test_a_session_needs_cookie_and_key_and_ends(ledger: Ledger) -> None:
    """The cookie alone proves only which browser asks."""
    made = Sessions(ledger, Notices())
    session = await made.open("u", now=0.0)
    assert (await made.check(session.cookie, session.key, now=1.0)).user == "u"
    for wrong in (
        (session.cookie, None),
        (session.cookie, "x"),
        (None, session.key),
        ("x", session.key),
    ):
        with pytest.raises(ApiAuthError):
            await made.check(*wrong, now=1.0)
    assert not session.ended.is_set()
    assert not await is_valid(made, session, now=2.0 + sessions.IDLE_S)
    assert session.ended.is_set()


async def test_a_busy_session_ends_a_day_after_its_login(ledger: Ledger) -> None:
    """Whoever has a cookie does not keep it for ever by using it, here or at another manager."""
    made, other, now = Sessions(ledger, Notices()), Sessions(ledger, Notices()), 0.0
    session = await made.open("u", now=now)
    while now + sessions.IDLE_S / 2 <= sessions.LIFE_S:
        now += sessions.IDLE_S / 2
        assert await is_valid(made, session, now=now)
    for manager in (made, other):
        assert not await is_valid(manager, session, now=sessions.LIFE_S + 1)


async def test_a_session_in_use_at_one_manager_is_idle_at_none(ledger: Ledger) -> None:
    """A load balancer may send all of its requests to the same one, and then to another."""
    one, two = Sessions(ledger, Notices()), Sessions(ledger, Notices())
    session, step = await one.open("u", now=0.0), sessions.IDLE_S * 0.75
    assert await is_valid(two, session, now=1.0)
    for n in range(1, 4):
        assert await is_valid(one, session, now=n * step)
    assert await is_valid(two, session, now=4 * step)
    assert not await is_valid(two, session, now=5 * step + sessions.IDLE_S)


async def test_the_ledger_opens_no_session(ledger: Ledger) -> None:
    """What is stored are digests; and a restart ends no session."""
    session = await Sessions(ledger, Notices()).open("u", now=0.0)
    async with ledger.read() as tx:
        (row,) = await tx.exec_driver_sql("SELECT * FROM session")
    assert session.cookie not in row
    assert session.key not in row
    assert await is_valid(Sessions(ledger, Notices()), session, now=1.0)


async def test_who_logs_in_often_ends_only_sessions_of_their_own(ledger: Ledger) -> None:
    """A client that logs in for each command must not log the administrator out."""
    made = Sessions(ledger, Notices())
    other = await made.open("other", now=0.0)
    page = await made.open("me", now=0.0)
    await made.check(page.cookie, page.key, now=500.0)  # it is in use
    mine = [await made.open("me", now=float(n)) for n in range(sessions.PER_USER_MAX + 4)]
    assert [s.ended.is_set() for s in mine] == [True] * 5 + [False] * (sessions.PER_USER_MAX - 1)
    assert not page.ended.is_set()
    assert await made.check(other.cookie, other.key, now=1.0) is other


async def test_all_sessions_of_a_user_end_but_one(ledger: Ledger) -> None:
    """New keys or a new password lock out whoever had the old ones, not who asks."""
    made = Sessions(ledger, Notices())
    one, two, other = [await made.open(user, now=0.0) for user in ("u", "u", "v")]
    await made.close_user("u", but=two.cookie)
    assert [s.ended.is_set() for s in (one, two, other)] == [True, False, False]
    for manager in (made, Sessions(ledger, Notices())):
        assert [await is_valid(manager, s, now=1.0) for s in (one, two, other)] == [
            False,
            True,
            True,
        ]
    await made.close(two.cookie)
    assert not await is_valid(made, two, now=1.0)
