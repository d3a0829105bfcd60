# SPDX-License-Identifier: Apache-2.0
"""Do sessions need cookie and key, end when they should, and make room at nobody else's cost?"""

from __future__ import annotations

import pytest

from fastdl.errors import ApiAuthError
from fastdl.manager.access import sessions
from fastdl.manager.access.sessions import Sessions


def test_a_session_needs_cookie_and_key_and_ends() -> None:
    """The cookie alone proves only which browser asks."""
    made = Sessions()
    session = made.open("u", now=0.0)
    assert made.check(session.cookie, session.key, now=1.0).user == "u"
    for wrong in (
        (session.cookie, None),
        (session.cookie, "x"),
        (None, session.key),
        ("x", session.key),
    ):
        with pytest.raises(ApiAuthError):
            made.check(*wrong, now=1.0)
    assert not session.ended.is_set()
    with pytest.raises(ApiAuthError):
        made.check(session.cookie, session.key, now=2.0 + sessions.IDLE_S)
    assert session.ended.is_set()


def test_a_busy_session_ends_a_day_after_its_login() -> None:
    """Whoever has a cookie does not keep it for ever by using it."""
    made, now = Sessions(), 0.0
    session = made.open("u", now=now)
    while now + sessions.IDLE_S / 2 <= sessions.LIFE_S:
        now += sessions.IDLE_S / 2
        made.check(session.cookie, session.key, now=now)
    with pytest.raises(ApiAuthError):
        made.check(session.cookie, session.key, now=sessions.LIFE_S + 1)


def test_who_logs_in_often_ends_only_sessions_of_their_own() -> None:
    """A client that logs in for each command must not log the administrator out."""
    made = Sessions()
    other = made.open("other", now=0.0)
    page = made.open("me", now=0.0)
    made.check(page.cookie, page.key, now=500.0)  # it is in use
    mine = [made.open("me", now=float(n)) for n in range(sessions.PER_USER_MAX + 4)]
    assert [s.ended.is_set() for s in mine] == [True] * 5 + [False] * (sessions.PER_USER_MAX - 1)
    assert not page.ended.is_set()
    assert made.check(other.cookie, other.key, now=1.0) is other


def test_all_sessions_of_a_user_end_but_one() -> None:
    """New keys or a new password lock out whoever had the old ones, not who asks."""
    made = Sessions()
    one, two, other = made.open("u", now=0.0), made.open("u", now=0.0), made.open("v", now=0.0)
    made.close_user("u", but=two.cookie)
    assert [s.ended.is_set() for s in (one, two, other)] == [True, False, False]
