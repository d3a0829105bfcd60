# SPDX-License-Identifier: Apache-2.0
"""What happens when somebody sets the manager's clock? Nothing: durations go by another one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Row, select, update

from fastdl.manager.hosts.waits import CANCEL_S
from fastdl.manager.ledger import certs, jobs, tables
from fastdl.manager.ledger.jobs import NewJob
from fastdl.wire import messages as m
from tests.simulation.virtual import START
from tests.simulation.zone import Simulation, seeds, simulation

YEARS = 10 * 365.25 * 86400
JUMPS = pytest.mark.parametrize("jump", [3600.0, -3600.0, YEARS, -YEARS])


async def rows(sim: Simulation, table: Any) -> list[Row[Any]]:
    """Everything in a table."""
    async with sim.context.ledger.read() as tx:
        return list(await tx.execute(select(table)))


async def submit(sim: Simulation, new: list[NewJob]) -> list[str]:
    """Submit jobs as they are submitted now."""
    now = sim.clock.time()
    ids: list[str] = await sim.context.ledger.write(lambda tx: jobs.submit(tx, new, now=now))
    sim.dispatcher.wake()
    return ids


async def after(sim: Simulation, seconds: float) -> None:
    """Let virtual time pass."""
    end = sim.clock.steady() + seconds

    async def passed() -> bool:
        return sim.clock.steady() >= end

    await sim.until(passed, most=24 * 3600)


@JUMPS
async def test_downloads_and_hosts_do_not_notice_a_jump(folder: Path, jump: float) -> None:
    """Nobody becomes silent, no job is started twice, nothing waits for years (G04)."""
    async with simulation(folder, hosts=10, seed=6) as sim:
        sim.fleet.loss = sim.fleet.failure_rate = 0
        await submit(sim, seeds(3, [f"p{i}.0" for i in range(10)]))
        await after(sim, 20)
        sim.clock.ahead = jump

        async def over() -> bool:
            return not await sim.live_jobs()

        await sim.until(over, most=1800)
        await after(sim, 60)
        assert {row.state for row in await rows(sim, tables.host)} == {"Up"}
        assert {(row.state, row.attempt) for row in await rows(sim, tables.job)} == {("DONE", 1)}
        assert sum(len(h.copies) for h in sim.fleet.hosts.values()) == 30
        assert all(n == 1 for h in sim.fleet.hosts.values() for n in h.copies.values())
        assert not [e for e in await rows(sim, tables.event) if e.type == "HOST.DOWN"]


@JUMPS
async def test_a_job_that_is_put_off_waits_as_long_as_it_should(folder: Path, jump: float) -> None:
    """Not at once, not for years: its delay, whatever the wall clock says meanwhile (G04)."""
    async with simulation(folder, hosts=1, seed=7) as sim:
        sim.fleet.loss, sim.fleet.failure_rate = 0, 1
        (job,) = await submit(sim, seeds(1, ["p0.0"]))

        async def state(*wanted: str) -> bool:
            return (await rows(sim, tables.job))[0].state in wanted

        await sim.until(lambda: state("RETRY_WAIT"), most=600)
        (row,) = await rows(sim, tables.job)
        assert row.id == job
        due, sim.fleet.failure_rate, sim.clock.ahead = row.not_before, 0.0, jump
        await sim.until(lambda: state("RUNNING", "GRANTED"), most=900)
        assert due <= sim.clock.steady() <= due + 10
        await sim.until(lambda: state("DONE"), most=900)


@JUMPS
async def test_a_host_that_does_not_answer_is_given_its_time(folder: Path, jump: float) -> None:
    """A probe keeps its two minutes, a cancelled download until it must have stopped (G04)."""
    async with simulation(folder, hosts=1, seed=8) as sim:
        sim.fleet.loss = 1  # the host hears everything and nothing that it says arrives
        args = m.ProbeArgs(transfer=m.Transfer(sources=("https://origin/t",)))
        probe = NewJob(kind=m.Kind.PROBE, zone="z", host="h0", args=args, rank=0)
        (asked,) = await submit(sim, [probe])
        (download,) = await submit(sim, seeds(1, ["p0.0"]))

        async def held() -> bool:
            return bool(sim.fleet.hosts["h0"].running)

        sim.fleet.spawn(sim.fleet.hosts["h0"].fleet._deliver("h0"))
        await sim.until(held, most=60)
        await sim.cancel(download)
        began, sim.clock.ahead = sim.clock.steady(), jump

        async def ended(job: str) -> bool:
            return any(row.id == job and row.ended for row in await rows(sim, tables.job))

        await sim.until(lambda: ended(download), most=600)
        assert CANCEL_S <= sim.clock.steady() - began <= CANCEL_S + 15
        await sim.until(lambda: ended(asked), most=900)
        assert 110 <= sim.clock.steady() - began <= 140


async def test_certificate_pushes_are_retried_after_a_clock_was_set_back(folder: Path) -> None:
    """A retry stored before a restart may seem years away: it counts as due (G04)."""
    async with simulation(folder, hosts=2, seed=9) as sim:
        sim.fleet.loss = 0
        ledger, hosts = sim.context.ledger, list(sim.fleet.hosts)
        made = await ledger.write(
            lambda tx: certs.create(
                tx, zone="z", alias="C", pem="x", sha256="f", not_after=START * 2, now=START
            )
        )
        await ledger.write(lambda tx: certs.want(tx, made, hosts, present=True))
        later = update(tables.cert_host).values(failures=1, retry_at=START + YEARS)
        await ledger.write(lambda tx: tx.execute(later))

        async def converged() -> bool:
            return all(h.keystore == {"c": "f"} for h in sim.fleet.hosts.values())

        await sim.until(converged, most=60)
