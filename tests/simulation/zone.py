# SPDX-License-Identifier: Apache-2.0
"""A zone in virtual time: the manager's loops over simulated hosts, and work for them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy import Row, func, insert, select

from fastdl.manager.api.context import ApiContext
from fastdl.manager.app import compose
from fastdl.manager.certificates.sync import CertificateSync
from fastdl.manager.downloads import results
from fastdl.manager.downloads.dispatch import Dispatcher
from fastdl.manager.downloads.removal import remove_copies
from fastdl.manager.hosts.ca import open_authority
from fastdl.manager.ledger import copies, jobs, tables, templates
from fastdl.manager.ledger.engine import default_url, open_ledger
from fastdl.manager.ledger.jobs import LIVE, NewJob
from fastdl.manager.ledger.values import BULK
from fastdl.manager.notices import Notices
from fastdl.manager.settings import Settings
from fastdl.manager.vault import Vault
from fastdl.wire import messages as m
from tests.simulation.virtual import START, CountingLedger, SimFleet, SimHost, VirtualClock

ORIGINS = [f"origin{i}" for i in range(5)]


@dataclass
class Simulation:
    """The manager's loops over simulated hosts."""

    context: ApiContext
    dispatcher: Dispatcher
    sync: CertificateSync
    fleet: SimFleet
    clock: VirtualClock

    async def until(self, condition: Any, *, most: float) -> None:
        """Let time pass until *condition* (asked every virtual second) is true."""
        done = asyncio.Event()

        async def ask() -> None:
            while not await condition():
                await self.clock.sleep(1.0)
            done.set()

        task = self.fleet.spawn(ask())
        await self.clock.run(done, most=most)
        await task

    async def cancel(self, job: str) -> None:
        """Cancel a live job, as the API does."""
        now = self.context.clock.time()

        async def work(tx: Any) -> list[Any]:
            row = await jobs.get(tx, job)
            return await results.cancel(tx, [row] if row is not None else [], now=now)

        self.dispatcher.cancelled(await self.context.ledger.write(work))

    async def prepare(self, new: Sequence[NewJob], *, now: float = START) -> list[str]:
        """Submit downloads as ``prepareTemplate`` does: each for its template's copy."""

        async def work(tx: Any) -> list[str]:
            named = []
            for id_ in sorted({job.template for job in new if job.template}):
                if await templates.get(tx, id_) is None:
                    await _register(tx, id_)
            for job in new:
                assert isinstance(job.args, m.DownloadArgs)
                found = await copies.wanted(tx, job.template, [job.pool], now=now, iso=False)
                key = copies.key_of(found[job.pool])
                args = replace(job.args, volume=key[1])
                single = jobs.single_download(key)
                named.append(replace(job, volume=key[1], single=single, args=args))
            return await jobs.submit(tx, named, now=now)

        found = await self.context.ledger.write(work)
        self.dispatcher.wake()
        return found

    async def remove_all(self) -> None:
        """Have every copy removed, as the deletion of their templates does."""
        now = self.context.clock.time()

        async def work(tx: Any) -> None:
            for id_ in {row.template for row in await tx.execute(select(tables.copy))}:
                await remove_copies(tx, await copies.of_template(tx, id_), now=now)

        await self.context.ledger.write(work)
        self.dispatcher.wake()

    async def copies(self) -> list[Row[Any]]:
        """What the ledger knows of copies."""
        async with self.context.ledger.read() as tx:
            return list(await tx.execute(select(tables.copy)))

    async def live_jobs(self) -> int:
        """How many jobs have not ended."""
        async with self.context.ledger.read() as tx:
            query = select(func.count()).where(tables.job.c.state.in_(LIVE))
            return await tx.scalar(query) or 0


@contextlib.asynccontextmanager
async def simulation(
    folder: Path,
    *,
    hosts: int,
    seed: int,
    pools: int = 1,
    shared: bool = False,
    database: str | None = None,
    notices: Callable[[VirtualClock], Notices] | None = None,
) -> AsyncIterator[Simulation]:
    """A zone of *hosts*, each with its pools (or all with the same shared ones).

    *database*: the URL of an empty one, None = SQLite in *folder*; *notices*: makes those of
    virtual time, where somebody waits for them.
    """
    url = database or default_url(folder)
    ledger = CountingLedger(await asyncio.to_thread(open_ledger, url))
    clock = VirtualClock(ledger)
    fleet = SimFleet(ledger, clock, seed, folder / "pools")
    context = compose(
        ledger=ledger,
        settings=Settings(),
        vault=Vault(bytes(32)),
        clock=clock,
        delivery=fleet,
        name="m1",
        authority=open_authority(folder / "ca"),
        notices=Notices() if notices is None else notices(clock),
    )
    fleet.handler, fleet.progress = context.handler, context.progress
    dispatcher, sync = context.dispatcher, context.sync

    kind = m.PoolType.NETWORK_FILESYSTEM if shared else m.PoolType.FILESYSTEM

    def pool_names(i: int) -> list[str]:
        return [f"shared{n}" if shared else f"p{i}.{n}" for n in range(pools)]

    async def make(tx: Any) -> None:
        await tx.execute(insert(tables.zone).values(id="z", name="z", enabled=True, created=START))
        for i in range(hosts):
            await tx.execute(
                insert(tables.host).values(
                    id=f"h{i}",
                    zone="z",
                    cluster="c",
                    name=f"kvm{i}",
                    state="Connecting",
                    key_hash="k",
                    changed=START,
                    created=START,
                )
            )
        for name in sorted({name for i in range(hosts) for name in pool_names(i)}):
            values = {"id": name, "name": name, "type": kind, "shared": shared, "created": START}
            await tx.execute(insert(tables.pool).values(zone="z", cluster="c", **values))

    await ledger.write(make)
    for i in range(hosts):
        names = pool_names(i)
        found = tuple(m.PoolInfo(id=n, name=n, type=kind, shared=shared) for n in names)
        for name in names:
            (folder / "pools" / name).mkdir(parents=True, exist_ok=True)
        fleet.hosts[f"h{i}"] = SimHost(id=f"h{i}", name=f"kvm{i}", pools=found, fleet=fleet)
    loops = [
        fleet.spawn(loop())
        for loop in (dispatcher.run, sync.run, sync.run_retries, fleet.handler.run)
    ]
    for host in fleet.hosts.values():
        fleet.spawn(host.connect())
        fleet.spawn(_beat(host))
    try:
        yield Simulation(context, dispatcher, sync, fleet, clock)
        for loop in loops:
            assert not loop.done(), loop.exception()
    finally:
        await fleet.stop()
        await ledger.close()


async def _beat(host: SimHost) -> None:
    while True:
        await host.fleet.clock.sleep(10 * host.fleet.rng.uniform(0.8, 1.2))
        if host.up:
            await host.tell(m.Beat())


async def _register(tx: Any, id_: str) -> None:
    """A template as registration leaves it."""
    values = {
        "id": id_, "owner": "u", "account": "admin", "name": id_, "display_text": id_, "url": "",
        "iso": False, "format": "RAW", "hypervisor": "KVM", "public": True, "featured": False,
        "created": START,
    }  # fmt: skip
    await tx.execute(insert(tables.template).values(**values))
    offer = {"template": id_, "zone": "z", "created": START}
    await tx.execute(insert(tables.template_zone).values(**offer))


def seeds(count: int, pools: list[str], *, rank: int = BULK) -> list[NewJob]:
    """A download of each template to each pool."""
    found = []
    for t in range(count):
        origin = ORIGINS[t % len(ORIGINS)]
        for pool in pools:
            args = m.DownloadArgs(
                template=f"t{t}",
                pool=pool,
                volume=f"v{t}",
                transfer=m.Transfer(sources=(f"https://{origin}/t{t}",)),
            )
            found.append(
                NewJob(
                    kind=m.Kind.DOWNLOAD,
                    zone="z",
                    template=f"t{t}",
                    pool=pool,
                    lane=origin,
                    origins=(origin,),
                    single=f"t{t}:{pool}",
                    rank=rank,
                    args=args,
                )
            )
    return found


async def flap(sim: Simulation, times: int) -> None:
    """Hosts crash and come back, some after they were declared Down."""
    rng = sim.fleet.rng
    for _ in range(times):
        await sim.clock.sleep(rng.uniform(1, 8))
        host = rng.choice(list(sim.fleet.hosts.values()))
        if not host.up:
            continue
        await host.crash()
        sim.fleet.spawn(_return(sim, host, rng.uniform(5, 90)))


async def _return(sim: Simulation, host: SimHost, after: float) -> None:
    await sim.clock.sleep(after)
    await host.connect()
