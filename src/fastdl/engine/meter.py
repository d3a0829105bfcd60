# SPDX-License-Identifier: Apache-2.0
"""Turns the counters of a running job into ``Progress``, about ten times a second."""

from __future__ import annotations

import time
from typing import Any

from fastdl.engine.context import Events
from fastdl.engine.options import Progress

PROGRESS_S = 0.1


class Meter:
    """Smooths the rate over the reports of one attempt."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._at = 0.0
        self._rate = 0.0
        self._last: tuple[float, int] | None = None

    def show(self, status: dict[str, Any], stage: str = "fetch", *, force: bool = False) -> None:
        """Report *status*, where it is time to, or by *force*."""
        now = time.monotonic()
        if self._events.progress is None or (not force and now - self._at < PROGRESS_S):
            return
        done = status["done_bytes"]
        if self._last is not None and now > self._last[0]:
            rate = (done - self._last[1]) / (now - self._last[0])
            self._rate = rate if self._rate == 0 else 0.8 * self._rate + 0.2 * rate
        self._at, self._last = now, (now, done)
        total = status["total"]
        eta = (total - done) / self._rate if total is not None and self._rate > 1 else None
        self._events.report(
            Progress(
                done=done,
                total=total,
                fetched=status["fetched_bytes"],
                rate=self._rate,
                eta=eta,
                stage=stage,
                connections=status["conns"],
            )
        )
