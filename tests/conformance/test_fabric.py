# SPDX-License-Identifier: Apache-2.0
"""What may managers rely on when they wake each other, whatever carries the messages?"""

from __future__ import annotations

import asyncio

import pytest

from fastdl.manager.fabric import GONE, PROGRESS, RESYNC, Message
from tests.env.seats import Combination, Seat, unique, until

MANY = 1000


async def test_what_one_says_the_others_hear(combination: Combination) -> None:
    """All topics, once each; not the one that says it."""
    said: list[Message] = [
        ("post", "h1"),
        ("wake", "job:1"),
        ("settings",),
        ("evict", "h1", "0a"),
        (PROGRESS, "h", "{}"),
        ("post", "Größe, mit *.> und Leerzeichen"),
    ]
    async with combination.seats(("a", "b", "c")) as (a, b, c):
        for topic, *words in said * 3:
            a.fabric.notify(topic, *words)
        if not combination.shared:
            return  # there is nobody, and nothing to wait for
        await until(lambda: len(b.heard) == len(said) == len(c.heard))
        assert sorted(b.heard) == sorted(c.heard) == sorted(said)
        assert not a.heard


async def test_many_messages_arrive(combination: Combination) -> None:
    """Or, if they are too many for it, one that says to look at everything."""
    wanted = {("post", f"h{n}") for n in range(MANY)}
    async with combination.seats() as (a, b):
        for _, host in sorted(wanted):
            a.fabric.notify("post", host)
        if combination.shared:
            await until(lambda: wanted <= set(b.heard) or (RESYNC,) in b.heard)


async def test_a_message_that_is_too_long_disturbs_no_other(combination: Combination) -> None:
    """What it is about is in the ledger."""
    async with combination.seats() as (a, b):
        a.fabric.notify("post", "x" * (2 << 20))
        a.fabric.notify("post", "h1")
        if combination.shared:
            await until(lambda: ("post", "h1") in b.heard)


@pytest.mark.parametrize("wipe", [False, True], ids=["interrupted", "wiped"])
async def test_who_missed_something_learns_of_it(combination: Combination, wipe: bool) -> None:
    """Connections end, and what was stored is lost or not: each message that was said meanwhile is
    heard, or that everything is to be looked at."""
    async with combination.seats() as (a, b):
        a.fabric.notify("post", "before")
        if not combination.shared:
            return
        await until(lambda: bool(b.heard))
        await combination.interrupt(wipe=wipe)
        a.fabric.notify("post", "meanwhile")
        await until(lambda: ("post", "meanwhile") in b.heard or (RESYNC,) in b.heard)
        if wipe:
            await until(lambda: (RESYNC,) in a.heard and (RESYNC,) in b.heard)
        b.heard.clear()
        a.fabric.notify("post", "after")
        await until(lambda: ("post", "after") in b.heard)


async def test_a_manager_that_stops_is_not_reported_dead(combination: Combination) -> None:
    """It has handed its chores over."""
    async with combination.seats() as (a, b):
        await combination.leave(b)
        a.fabric.notify("post", "h1")
        await asyncio.sleep(0.1)
        assert not a.heard


async def test_who_comes_late_hears_what_is_said_then(combination: Combination) -> None:
    """A manager that starts looks at everything, and then hears the others."""
    async with combination.seats(("a",)) as (a,):
        a.fabric.notify("post", "before")
        late = Seat(combination.fabric(unique("late")))
        combination.listen(late)
        try:
            if combination.shared:
                await until(lambda: (RESYNC,) in late.heard)
                a.fabric.notify("post", "h1")
                await until(lambda: ("post", "h1") in late.heard)
                assert not [message for message in late.heard if message[0] == GONE]
        finally:
            await combination.leave(late)
