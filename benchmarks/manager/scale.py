# SPDX-License-Identifier: Apache-2.0
"""How much does one manager carry? Each scenario prints one JSON object.

    python -m benchmarks.manager.scale all --save
    python -m benchmarks.manager.scale admissions [--database URL]
    python -m benchmarks.manager.scale queue --jobs 100000
    python -m benchmarks.manager.scale templates --count 10000
    python -m benchmarks.manager.scale certificate --hosts 1000
    python -m benchmarks.manager.scale agents --hosts 3000

The manager and what loads it share this machine's processors; a figure without the machine
beside it means nothing, so cpu count, load before the start and CPU seconds are in the object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from sqlalchemy import insert

from benchmarks.manager import connected, suite
from fastdl.manager.api.context import ApiContext
from fastdl.manager.app import compose
from fastdl.manager.downloads.dispatch import Dispatcher
from fastdl.manager.hosts.delivery import Connections
from fastdl.manager.hosts.fleet import ConnectedHost
from fastdl.manager.ledger import jobs, tables
from fastdl.manager.ledger.engine import Ledger, default_url, open_ledger
from fastdl.manager.notices import Notices
from fastdl.manager.settings import Settings
from fastdl.manager.vault import Vault
from tests.simulation.test_fleet import seeds

NOW = 1.0


def rss_mib() -> float:
    """Resident memory now."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmRSS")


class _Clock:
    def time(self) -> float:
        return time.time()

    def steady(self) -> float:
        return time.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


async def _ledger(args: argparse.Namespace, folder: str) -> Ledger:
    url = args.database or default_url(Path(folder))
    return await asyncio.to_thread(open_ledger, url)


async def made_fleet(ledger: Ledger, hosts: int) -> tuple[ApiContext, Dispatcher]:
    """A dispatcher over *hosts* hosts, h0 with pool p0 and so on, that limits never hold up."""
    parts = fleet_of(ledger, hosts)

    async def make(tx: Any) -> None:
        await tx.execute(insert(tables.zone).values(id="z", name="z", enabled=True, created=0.0))
        await tx.execute(
            insert(tables.host),
            [
                {
                    "id": f"h{i}",
                    "zone": "z",
                    "cluster": "c",
                    "name": f"h{i}",
                    "state": "Up",
                    "key_hash": "k",
                    "changed": 0.0,
                    "created": 0.0,
                }
                for i in range(hosts)
            ],
        )

    await ledger.write(make)
    return parts, parts.dispatcher


def fleet_of(ledger: Ledger, hosts: int) -> ApiContext:
    """A manager to which the hosts of ``made_fleet`` are connected."""
    settings = Settings()
    for name in ("origin", "host", "pool"):
        settings.set(f"direct.download.{name}.max.active", "100000")
    parts = compose(
        ledger=ledger,
        settings=settings,
        vault=Vault(bytes(32)),
        clock=_Clock(),
        delivery=Connections(),
        notices=Notices(),
        name="bench",
        authority=None,  # type: ignore[arg-type]
    )
    for i in range(hosts):
        kinds, pools = frozenset(["download"]), frozenset([f"p{i}"])
        parts.fleet.join(
            ConnectedHost(
                id=f"h{i}", zone="z", name=f"h{i}", kinds=kinds, pools=pools, most=100_000
            )
        )
    return parts


async def admissions(args: argparse.Namespace) -> dict[str, Any]:
    """Jobs submitted, decided and granted to hosts, each durable, from an empty queue."""
    with tempfile.TemporaryDirectory() as folder:
        ledger = await _ledger(args, folder)
        _, dispatcher = await made_fleet(ledger, 100)
        new = seeds(args.jobs // 100, [f"p{i}" for i in range(100)])
        started = time.perf_counter()
        for start in range(0, len(new), 500):
            part = new[start : start + 500]
            await ledger.write(lambda tx, part=part: jobs.submit(tx, part, now=NOW))
        submitted = time.perf_counter()
        granted = 0
        while count := await dispatcher.round():
            granted += count
        ended = time.perf_counter()
        await ledger.close()
    assert granted == len(new), (granted, len(new))
    return {
        "jobs": granted,
        "submits_per_s": round(granted / (submitted - started)),
        "grants_per_s": round(granted / (ended - submitted)),
        "admissions_per_s": round(granted / (ended - started)),
        "ledger": "postgresql" if args.database else "sqlite",
    }


async def queue(args: argparse.Namespace) -> dict[str, Any]:
    """Memory and decision time with many jobs queued behind a full origin."""
    with tempfile.TemporaryDirectory() as folder:
        ledger = await _ledger(args, folder)
        parts, dispatcher = await made_fleet(ledger, 100)
        before_rss = rss_mib()
        for number in range(args.jobs // 10_000):
            new = list(seeds(100, [f"p{i}" for i in range(100)]))
            renamed = [
                type(job)(
                    **{
                        **{f: getattr(job, f) for f in job.__dataclass_fields__},
                        "single": f"{number}:{job.single}",
                    }
                )
                for job in new
            ]
            await ledger.write(lambda tx, part=renamed: jobs.submit(tx, part, now=NOW))
        after_rss = rss_mib()
        size = (Path(folder) / "manager.db").stat().st_size
        parts.settings.set("direct.download.origin.max.active", "2")
        times, granted = [], 0
        for _ in range(20):
            started = time.perf_counter()
            granted += await dispatcher.round()
            times.append(time.perf_counter() - started)
        await ledger.close()
    return {
        "jobs": args.jobs,
        "database_bytes_per_job": round(size / args.jobs),
        "memory_bytes_per_job": round(max(0.0, after_rss - before_rss) * (1 << 20) / args.jobs),
        "round_ms_median": round(statistics.median(times) * 1000, 1),
        "granted": granted,
    }


SCENARIOS: Final[Mapping[str, Callable[[argparse.Namespace], dict[str, Any]]]] = {
    "admissions": lambda args: asyncio.run(admissions(args)),
    "queue": lambda args: asyncio.run(queue(args)),
    "templates": connected.templates_listed,
    "certificate": connected.certificate_pushed,
    "agents": connected.agents_connected,
}


def main() -> int:
    """Run one scenario, or all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenario", choices=[*SCENARIOS, "all"])
    parser.add_argument("--database", help="postgresql://…; default: SQLite, FULL, on disk")
    parser.add_argument("--jobs", type=int, default=5000)
    parser.add_argument("--hosts", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=2, help="that play the hosts")
    parser.add_argument("--seconds", type=int, default=45, help="to watch connected hosts for")
    parser.add_argument("--count", type=int, default=10_000, help="of templates")
    parser.add_argument("--save", action="store_true", help="with all: store the results")
    args = parser.parse_args()
    if args.scenario == "all":
        return suite.run(save=args.save)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))
    load = os.getloadavg()[0]
    started = time.process_time()
    result = SCENARIOS[args.scenario](args)
    machine = {
        "cpus": os.cpu_count(),
        "load_before": round(load, 1),
        "cpu_s": round(time.process_time() - started, 1),
        "files": soft,
    }
    print(json.dumps({"scenario": args.scenario, **result, **machine}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
