# SPDX-License-Identifier: Apache-2.0
"""Virtual time, and nothing left to chance: a run can be replayed by its seed.

Time moves only when nothing is left to do at the present moment, so that an hour takes as long as
its computations do. SQLite is called in the loop's own thread: the statements are the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import selectors
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final
from unittest import mock

import aiosqlite.core

START: Final = 1_800_000_000.0
"""When virtual time begins, in seconds since 1970."""


class StalledError(Exception):
    """Nothing will ever happen again."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop with a clock of its own. *busy*: whether something works in real time now
    (a database), so that the moment has to wait for it."""

    def __init__(self, busy: Callable[[], bool]) -> None:
        self.moment = 0.0
        super().__init__(_Selector(self, busy))

    def time(self) -> float:
        """Return the virtual time, in seconds."""
        return self.moment


class _Selector(selectors.EpollSelector):
    def __init__(self, loop: VirtualLoop, busy: Callable[[], bool]) -> None:
        super().__init__()
        self._loop = loop
        self._busy = busy

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready now; if nothing is, time has passed instead."""
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        if self._busy():
            return super().select(0.05)
        if timeout is None:
            raise StalledError("nothing will ever happen again")
        self._loop.moment += timeout
        return ready


class LoopClock:
    """The manager's ``Clock`` in a ``VirtualLoop``."""

    def time(self) -> float:
        """As a wall clock shows it."""
        return START + asyncio.get_running_loop().time()

    def steady(self) -> float:
        """The same: nobody sets it."""
        return self.time()

    async def sleep(self, seconds: float) -> None:
        """Return after *seconds* of virtual time."""
        await asyncio.sleep(max(0.0, seconds))


@contextlib.contextmanager
def sqlite_in_the_loop() -> Iterator[None]:
    """SQLite without threads, meanwhile: two switches for each statement cost most of its time."""

    async def inline(_self: Any, fn: Any, *args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)

    connect = partial(sqlite3.connect, check_same_thread=False)
    with (
        mock.patch.object(aiosqlite.core.Connection, "_execute", inline),
        mock.patch.object(sqlite3, "connect", connect),
    ):
        yield


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Every identifier and every choice of the manager comes from *seed*, meanwhile."""
    ids = random.Random(f"ids {seed}")

    def uuid4() -> uuid.UUID:
        return uuid.UUID(int=ids.getrandbits(128), version=4)

    random.seed(seed)
    with mock.patch.object(uuid, "uuid4", uuid4):
        yield
