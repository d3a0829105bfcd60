# SPDX-License-Identifier: Apache-2.0
"""One simulated host: the real agent's decisions over pools and a keystore of its own.

Its journal, its keystore and what it has fetched outlive its death; all else does not.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, Final

from fastdl.agent import desired
from fastdl.agent.journal import Row, State
from fastdl.agent.link import FIRST_PAUSE, LONGEST_PAUSE
from fastdl.agent.pools import MarkerFolder
from fastdl.errors import Cancelled, FastdlError
from fastdl.trust.alias import fold
from fastdl.wire import codec
from fastdl.wire import messages as m
from fastdl.wire.version import CURRENT, OLDEST
from scripts.simulating.link import HEARTBEAT_S, Link
from scripts.simulating.record import Record

PATIENCE_S: Final = 5.0
"""As the agent's: jobs that it brought along are not stopped so soon after a connection."""
KINDS: Final = (m.Kind.DOWNLOAD, m.Kind.REMOVE, m.Kind.CERTIFICATES)

Spawn = Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any]]
Dial = Callable[["SimHost", Link], bool]
"""Connects a host by a link; False: nobody listens."""


@dataclass(slots=True)
class Troubles:
    """How likely each is, for each chance that there is."""

    failure: float = 0.0
    reset: float = 0.0
    twice: float = 0.0
    cut_short: float = 0.0

    def disarm(self) -> None:
        """None from now on."""
        self.failure = self.reset = self.twice = self.cut_short = 0.0


class SimHost:
    """A host with *pools*, of which it runs *most* downloads at once at most."""

    def __init__(
        self,
        id_: str,
        pools: tuple[m.PoolInfo, ...],
        most: int,
        *,
        rng: Random,
        record: Record,
        storage: Path,
        troubles: Troubles,
        spawn: Spawn,
        dial: Dial,
    ) -> None:
        self.id = id_
        self.pools = pools
        self.most = most
        self.keystore: dict[str, str] = {}
        self.journal: dict[str, Row] = {}
        self._commands: dict[str, m.Command] = {}
        self._fetched: dict[tuple[str, str], float] = {}
        """(pool, volume) → seconds of a download that are still to come."""
        self._rng = rng
        self._record = record
        self._storage = storage
        self._troubles = troubles
        self._spawn = spawn
        self._dial = dial
        self._keystore_revision = 0
        self._awake = asyncio.Event()
        self._awake.set()
        self._cut = False
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._volumes: dict[tuple[str, str], asyncio.Lock] = defaultdict(asyncio.Lock)
        self._link: Link | None = None
        self._life: asyncio.Task[None] | None = None
        self._revision = 0
        self._document: m.Document | None = None
        self._welcomed = 0.0
        self._brought_along: frozenset[str] = frozenset()
        self._reporting = False

    # --- what happens to it ------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """Whether its agent runs."""
        return self._life is not None

    def start(self) -> None:
        """Start the agent: it resumes what its journal lists."""
        self._record.out_of_touch(self.id)
        self._awake.set()
        self._life = self._spawn(self._live())
        for job, row in list(self.journal.items()):
            if row.state is not State.ENDED:
                self._run(job)

    def die(self) -> None:
        """End at once, wherever it is."""
        life, self._life = self._life, None
        if life is not None:
            life.cancel()
        for task in self._tasks.values():
            task.cancel("died")
        self._tasks.clear()
        if self._link is not None:
            self._link.hang_up()
        self._disconnected()

    def freeze(self) -> None:
        """Stop doing anything; connections stay until the manager misses an answer."""
        self._awake.clear()
        self._unheard()

    def thaw(self) -> None:
        """Continue as if nothing had happened."""
        self._awake.set()
        self._heard()

    def cut(self) -> None:
        """The network between it and the manager delivers nothing; downloads continue."""
        self._cut = True
        self._unheard()

    def heal(self) -> None:
        """The network delivers again what it has not given up."""
        self._cut = False
        self._heard()

    def disconnect(self) -> None:
        """Lose the connection, with what is under way."""
        if self._link is not None:
            self._link.reset()

    def _passes(self) -> bool:
        return self._awake.is_set() and not self._cut

    def _unheard(self) -> None:
        self._record.out_of_touch(self.id)
        if self._link is not None:
            self._spawn(self._time_out(self._link))

    async def _time_out(self, link: Link) -> None:
        await asyncio.sleep(HEARTBEAT_S)
        if not self._passes():
            link.reset()

    def _heard(self) -> None:
        if self._link is not None and self._passes():
            self._record.in_touch(self.id)
            self._link.flush()

    # --- its connection ----------------------------------------------------------------------

    async def _live(self) -> None:
        pause = FIRST_PAUSE
        while True:
            await self._awake.wait()
            link = Link(self._rng, self._passes)
            if not self._cut and self._dial(self, link):
                self._link = link
                try:
                    if await self._converse(link):
                        pause = FIRST_PAUSE
                finally:
                    link.hang_up()
                    self._disconnected()
            await asyncio.sleep(pause * self._rng.uniform(0.5, 1.0))
            pause = min(pause * 2, LONGEST_PAUSE)

    def _disconnected(self) -> None:
        self._link = None
        self._record.out_of_touch(self.id)

    async def _converse(self, link: Link) -> bool:
        """Follow the manager until the connection ends; whether it was accepted."""
        link.send(codec.encode(self._hello()))
        welcome = await self._received(link)
        if not isinstance(welcome, m.Welcome):
            return False
        self._record.in_touch(self.id)
        self._revision, self._document = 0, None
        self._welcomed = asyncio.get_running_loop().time()
        self._brought_along = frozenset(self._tasks)
        beats = self._spawn(self._beat(welcome.beat_s))
        try:
            self._repeat_results()
            while (message := await self._received(link)) is not None:
                self._handle(message)
        finally:
            beats.cancel()
        return True

    async def _received(self, link: Link) -> m.Message | None:
        text = await link.read()
        await self._awake.wait()
        if text is None:
            return None
        self._record.message(self.id, text)
        return codec.decode(text, limit=m.TO_AGENT_MAX)

    def _hello(self) -> m.Hello:
        return m.Hello(
            host_id=self.id,
            name=self.id,
            wire_oldest=OLDEST,
            wire_newest=CURRENT,
            version="sim",
            kinds=tuple(kind.value for kind in KINDS),
            inventory=self._inventory(),
            max_downloads=self.most,
        )

    def _inventory(self) -> m.Inventory:
        self._keystore_revision += 1
        held = tuple(m.CertificateInfo(alias=a, sha256=f) for a, f in self.keystore.items())
        return m.Inventory(
            pools=self.pools, certificates=held, keystore_revision=self._keystore_revision
        )

    async def _beat(self, every: float) -> None:
        for n in range(1, 1 << 30):
            await asyncio.sleep(every * self._rng.uniform(0.8, 1.2))
            await self._awake.wait()
            self._send(m.Beat())
            if n % 3 == 0:
                self._repeat_results()

    def _send(self, message: m.Message) -> None:
        if isinstance(message, m.JobResult) and message.done is not None:
            self._record.done.add((message.job, message.fence))
        link = self._link
        if link is None or link.to_host.closed:
            return
        if self._rng.random() < self._troubles.reset:
            link.reset()  # with this message, and whatever else is under way
            return
        text = codec.encode(message)
        if self._rng.random() < self._troubles.cut_short:
            text = text[: self._rng.randrange(len(text))]
        self._record.message(self.id, text)
        link.send(text)
        if isinstance(message, m.JobResult) and self._rng.random() < self._troubles.twice:
            link.send(text)

    def _repeat_results(self) -> None:
        for row in list(self.journal.values()):
            if row.owes_result:
                self._send(row.result())

    def report(self) -> None:
        """Send the inventory soon."""
        if not self._reporting:
            self._reporting = True
            self._spawn(self._report())

    async def _report(self) -> None:
        await asyncio.sleep(self._rng.uniform(0.2, 2.0))
        await self._awake.wait()
        self._reporting = False
        self._send(m.InventoryReport(inventory=self._inventory()))

    # --- messages of the manager -------------------------------------------------------------

    def _handle(self, message: m.Message) -> None:
        match message:
            case m.Document() if message.rev >= self._revision:
                self._revision, self._document = message.rev, message
                self._follow(message)
            case m.ResultAck():
                row = self.journal.get(message.job)
                if row is not None and row.fence == message.fence:
                    self.journal[row.job] = replace(row, acked=True)
            case m.InventoryWanted():
                self.report()

    def _follow(self, document: m.Document) -> None:
        for action in desired.plan(document, self.journal):
            match action:
                case desired.Start(command):
                    self._start(command)
                case desired.Adopt(job, fence):
                    row = self.journal[job]
                    wanted = State.ENDED if row.state is State.ENDED else State.RUNNING
                    self.journal[job] = replace(row, fence=fence, acked=False, state=wanted)
                case desired.Report(job, fence):
                    row = self.journal[job]
                    again = replace(row, fence=max(row.fence, fence), acked=False)
                    self.journal[job] = again
                    self._send(again.result())
                case desired.Stop(job):
                    self._stop(job)
                case desired.Forget(job):
                    del self.journal[job]

    def _start(self, command: m.Command) -> None:
        self.journal[command.job] = Row(
            job=command.job,
            kind=command.kind,
            fence=command.fence,
            state=State.RUNNING,
            args="",
            done=None,
            failure=None,
            acked=False,
        )
        self._commands[command.job] = command
        self._run(command.job)
        self._send(m.JobStarted(job=command.job, fence=command.fence))

    def _stop(self, job: str) -> None:
        left = self._welcomed + PATIENCE_S - asyncio.get_running_loop().time()
        if job in self._brought_along and left > 0:
            self._spawn(self._follow_later(left + 0.01, self._document))
            return
        self.journal[job] = replace(self.journal[job], state=State.STOPPING)
        if (task := self._tasks.get(job)) is not None:
            task.cancel("stopped")

    async def _follow_later(self, after: float, document: m.Document | None) -> None:
        await asyncio.sleep(after)
        await self._awake.wait()
        if document is not None and document is self._document and self._link is not None:
            self._follow(document)

    # --- jobs --------------------------------------------------------------------------------

    def _run(self, job: str) -> None:
        self._tasks[job] = self._spawn(self._work(job))

    async def _work(self, job: str) -> None:
        done: m.Done | None = None
        failure: m.Failure | None = None
        try:
            if self.journal[job].state is State.STOPPING:
                raise Cancelled("taken back before the agent started again")
            done = await self._carry_out(self._commands[job], self.journal[job].fence)
        except asyncio.CancelledError:
            if not self.alive or self.journal[job].state is not State.STOPPING:
                raise  # the agent died: its journal lists the job
            failure = codec.failure_of(Cancelled("the manager took this job back"))
        except FastdlError as exc:
            failure = codec.failure_of(exc)
        del self._tasks[job]
        ended = replace(
            self.journal[job],
            state=State.ENDED,
            done=codec.done_to_json(done) if done is not None else None,
            failure=json.dumps(codec.to_plain(failure)) if failure is not None else None,
        )
        self.journal[job] = ended
        self._send(ended.result())
        self.report()

    async def _carry_out(self, command: m.Command, fence: int) -> m.Done:
        args = command.args
        if isinstance(args, m.CertificatesArgs):
            return await self._certificates(args)
        assert isinstance(args, m.DownloadArgs | m.RemoveArgs)
        reaches = frozenset(pool.id for pool in self.pools)
        self._record.command(self.id, reaches, command.job, command.fence, args.pool)
        key = (args.pool, args.volume)
        async with self._volumes[key]:
            with MarkerFolder(self._storage / args.pool).lock(args.volume, fence=fence):
                if isinstance(args, m.DownloadArgs):
                    await self._download(args)
                    return m.DownloadDone(install_path=args.volume, virtual_size=1)
                await asyncio.sleep(self._rng.uniform(0.1, 2))
                await self._awake.wait()
                was_there = self._record.files.pop(key, None) is not None
                return m.RemoveDone(was_present=was_there)

    async def _download(self, args: m.DownloadArgs) -> None:
        key = (args.pool, args.volume)
        if key in self._record.files:
            return  # done before, and not reported
        loop = asyncio.get_running_loop()
        left = self._fetched.pop(key, None) or self._rng.uniform(1, 60)
        origin = args.transfer.sources[0].split("/")[2]
        run, began = self._record.begin(self.id, origin, args.pool), loop.time()
        try:
            trouble = self._rng.random() < self._troubles.failure
            await asyncio.sleep(left * self._rng.random() if trouble else left)
            await self._awake.wait()
            if trouble:
                raise codec.error_of(self._failure())
            self._record.publish(self.id, args.pool, args.volume, args.template)
        finally:
            self._record.end(run)
            self._fetched[key] = max(0.5, left - (loop.time() - began))
        del self._fetched[key]
        await asyncio.sleep(self._rng.uniform(0.01, 0.5))  # published, not journaled yet
        await self._awake.wait()

    def _failure(self) -> m.Failure:
        chance = self._rng.random()
        if chance < 0.6:
            return m.Failure(code=10, message="reset", retryable=True, elsewhere=True)
        if chance < 0.9:
            wait = self._rng.uniform(1, 20)
            return m.Failure(code=11, message="503", retryable=True, retry_after_s=wait)
        return m.Failure(code=21, message="digest")

    async def _certificates(self, args: m.CertificatesArgs) -> m.Done:
        await asyncio.sleep(self._rng.uniform(0.2, 1))
        await self._awake.wait()
        for want in args.install:
            self.keystore[fold(want.alias)] = want.sha256
        for alias in args.remove:
            self.keystore.pop(fold(alias), None)
        names = (*(want.alias for want in args.install), *args.remove)
        found = self._inventory()
        return m.CertificatesDone(
            outcomes=tuple(m.AliasOutcome(alias=name) for name in names),
            certificates=found.certificates,
            keystore_revision=found.keystore_revision,
        )
