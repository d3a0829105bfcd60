# SPDX-License-Identifier: Apache-2.0
"""A fleet in virtual time: everything converges, no limit is ever exceeded.

Judged by the hosts' own account of what ran when, not by the ledger.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from fastdl.manager.ledger import certs, jobs, tables
from fastdl.manager.ledger.values import URGENT
from fastdl.wire import messages as m
from tests.simulation.virtual import START, SimHost
from tests.simulation.zone import ORIGINS, Simulation, flap, seeds, simulation


async def test_a_hundred_hosts_and_a_thousand_seeds_converge(folder: Path) -> None:
    """Failures, lost messages, crashes: each copy arrives, no limit is exceeded (C01, G03)."""
    async with simulation(folder, hosts=100, seed=1) as sim:
        await sim.prepare(seeds(10, [f"p{i}.0" for i in range(100)]))
        flapping = sim.fleet.spawn(flap(sim, 40))

        async def over() -> bool:
            return flapping.done() and not await sim.live_jobs()

        await sim.until(over, most=6 * 3600)
        copies = sum((h.copies for h in sim.fleet.hosts.values()), start=type(h0(sim).copies)())
        async with sim.context.ledger.read() as tx:
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
        await sim.prepare(seeds(5, pools))

        async def loaded() -> bool:
            return sum(sim.fleet.active[o] for o in ORIGINS) >= 50

        await sim.until(loaded, most=600)
        urgent = seeds(6, [pools[0]], rank=URGENT)[5:]
        asked = sim.clock.time()
        (job,) = await sim.prepare(urgent, now=asked)

        async def started() -> bool:
            async with sim.context.ledger.read() as tx:
                row = await jobs.get(tx, job)
            return row is not None and row.host is not None

        await sim.until(started, most=900)
        async with sim.context.ledger.read() as tx:
            row = await jobs.get(tx, job)
        assert row is not None
        assert row.updated - asked <= 1.0


async def test_certificates_converge_whatever_hosts_do(folder: Path) -> None:
    """Uploads, revocations, wiped keystores and flapping hosts end in the desired set (C05)."""
    async with simulation(folder, hosts=40, seed=3) as sim:
        ledger, now = sim.context.ledger, START
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
        await sim.prepare(seeds(5, [f"shared{n}" for n in range(4)]))
        sim.fleet.spawn(flap(sim, 15))

        async def over() -> bool:
            return not await sim.live_jobs()

        await sim.until(over, most=7200)
        async with sim.context.ledger.read() as tx:
            states = {row.state for row in await tx.execute(select(tables.job.c.state))}
        assert states == {"DONE"}


@pytest.mark.parametrize("shared", [False, True])
async def test_every_copy_can_be_removed_and_fetched_again(folder: Path, shared: bool) -> None:
    """Whatever retries, cancels and fail-overs a copy has behind it: the pool's lock remembers
    the highest fence, and each later job on the copy has a higher one."""
    async with simulation(folder, hosts=4, seed=11, pools=2, shared=shared) as sim:
        sim.fleet.failure_rate = 0.4
        pools = sorted({p.id for h in sim.fleet.hosts.values() for p in h.pools})
        for turn in range(3):
            new = await sim.prepare(seeds(3, pools), now=sim.clock.time())
            flapping = sim.fleet.spawn(flap(sim, 6))
            await sim.until(partial(_after, sim, sim.clock.time() - START + 20), most=8 * 3600)
            for job in new[::4]:
                await sim.cancel(job)

            async def over(flapping: Any = flapping) -> bool:
                return flapping.done() and not await sim.live_jobs()

            await sim.until(over, most=8 * 3600)
            await sim.remove_all()
            await sim.until(partial(_no_copies, sim), most=8 * 3600)
            assert not sim.fleet.files, f"turn {turn}: something was left in a pool"


async def test_a_copy_in_use_is_known_until_it_is_gone(folder: Path) -> None:
    """Its row stays with who uses it, and the removal is tried again when they may be gone."""
    async with simulation(folder, hosts=1, seed=12) as sim:
        sim.fleet.failure_rate = 0
        await sim.prepare(seeds(1, ["p0.0"]))

        async def there() -> bool:
            return [copy.state for copy in await sim.copies()] == ["ready"]

        await sim.until(there, most=600)
        (key,) = sim.fleet.files
        sim.fleet.users[key] = ["domain vm1"]
        await sim.remove_all()
        await sim.until(partial(_after, sim, 1800), most=2400)
        (copy,) = await sim.copies()
        assert (copy.state, copy.users) == ("removing", '["domain vm1"]')
        assert sim.fleet.files == {key}
        async with sim.context.ledger.read() as tx:
            events = [(row.type, row.level) for row in await tx.execute(select(tables.event))]
        assert events.count(("TEMPLATE.COPY.KEPT", "WARN")) == 1
        sim.fleet.users.clear()
        await sim.until(partial(_no_copies, sim), most=3600)
        assert not sim.fleet.files


async def _no_copies(sim: Simulation) -> bool:
    return not await sim.copies()
