# SPDX-License-Identifier: Apache-2.0
"""How much does one manager carry? Each scenario prints one JSON object.

    python benchmarks/manager/scale.py admissions [--database URL]
    python benchmarks/manager/scale.py certificate --hosts 1000
    python benchmarks/manager/scale.py templates --count 10000
    python benchmarks/manager/scale.py queue --jobs 100000
    python benchmarks/manager/scale.py agents --count 3000

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
import tempfile
import time
from pathlib import Path
from typing import Any

from sqlalchemy import insert

from benchmarks.manager.fleet import fleet
from benchmarks.manager.process import ManagerProcess
from fastdl.manager.dispatch import Dispatcher
from fastdl.manager.fleet import ConnectedHost
from fastdl.manager.ledger import jobs, tables, templates, zones
from fastdl.manager.ledger.engine import Ledger, default_url, open_ledger
from fastdl.manager.services import Services
from fastdl.manager.settings import Settings
from tests.env.manager import certificate, zone
from tests.simulation.test_fleet import seeds

NOW = 1.0


def rss_mib() -> float:
    """Resident memory now."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmRSS")


class _Fabric:
    def post(self, host: str) -> None: ...
    def send(self, host: str, message: Any) -> None: ...
    def drop(self, host: str, reason: str) -> None: ...


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


async def _fleet(ledger: Ledger, hosts: int) -> tuple[Services, Dispatcher]:
    settings = Settings()
    for name in ("origin", "host", "pool"):
        settings.set(f"direct.download.{name}.max.active", "100000")
    services = Services(
        ledger=ledger, settings=settings, clock=_Clock(), fabric=_Fabric(), name="bench"
    )

    async def make(tx: Any) -> None:
        await tx.execute(insert(tables.zone).values(id="z", name="z", enabled=True, created=0.0))
        await tx.execute(
            insert(tables.host),
            [{"id": f"h{i}", "zone": "z", "cluster": "c", "name": f"h{i}", "state": "Up",
              "key_hash": "k", "changed": 0.0, "created": 0.0} for i in range(hosts)],
        )  # fmt: skip

    await ledger.write(make)
    for i in range(hosts):
        services.fleet.hosts[f"h{i}"] = ConnectedHost(
            id=f"h{i}", zone="z", name=f"h{i}", kinds=frozenset(["download"]),
            pools=frozenset([f"p{i}"]), most=100_000,
        )  # fmt: skip
    return services, Dispatcher(services)


async def admissions(args: argparse.Namespace) -> dict[str, Any]:
    """Jobs submitted, decided and granted to hosts, each durable, from an empty queue."""
    with tempfile.TemporaryDirectory() as folder:
        ledger = await _ledger(args, folder)
        _, dispatcher = await _fleet(ledger, 100)
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
        services, dispatcher = await _fleet(ledger, 100)
        before_rss = rss_mib()
        for number in range(args.jobs // 10_000):
            new = list(seeds(100, [f"p{i}" for i in range(100)]))  # fmt: skip
            renamed = [
                type(job)(**{
                    **{f: getattr(job, f) for f in job.__dataclass_fields__},
                    "single": f"{number}:{job.single}",
                })
                for job in new
            ]  # fmt: skip
            await ledger.write(lambda tx, part=renamed: jobs.submit(tx, part, now=NOW))
        after_rss = rss_mib()
        size = (Path(folder) / "manager.db").stat().st_size
        services.settings.set("direct.download.origin.max.active", "2")
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


async def list_templates(args: argparse.Namespace) -> dict[str, Any]:
    """listTemplates over HTTP, a page of 500 and a page of 20, with many registered."""
    async with _zone() as made:
        ledger = made.manager.core.services.ledger
        async with ledger.read() as tx:
            zone_ids = [row.id for row in await zones.all_zones(tx)]
        me = (await made.api("listUsers"))["user"][0]["id"]

        async def fill(tx: Any) -> None:
            for n in range(args.count):
                values = {
                    "owner": me, "account": "admin", "name": f"t{n}", "display_text": "text",
                    "url": f"https://m.example/{n}.qcow2", "iso": False, "format": "QCOW2",
                    "hypervisor": "KVM", "public": True, "featured": False, "details": {},
                    "flags": {}, "sources": [], "origins": [], "validators": {}, "digests": {},
                }  # fmt: skip
                await templates.create(tx, values, zones=zone_ids, now=float(n))

        await ledger.write(fill)
        found = {}
        for size in (20, 500):
            times = []
            for page in range(1, 21):
                started = time.perf_counter()
                answer = await made.api(
                    "listTemplates", templatefilter="all", page=page, pagesize=size
                )
                times.append(time.perf_counter() - started)
                assert answer["count"] == args.count
            found[f"page_{size}_ms_median"] = round(statistics.median(times) * 1000, 1)
    return {"templates": args.count, **found}


async def certificate_push(args: argparse.Namespace) -> dict[str, Any]:
    """One certificate to many connected hosts over mutual TLS, every outcome durable."""
    return await asyncio.to_thread(_certificate_push, args)


def _certificate_push(args: argparse.Namespace) -> dict[str, Any]:
    with (
        tempfile.TemporaryDirectory() as folder,
        fleet(Path(folder), args.hosts, processes=args.processes, database=args.database)
        as (served, played, zone_id),
    ):  # fmt: skip
        played.ask("connect")
        before, began = served.cpu_s(), time.time()
        answer = served.api(
            "uploadTemplateDirectDownloadCertificate", certificate=certificate(), name="m1",
            hypervisor="KVM", zoneid=zone_id,
        )  # fmt: skip
        answered = time.time() - began
        outcomes = answer["uploadtemplatedirectdownloadcertificate"]["hostsmap"]
        states = [host["status"] for host in outcomes]

        def everywhere() -> list[dict[str, Any]] | None:
            status = played.ask("status")
            held = sum(one["held"].get("m1", 0) for one in status)
            return status if held == args.hosts else None

        status = served.until("the certificate's arrival everywhere", everywhere)
        cpu_s = served.cpu_s() - before
    return {
        "hosts": args.hosts,
        "answer_s": round(answered, 2),
        "uploaded_in_answer": states.count("UPLOADED"),
        "reached_all_s": round(max(one["last_import"] for one in status) - began, 2),
        "manager_cpu_ms_per_host": round(cpu_s / args.hosts * 1000, 2),
    }


async def agents(args: argparse.Namespace) -> dict[str, Any]:
    """Many hosts connected to one manager process, beating, for a while."""
    return await asyncio.to_thread(_agents, args)


def _agents(args: argparse.Namespace) -> dict[str, Any]:
    with (
        tempfile.TemporaryDirectory() as folder,
        fleet(Path(folder), args.count, processes=args.processes, database=args.database)
        as (served, played, _),
    ):  # fmt: skip
        rss, cpu = served.rss_bytes(), served.cpu_s()
        done = played.ask("connect")
        seconds = max(one["ended"] for one in done) - min(one["started"] for one in done)
        at_last = _up(served)
        settled = _settled(served)
        connect_cpu = served.cpu_s() - cpu
        grown = served.rss_bytes() - rss
        cpu, began = served.cpu_s(), time.monotonic()
        time.sleep(args.seconds)
        idle = (served.cpu_s() - cpu) / (time.monotonic() - began)
        up_then = _up(served)
        connected = sum(one["connected"] for one in played.ask("status"))
        left = (served.folder / "manager.log").read_text().count('"host left"')
    return {
        "agents": args.count,
        "processes_of_hosts": args.processes,
        "connect_s": round(seconds, 2),
        "settled_s": round(settled, 2),
        "up_when_connected": at_last,
        "watched_s": args.seconds,
        "left_meanwhile": left,
        "up_at_the_end": up_then,
        "connected_at_the_end": connected,
        "manager_cpu_ms_per_connection": round(connect_cpu / args.count * 1000, 2),
        "hosts_cpu_ms_per_connection": round(
            sum(one["cpu_s"] for one in done) / args.count * 1000, 2
        ),
        "kib_per_connection": round(grown / args.count / 1024, 1),
        "idle_cpu_percent": round(idle * 100, 1),
    }


def _up(served: ManagerProcess) -> int:
    count: int = served.api("listHosts", state="Up", pagesize=1).get("count", 0)
    return count


def _settled(served: ManagerProcess) -> float:
    """Wait until the work that followed the connections is over; return how long that took."""
    began = time.monotonic()
    while time.monotonic() - began < 60:
        cpu = served.cpu_s()
        time.sleep(0.5)
        if served.cpu_s() - cpu < 0.2:
            break
    return time.monotonic() - began - 0.5


def _zone() -> Any:
    return zone(Path(tempfile.mkdtemp()) / "m")


SCENARIOS = {
    "admissions": admissions,
    "queue": queue,
    "templates": list_templates,
    "certificate": certificate_push,
    "agents": agents,
}


def main() -> None:
    """Run one scenario."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenario", choices=SCENARIOS)
    parser.add_argument("--database", help="postgresql://…; default: SQLite, FULL, on disk")
    parser.add_argument("--jobs", type=int, default=5000)
    parser.add_argument("--hosts", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=2, help="that play the hosts")
    parser.add_argument("--seconds", type=int, default=45, help="to watch connected hosts for")
    parser.add_argument("--count", type=int, default=3000)
    args = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))
    load = os.getloadavg()[0]
    started = time.process_time()
    result = asyncio.run(SCENARIOS[args.scenario](args))
    machine = {
        "cpus": os.cpu_count(),
        "load_before": round(load, 1),
        "cpu_s": round(time.process_time() - started, 1),
        "files": soft,
    }
    print(json.dumps({"scenario": args.scenario, **result, **machine}))


if __name__ == "__main__":
    main()
