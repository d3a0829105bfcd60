# SPDX-License-Identifier: Apache-2.0
"""Counters and gauges for Prometheus, in a registry of this manager's own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


class Metrics:
    """What an operator watches; names are stable (docs/operations.md lists them)."""

    def __init__(self) -> None:
        r = self.registry = CollectorRegistry()
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
            "fastdl_download_seconds", "Seconds from start to a published copy", registry=r,
            buckets=(1, 3, 10, 30, 100, 300, 1000, 3000, 10000),
        )  # fmt: skip
        self.stale_results = Counter(
            "fastdl_stale_results", "Results that came too late and were dropped", registry=r
        )
        self.grants = Counter("fastdl_grants", "Jobs given to hosts", registry=r)
        self.queue = Gauge("fastdl_queue_jobs", "Jobs by state", ["state"], registry=r)
        self.hosts = Gauge("fastdl_hosts", "Hosts by state", ["state"], registry=r)
        self.certificates = Gauge(
            "fastdl_certificate_pushes", "(certificate, host) pairs by status", ["status"],
            registry=r,
        )  # fmt: skip
        self.expiry = Gauge(
            "fastdl_certificate_expiry_seconds", "Seconds until a certificate expires",
            ["zone", "alias"], registry=r,
        )  # fmt: skip
        self.origin_active = Gauge(
            "fastdl_origin_active", "Downloads running per origin", ["origin"], registry=r
        )
        self.requests = Counter(
            "fastdl_api_requests", "API requests, by command and status", ["command", "status"],
            registry=r,
        )  # fmt: skip
        self.request_seconds = Histogram(
            "fastdl_api_request_seconds", "Seconds per API request", registry=r
        )
        self.tick_seconds = Histogram(
            "fastdl_scheduler_tick_seconds", "Seconds per scheduling round", registry=r
        )

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)
