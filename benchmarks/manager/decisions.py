# SPDX-License-Identifier: Apache-2.0
"""What does one job cost the manager, in zones of different sizes?

    python -m benchmarks.manager.decisions --save

The same jobs are submitted, granted and ended in zones of 100, 1,000 and 10,000 hosts. Every zone
has pools that all hosts reach, every host has a pool of its own, with copies from earlier days.
What is counted (statements of SQL, steps of SQLite's virtual machine, calls of Python functions)
is the same on every machine; the processor time beside it is this one's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sqlite3
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from unittest import mock

from sqlalchemy import Engine, event, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from benchmarks.machine import commit, describe
from benchmarks.options import say
from benchmarks.stored import save_decisions
from fastdl.manager.api.context import ApiContext
from fastdl.manager.app import compose
from fastdl.manager.clock import SystemClock
from fastdl.manager.hosts.delivery import Connections
from fastdl.manager.hosts.fleet import ConnectedHost
from fastdl.manager.ledger import copies, jobs, slots, tables
from fastdl.manager.ledger.engine import default_url, open_ledger
from fastdl.manager.ledger.jobs import NewJob
from fastdl.manager.notices import Notices
from fastdl.manager.settings import Settings
from fastdl.manager.vault import Vault
from fastdl.wire import messages as m
from scripts.simulating.loop import sqlite_in_the_loop

HOSTS: Final = (100, 1_000, 10_000)
SHARED: Final = 4
"""Pools that every host reaches."""
OWN: Final = 36
"""Hosts whose own pool gets every template too."""
TEMPLATES: Final = 5
STEP: Final = 50
"""Steps of SQLite's virtual machine between two counts."""
PART: Final = 500
FAILS: Final = 10
"""Every so many-th download fails on its first host."""


@dataclass
class Counts:
    """What was counted."""

    statements: int = 0
    steps: int = 0
    calls: int = 0


@contextmanager
def counting(counts: Counts) -> Iterator[None]:
    """Count what everything in this thread does."""

    def statement(*_: Any) -> None:
        counts.statements += 1

    def profile(_frame: Any, what: str, _arg: Any) -> None:
        if what in {"call", "c_call"}:
            counts.calls += 1

    event.listen(Engine, "before_cursor_execute", statement)
    sys.setprofile(profile)
    try:
        yield
    finally:
        sys.setprofile(None)
        event.remove(Engine, "before_cursor_execute", statement)


@contextmanager
def _stepping(counts: Counts) -> Iterator[None]:
    """Count the steps of every SQLite connection that is opened meanwhile."""
    real = sqlite3.connect

    def step() -> int:
        counts.steps += STEP
        return 0

    def connect(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        connection = real(*args, **kwargs)
        connection.set_progress_handler(step, STEP)
        return connection

    with sqlite_in_the_loop():
        real = sqlite3.connect
        with mock.patch.object(sqlite3, "connect", connect):
            yield


@contextmanager
def quiet() -> Iterator[None]:
    """No log, meanwhile."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


async def _zone(folder: Path, hosts: int, templates: int) -> ApiContext:
    """A manager with *hosts* connected hosts, in a zone that is in use."""
    ledger = await asyncio.to_thread(open_ledger, default_url(folder))
    settings = Settings()
    for kind in ("origin", "host", "pool"):
        settings.set(f"direct.download.{kind}.max.active", "8")
    context = compose(
        ledger=ledger,
        settings=settings,
        vault=Vault(bytes(32)),
        clock=SystemClock(),
        delivery=Connections(),
        notices=Notices(),
        name="bench",
        authority=None,  # type: ignore[arg-type]
    )
    everywhere = [f"s{n}" for n in range(SHARED)]

    async def make(tx: AsyncConnection) -> None:
        place = {"zone": "z", "cluster": "c", "created": 0.0}
        await tx.execute(insert(tables.zone).values(id="z", name="z", enabled=True, created=0.0))
        up = {"state": "Up", "key_hash": "k", "changed": 0.0}
        rows = [{"id": f"h{i}", "name": f"h{i}", **place, **up} for i in range(hosts)]
        own = {"type": m.PoolType.FILESYSTEM, "shared": False}
        pools = [{"id": f"p{i}", "name": f"p{i}", **place, **own} for i in range(hosts)]
        nfs = {"type": m.PoolType.NETWORK_FILESYSTEM, "shared": True}
        pools += [{"id": name, "name": name, **place, **nfs} for name in everywhere]
        link = {"error": None, "accepted": True}
        links = [
            {"host": f"h{i}", "pool": pool, **link}
            for i in range(hosts)
            for pool in (f"p{i}", *everywhere)
        ]
        for table, found in ((tables.host, rows), (tables.pool, pools), (tables.host_pool, links)):
            for start in range(0, len(found), PART):
                await tx.execute(insert(table), found[start : start + PART])
        for t in range(templates):
            values = {
                "id": f"t{t}", "owner": "u", "account": "admin", "name": f"t{t}", "url": "",
                "display_text": "", "iso": False, "format": "RAW", "hypervisor": "KVM",
                "public": True, "featured": False, "created": 0.0,
            }  # fmt: skip
            await tx.execute(insert(tables.template).values(**values))
            offer = {"template": f"t{t}", "zone": "z", "created": 0.0}
            await tx.execute(insert(tables.template_zone).values(**offer))
            # Earlier days: every pool but those of the run has the template.
            there = [f"p{i}" for i in range(OWN, hosts)]
            await copies.wanted(tx, f"t{t}", there, now=0.0, iso=False)
        places = [(k, f"{k[0]}{i}") for k in ("host", "pool") for i in range(hosts)]
        await slots.acquire(tx, dict.fromkeys(places, (0, 1)))

    await ledger.write(make)
    for i in range(hosts):
        pools = frozenset([f"p{i}", *everywhere])
        kinds = frozenset(["download"])
        context.fleet.join(
            ConnectedHost(id=f"h{i}", zone="z", name=f"h{i}", kinds=kinds, pools=pools, most=8)
        )
    return context


async def _submit(context: ApiContext, templates: int) -> list[str]:
    pools = [f"s{n}" for n in range(SHARED)] + [f"p{i}" for i in range(OWN)]

    async def work(tx: AsyncConnection) -> list[str]:
        new = []
        for t in range(templates):
            found = await copies.wanted(tx, f"t{t}", pools, now=1.0, iso=False)
            origin = f"origin{t}"
            for pool in pools:
                args = m.DownloadArgs(
                    template=f"t{t}",
                    pool=pool,
                    volume=found[pool].volume,
                    transfer=m.Transfer(sources=(f"https://{origin}/t{t}",)),
                )
                new.append(
                    NewJob(
                        kind=m.Kind.DOWNLOAD,
                        zone="z",
                        template=f"t{t}",
                        pool=pool,
                        volume=args.volume,
                        lane=origin,
                        origins=(origin,),
                        single=jobs.single_download(copies.key_of(found[pool])),
                        args=args,
                    )
                )
        return await jobs.submit(tx, new, now=1.0)

    return await context.ledger.write(work)


async def _end_all(context: ApiContext, ids: Sequence[str]) -> int:
    """Grant and end every job, one round of decisions for each end; return how many ended."""
    dispatcher, given, ended = context.dispatcher, deque[tuple[str, int, str]](), 0
    known: set[tuple[str, int]] = set()
    failed: set[str] = set()
    while True:
        if await dispatcher.round():
            async with context.ledger.read() as tx:
                held = tables.job.c.host.is_not(None)
                query = tables.job.select().where(held, tables.job.c.state == "GRANTED")
                for row in await tx.execute(query):
                    if (row.id, row.fence) not in known:
                        known.add((row.id, row.fence))
                        given.append((row.id, row.fence, row.host))
        await dispatcher.reconcile()
        if not given:
            return ended
        job, fence, host = given.popleft()
        result = m.JobResult(
            job=job,
            fence=fence,
            kind=m.Kind.DOWNLOAD,
            done=m.DownloadDone(install_path="v", virtual_size=1),
        )
        if ids.index(job) % FAILS == 0 and job not in failed:
            failed.add(job)
            failure = m.Failure(code=10, message="reset", elsewhere=True)
            result = m.JobResult(job=job, fence=fence, kind=m.Kind.DOWNLOAD, failure=failure)
        assert await dispatcher.ended(host, result)
        ended += 1


async def _measured(
    folder: Path, hosts: int, templates: int, counts: Counts, *, count: bool
) -> dict[str, Any]:
    context = await _zone(folder, hosts, templates)
    counts.steps = 0
    began = time.process_time()
    if count:
        with counting(counts):
            ids = await _submit(context, templates)
            await _end_all(context, ids)
    else:
        ids = await _submit(context, templates)
        await _end_all(context, ids)
    seconds = time.process_time() - began
    steps = counts.steps
    await context.ledger.close()
    return {
        "hosts": hosts,
        "jobs": len(ids),
        "statements": round(counts.statements / len(ids), 2),
        "steps": round(steps / len(ids)),
        "calls": round(counts.calls / len(ids)),
        "cpu_ms": round(seconds * 1000 / len(ids), 2),
    }


def measure(hosts: int, *, templates: int = TEMPLATES, count: bool = True) -> dict[str, Any]:
    """What one job of *templates* costs in a zone of *hosts*: statements, steps of SQLite, calls of
    Python, or (*count* false) ``cpu_ms``, milliseconds of processor time."""
    counts = Counts()
    with tempfile.TemporaryDirectory() as folder, _stepping(counts), quiet():
        return asyncio.run(_measured(Path(folder), hosts, templates, counts, count=count))


def main() -> int:
    """Measure all sizes; with ``--save`` the report shows them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hosts", type=int, nargs="+", default=HOSTS)
    parser.add_argument("--save", action="store_true", help="for `fastdl bench --report`")
    args = parser.parse_args()
    points = []
    for hosts in args.hosts:
        point = measure(hosts)
        point["cpu_ms"] = measure(hosts, count=False)["cpu_ms"]
        points.append(point)
        say(json.dumps(point))
    if args.save:
        with tempfile.TemporaryDirectory() as folder:
            where = describe(Path(folder))
        save_decisions({"points": points, "commit": commit(), "machine": where})
    return 0


if __name__ == "__main__":
    sys.exit(main())
