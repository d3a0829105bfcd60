# SPDX-License-Identifier: Apache-2.0
"""Does a loop that tries again end when it is cancelled while what it does fails, and only then?"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from fastdl.tasks import attempt, end, end_if_cancelled

Work = Callable[[], Coroutine[Any, Any, None]]


async def _fails_when_it_ends() -> None:
    try:
        await asyncio.sleep(60)
    finally:
        raise ConnectionError("lost")


async def _as_a_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(_fails_when_it_ends())
        await asyncio.sleep(60)


async def _cancelled(loop: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """A task of *loop* that was cancelled once it waited, and has had time to end."""
    task = asyncio.create_task(loop)
    for _ in range(5):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task], timeout=10)
    return task


@pytest.mark.parametrize("work", [_fails_when_it_ends, _as_a_group])
async def test_a_failure_does_not_take_the_place_of_a_cancellation(work: Work) -> None:
    """In whatever way the failure is raised."""
    rounds = 0

    async def loop() -> None:
        nonlocal rounds
        while True:
            rounds += 1
            with contextlib.suppress(Exception):  # that of a group, too
                await attempt(work())

    assert (await _cancelled(loop())).cancelled()
    assert rounds == 1


async def test_a_loop_asks_itself() -> None:
    """One that does not have a task for each time."""

    async def loop() -> None:
        while True:
            end_if_cancelled()
            with contextlib.suppress(ConnectionError):
                await _fails_when_it_ends()

    assert (await _cancelled(loop())).cancelled()


async def test_what_a_group_did_to_its_task_is_no_cancellation() -> None:
    """Its tasks fail while it waits for them: it cancels its own task to wake it."""

    async def fails() -> None:
        await asyncio.sleep(0)
        raise ConnectionError("lost")

    async def group_of_one() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fails())

    for _ in range(3):
        with pytest.raises(ExceptionGroup):
            await attempt(group_of_one())


async def test_tasks_are_cancelled_until_they_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that swallows a cancellation, one that fails and one that has ended."""
    monkeypatch.setattr("fastdl.tasks.AGAIN_S", 0.01)

    async def swallows() -> None:
        for _ in range(3):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(60)

    async def nothing() -> None:
        pass

    tasks = [asyncio.create_task(one()) for one in (swallows, _fails_when_it_ends, nothing)]
    await asyncio.wait([tasks[2]])
    async with asyncio.timeout(30):
        await end(tasks)
    assert all(task.done() for task in tasks)
