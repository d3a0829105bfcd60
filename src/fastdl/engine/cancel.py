# SPDX-License-Identifier: Apache-2.0
"""Stopping a transfer from another thread, whatever it is waiting for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from fastdl.core.net import Wakeup
from fastdl.errors import Cancelled, NetError


class Checked(Protocol):
    """The part of ``Cancel`` needed by a step that polls."""

    def check(self) -> None:
        """Raise Cancelled if the job is to stop."""


class Cancel:
    """Give one to ``fetch_sync`` and call ``cancel()`` from any thread, any number of times."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flag = False
        self._reason: str | None = None
        self._late: str | None = None
        self._running: list[Callable[[], None]] = []
        self.wakeup = Wakeup()

    @property
    def cancelled(self) -> bool:
        """Whether ``cancel`` has been called."""
        return self._flag

    def cancel(self, reason: str | None = None) -> None:
        """Stop the transfer; it raises Cancelled soon (within a second)."""
        with self._lock:
            self._flag = True
            self._reason = self._reason or reason
            running = list(self._running)
        self.wakeup.cancel()
        for stop in running:
            stop()

    @contextmanager
    def within(self, seconds: float | None) -> Iterator[None]:
        """Where what is inside takes longer than *seconds*, it ends with NetError; None: never."""
        if seconds is None:
            yield
            return
        timer = threading.Timer(seconds, self._expire, (f"it took longer than {seconds:g} s",))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()

    def _expire(self, why: str) -> None:
        if not self._flag:
            self._late = why
            self.cancel(why)

    def check(self) -> None:
        """Raise Cancelled where ``cancel`` has been called, NetError where time is up."""
        if self._late is not None:
            raise NetError(f"{self._late}: the same command resumes", retryable=True)
        if self._flag:
            raise Cancelled(self._reason or "cancelled")

    @contextmanager
    def stops(self, stop: Callable[[], None]) -> Iterator[None]:
        """While inside, ``cancel`` also calls *stop*."""
        with self._lock:
            self._running.append(stop)
        try:
            self.check()
            yield
        finally:
            with self._lock:
                self._running.remove(stop)
