# SPDX-License-Identifier: Apache-2.0
"""Turns the counters of a running job into ``Progress``, about ten times a second."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from fastdl.engine.options import Progress
from fastdl.engine.proof import bottleneck, mirror_reports
from fastdl.engine.result import MirrorReport

if TYPE_CHECKING:
    from fastdl.engine.context import Events
    from fastdl.engine.source.facts import SourceFacts

PROGRESS_S = 0.1
REPORTS_MAX = 8
"""A report is about what matters now; the result has all mirrors."""
RATE_S = 5.0
"""The rate is that of the last seconds: short enough to be the present one, and steady enough."""
QUIET_S = 2.0
"""Without a byte for so long, a transfer waits for something."""


class Meter:
    """The reports of one attempt, from its start on."""

    def __init__(self, events: Events, facts: SourceFacts) -> None:
        self._events = events
        self._facts = facts
        self._started = self._moved = time.monotonic()
        self._at = 0.0
        self._received = 0
        self._samples = [(self._started, 0, 0)]  # (time, bytes from mirrors, waited for room)

    def show(self, status: dict[str, Any], stage: str = "fetch", *, force: bool = False) -> None:
        """Report *status* if it is time to, or if *force*."""
        now = time.monotonic()
        if self._events.progress is None or (not force and now - self._at < PROGRESS_S):
            return
        self._at = now
        fetched, total = status["fetched_bytes"], status["total"]
        if fetched != self._samples[-1][1]:
            self._moved = now
        self._samples.append((now, fetched, status["window_wait_ns"]))
        while len(self._samples) > 2 and now - self._samples[1][0] >= RATE_S:
            del self._samples[0]
        then, before, _ = self._samples[0]
        rate = (fetched - before) / (now - then) if now > then else 0.0
        here = status["resumed_bytes"] + fetched - status["hedged_bytes"]
        self._received = max(self._received, status["done_bytes"], min(here, total or here))
        left = None if total is None else max(0, total - self._received)
        self._events.report(
            Progress(
                done=status["done_bytes"],
                total=total,
                fetched=fetched,
                rate=rate,
                eta=left / rate if left is not None and rate > 1 else None,
                stage=stage,
                connections=status["conns"],
                received=self._received,
                average=fetched / (now - self._started) if now > self._started else 0.0,
                mirrors=status["mirrors"],
                waiting=self._waiting(status, stage, now),
                bottleneck=bottleneck(status, len(self._facts.digests)) if fetched else "",
                mirror_reports=self._mirror_reports(),
            )
        )

    def _mirror_reports(self) -> tuple[MirrorReport, ...]:
        """The mirrors that gave most, and then those that failed."""
        asked = [one for one in mirror_reports(self._facts) if one.requests or one.errors]
        asked.sort(key=lambda one: (-one.bytes, -one.errors))
        return tuple(asked[:REPORTS_MAX])

    def _waiting(self, status: dict[str, Any], stage: str, now: float) -> str:
        """What keeps the job, where something does."""
        if stage == "flush":
            return "storage, which writes what is left"
        if status["rest_ns"]:
            return f"mirrors, which ask for a pause, for {status['rest_ns'] / 1e9:.0f}s more"
        if now - self._moved < QUIET_S:
            return ""
        # Connections that wait for room in the window wait for the consumer that empties it.
        blocked = status["window_wait_ns"] > self._samples[0][2]
        return "storage" if blocked else "data"
