# SPDX-License-Identifier: Apache-2.0
"""What does a queue of 100,000 jobs cost? Bytes a job, and work a decision (C08).

Work is counted in instructions of SQLite's virtual machine, which do not depend on how busy
this machine is; a thousand of them take some tens of microseconds.
"""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, insert, update
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.manager.app import compose
from fastdl.manager.clock import SystemClock
from fastdl.manager.downloads.dispatch import Dispatcher
from fastdl.manager.hosts.delivery import Connections
from fastdl.manager.hosts.fleet import ConnectedHost
from fastdl.manager.ledger import jobs, tables
from fastdl.manager.ledger.engine import Ledger, default_url, open_ledger
from fastdl.manager.ledger.jobs import NewJob
from fastdl.manager.ledger.tables import slot
from fastdl.manager.ledger.values import BULK, URGENT
from fastdl.manager.notices import Notices
from fastdl.manager.settings import Settings
from fastdl.manager.vault import Vault
from fastdl.wire import messages as m

QUEUED = 100_000
STEP = 100
"""Instructions between two counts."""
MOST_A_DECISION = 2_000
MOST_A_ROUND = 60_000
"""What a round may cost that decides nothing."""


class Work:
    """How many instructions SQLite has executed and statements it was given."""

    def __init__(self, ledger: Ledger) -> None:
        self.steps = self.statements = 0
        for engine in (ledger._reader.sync_engine, ledger._writer.sync_engine):
            event.listen(engine, "checkout", self._count)
            event.listen(engine, "before_cursor_execute", self._statement)

    def _statement(self, *_: Any) -> None:
        self.statements += 1

    def _count(self, connection: Any, _record: Any, _proxy: Any) -> None:
        def tick() -> None:
            self.steps += STEP

        connection.driver_connection._conn.set_progress_handler(tick, STEP)

    def reset(self) -> None:
        """Begin to count."""
        self.steps = self.statements = 0


def jobs_of(origin: int, count: int, *, rank: int = BULK) -> list[NewJob]:
    """*count* downloads paced by one origin, spread over a thousand pools."""
    transfer = m.Transfer(sources=("https://mirror.example/template.qcow2",))
    args = m.DownloadArgs(template="t", pool="p", volume="v", transfer=transfer)
    return [
        NewJob(
            kind=m.Kind.DOWNLOAD,
            zone="z",
            template=f"t{origin}.{n // 1000}",
            pool=f"p{n % 1000}",
            lane=f"origin{origin}",
            origins=(f"origin{origin}",),
            single=f"{origin}.{n}.{rank}",
            rank=rank,
            args=args,
        )
        for n in range(count)
    ]


async def _store_hosts(tx: AsyncConnection) -> None:
    await tx.execute(insert(tables.zone).values(id="z", name="z", enabled=True, created=0.0))
    rows = [
        {
            "id": f"h{n}",
            "zone": "z",
            "cluster": "c",
            "name": f"h{n}",
            "state": "Up",
            "resource_state": "Enabled",
            "key_hash": "0",
            "changed": 0.0,
            "created": 0.0,
        }
        for n in range(100)
    ]
    await tx.execute(insert(tables.host), rows)


@pytest.fixture
async def dispatcher(tmp_path: Path) -> AsyncIterator[Dispatcher]:
    """A dispatcher with a hundred hosts, each of which reaches ten pools."""
    ledger = await asyncio.to_thread(open_ledger, default_url(tmp_path))
    parts = compose(
        ledger=ledger,
        settings=Settings(),
        vault=Vault(bytes(32)),
        clock=SystemClock(),
        delivery=Connections(),
        notices=Notices(),
        name="m",
        authority=None,  # type: ignore[arg-type]
    )
    for n in range(100):
        pools = frozenset(f"p{n * 10 + k}" for k in range(10))
        kinds = frozenset({"download"})
        parts.fleet.join(
            ConnectedHost(id=f"h{n}", zone="z", name=f"h{n}", kinds=kinds, pools=pools, most=4)
        )
    await ledger.write(_store_hosts)  # a grant looks at the host's row once more
    yield parts.dispatcher
    await ledger.close()


async def submit(ledger: Ledger, new: list[NewJob], *, now: float) -> None:
    """Submit in parts, as a seed of many templates does."""
    for start in range(0, len(new), 5000):
        part = new[start : start + 5000]
        await ledger.write(lambda tx, part=part: jobs.submit(tx, part, now=now))


async def test_a_hundred_thousand_queued_jobs_cost_little(
    dispatcher: Dispatcher, tmp_path: Path
) -> None:
    """C08: 2 KiB a job, and no decision looks at more of the queue than it needs."""
    ledger = dispatcher._ledger
    work = Work(ledger)
    await submit(ledger, jobs_of(0, QUEUED - 1000), now=1.0)
    await submit(ledger, jobs_of(1, 1000), now=2.0)
    disk = sum(path.stat().st_size for path in tmp_path.glob("manager.db"))
    assert disk / QUEUED <= 2048
    gc.collect()
    tracemalloc.start()

    # Both origins have room: as many decisions as the limits allow.
    work.reset()
    granted = await dispatcher.round()
    assert granted == 28, "14 of 16 slots of each origin are for bulk"
    assert work.steps <= MOST_A_ROUND + granted * MOST_A_DECISION
    assert work.statements <= 30

    # The long queue's origin is full: the short one behind it is found at once.
    free = update(slot).where(slot.c.key == "origin1").values(active=0)
    await ledger.write(lambda tx: tx.execute(free))
    work.reset()
    granted = await dispatcher.round()
    assert granted == 14
    assert work.steps <= MOST_A_ROUND + granted * MOST_A_DECISION

    # Everything is full: a round that decides nothing costs next to nothing.
    work.reset()
    assert await dispatcher.round() == 0
    await dispatcher.reconcile()
    assert work.steps <= MOST_A_ROUND

    # A VM waits now, behind all of them.
    await submit(ledger, jobs_of(0, 1, rank=URGENT), now=3.0)
    work.reset()
    assert await dispatcher.round() == 1
    assert work.steps <= MOST_A_ROUND + MOST_A_DECISION

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak / QUEUED <= 2048
    assert peak < 8 << 20, "the queue is not to be held in memory"
