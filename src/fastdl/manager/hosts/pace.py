# SPDX-License-Identifier: Apache-2.0
"""How much may one host send, and how many events may it cause?

Both use shared resources: the one event loop, and the table that operators read. The manager delays
reading from a host that exceeds what any honest one needs, and TCP's flow control makes it wait;
events that it causes beyond its share are not stored.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

MESSAGES_BURST: Final = 16 << 20
"""Bytes that a host may send in a burst: eight of the largest messages."""
MESSAGES_PER_S: Final = 1 << 20
PER_MESSAGE: Final = 4 << 10
"""Bytes that every message counts for, in addition to its own: 256 small ones a second."""
EVENTS_BURST: Final = 256
"""As many as the pools in an inventory, each of which may be refused."""
EVENTS_PER_S: Final = 1 / 60
KNOWN_MAX: Final = 20_000


class Allowance:
    """What each host has used of *burst*, which is refilled by *per_s* each second.

    Reconnecting does not refill it. Times are of a steady clock.
    """

    def __init__(self, burst: float, per_s: float) -> None:
        self._burst = burst
        self._per_s = per_s
        self._used: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def delay(self, host: str, cost: float, *, now: float) -> float:
        """Use *cost*; return after how many seconds *host* could afford it."""
        used = self._of(host, now) + cost
        self._used[host] = (used, now)
        return max(0.0, used - self._burst) / self._per_s

    def take(self, host: str, *, now: float) -> bool:
        """Use one; False, and nothing is used, if none is left."""
        used = self._of(host, now)
        fits = used + 1 <= self._burst
        self._used[host] = (used + 1 if fits else used, now)
        return fits

    def _of(self, host: str, now: float) -> float:
        used, then = self._used.pop(host, (0.0, now))
        if len(self._used) >= KNOWN_MAX:
            self._used.popitem(last=False)
        return max(0.0, used - max(0.0, now - then) * self._per_s)
