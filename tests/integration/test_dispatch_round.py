# SPDX-License-Identifier: Apache-2.0
"""Does one round of the dispatcher decide about each job once? On both databases."""

from __future__ import annotations

import asyncio
from pathlib import Path

from benchmarks.manager.scale import made_fleet
from fastdl.manager.ledger import jobs
from fastdl.manager.ledger.engine import default_url, open_ledger
from fastdl.manager.ledger.jobs import NewJob
from fastdl.wire import messages as m


def _download(number: int, origin: str) -> NewJob:
    template = f"t{number}"
    args = m.DownloadArgs(
        template=template, pool="p0", volume="v", transfer=m.Transfer(sources=(f"{origin}/x",))
    )
    return NewJob(
        kind=m.Kind.DOWNLOAD,
        zone="z",
        template=template,
        pool="p0",
        lane=origin,
        origins=(origin,),
        single=f"{template}:p0",
        args=args,
    )


async def test_a_round_decides_about_each_job_once(tmp_path: Path, database: str | None) -> None:
    """Origins whose queues differ in age are read in overlapping pages: a job granted twice in
    one batch would fail the batch, and each of it would be granted in a transaction of its own."""
    ledger = await asyncio.to_thread(open_ledger, database or default_url(tmp_path))
    _, dispatcher = await made_fleet(ledger, 4)
    ages = {"https://old:443": 1.0, "https://middle:443": 2.0, "https://new:443": 3.0}
    for at, (origin, created) in enumerate(ages.items()):
        new = [_download(1000 * at + n, origin) for n in range(300)]
        await ledger.write(lambda tx, new=new, at=created: jobs.submit(tx, new, now=at))
    decided = [grant.job for grant in await dispatcher._decide()]
    assert len(decided) > 300
    assert len(decided) == len(set(decided))
    await ledger.close()
