# SPDX-License-Identifier: Apache-2.0
"""How many jobs a second can one manager grant, and how many results can it record?

python -m benchmarks.manager.ends --jobs 500 [--database URL]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Row, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from benchmarks.manager.scale import made_fleet
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


async def ends(args: argparse.Namespace) -> dict[str, Any]:
    """Jobs granted to their hosts, and ended by results that arrive a hundred at a time."""
    with tempfile.TemporaryDirectory() as folder:
        url = args.database or default_url(Path(folder))
        ledger = await asyncio.to_thread(open_ledger, url)
        _, dispatcher = await made_fleet(ledger, HOSTS)
        await _zone(ledger, max(1, args.jobs // HOSTS))
        began = time.perf_counter()
        while await dispatcher.round():
            pass
        granted = time.perf_counter()
        async with ledger.read() as tx:
            held = list(await tx.execute(select(tables.job).where(tables.job.c.host.is_not(None))))
        cpu, asked = time.process_time(), time.perf_counter()
        for start in range(0, len(held), TOGETHER):
            part = held[start : start + TOGETHER]
            assert all(
                await asyncio.gather(*(dispatcher.ended(row.host, _done(row)) for row in part))
            )
        ended, cpu = time.perf_counter(), time.process_time() - cpu
        await ledger.close()
    return {
        "jobs": len(held),
        "grants_per_s": round(len(held) / (granted - began)),
        "results_per_s": round(len(held) / (ended - asked)),
        "cpu_ms_per_result": round(cpu / len(held) * 1000, 2),
        "ledger": "postgresql" if args.database else "sqlite",
    }


def main() -> int:
    """Measure once; print one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--database", help="postgresql://…; default: SQLite, FULL, on disk")
    parser.add_argument("--jobs", type=int, default=500)
    print(json.dumps(asyncio.run(ends(parser.parse_args()))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
