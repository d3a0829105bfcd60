# SPDX-License-Identifier: Apache-2.0
"""Counters and gauges for Prometheus, in the manager's own registry.

Values from hosts, tenants and origins become a label's values only if their number is bounded:
otherwise anybody could make the manager use up its memory.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

ORIGINS_MAX: Final = 100
"""Origins that are counted by name."""
OTHER: Final = "other"
NAME_MAX: Final = 255
BYTES_MAX: Final = float(1 << 53)
SECONDS_MAX: Final = 366 * 86400.0


class Metrics:
    """The metrics for operators; names are stable (docs/operations.md lists them)."""

    def __init__(self) -> None:
        r = self.registry = CollectorRegistry()
        ProcessCollector(registry=r)
        PlatformCollector(registry=r)
        self._origins: OrderedDict[str, None] = OrderedDict()
        self.downloads = Counter(
            "fastdl_downloads", "Downloads that ended, by outcome", ["outcome"], registry=r
        )
        self.attempts_failed = Counter(
            "fastdl_attempts_failed", "Failed attempts, by error class", ["error"], registry=r
        )
        self.origin_bytes = Counter(
            "fastdl_origin_bytes", "Bytes that origins sent to hosts", ["origin"], registry=r
        )
        self.download_seconds = Histogram(
            "fastdl_download_seconds",
            "Seconds from start to a published copy",
            registry=r,
            buckets=(1, 3, 10, 30, 100, 300, 1000, 3000, 10000),
        )
        self.stale_results = Counter(
            "fastdl_stale_results", "Results that came too late and were dropped", registry=r
        )
        self.grants = Counter("fastdl_grants", "Jobs given to hosts", registry=r)
        self._heard = Gauge(
            "fastdl_managers_heard",
            "1 while messages of other managers can arrive, or there can be no others",
            registry=r,
        )
        self._heard.set(1)
        self.queue = Gauge("fastdl_queue_jobs", "Jobs by state", ["state"], registry=r)
        self.hosts = Gauge("fastdl_hosts", "Hosts by state", ["state"], registry=r)
        self.certificates = Gauge(
            "fastdl_certificate_pushes",
            "(certificate, host) pairs by status",
            ["status"],
            registry=r,
        )
        self.expiry = Gauge(
            "fastdl_certificate_expiry_seconds",
            "Seconds until a certificate expires",
            ["zone", "alias"],
            registry=r,
        )
        self.server_expiry = Gauge(
            "fastdl_server_certificate_expiry_seconds",
            "Seconds until a certificate of the manager's own expires (api, ca)",
            ["name"],
            registry=r,
        )
        self.host_expiry = Gauge(
            "fastdl_host_certificate_expiry_seconds",
            "Seconds until the certificate expires that a host proves itself with",
            ["zone", "host"],
            registry=r,
        )
        self.logins = Counter("fastdl_logins", "Logins, by outcome", ["outcome"], registry=r)
        self.origin_active = Gauge(
            "fastdl_origin_active", "Downloads running per origin", ["origin"], registry=r
        )
        self.requests = Counter(
            "fastdl_api_requests",
            "API requests, by command and status",
            ["command", "status"],
            registry=r,
        )
        self.request_seconds = Histogram(
            "fastdl_api_request_seconds", "Seconds per API request", registry=r
        )
        self.tick_seconds = Histogram(
            "fastdl_scheduler_tick_seconds", "Seconds per scheduling round", registry=r
        )

    def watch_messages(self, hears: Callable[[], bool]) -> None:
        """Show from now on whether this manager *hears* the others of its ledger."""
        self._heard.set_function(lambda: float(hears()))

    def downloaded(self, seconds: float, by_origin: Mapping[str, float]) -> None:
        """Count a download that took *seconds* by its host's report, with bytes *by_origin*."""
        self.download_seconds.observe(_counted(seconds, most=SECONDS_MAX))
        for origin, count in by_origin.items():
            self.origin_bytes.labels(self._named(origin)).inc(_counted(count, most=BYTES_MAX))

    def show_active(self, by_origin: Mapping[str, int]) -> None:
        """Show how many downloads run from each origin; the busiest by name."""
        self.origin_active.clear()
        busiest = sorted(by_origin.items(), key=lambda item: -item[1])
        for origin, count in busiest[:ORIGINS_MAX]:
            self.origin_active.labels(origin[:NAME_MAX]).set(count)
        if rest := sum(count for _, count in busiest[ORIGINS_MAX:]):
            self.origin_active.labels(OTHER).set(rest)

    def _named(self, origin: str) -> str:
        """Return the label of *origin*; replaces the least recently used one."""
        name = origin[:NAME_MAX] or OTHER
        self._origins[name] = self._origins.pop(name, None)
        if len(self._origins) > ORIGINS_MAX:
            oldest, _ = self._origins.popitem(last=False)
            self.origin_bytes.remove(oldest)
        return name

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)


def _counted(number: float, *, most: float) -> float:
    """Return an untrusted number as one that can be added up."""
    return min(max(0.0, number), most) if math.isfinite(number) else 0.0
