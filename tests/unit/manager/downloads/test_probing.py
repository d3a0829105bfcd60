# SPDX-License-Identifier: Apache-2.0
"""Places for questions: never more than there are, in order, and none is ever lost."""

from __future__ import annotations

import asyncio
import contextlib
import random

import pytest

from fastdl.errors import ApiLimitError
from fastdl.manager.downloads import probing
from fastdl.manager.downloads.probing import WAITING_MAX, Slots


async def settle() -> None:
    """Let every task that can go on do so."""
    for _ in range(8):
        await asyncio.sleep(0)


async def test_no_more_than_the_places_and_the_others_in_their_order() -> None:
    """Who waits longest goes next; another key is not concerned."""
    slots, entered, go = Slots(), [], asyncio.Event()

    async def one(n: int) -> None:
        async with slots.take("a", most=2):
            entered.append(n)
            await go.wait()

    tasks = [asyncio.create_task(one(n)) for n in range(6)]
    await settle()
    assert entered == [0, 1]
    assert slots.busy("a") == 6
    async with slots.take("b", most=1):
        pass
    go.set()
    await asyncio.gather(*tasks)
    assert entered == [0, 1, 2, 3, 4, 5]
    assert slots.busy("a") == 0


async def test_those_who_wait_are_few_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood is refused at once, a place that does not come ends the wait."""
    slots = Slots()
    monkeypatch.setattr(probing, "WAIT_S", 0.05)

    async def one() -> None:
        async with slots.take("a", most=1):
            raise AssertionError("no place is free")

    async with slots.take("a", most=1):
        waiting = [asyncio.create_task(one()) for _ in range(WAITING_MAX)]
        await settle()
        with pytest.raises(ApiLimitError, match="wait a moment"):
            async with slots.take("a", most=1):
                pass
        ends = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(end, ApiLimitError) for end in ends)
    assert slots.busy("a") == 0


@pytest.mark.parametrize("seed", range(30))
async def test_no_place_is_lost_whoever_is_cancelled_when(seed: int) -> None:
    """Random callers, some cancelled before, while and after they are given a place."""
    rng, slots, inside, most = random.Random(seed), Slots(), 0, 3

    async def one() -> None:
        nonlocal inside
        async with slots.take("a", most=most):
            inside += 1
            assert inside <= most
            try:
                for _ in range(rng.randrange(4)):
                    await asyncio.sleep(0)
            finally:
                inside -= 1

    tasks = []
    for _ in range(30):
        tasks.append(asyncio.create_task(one()))
        for _ in range(rng.randrange(3)):
            await asyncio.sleep(0)
        if rng.random() < 0.5:
            rng.choice(tasks).cancel()
    for task in tasks:
        with contextlib.suppress(asyncio.CancelledError):
            await task
    assert slots.busy("a") == 0
    async with slots.take("a", most=1):
        pass
