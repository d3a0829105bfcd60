# SPDX-License-Identifier: Apache-2.0
"""Limits for callers: request rates, CloudStack's throttling, and the cost of failures."""

from __future__ import annotations

import ipaddress
import math
from collections import OrderedDict
from typing import Final

from fastdl.errors import ApiLimitError
from fastdl.model.address import parse_cidrs

BUCKETS_MAX: Final = 10_000


def network_of(address: str) -> str:
    """Return the network that counts as one caller: an IPv6 customer has a whole /64."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(parse_cidrs([f"{parsed}/64"])[0])
    return str(parsed)


class Buckets:
    """Token buckets by key, *depth* deep, refilled with *per_second*; beyond a limit the least
    recently used one is dropped (and is full when it returns)."""

    def __init__(self) -> None:
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str, *, depth: float, per_second: float, now: float) -> bool:
        """Take one token; False if there is none."""
        left, then = self._left.pop(key, (depth, now))
        left = min(depth, left + max(0.0, now - then) * per_second)
        if len(self._left) >= BUCKETS_MAX:
            self._left.popitem(last=False)
        self._left[key] = (left - 1 if left >= 1 else left, now)
        return left >= 1

    def give_back(self, key: str) -> None:
        """Undo a ``take``."""
        if key in self._left:
            left, then = self._left[key]
            self._left[key] = (left + 1, then)


class Rates:
    """Requests a second, bursts of twice as many."""

    def __init__(self) -> None:
        self._buckets = Buckets()

    def take(self, caller: str, *, per_second: float, now: float) -> None:
        """Count one request; ApiLimitError if *caller* sends too many."""
        if not self._buckets.take(caller, depth=2 * per_second, per_second=per_second, now=now):
            raise ApiLimitError("Too many requests: wait a moment and send fewer")


class Quotas:
    """CloudStack's throttling: a count for each account, which restarts every interval."""

    def __init__(self) -> None:
        self._counts: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def take(self, account: str, *, most: int, interval: float, now: float) -> None:
        """Count one request; ApiLimitError, with CloudStack's text, if it is one too many."""
        until, count = self._counts.pop(account, (now + interval, 0))
        if now >= until:
            until, count = now + interval, 0
        if len(self._counts) >= BUCKETS_MAX:
            self._counts.popitem(last=False)
        self._counts[account] = (until, count + 1)
        if count >= most:
            left = math.ceil(1000 * (until - now))
            raise ApiLimitError(
                "The given user has reached his/her account api limit, please retry after "
                f"{left} ms."
            )
