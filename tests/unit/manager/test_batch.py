# SPDX-License-Identifier: Apache-2.0
"""Do calls share rounds without sharing each other's failures?"""

from __future__ import annotations

import asyncio

import pytest

from fastdl.manager.batch import MOST, Batch


class Work:
    """Doubles numbers; a negative one makes its whole round fail."""

    def __init__(self) -> None:
        self.rounds: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, items: list[int]) -> list[int]:
        self.rounds.append(items)
        await self.gate.wait()
        if min(items) < 0:
            raise ValueError(min(items))
        return [2 * item for item in items]


async def test_who_comes_during_a_round_shares_the_next() -> None:
    """Many callers cost few rounds, and everybody gets the answer to their own question."""
    work = Work()
    batch = Batch(work)
    work.gate.clear()
    first = asyncio.create_task(batch(1))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    others = [asyncio.create_task(batch(n)) for n in range(2, 50)]
    await asyncio.sleep(0)
    work.gate.set()
    assert await asyncio.gather(first, *others) == [2 * n for n in range(1, 50)]
    assert [len(items) for items in work.rounds] == [1, 48]


async def test_a_round_is_bounded() -> None:
    """A thousand callers at once do not make one transaction of a thousand."""
    work = Work()
    batch = Batch(work)
    found = await asyncio.gather(*(batch(n) for n in range(3 * MOST)))
    assert found == [2 * n for n in range(3 * MOST)]
    assert max(map(len, work.rounds)) == MOST
    assert len(work.rounds) == 3


async def test_one_that_fails_takes_no_neighbour_along() -> None:
    """The round fails as a transaction does, then each half is tried: only one hears of it."""
    batch = Batch(Work())
    found = await asyncio.gather(*(batch(n) for n in (1, -5, 3, -7)), return_exceptions=True)
    assert found[0] == 2
    assert found[2] == 6
    assert [type(found[1]), type(found[3])] == [ValueError, ValueError]
    assert found[1].args == (-5,)  # type: ignore[union-attr]
    assert await batch(4) == 8


async def test_one_that_fails_costs_few_rounds() -> None:
    """Not one for each of its neighbours, who would wait for all of them."""
    work = Work()
    batch = Batch(work)
    numbers = [-5 if n == 77 else n for n in range(MOST)]
    found = await asyncio.gather(*(batch(n) for n in numbers), return_exceptions=True)
    assert [n for n in range(MOST) if found[n] != 2 * n] == [77]
    assert len(work.rounds) == 1 + 2 * 7


async def test_a_caller_that_gives_up_leaves_the_others_alone() -> None:
    """A connection that ends while its host is being admitted must not end the round."""
    work = Work()
    batch = Batch(work)
    work.gate.clear()
    leaving, staying = asyncio.create_task(batch(1)), asyncio.create_task(batch(2))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    leaving.cancel()
    work.gate.set()
    assert await staying == 4
    with pytest.raises(asyncio.CancelledError):
        await leaving
