# SPDX-License-Identifier: Apache-2.0
"""Password checks: how fast may passwords be tried, and what is reported of it?

Failures are counted by address and name together, so that failing under a name does not lock out
its owner, and by address, so that one address cannot try one password on every name. Successes cost
nothing. When the allowance is used up, attempts are not refused but delayed: they are then checked
one at a time, ``SLOW_S`` apart, and a correct password is still accepted.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from fastdl.errors import ApiAuthError, ApiLimitError
from fastdl.manager.access import auth
from fastdl.manager.access.rates import Buckets, network_of
from fastdl.manager.clock import Clock

PAIR_DEPTH: Final = 10
PAIR_PER_S: Final = 1 / 30
"""Failures of one name from one address: ten, then one in thirty seconds."""
ADDRESS_DEPTH: Final = 50
ADDRESS_PER_S: Final = 1 / 3
SLOW_S: Final = 1.0
LANE_MAX: Final = 8
"""Attempts that may wait in one slow lane; further ones are refused unchecked."""
LANES_MAX: Final = 500
THREADS: Final = 2
"""A check takes 50 ms and 16 MiB."""
WAITING_MAX: Final = 64
KNOWN_MAX: Final = 1000
FAILED: Final = "Failed to authenticate user: please provide valid credentials"
TOO_MANY: Final = "Too many failed logins: wait before you try again"
_BUSY: Final = "Too many logins at this moment: try again shortly"


class Logins:
    """All password checks of this manager."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failures = Buckets()
        self._lanes: Counter[str] = Counter()
        self._locks: dict[str, asyncio.Lock] = {}
        self._known: OrderedDict[str, None] = OrderedDict()
        self._checking = 0
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="password")

    async def check(self, name: str, password: str, stored: str | None, *, address: str) -> None:
        """Check *password* against the hash *stored* (None: there is no such user).

        ApiAuthError if it is wrong, ApiLimitError if it is wrong after too many failures, or if too
        many wait.
        """
        where = network_of(address)
        pair = f"{where} {hashlib.sha256(name.encode()).hexdigest()}"
        now, taken = self._clock.steady(), []
        for key, depth, per_second in (
            (pair, PAIR_DEPTH, PAIR_PER_S),
            (where, ADDRESS_DEPTH, ADDRESS_PER_S),
        ):
            if self._failures.take(key, depth=depth, per_second=per_second, now=now):
                taken.append(key)
        used_up = next((key for key in (pair, where) if key not in taken), None)
        async with self._turn(used_up):
            good = await self._matches(pair, password, stored) and stored is not None
        if not good:
            raise ApiLimitError(TOO_MANY) if used_up else ApiAuthError(FAILED)
        for key in taken:
            self._failures.give_back(key)
        self._known[pair] = self._known.pop(pair, None)
        if len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)

    @contextlib.asynccontextmanager
    async def _turn(self, lane: str | None) -> AsyncIterator[None]:
        """Wait for a turn in the slow *lane*; with None there is nothing to wait for."""
        if lane is None:
            yield
            return
        if self._lanes[lane] >= LANE_MAX or len(self._lanes) >= LANES_MAX:
            raise ApiLimitError(TOO_MANY)
        self._lanes[lane] += 1
        try:
            async with self._locks.setdefault(lane, asyncio.Lock()):
                await self._clock.sleep(SLOW_S)
                yield
        finally:
            self._lanes[lane] -= 1
            if not self._lanes[lane]:
                del self._lanes[lane], self._locks[lane]

    async def _matches(self, pair: str, password: str, stored: str | None) -> bool:
        # Users who logged in from there before have their own slots, even during a flood.
        if self._checking >= WAITING_MAX * (2 if pair in self._known else 1):
            raise ApiLimitError(_BUSY)
        self._checking += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._threads, auth.password_matches, password, stored or auth.NO_PASSWORD
            )
        finally:
            self._checking -= 1

    def close(self) -> None:
        """Start no further check."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class ReportLimit:
    """Decides which of many equal events to report: the first, then one per *every_s* with the
    number left out. For all kinds together *most* at once, then one per *refill_s*."""

    def __init__(self, *, every_s: float, most: int, refill_s: float) -> None:
        self._every_s = every_s
        self._most = most
        self._refill_s = refill_s
        self._last: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._all = Buckets()

    def due(self, key: str, *, now: float) -> int | None:
        """Return how many of *key* were left out since the last report; None = do not report."""
        then, left_out = self._last.pop(key, (now - self._every_s, 0))
        due = None
        if now - then >= self._every_s and self._all.take(
            "", depth=self._most, per_second=1 / self._refill_s, now=now
        ):
            then, due, left_out = now, left_out, 0
        else:
            left_out += 1
        if len(self._last) >= KNOWN_MAX:
            self._last.popitem(last=False)
        self._last[key] = (then, left_out)
        return due
