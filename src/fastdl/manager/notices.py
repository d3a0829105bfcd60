# SPDX-License-Identifier: Apache-2.0
"""Wake-ups: for tasks that wait for a change, for the page, and for the other managers.

Lossy on purpose: a waiting task checks the ledger before and after, and again every second.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final, TypeVar

from fastdl.manager.fabric import PAGE, WAKE, Fabric, LocalFabric

T = TypeVar("T")

WATCHERS_MAX: Final = 200
QUEUE_MAX: Final = 256
SPACING_S: Final = 0.02
CHECK_SHARE: Final = 4.0
"""Pause between two checks, in multiples of the time that one takes: checks never delay work."""


class Notices:
    """Keys are free-form: ``job:ID``, ``certs``."""

    def __init__(self, fabric: Fabric | None = None) -> None:
        """*fabric*: reaches the other managers of the ledger; None = there are none."""
        self._fabric = fabric or LocalFabric()
        self._waiting: dict[str, set[asyncio.Event]] = defaultdict(set)
        self._watchers: set[asyncio.Queue[dict[str, Any]]] = set()

    def tell(self, topic: str, *words: str) -> None:
        """Say something to the other managers alone (``Peers`` has the topics)."""
        self._fabric.notify(topic, *words)

    def notify(self, key: str) -> None:
        """Wake all tasks that wait for *key*, at every manager."""
        self.wake(key)
        self._fabric.notify(WAKE, key)

    def wake(self, key: str) -> None:
        """Wake all tasks of this manager that wait for *key*."""
        for event in self._waiting.get(key, ()):
            event.set()

    def wake_all(self) -> None:
        """Wake all tasks of this manager: each checks what it waits for."""
        for key in self._waiting:
            self.wake(key)

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
                        async with asyncio.timeout(1.0):
                            await event.wait()
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
                async with asyncio.timeout(timeout_s):
                    await event.wait()
        finally:
            self._waiting[key].discard(event)
            if not self._waiting[key]:
                del self._waiting[key]

    def publish(self, topic: str, **fields: Any) -> None:
        """Send it to the pages, of every manager; one that cannot keep up misses some."""
        self.show({"topic": topic, **fields})
        if not isinstance(self._fabric, LocalFabric):
            self._fabric.notify(PAGE, json.dumps({"topic": topic, **fields}))

    def show(self, item: dict[str, Any]) -> None:
        """Send *item* to the pages of this manager."""
        for queue in self._watchers:
            if queue.qsize() < QUEUE_MAX:
                queue.put_nowait(item)

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
