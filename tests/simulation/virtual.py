# SPDX-License-Identifier: Apache-2.0
"""Virtual time, and a fleet of hosts that live in it.

Time moves only when nothing is left to do at the present moment: a day of downloads takes as
long as its computations do, and no test waits for a clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.agent.pools import MarkerFolder
from fastdl.errors import FastdlError
from fastdl.manager.hosts.ca import Peer
from fastdl.manager.hosts.handler import HostHandler
from fastdl.manager.hosts.progress import ProgressBoard
from fastdl.manager.ledger import jobs
from fastdl.manager.ledger.engine import Ledger, Work
from fastdl.trust.alias import fold
from fastdl.wire import codec
from fastdl.wire import messages as m
from fastdl.wire.version import CURRENT, OLDEST

START = 1_800_000_000.0


class CountingLedger:
    """A ledger that knows whether anybody is using it at this moment."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.sqlite = ledger.sqlite
        self.busy = 0

    @contextlib.asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """As ``Ledger.read``."""
        self.busy += 1
        try:
            async with self._ledger.read() as tx:
                yield tx
        finally:
            self.busy -= 1

    async def write(self, work: Work[Any]) -> Any:
        """As ``Ledger.write``."""
        self.busy += 1
        try:
            return await self._ledger.write(work)
        finally:
            self.busy -= 1

    async def close(self) -> None:
        """As ``Ledger.close``."""
        await self._ledger.close()


class VirtualClock:
    """A ``Clock`` that jumps to the next sleeper when all else is quiet."""

    def __init__(self, ledger: CountingLedger) -> None:
        self._ledger = ledger
        self._now = START
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()
        self.ahead = 0.0
        """How far somebody set the wall clock ahead."""

    def time(self) -> float:
        """The virtual time, as a wall clock shows it."""
        return self._now + self.ahead

    def steady(self) -> float:
        """The virtual time."""
        return self._now

    async def sleep(self, seconds: float) -> None:
        """Wait in virtual time."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (self._now + max(seconds, 0.0), next(self._order), future)
        heapq.heappush(self._sleepers, entry)
        await future

    async def run(self, until: asyncio.Event, *, most: float) -> None:
        """Move time until *until* is set; AssertionError after *most* virtual seconds."""
        while not until.is_set():
            await self._quiet()
            while self._sleepers and self._sleepers[0][2].done():
                heapq.heappop(self._sleepers)
            assert self._sleepers, "nothing will ever happen again"
            self._now = max(self._now, self._sleepers[0][0])
            assert self._now - START < most, f"not done after {most:g} virtual seconds"
            while self._sleepers and self._sleepers[0][0] <= self._now:
                _, _, future = heapq.heappop(self._sleepers)
                if not future.done():
                    future.set_result(None)

    async def _quiet(self) -> None:
        calm = 0
        while calm < 12:
            await asyncio.sleep(0.0005 if self._ledger.busy else 0)
            calm = 0 if self._ledger.busy else calm + 1


@dataclass
class SimHost:
    """One host: its pools, its keystore, and its own account of what ran when."""

    id: str
    name: str
    pools: tuple[m.PoolInfo, ...]
    fleet: SimFleet
    keystore: dict[str, str] = field(default_factory=dict)
    copies: Counter[str] = field(default_factory=Counter)
    running: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    fences: dict[str, int] = field(default_factory=dict)
    results: dict[str, m.JobResult] = field(default_factory=dict)
    revisions: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    up: bool = False

    def inventory(self) -> m.Inventory:
        """What it has."""
        held = tuple(m.CertificateInfo(alias=a, sha256=f) for a, f in self.keystore.items())
        return m.Inventory(
            pools=self.pools, certificates=held, keystore_revision=next(self.revisions)
        )

    async def connect(self) -> None:
        """Come up, and repeat what was not acknowledged."""
        self.up = True
        hello = m.Hello(
            host_id=self.id,
            name=self.name,
            wire_oldest=OLDEST,
            wire_newest=CURRENT,
            version="sim",
            kinds=tuple(k.value for k in m.Kind),
            inventory=self.inventory(),
            max_downloads=4,
        )
        await self.fleet.handler.admit(Peer(self.id, "k", ""), hello)
        for result in list(self.results.values()):
            await self.tell(result)
        self.fleet.post(self.id)

    async def crash(self) -> None:
        """Vanish with everything that was running."""
        self.up = False
        for task in self.running.values():
            task.cancel()
        self.running.clear()
        await self.fleet.handler.gone(self.id, reason="crash")

    def follow(self, document: m.Document) -> None:
        """Do what the document says."""
        wanted = {c.job: c for c in document.commands}
        for job in [job for job in self.running if job not in wanted]:
            self.running.pop(job).cancel()
        for command in wanted.values():
            if command.fence < self.fences.get(command.job, 0):
                continue
            self.fences[command.job] = command.fence
            if command.job in self.results:
                old = self.results[command.job]
                again = m.JobResult(
                    job=old.job,
                    fence=command.fence,
                    kind=old.kind,
                    done=old.done,
                    failure=old.failure,
                )
                self.fleet.spawn(self.tell(again))
            elif command.job not in self.running:
                self.running[command.job] = self.fleet.spawn(self.work(command))

    async def work(self, command: m.Command) -> None:
        """Carry out one command in virtual time."""
        args = command.args
        outcome: m.Done | m.Failure
        if isinstance(args, m.DownloadArgs):
            await self.tell(m.JobStarted(job=command.job, fence=command.fence))
            outcome = await self.download(args, self.fences[command.job])
        elif isinstance(args, m.RemoveArgs):
            outcome = await self.remove(args, self.fences[command.job])
        elif isinstance(args, m.ProbeArgs):
            await asyncio.Event().wait()  # nobody answers here
        else:
            assert isinstance(args, m.CertificatesArgs)
            await self.fleet.clock.sleep(self.fleet.rng.uniform(0.2, 1))
            for want in args.install:
                self.fleet.imports[self.id, want.alias] += 1
                self.keystore[fold(want.alias)] = want.sha256
            for alias in args.remove:
                self.keystore.pop(fold(alias), None)
            names = (*(w.alias for w in args.install), *args.remove)
            found = self.inventory()
            outcome = m.CertificatesDone(
                outcomes=tuple(m.AliasOutcome(alias=name) for name in names),
                certificates=found.certificates,
                keystore_revision=found.keystore_revision,
            )
        failed = isinstance(outcome, m.Failure)
        result = m.JobResult(
            job=command.job,
            fence=self.fences[command.job],
            kind=command.kind,
            done=None if failed else outcome,
            failure=outcome if failed else None,
        )  # type: ignore[arg-type]
        self.results[command.job] = result
        self.running.pop(command.job, None)
        await self.tell(result)

    async def download(self, args: m.DownloadArgs, fence: int) -> m.Done | m.Failure:
        """Take some time; fail now and then; keep the fleet's account right."""
        fleet, origin = self.fleet, args.transfer.sources[0].split("/")[2]
        fleet.enter(origin, self.id)
        try:
            with fleet.lock(args.pool, args.volume, fence):
                await fleet.clock.sleep(fleet.rng.uniform(5, 60))
                if fleet.rng.random() < fleet.failure_rate:
                    return m.Failure(code=10, message="reset", retryable=True, elsewhere=True)
                fleet.files.add((args.pool, args.volume))
        except FastdlError as exc:
            return codec.failure_of(exc)
        finally:
            fleet.leave(origin, self.id)
        self.copies[f"{args.template}:{args.pool}"] += 1
        return m.DownloadDone(install_path=args.volume, virtual_size=1)

    async def remove(self, args: m.RemoveArgs, fence: int) -> m.Done | m.Failure:
        """Remove a copy, unless somebody uses it."""
        key = (args.pool, args.volume)
        try:
            with self.fleet.lock(*key, fence):
                await self.fleet.clock.sleep(self.fleet.rng.uniform(0.1, 2))
                users = tuple(self.fleet.users.get(key, ()))
                if users and not args.forced:
                    return m.RemoveDone(kept=True, users=users, reason=f"used by {users[0]}")
                was_there = key in self.fleet.files
                self.fleet.files.discard(key)
                return m.RemoveDone(was_present=was_there)
        except FastdlError as exc:
            return codec.failure_of(exc)

    async def tell(self, message: m.Message) -> None:
        """Send to the manager, unless the link is down or loses it."""
        while not self.up or self.fleet.rng.random() < self.fleet.loss:
            if not (isinstance(message, m.JobResult) and self.up):
                return
            await self.fleet.clock.sleep(30)
        answer = await self.fleet.handler.receive(self.id, message)
        if isinstance(answer, m.ResultAck):
            self.results.pop(answer.job, None)


class SimFleet:
    """All hosts, as the manager's ``Delivery`` and as a check of its limits."""

    def __init__(self, ledger: CountingLedger, clock: VirtualClock, seed: int, pools: Path) -> None:
        self.pools = pools
        self.files: set[tuple[str, str]] = set()
        """(pool, volume) of what lies in the pools."""
        self.users: dict[tuple[str, str], list[str]] = {}
        """Who uses a copy."""
        self.ledger = ledger
        self.clock = clock
        self.rng = random.Random(seed)
        self.hosts: dict[str, SimHost] = {}
        self.imports: Counter[tuple[str, str]] = Counter()
        self.active: Counter[str] = Counter()
        self.peak: Counter[str] = Counter()
        self.failure_rate = 0.05
        self.loss = 0.02
        self.progress: ProgressBoard
        self.handler: HostHandler
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, coroutine: Any) -> asyncio.Task[Any]:
        """Run beside everything else."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def lock(self, pool: str, volume: str, fence: int) -> contextlib.AbstractContextManager[None]:
        """The lock that real hosts take: it is the pool's, and remembers the highest fence."""
        return MarkerFolder(self.pools / pool).lock(volume, fence=fence)

    def enter(self, *keys: str) -> None:
        """A download starts."""
        for key in keys:
            self.active[key] += 1
            self.peak[key] = max(self.peak[key], self.active[key])

    def leave(self, *keys: str) -> None:
        """A download stops, however."""
        for key in keys:
            self.active[key] -= 1

    # Delivery

    def post(self, host: str) -> None:
        """Deliver the document, unless the host is away (it gets one when it connects)."""
        self.spawn(self._deliver(host))

    async def _deliver(self, host: str) -> None:
        if not self.hosts[host].up:
            return
        async with self.ledger.read() as tx:
            document = await jobs.document(tx, host)
        self.progress.given(host, [command.job for command in document.commands])
        if self.hosts[host].up:
            self.hosts[host].follow(document)

    def send(self, host: str, message: m.Message) -> None:
        """Only inventories are asked for."""
        if isinstance(message, m.InventoryWanted) and self.hosts[host].up:
            sim = self.hosts[host]
            self.spawn(self._report(sim, sim.inventory()))

    async def _report(self, sim: SimHost, inventory: m.Inventory) -> None:
        """Looking at the pools takes its time; much may have been reported meanwhile."""
        await self.clock.sleep(self.rng.uniform(0, 2))
        await sim.tell(m.InventoryReport(inventory=inventory))

    def drop(self, host: str, reason: str, *, refusal: m.Refused | None = None) -> None:
        """The manager closes the connection."""
        self.spawn(self.hosts[host].crash())

    async def stop(self) -> None:
        """End everything."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
