# SPDX-License-Identifier: Apache-2.0
"""What does a manager in a process of its own answer and carry? Hosts are in other processes."""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

from benchmarks.manager.fleet import fleet
from benchmarks.manager.process import ManagerProcess, manager
from fastdl.lab.certs import self_signed
from fastdl.manager.ledger import templates, zones
from fastdl.manager.ledger.engine import default_url, open_ledger


def templates_listed(args: argparse.Namespace) -> dict[str, Any]:
    """listTemplates over HTTP, a page of 20 and a page of 500, with many registered."""
    with tempfile.TemporaryDirectory() as made, manager(Path(made)) as served:
        served.api("createZone", name="z1")
        _register(default_url(Path(made) / "state"), args.count)
        found = {}
        for size in (20, 500):
            times = []
            for page in range(1, 21):
                began = time.perf_counter()
                answer = served.api("listTemplates", templatefilter="all", page=page, pagesize=size)
                times.append(time.perf_counter() - began)
                assert answer["count"] == args.count
            found[f"page_{size}_ms_median"] = round(statistics.median(times) * 1000, 1)
    return {"templates": args.count, **found}


def _register(url: str, count: int) -> None:
    """Store *count* templates as their registration does."""

    async def store(tx: Any) -> None:
        zone_ids = [row.id for row in await zones.all_zones(tx)]
        for n in range(count):
            values = {
                "owner": str(uuid.uuid4()), "account": "admin", "name": f"t{n}",
                "display_text": "text", "url": f"https://m.example/{n}.qcow2", "iso": False,
                "format": "QCOW2", "hypervisor": "KVM", "public": True, "featured": False,
                "details": {}, "flags": {}, "sources": [], "origins": [], "validators": {},
                "digests": {},
            }  # fmt: skip
            await templates.create(tx, values, zones=zone_ids, now=float(n))

    async def run() -> None:
        await ledger.write(store)
        await ledger.close()

    ledger = open_ledger(url)
    asyncio.run(run())


def certificate_pushed(args: argparse.Namespace) -> dict[str, Any]:
    """One certificate to many connected hosts over mutual TLS, every outcome durable."""
    with (
        tempfile.TemporaryDirectory() as folder,
        fleet(Path(folder), args.hosts, processes=args.processes, database=args.database) as (
            served,
            played,
            zone_id,
        ),
    ):
        played.ask("connect")
        before, began = served.cpu_s(), time.time()
        answer = served.api(
            "uploadTemplateDirectDownloadCertificate",
            certificate=self_signed(),
            name="m1",
            hypervisor="KVM",
            zoneid=zone_id,
        )
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


def agents_connected(args: argparse.Namespace) -> dict[str, Any]:
    """Many hosts connected to one manager process, beating, for a while."""
    with (
        tempfile.TemporaryDirectory() as folder,
        fleet(Path(folder), args.hosts, processes=args.processes, database=args.database) as (
            served,
            played,
            _,
        ),
    ):
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
        "agents": args.hosts,
        "processes_of_hosts": args.processes,
        "connect_s": round(seconds, 2),
        "settled_s": round(settled, 2),
        "up_when_connected": at_last,
        "watched_s": args.seconds,
        "left_meanwhile": left,
        "up_at_the_end": up_then,
        "connected_at_the_end": connected,
        "manager_cpu_ms_per_connection": round(connect_cpu / args.hosts * 1000, 2),
        "hosts_cpu_ms_per_connection": round(
            sum(one["cpu_s"] for one in done) / args.hosts * 1000, 2
        ),
        "mib_before": round(rss / (1 << 20)),
        "kib_per_connection": round(grown / args.hosts / 1024, 1),
        "idle_cpu_percent": round(idle * 100, 1),
    }


def _up(served: ManagerProcess) -> int:
    count: int = served.api("listHosts", state="Up", page=1, pagesize=1).get("count", 0)
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
