# SPDX-License-Identifier: Apache-2.0
"""Does guessing get slow, without keeping anybody out who knows the password?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from fastdl.errors import ApiAuthError, ApiLimitError
from fastdl.manager.access import logins
from fastdl.manager.access.auth import hash_password
from fastdl.manager.access.logins import Logins, ReportLimit

STORED = hash_password("right")


class Frozen:
    """A clock that stands, except for who sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def time(self) -> float:
        return self.now

    def steady(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(0)


@pytest.fixture
async def made() -> AsyncIterator[Logins]:
    """Password checks on a clock that stands."""
    found = Logins(Frozen())
    yield found
    found.close()


async def fails(made: Logins, name: str, address: str) -> type[Exception]:
    """The class of the refusal of a wrong password."""
    with pytest.raises((ApiAuthError, ApiLimitError)) as refused:
        await made.check(name, "wrong", STORED, address=address)
    return refused.type


async def test_right_passwords_are_never_counted(made: Logins) -> None:
    """A command-line client logs in for every command."""
    for _ in range(3 * logins.PAIR_DEPTH):
        await made.check("admin", "right", STORED, address="192.0.2.1")
    assert not made._clock.slept  # type: ignore[attr-defined]


async def test_failures_count_by_address_and_name(made: Logins) -> None:
    """The administrator is not kept out by what others do, elsewhere or under other names."""
    kinds = [await fails(made, "admin", "192.0.2.66") for _ in range(logins.PAIR_DEPTH + 1)]
    assert kinds == [ApiAuthError] * logins.PAIR_DEPTH + [ApiLimitError]
    assert await fails(made, "other", "192.0.2.66") is ApiAuthError
    assert await fails(made, "admin", "192.0.2.1") is ApiAuthError
    await made.check("admin", "right", STORED, address="192.0.2.1")


async def test_the_right_password_gets_in_after_any_number_of_wrong_ones(made: Logins) -> None:
    """Behind one address there are many people: guessing makes it slow, it closes nothing."""
    for _ in range(2 * logins.PAIR_DEPTH):
        await fails(made, "admin", "192.0.2.66")
    await made.check("admin", "right", STORED, address="192.0.2.66")
    assert await fails(made, "admin", "192.0.2.66") is ApiLimitError


async def test_one_password_on_many_names_gets_slow_too(made: Logins) -> None:
    """A guesser who takes a new name each time has the address' allowance."""
    kinds = [await fails(made, f"u{n}", "2001:db8::1") for n in range(logins.ADDRESS_DEPTH)]
    assert set(kinds) == {ApiAuthError}
    assert await fails(made, "fresh", "2001:db8::2") is ApiLimitError


async def test_a_crowd_in_the_slow_lane_is_refused_unseen(made: Logins) -> None:
    """Waiting costs memory: so many may."""
    for _ in range(logins.PAIR_DEPTH):
        await fails(made, "admin", "192.0.2.66")
    ends = await asyncio.gather(*(fails(made, "admin", "192.0.2.66") for _ in range(50)))
    assert set(ends) == {ApiLimitError}
    assert len(made._clock.slept) == logins.LANE_MAX  # type: ignore[attr-defined]
    assert not made._lanes
    assert not made._locks


async def test_nobody_matches_where_there_is_no_such_user(made: Logins) -> None:
    """The hash that stands for nobody has no password."""
    with pytest.raises(ApiAuthError):
        await made.check("ghost", "", None, address="192.0.2.1")


def test_equal_happenings_are_told_once_in_a_while() -> None:
    """A flood of failures must not become one of rows; how many were left out is told."""
    told = ReportLimit(every_s=60.0, most=3, refill_s=10.0)
    assert told.due("a", now=0.0) == 0
    assert [told.due("a", now=1.0) for _ in range(5)] == [None] * 5
    assert told.due("b", now=1.0) == 0
    assert told.due("a", now=61.0) == 5
    many = [told.due(f"x{n}", now=62.0) for n in range(2 * logins.KNOWN_MAX)]
    assert sum(found is not None for found in many) <= 3
    assert len(told._last) <= logins.KNOWN_MAX
