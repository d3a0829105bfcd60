# SPDX-License-Identifier: Apache-2.0
"""One seed: its zone is drawn, its history happens, all heals, the invariants are checked."""

from __future__ import annotations

import asyncio
import logging
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final, Self

from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.manager.hosts.ca import Authority, open_authority
from fastdl.manager.ledger import copies, tables
from fastdl.manager.ledger import hosts as hosts_table
from fastdl.manager.ledger.engine import Ledger, default_url, open_ledger
from scripts.simulating.history import Step, ZonePlan, drawn_history, drawn_zone
from scripts.simulating.inline import inline_sqlite
from scripts.simulating.loop import StalledError, VirtualLoop, seeded
from scripts.simulating.zone import BusyLedger, Zone

HEALED_S: Final = 4 * 3600.0
"""The longest that a zone without troubles may take to end what was begun."""
CALM_S: Final = 45.0
"""So long nothing may happen any more before the end is believed: late reports have arrived."""
ASKED: Final = 50
"""Pools, of a large zone, in which every template is expected at the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one run gave. *seconds*: of virtual time; *took_s*: of this process's processor."""

    seed: int
    zone: ZonePlan
    steps: Sequence[Step]
    violations: Sequence[str]
    hosts: int
    jobs: int
    commands: int
    effective: int
    seconds: float
    took_s: float
    trace: str
    """The same for two runs in which the same happened at the same moments."""


class Simulator:
    """Runs seeds, one after the other, on one ledger that is emptied between them."""

    def __init__(self, database: str | None = None) -> None:
        """*database*: the URL of an empty PostgreSQL; None = SQLite in memory."""
        self._database = database
        self._held = ExitStack()

    def __enter__(self) -> Self:
        memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
        folder = Path(self._held.enter_context(tempfile.TemporaryDirectory(dir=memory)))
        self._folder = folder
        self._held.enter_context(inline_sqlite())
        self._authority: Authority = open_authority(folder / "ca")
        self._loop = VirtualLoop(lambda: self._ledger.users > 0)
        self._real: Ledger = open_ledger(self._database or default_url(folder))
        self._ledger = BusyLedger(self._real)
        return self

    def __exit__(self, *_: object) -> None:
        self._ledger.users += 1  # closing takes real time
        self._loop.run_until_complete(self._real.close())
        self._loop.close()
        self._held.close()

    def run(self, seed: int, hosts: int, *, steps: Sequence[Step] | None = None) -> Outcome:
        """Run *seed* with at most *hosts* hosts; *steps*: instead of the drawn history."""
        rng = Random(f"zone {seed}")
        plan = drawn_zone(rng, hosts)
        drawn = drawn_history(rng, plan)
        steps = drawn if steps is None else steps
        began = time.process_time()
        with seeded(seed), tempfile.TemporaryDirectory(dir=self._folder) as pools:
            zone = Zone(
                plan, seed, ledger=self._ledger, authority=self._authority, folder=Path(pools)
            )
            for pool in plan.pools:
                (Path(pools) / pool).mkdir()
            try:
                self._loop.run_until_complete(self._whole(zone, steps))
            except StalledError as exc:
                zone.record.violations.append(str(exc))
            jobs = self._loop.run_until_complete(self._end(zone))
        return Outcome(
            seed=seed,
            zone=plan,
            steps=steps,
            violations=tuple(zone.record.violations),
            hosts=len(plan.hosts),
            jobs=jobs,
            commands=zone.record.commands,
            effective=zone.record.effective,
            seconds=self._seconds,
            took_s=time.process_time() - began,
            trace=zone.record.heard.hexdigest(),
        )

    async def _whole(self, zone: Zone, steps: Sequence[Step]) -> None:
        self._loop.moment = 0.0
        logging.disable(logging.CRITICAL)
        await zone.start()
        for step in steps:
            await asyncio.sleep(max(0.0, step.at - self._loop.time()))
            await happen(zone, step)
            if zone.record.violations:
                return
        await _heal(zone)
        await _settle(zone)
        for template in zone.plan.origins:  # what was given up, or cancelled, succeeds now
            await zone.prepare(template, zone.plan.pools[:ASKED], urgent=False)
        await _settle(zone)
        if not zone.record.violations:
            await check(zone)

    async def _end(self, zone: Zone) -> int:
        self._seconds = self._loop.time()
        await zone.stop()
        count = len(await zone.rows(tables.job))

        async def empty(tx: AsyncConnection) -> None:
            for table in reversed(tables.metadata.sorted_tables):
                await tx.execute(delete(table))

        await self._ledger.write(empty)
        logging.disable(logging.NOTSET)
        return count


def batch(seeds: Iterable[int], hosts: int) -> list[Outcome]:
    """Run *seeds* in this process."""
    with Simulator() as simulator:
        return [simulator.run(seed, hosts) for seed in seeds]


async def happen(zone: Zone, step: Step) -> None:
    """Let *step* happen now; what lasts ends by itself."""
    hosts = [zone.hosts[name] for name in step.to if name in zone.hosts]
    match step.what if step.what.endswith("there") else step.what.split()[0]:
        case "prepare":
            template, *pools = step.to
            await zone.prepare(template, pools, urgent=step.what.endswith("urgent"))
        case "cancel":
            await zone.cancel(int(step.to[0]))
        case "delete":
            await zone.delete(step.to[0])
        case "upload":
            await zone.upload(step.to[0])
        case "revoke":
            await zone.revoke(step.to[0])
        case "revoke there" | "upload there":
            alias, name = step.to
            await zone.want_there(alias, name, present=step.what == "upload there")
        case "limit":
            zone.limit(step.to[0], int(step.to[1]))
        case "maintain" | "disable":
            state = hosts_table.PREPARING if step.what == "maintain" else hosts_table.DISABLED
            for host in hosts:
                await zone.allocate(host.id, state)
            zone.spawn(_later(zone, step))
        case "wipe":
            for host in hosts:
                host.keystore.clear()
                host.report()
        case "break":
            for host in hosts:
                host.disconnect()
        case "restart":
            await zone.stop_manager()
            zone.spawn(_later(zone, step))
        case _:
            for host in hosts:
                if not host.alive:
                    continue
                {"die": host.die, "freeze": host.freeze, "cut": host.cut}[step.what]()
            zone.spawn(_later(zone, step))


async def _later(zone: Zone, step: Step) -> None:
    await asyncio.sleep(step.lasts)
    if step.what.startswith("restart"):
        if zone.manager is None:
            await zone.start_manager()
        return
    for name in step.to:
        host = zone.hosts[name]
        if step.what in {"maintain", "disable"}:
            await zone.check_idle(name)
            await zone.allocate(name, hosts_table.ENABLED)
        elif step.what == "die" and not host.alive:
            host.start()
        elif step.what == "freeze":
            host.thaw()
        elif step.what == "cut":
            host.heal()


async def _heal(zone: Zone) -> None:
    """No troubles from now on, and everybody is back."""
    zone.troubles.disarm()
    await asyncio.sleep(1.0)
    if zone.manager is None:
        await zone.start_manager()
    for host in zone.hosts.values():
        await zone.allocate(host.id, hosts_table.ENABLED)
        host.heal()
        host.thaw()
        if not host.alive:
            host.start()


async def _settle(zone: Zone) -> None:
    """Return when nothing has been left to do for a while, or when it takes too long."""
    loop = asyncio.get_running_loop()
    until, calm = loop.time() + HEALED_S, loop.time()
    while loop.time() - calm < CALM_S and not zone.record.violations:
        if loop.time() > until:
            zone.record.violated("it does not settle: " + await _restless(zone))
            return
        await asyncio.sleep(9.0)
        if await _restless(zone):
            calm = loop.time()


async def _restless(zone: Zone) -> str:
    live = await zone.rows(tables.job, tables.job.c.ended.is_(None))
    if live:
        return f"{len(live)} jobs live, the first {live[0].id} {live[0].state} on {live[0].host}"
    if removing := await zone.rows(tables.copy, tables.copy.c.state == copies.REMOVING):
        return f"{len(removing)} copies are being removed"
    wrong = [host.id for host in zone.hosts.values() if host.keystore != zone.keystore(host.id)]
    return f"the keystore of {wrong[0]} is not what it should be" if wrong else ""


async def check(zone: Zone) -> None:
    """Note what does not hold at the end."""
    record, manager = zone.record, zone.manager
    assert manager is not None
    zone.check_loops(manager)
    rows = await zone.rows(tables.copy)
    known = {copies.key_of(row): row for row in rows}
    for key, row in known.items():
        if row.state == copies.READY and key not in record.files:
            record.violated(f"{key} is ready, and not there")
    for key, template in record.files.items():
        expected = key in known or key in record.strays
        if not expected:
            record.violated(f"{key} of {template} is there, and nobody knows")
    live = [(t, pool) for (pool, volume), t in record.files.items() if t not in zone.deleted]
    for template, pool in set(live):
        if live.count((template, pool)) > 1:
            record.violated(f"{template} is in {pool} more than once")
    for template in zone.plan.origins:
        if template not in zone.deleted:
            for pool in zone.plan.pools[:ASKED]:
                if (template, pool) not in live:
                    record.violated(f"{template} is not in {pool} at the end")
    for job in await zone.rows(tables.job):
        if job.kind in {"download", "remove"} and job.state == "DONE":
            if (job.id, job.fence) not in record.done:
                record.violated(f"job {job.id} is done, and no host did it under {job.fence}")
            elif record.started.get((job.id, job.fence), job.host) != job.host:
                record.violated(f"job {job.id} is done by another host than {job.host}")
    for slot in await zone.rows(tables.slot):
        if slot.active:
            record.violated(f"{slot.kind} {slot.key} counts {slot.active} that do not run")
    for host in await zone.rows(tables.host):
        if host.state != "Up":
            record.violated(f"{host.id} is connected, and {host.state}")
    for api_job in await zone.rows(tables.api_job):
        if api_job.status == 0:
            record.violated(f"the request {api_job.id} never ends")
    if held := [key for key, runs in record.running.items() if runs]:
        record.violated(f"{held[0]} is still being downloaded from")
