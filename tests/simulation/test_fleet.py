# SPDX-License-Identifier: Apache-2.0
"""A fleet in virtual time: everything converges, no limit is ever exceeded.

Judged by the hosts' own account of what ran when, not by the ledger.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import func, insert, select

from fastdl.manager.certloop import CertificateSync
from fastdl.manager.dispatch import Dispatcher
from fastdl.manager.fabric.ca import open_authority
from fastdl.manager.hostlink import HostLink
from fastdl.manager.ledger import certs, jobs, tables
from fastdl.manager.ledger.engine import default_url, open_ledger
from fastdl.manager.ledger.jobs import LIVE, NewJob
from fastdl.manager.scheduler import BULK, URGENT
from fastdl.manager.services import Services
from fastdl.manager.settings import Settings
from fastdl.wire import messages as m
from tests.simulation.virtual import START, CountingLedger, SimFleet, SimHost, VirtualClock

ORIGINS = [f"origin{i}" for i in range(5)]


@dataclass
class Simulation:
    """The manager's loops over simulated hosts."""

    services: Services
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

    async def live_jobs(self) -> int:
        """How many jobs have not ended."""
        async with self.services.ledger.read() as tx:
            query = select(func.count()).where(tables.job.c.state.in_(LIVE))
            return await tx.scalar(query) or 0


@contextlib.asynccontextmanager
async def simulation(
    folder: Path, *, hosts: int, seed: int, pools: int = 1, shared: bool = False
) -> AsyncIterator[Simulation]:
    """A zone of *hosts*, each with its pools (or all with the same shared ones)."""
    ledger = CountingLedger(await asyncio.to_thread(open_ledger, default_url(folder)))
    clock = VirtualClock(ledger)
    services = Services(
        ledger=ledger, settings=Settings(), clock=clock, fabric=None, name="m1",  # type: ignore[arg-type]
    )  # fmt: skip
    fleet = SimFleet(ledger, services.progress, seed)
    services.fabric, fleet.clock = fleet, clock
    dispatcher, sync = Dispatcher(services), CertificateSync(services)
    fleet.link = HostLink(services, open_authority(folder / "ca"), dispatcher, sync)

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

    await ledger.write(make)
    for i in range(hosts):
        names = [f"shared{n}" if shared else f"p{i}.{n}" for n in range(pools)]
        kind = m.PoolType.NETWORK_FILESYSTEM if shared else m.PoolType.FILESYSTEM
        found = tuple(m.PoolInfo(id=n, name=n, type=kind, shared=shared) for n in names)
        fleet.hosts[f"h{i}"] = SimHost(id=f"h{i}", name=f"kvm{i}", pools=found, fleet=fleet)
    loops = [
        fleet.spawn(loop()) for loop in (dispatcher.run, sync.run, sync.run_retries, fleet.link.run)
    ]
    for host in fleet.hosts.values():
        fleet.spawn(host.connect())
        fleet.spawn(_beat(host))
    try:
        yield Simulation(services, dispatcher, sync, fleet, clock)
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


def seeds(templates: int, pools: list[str], *, rank: int = BULK) -> list[NewJob]:
    """A download of each template to each pool."""
    found = []
    for t in range(templates):
        origin = ORIGINS[t % len(ORIGINS)]
        for pool in pools:
            args = m.DownloadArgs(
                template=f"t{t}", pool=pool, volume="v",
                transfer=m.Transfer(sources=(f"https://{origin}/t{t}",)),
            )  # fmt: skip
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


async def test_a_hundred_hosts_and_a_thousand_seeds_converge(folder: Path) -> None:
    """Failures, lost messages, crashes: each copy arrives, no limit is exceeded (C01, G03)."""
    async with simulation(folder, hosts=100, seed=1) as sim:
        new = seeds(10, [f"p{i}.0" for i in range(100)])
        await sim.services.ledger.write(lambda tx: jobs.submit(tx, new, now=START))
        sim.dispatcher.wake()
        flapping = sim.fleet.spawn(flap(sim, 40))

        async def over() -> bool:
            return flapping.done() and not await sim.live_jobs()

        await sim.until(over, most=6 * 3600)
        copies = sum((h.copies for h in sim.fleet.hosts.values()), start=type(h0(sim).copies)())
        async with sim.services.ledger.read() as tx:
            rows = list(await tx.execute(select(tables.job.c.state, tables.job.c.attempt)))
        assert {row.state for row in rows} <= {"DONE", "FAILED"}
        failed = sum(row.state == "FAILED" for row in rows)
        assert failed == 0, f"{failed} downloads gave up"
        assert len(copies) == 1000
        for origin in ORIGINS:
            assert sim.fleet.peak[origin] <= 16, (origin, sim.fleet.peak[origin])
        assert all(sim.fleet.peak[h] <= 4 for h in sim.fleet.hosts)
        assert all(n == 0 for n in sim.fleet.active.values())


def h0(sim: Simulation) -> SimHost:
    """Some host."""
    return sim.fleet.hosts["h0"]


async def test_one_urgent_download_does_not_wait_for_a_thousand(folder: Path) -> None:
    """A VM's download starts within a virtual second of being asked for (C04)."""
    async with simulation(folder, hosts=20, seed=2, pools=10) as sim:
        sim.fleet.loss = sim.fleet.failure_rate = 0
        pools = [p.id for h in sim.fleet.hosts.values() for p in h.pools]
        bulk = seeds(5, pools)
        await sim.services.ledger.write(lambda tx: jobs.submit(tx, bulk, now=START))
        sim.dispatcher.wake()

        async def loaded() -> bool:
            return sum(sim.fleet.active[o] for o in ORIGINS) >= 50

        await sim.until(loaded, most=600)
        urgent = seeds(6, [pools[0]], rank=URGENT)[5:]
        asked = sim.clock.time()
        (job,) = await sim.services.ledger.write(lambda tx: jobs.submit(tx, urgent, now=asked))
        sim.dispatcher.wake()

        async def started() -> bool:
            async with sim.services.ledger.read() as tx:
                row = await jobs.get(tx, job)
            return row is not None and row.host is not None

        await sim.until(started, most=900)
        async with sim.services.ledger.read() as tx:
            row = await jobs.get(tx, job)
        assert row is not None
        assert row.updated - asked <= 1.0


async def test_certificates_converge_whatever_hosts_do(folder: Path) -> None:
    """Uploads, revocations, wiped keystores and flapping hosts end in the desired set (C05)."""
    async with simulation(folder, hosts=40, seed=3) as sim:
        ledger, now = sim.services.ledger, START
        everyone = list(sim.fleet.hosts)
        ids = []
        for n in range(4):
            made = await ledger.write(
                lambda tx, n=n: certs.create(
                    tx, zone="z", alias=f"C{n}", pem="x", sha256=f"f{n}", not_after=now * 2, now=now
                )
            )
            await ledger.write(lambda tx, made=made: certs.want(tx, made, everyone, present=True))
            ids.append(made)
        sim.sync.mark(*everyone)
        flapping = sim.fleet.spawn(flap(sim, 200))
        await sim.until(lambda: _after(sim, 60), most=600)
        await ledger.write(lambda tx: certs.want(tx, ids[0], everyone, present=False))
        await ledger.write(lambda tx: certs.revoke_in_zone(tx, ids[0]))
        await ledger.write(lambda tx: certs.want(tx, ids[1], ["h3"], present=False))
        await ledger.write(lambda tx: certs.remove(tx, ids[2], now=now))
        sim.sync.mark(*everyone)
        for name in ("h5", "h6", "h7"):
            host = sim.fleet.hosts[name]
            host.keystore.clear()
            await host.tell(m.InventoryReport(inventory=host.inventory()))

        async def converged() -> bool:
            return flapping.done() and all(
                h.keystore == ({"c3": "f3"} if h.id == "h3" else {"c1": "f1", "c3": "f3"})
                for h in sim.fleet.hosts.values()
            )

        await sim.until(converged, most=3600)
        many = {key: n for key, n in sim.fleet.imports.items() if n > 3}
        assert not many, "the same certificate was imported again and again"


async def _after(sim: Simulation, seconds: float) -> bool:
    return sim.clock.time() - START >= seconds


async def test_shared_pool_moves_on_when_its_host_dies(folder: Path) -> None:
    """A dead host's job goes to the next one under a higher fence, and ends once."""
    async with simulation(folder, hosts=5, seed=4, pools=4, shared=True) as sim:
        new = seeds(5, [f"shared{n}" for n in range(4)])
        await sim.services.ledger.write(lambda tx: jobs.submit(tx, new, now=START))
        sim.dispatcher.wake()
        sim.fleet.spawn(flap(sim, 15))

        async def over() -> bool:
            return not await sim.live_jobs()

        await sim.until(over, most=7200)
        async with sim.services.ledger.read() as tx:
            states = {row.state for row in await tx.execute(select(tables.job.c.state))}
        assert states == {"DONE"}
