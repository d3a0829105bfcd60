# SPDX-License-Identifier: Apache-2.0
"""Does a cancelled job undo what its thread was making, before another one may begin?"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from fastdl.agent.templates import locked, threaded, to_end
from fastdl.agent.volumes import Made, uncancelled
from fastdl.errors import SinkIOError

_SECONDS = 5.0


class Slow:
    """What takes until ``go`` to be entered, and writes down what happens to it."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.started, self.go = threading.Event(), threading.Event()
        self.events: list[str] = []
        self._failure = failure

    @contextlib.contextmanager
    def place(self) -> Iterator[str]:
        self.started.set()
        assert self.go.wait(_SECONDS)
        if self._failure is not None:
            raise self._failure
        self.events.append("made")
        try:
            yield "placement"
        except BaseException as exc:
            self.events.append(f"undone, {type(exc).__name__}")
            raise


async def _cancelled_in_the_middle(slow: Slow, task: asyncio.Task[None]) -> None:
    """Cancel twice while the thread works, let it end, and wait for the task's end."""
    assert await asyncio.to_thread(slow.started.wait, _SECONDS)
    for _ in range(2):
        task.cancel()
        await asyncio.sleep(0)
    assert not task.done()
    slow.go.set()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, _SECONDS)


async def test_what_is_made_during_a_cancellation_is_undone_first() -> None:
    """A volume that libvirt was creating is gone when the job has ended, not some time later."""
    slow = Slow()

    async def job() -> None:
        async with threaded(slow.place()):
            slow.events.append("used")

    await _cancelled_in_the_middle(slow, asyncio.create_task(job()))
    assert slow.events == ["made", "undone, CancelledError"]


async def test_what_fails_during_a_cancellation_is_not_left() -> None:
    """Nothing was entered: the cancellation is what counts."""
    slow = Slow(SinkIOError("full"))

    async def job() -> None:
        async with threaded(slow.place()):
            pass

    await _cancelled_in_the_middle(slow, asyncio.create_task(job()))
    assert slow.events == []


async def test_a_lock_that_was_being_taken_is_released() -> None:
    """The next job gets it."""
    slow, held = Slow(), threading.Lock()

    @contextlib.contextmanager
    def lock(_volume: str, *, fence: int) -> Iterator[None]:
        assert fence == 0
        with slow.place(), held:
            yield

    pool: Any = SimpleNamespace(markers=SimpleNamespace(lock=lock))
    wanted: Any = SimpleNamespace(volume=SimpleNamespace(name="v"), fence=0, patience=0.0)

    async def job() -> None:
        async with locked(pool, wanted):
            pass

    await _cancelled_in_the_middle(slow, asyncio.create_task(job()))
    assert not held.locked()


async def test_the_error_of_a_thread_is_raised() -> None:
    """And its result returned."""

    def fails() -> None:
        raise SinkIOError("full")

    with pytest.raises(SinkIOError):
        await to_end(fails)
    assert await to_end(int, "3") == 3


async def test_an_error_inside_leaves_in_a_thread() -> None:
    """As ``with`` would."""
    slow = Slow()
    slow.go.set()

    async def job() -> None:
        async with threaded(slow.place()) as value:
            assert value == "placement"
            raise SinkIOError("full")

    with pytest.raises(SinkIOError):
        await job()
    assert slow.events == ["made", "undone, SinkIOError"]


async def test_a_cancellation_during_publishing_is_too_late() -> None:
    """What is being published is done, and said to be: a volume that exists is not "cancelled"."""
    begun, go = asyncio.Event(), asyncio.Event()
    made = Made(pool="p", volume="v", path="/v", format="raw", capacity=1)

    async def published() -> Made:
        begun.set()
        await go.wait()
        return made

    task = asyncio.create_task(uncancelled(published()))
    await begun.wait()
    for _ in range(2):
        task.cancel()
        await asyncio.sleep(0)
    assert not task.done()
    go.set()
    assert await asyncio.wait_for(task, _SECONDS) == made
    assert task.cancelling() == 0
