# SPDX-License-Identifier: Apache-2.0
"""The manager's source of time: the system, or a test's virtual clock."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Time and waiting; everything in the manager that depends on time uses one."""

    def time(self) -> float:
        """Seconds since 1970, UTC: for people and for certificates. It may jump."""

    def steady(self) -> float:
        """Seconds that never jump: for every duration (leases, silence, delays). It starts as
        ``time`` does, so that values stored before a restart stay meaningful."""

    async def sleep(self, seconds: float) -> None:
        """Return after *seconds*."""


class SystemClock:
    """The machine's own clock."""

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def steady(self) -> float:
        return self._offset + time.monotonic()

    def time(self) -> float:
        return time.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
