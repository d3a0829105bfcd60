# SPDX-License-Identifier: Apache-2.0
"""Wake-ups inside this process: for tasks that wait for a change, and for the page.

Lossy on purpose: a waiting task checks the ledger before and after, and again every second.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final, TypeVar

T = TypeVar("T")

WATCHERS_MAX: Final = 200
QUEUE_MAX: Final = 256
SPACING_S: Final = 0.02
CHECK_SHARE: Final = 4.0
"""Pause between two checks, in multiples of the time that one takes: checks never delay work."""


class Notices:
    """Keys are free-form: ``job:ID``, ``certs``."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Event]] = defaultdict(set)
        self._watchers: set[asyncio.Queue[dict[str, Any]]] = set()

    def notify(self, key: str) -> None:
        """Wake all tasks that wait for *key*."""
        for event in self._waiting.get(key, ()):
            event.set()

    async def until(
        self, key: str, check: Callable[[], Awaitable[T | None]], *, timeout_s: float
    ) -> T | None:
        """Return *check*'s first result that is not None, or None after *timeout_s*."""
        event = asyncio.Event()
        self._waiting[key].add(event)
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    event.clear()
                    began = time.monotonic()
                    if (answer := await check()) is not None:
                        return answer
                    spacing = max(SPACING_S, CHECK_SHARE * (time.monotonic() - began))
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(event.wait(), 1.0)
                    # A thousand wake-ups in a row cost a few checks, not a thousand.
                    await asyncio.sleep(spacing)
        except TimeoutError:
            return await check()
        finally:
            self._waiting[key].discard(event)
            if not self._waiting[key]:
                del self._waiting[key]

    async def wait(self, key: str, *, timeout_s: float) -> None:
        """Wait until *key* is notified, at most *timeout_s*."""
        event = asyncio.Event()
        self._waiting[key].add(event)
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(event.wait(), timeout_s)
        finally:
            self._waiting[key].discard(event)
            if not self._waiting[key]:
                del self._waiting[key]

    def publish(self, topic: str, **fields: Any) -> None:
        """Send it to the pages; a page that cannot keep up misses some."""
        for queue in self._watchers:
            if queue.qsize() < QUEUE_MAX:
                queue.put_nowait({"topic": topic, **fields})

    @contextlib.contextmanager
    def watch(self) -> Iterator[asyncio.Queue[dict[str, Any]] | None]:
        """A queue of what is ``publish``ed; None if there are already too many watchers."""
        if len(self._watchers) >= WATCHERS_MAX:
            yield None
            return
        queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue(QUEUE_MAX)
        self._watchers.add(queue)
        try:
            yield queue
        finally:
            self._watchers.discard(queue)
