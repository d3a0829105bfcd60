# SPDX-License-Identifier: Apache-2.0
"""How many jobs a second can one manager grant, and how many results can it record?

python -m benchmarks.manager.ends --jobs 2000 [--database URL [--managers 3]]

One manager grants, whatever their number; results are recorded by all, each those of its hosts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import sys
import tempfile
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Row, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from benchmarks.manager.scale import fleet_of, made_fleet
from fastdl.manager.downloads.dispatch import Dispatcher
from fastdl.manager.ledger import copies, jobs, tables
from fastdl.manager.ledger.engine import Ledger, default_url, open_ledger
from fastdl.manager.ledger.jobs import NewJob
from fastdl.wire import messages as m

HOSTS: Final = 100
TOGETHER: Final = 100
"""Results that arrive at once."""
POOLS: Final = [f"p{i}" for i in range(HOSTS)]


async def _submit(tx: AsyncConnection, number: int) -> None:
    """Register a template and have it downloaded to every pool, as the API does."""
    id_, origin = f"t{number}", f"origin{number % 5}"
    values = {
        "id": id_, "owner": "u", "account": "admin", "name": id_, "display_text": id_, "url": "",
        "iso": False, "format": "RAW", "hypervisor": "KVM", "public": True, "featured": False,
        "created": 0.0,
    }  # fmt: skip
    await tx.execute(insert(tables.template).values(**values))
    await tx.execute(insert(tables.template_zone).values(template=id_, zone="z", created=0.0))
    found = await copies.wanted(tx, id_, POOLS, now=1.0, iso=False)
    new = []
    for pool in POOLS:
        transfer = m.Transfer(sources=(f"https://{origin}/{id_}",))
        args = m.DownloadArgs(template=id_, pool=pool, volume=found[pool].volume, transfer=transfer)
        new.append(
            NewJob(
                kind=m.Kind.DOWNLOAD,
                zone="z",
                template=id_,
                pool=pool,
                volume=args.volume,
                lane=origin,
                origins=(origin,),
                single=jobs.single_download(copies.key_of(found[pool])),
                args=args,
            )
        )
    await jobs.submit(tx, new, now=1.0)


async def _zone(ledger: Ledger, templates: int) -> None:
    async def make(tx: AsyncConnection) -> None:
        place = {"zone": "z", "cluster": "c", "created": 0.0}
        kind = {"type": m.PoolType.FILESYSTEM, "shared": False}
        await tx.execute(
            insert(tables.pool), [{"id": p, "name": p, **place, **kind} for p in POOLS]
        )
        links = [
            {"host": f"h{i}", "pool": pool, "error": None, "accepted": True}
            for i, pool in enumerate(POOLS)
        ]
        await tx.execute(insert(tables.host_pool), links)
        for number in range(templates):
            await _submit(tx, number)

    await ledger.write(make)


def _done(row: Row[Any]) -> m.JobResult:
    done = m.DownloadDone(install_path="v", virtual_size=1)
    return m.JobResult(job=row.id, fence=row.fence, kind=m.Kind.DOWNLOAD, done=done)


async def _record(ledger: Ledger, dispatcher: Dispatcher, share: int, managers: int) -> int:
    """Record the results of this manager's *share* of the hosts; return how many there were."""
    mine = {f"h{i}" for i in range(share, HOSTS, managers)}
    async with ledger.read() as tx:
        held = list(await tx.execute(select(tables.job).where(tables.job.c.host.in_(mine))))
    for start in range(0, len(held), TOGETHER):
        part = held[start : start + TOGETHER]
        answers = await asyncio.gather(*(dispatcher.ended(row.host, _done(row)) for row in part))
        assert all(answers)
    return len(held)


def _manager(url: str, share: int, managers: int, line: Barrier) -> None:
    """One of several managers, in a process of its own."""
    ledger = open_ledger(url)

    async def run() -> None:
        dispatcher = fleet_of(ledger, HOSTS).dispatcher
        await asyncio.to_thread(line.wait)
        await _record(ledger, dispatcher, share, managers)
        await asyncio.to_thread(line.wait)
        await ledger.close()

    asyncio.run(run())


def _together(url: str, managers: int) -> float:
    """Return the seconds in which so many record all results."""
    spawned = multiprocessing.get_context("spawn")
    line = spawned.Barrier(managers + 1)
    made = [
        spawned.Process(target=_manager, args=(url, share, managers, line))
        for share in range(managers)
    ]
    for process in made:
        process.start()
    line.wait()
    began = time.perf_counter()
    line.wait()
    seconds = time.perf_counter() - began
    for process in made:
        process.join()
    return seconds


async def ends(args: argparse.Namespace) -> dict[str, Any]:
    """Jobs granted to their hosts, and ended by results that arrive a hundred at a time."""
    with tempfile.TemporaryDirectory() as folder:
        url = args.database or default_url(Path(folder))
        ledger = await asyncio.to_thread(open_ledger, url)
        _, dispatcher = await made_fleet(ledger, HOSTS)
        await _zone(ledger, max(1, args.jobs // HOSTS))
        began, granted = time.perf_counter(), 0
        while found := await dispatcher.round():
            granted += found
        claiming = time.perf_counter() - began
        if args.managers == 1:
            cpu, began = time.process_time(), time.perf_counter()
            assert await _record(ledger, dispatcher, 0, 1) == granted
            seconds = time.perf_counter() - began
            own = {"cpu_ms_per_result": round((time.process_time() - cpu) / granted * 1000, 2)}
        else:
            seconds, own = await asyncio.to_thread(_together, url, args.managers), {}
        async with ledger.read() as tx:
            over = tables.job.c.state == jobs.State.DONE
            count = await tx.scalar(select(func.count()).select_from(tables.job).where(over))
        assert count == granted
        await ledger.close()
    return {
        "jobs": granted,
        "managers": args.managers,
        "grants_per_s": round(granted / claiming),
        "results_per_s": round(granted / seconds),
        **own,
        "ledger": "postgresql" if args.database else "sqlite",
    }


def main() -> int:
    """Measure once; print one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--database", help="postgresql://…; default: SQLite, FULL, on disk")
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--managers", type=int, default=1, help="that share the results")
    print(json.dumps(asyncio.run(ends(parser.parse_args()))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
