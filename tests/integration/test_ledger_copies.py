# SPDX-License-Identifier: Apache-2.0
"""What does the ledger keep of the copies in pools, on each of its engines?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, update

from fastdl.manager.ledger import copies, jobs, tables
from fastdl.manager.ledger.engine import Ledger, default_url, open_ledger
from fastdl.manager.ledger.jobs import NewJob
from fastdl.manager.ledger.values import Grant
from fastdl.wire import messages as m


@pytest.fixture
async def ledger(database: str | None, tmp_path: Path) -> AsyncIterator[Ledger]:
    """A ledger with a zone, a host and a pool."""
    opened = await asyncio.to_thread(open_ledger, database or default_url(tmp_path))

    async def make(tx: Any) -> None:
        await tx.execute(insert(tables.zone).values(id="z", name="z", enabled=True, created=0.0))
        host = {"name": "h", "state": "Up", "key_hash": "k", "changed": 0.0, "created": 0.0}
        await tx.execute(insert(tables.host).values(id="h", zone="z", cluster="c", **host))
        pool = {"name": "p", "type": "Filesystem", "shared": False, "created": 0.0}
        await tx.execute(insert(tables.pool).values(id="p", zone="z", cluster="c", **pool))

    await opened.write(make)
    yield opened
    await opened.close()


async def test_fences_of_a_copy_grow_over_all_its_jobs(ledger: Ledger) -> None:
    """A later job on the copy has a higher fence than every earlier one, whatever it was."""
    copy = (await ledger.write(lambda tx: copies.wanted(tx, "t", ["p"], now=1.0, iso=False)))["p"]
    key = copies.key_of(copy)
    seen = []
    for kind in ("download", "remove", "download"):
        args = m.RemoveArgs(template="t", pool=key[0], volume=key[1])
        new = NewJob(kind=m.Kind(kind), zone="z", pool=key[0], volume=key[1], args=args)
        (job,) = await ledger.write(lambda tx, new=new: jobs.submit(tx, [new], now=1.0))
        given = Grant(job=job, fence=0, host="h", slots=(), copy=key)
        assert await ledger.write(lambda tx, g=given: jobs.grant(tx, [g], now=1.0, floor=7))
        async with ledger.read() as tx:
            row = await jobs.get(tx, job)
        assert row is not None
        seen.append(row.fence)
    assert seen == [7, 8, 9]


async def test_sizes_without_reason_have_a_sum(ledger: Ledger) -> None:
    """Hosts state them: their sum may be more than a database's integers hold."""

    async def work(tx: Any) -> tuple[int, int]:
        for number in range(4):
            await copies.wanted(tx, f"t{number}", ["p"], now=1.0, iso=False)
        stated = {"account": "a", "complete": True, "size": (1 << 63) - 1}
        await tx.execute(update(tables.copy).values(**stated))
        return await copies.usage(tx, "a")

    assert await ledger.write(work) == (4, 1 << 65)
