# SPDX-License-Identifier: Apache-2.0
"""Batching calls: callers that arrive during a round share the next one.

A thousand hosts that connect at once then cost a few dozen transactions and queries, and a single
host does not wait.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

MOST: Final = 128
"""Items in a round: bounds how long a round holds a transaction and makes later callers wait."""


class Batch(Generic[T, R]):
    """``await batch(item)`` returns the result of *work* for that item.

    *work* takes a list and returns the results in its order. If it raises for several, none took
    effect (it is one transaction), and each half is tried again: a bad item does not fail the
    others, nor make each of them pay for a round of its own.
    """

    def __init__(self, work: Callable[[list[T]], Awaitable[Sequence[R]]]) -> None:
        self._work = work
        self._waiting: deque[tuple[T, asyncio.Future[R]]] = deque()
        self._rounds: asyncio.Task[None] | None = None

    async def __call__(self, item: T) -> R:
        """Return the result for *item*; a caller that is cancelled only stops waiting."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._rounds is None or self._rounds.done():
            self._rounds = asyncio.create_task(self._run(), name="batch")
        return await asyncio.shield(future)

    async def _run(self) -> None:
        while self._waiting:
            group = [self._waiting.popleft() for _ in range(min(MOST, len(self._waiting)))]
            try:
                outcomes = await self._outcomes([item for item, _ in group])
            except BaseException:
                for _, future in group:
                    future.cancel()
                raise
            for (_, future), outcome in zip(group, outcomes, strict=True):
                if isinstance(outcome, BaseException):
                    future.set_exception(outcome)
                else:
                    future.set_result(outcome)

    async def _outcomes(self, items: list[T]) -> list[R | Exception]:
        try:
            return list(await self._work(items))
        except Exception as exc:  # noqa: BLE001 - each caller gets it
            if len(items) == 1:
                return [exc]
        middle = len(items) // 2
        return [*await self._outcomes(items[:middle]), *await self._outcomes(items[middle:])]
