# SPDX-License-Identifier: Apache-2.0
"""Which jobs are running on this host, and how do they start, stop and end?

The journal is written first and last; in between a job is a task. The number of concurrent
downloads is limited, each volume has one at a time, and each is checked again when an anchor is
removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fastdl.agent.commands import Commands
from fastdl.agent.journal import Journal, State
from fastdl.agent.provenance import mirror_report
from fastdl.agent.work import ProgressCallback
from fastdl.errors import Cancelled, FastdlError
from fastdl.wire import codec
from fastdl.wire import messages as m

log = logging.getLogger(__name__)

_PROGRESS_SECONDS = 1.0

Send = Callable[[m.Message], None]


@dataclass(slots=True)
class _Job:
    command: m.Command
    fence: int
    task: asyncio.Task[None] | None = None
    attempt: asyncio.Future[m.Done] | None = None
    stopped: bool = False
    settling: bool = False
    again: bool = False
    """Its attempt was cancelled and is followed by another one."""
    allowed: asyncio.Event = field(default_factory=asyncio.Event)
    """Not set: it waits until the manager names it again (``hold``)."""
    relies_on: frozenset[str] = frozenset()
    """The anchors (PEM) given to the attempt, except those found not to be needed."""
    last_progress: float = field(default=0.0)


@dataclass(slots=True)
class _Turn:
    """The lock of one volume, and how many hold or await it."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    jobs: int = 0


class Jobs:
    """The running jobs. Used from one event loop.

    *send* takes messages for the manager and may lose them; *ended* is called after each job, once
    its result is in the journal.
    """

    def __init__(
        self,
        journal: Journal,
        commands: Commands,
        *,
        send: Send,
        ended: Callable[[str], None],
        max_downloads: int,
    ) -> None:
        self._journal = journal
        self._commands = commands
        self._send = send
        self._ended = ended
        self._slots = asyncio.Semaphore(max_downloads)
        self._volumes: dict[tuple[str, str], _Turn] = {}
        self._running: dict[str, _Job] = {}

    @property
    def active(self) -> int:
        """The number of running jobs."""
        return len(self._running)

    async def start(self, command: m.Command) -> None:
        """Journal *command* and run it, unless it is already running."""
        if known := self._running.get(command.job):
            if not known.settling or known.task is None:
                return
            await asyncio.wait([known.task])  # its end is being recorded right now
        job = self._running[command.job] = _Job(command, command.fence)
        job.allowed.set()
        try:
            await asyncio.to_thread(self._journal.begin, command)
        except FastdlError:
            del self._running[command.job]
            raise
        log.info(
            "job started",
            extra={
                "job": command.job,
                "kind": command.kind,
                "fence": command.fence,
                "pool": getattr(command.args, "pool", None),
                "template": getattr(command.args, "template", None),
            },
        )
        job.task = asyncio.create_task(self._run(job), name=f"job-{command.job}")
        self._send(m.JobStarted(job=command.job, fence=command.fence))

    def resume(self, command: m.Command, *, stopping: bool, held: bool = False) -> None:
        """Resume a job of the journal, or finish stopping it; *held*: as ``hold`` leaves it."""
        job = self._running[command.job] = _Job(command, command.fence, stopped=stopping)
        if not (held and isinstance(command.args, m.DownloadArgs)):
            job.allowed.set()
        job.task = asyncio.create_task(self._run(job), name=f"job-{command.job}")

    async def adopt(self, job_id: str, fence: int) -> None:
        """Take over a higher fence for a running job; one that is being stopped continues."""
        await asyncio.to_thread(self._journal.adopt, job_id, fence)
        if job := self._running.get(job_id):
            if job.stopped and fence > job.fence:
                job.stopped, job.again = False, True
            job.fence = max(job.fence, fence)

    async def stop(self, job_id: str) -> None:
        """Stop a job that the manager cancelled or assigned to another host, and report its end.

        The fetched data is kept for a while for a resume (``removal.prune``).

        """
        await asyncio.to_thread(self._journal.stop, job_id)
        if (job := self._running.get(job_id)) and not job.stopped:
            job.stopped = True
            if job.attempt is not None:
                job.attempt.cancel()

    def hold(self) -> int:
        """Interrupt all downloads until ``allow`` names them; return how many were not yet."""
        held = [
            job
            for job in self._running.values()
            if isinstance(job.command.args, m.DownloadArgs) and job.allowed.is_set()
        ]
        for job in held:
            job.allowed.clear()
            if job.attempt is not None and not job.attempt.done():
                job.again = True
                job.attempt.cancel()
        return len(held)

    def allow(self, commands: Iterable[m.Command]) -> None:
        """Let those of the held downloads continue that *commands* still want of this host."""
        for command in commands:
            job = self._running.get(command.job)
            if job is not None and command.fence >= job.fence:
                job.allowed.set()

    def running(self) -> frozenset[str]:
        """The running jobs."""
        return frozenset(self._running)

    def volumes(self) -> set[tuple[str, str]]:
        """(pool, volume) of what the running jobs are about."""
        return {
            (job.command.args.pool, job.command.args.volume)
            for job in self._running.values()
            if isinstance(job.command.args, m.DownloadArgs | m.RemoveArgs)
        }

    async def recheck(self, trusted: frozenset[str]) -> None:
        """Restart or end each download that relies on an anchor no longer in *trusted*.

        The anchors given to an attempt are compared with the current ones, so that one that was
        trusted only between two checks of the keystore is noticed.

        """

        async def one(job: _Job) -> None:
            if await self._commands.still_trusted(job.command):
                job.relies_on &= trusted
                return
            if job.attempt is not None and not job.attempt.done():
                log.info("checking trust again", extra={"job": job.command.job})
                job.again = True
                job.attempt.cancel()

        concerned = [
            job for job in self._running.values() if job.relies_on - trusted and not job.again
        ]
        if concerned:
            log.info("certificates were removed: running downloads are checked again")
        await asyncio.gather(*(one(job) for job in concerned))

    async def close(self) -> None:
        """Interrupt every job; the journal keeps them for the next start."""
        tasks = [job.task for job in self._running.values() if job.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, job: _Job) -> None:
        done: m.Done | None = None
        failure: m.Failure | None = None
        try:
            done = await self._until_settled(job)
        except asyncio.CancelledError:
            self._running.pop(job.command.job, None)
            raise  # the agent stops: the journal still lists the job as running
        except Exception as exc:  # a bug fails its job, never the agent
            failure = codec.failure_of(exc)
            if not isinstance(exc, FastdlError):
                log.exception("a job failed unexpectedly", extra={"job": job.command.job})
        await self._settle(job, done, failure)

    async def _until_settled(self, job: _Job) -> m.Done:
        """The job's result, after as many attempts as changes of trust and cut-offs require."""
        while not job.stopped:
            job.again, job.relies_on = False, frozenset()
            job.attempt = asyncio.ensure_future(self._attempt(job))
            try:
                return await job.attempt
            except asyncio.CancelledError:
                if not job.attempt.cancelled() or not (job.again or job.stopped):
                    job.attempt.cancel()
                    await asyncio.wait([job.attempt])
                    raise
        raise Cancelled("the manager took this job back; the fetched data is kept for a while")

    async def _attempt(self, job: _Job) -> m.Done:
        args = job.command.args
        await job.allowed.wait()
        async with contextlib.AsyncExitStack() as stack:
            if isinstance(args, m.DownloadArgs | m.RemoveArgs):
                await stack.enter_async_context(self._volume(args.pool, args.volume))
            if isinstance(args, m.MachineArgs):
                await stack.enter_async_context(self._volume(args.pool, args.disk))
            if isinstance(args, m.DownloadArgs):
                await stack.enter_async_context(self._slots)
            command = m.Command(
                job=job.command.job, kind=job.command.kind, fence=job.fence, args=args
            )

            def relies(anchors: Iterable[str]) -> None:
                job.relies_on = frozenset(anchors)

            return await self._commands.perform(command, self._reporter(job), relies)

    @contextlib.asynccontextmanager
    async def _volume(self, pool: str, volume: str) -> AsyncIterator[None]:
        """One job at a time for each volume; the second finds what the first one created."""
        key = (pool, volume)
        turn = self._volumes.setdefault(key, _Turn())
        turn.jobs += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.jobs -= 1
            if not turn.jobs:
                del self._volumes[key]

    def _reporter(self, job: _Job) -> ProgressCallback:
        def report(plain: Mapping[str, Any]) -> None:
            now = time.monotonic()
            if now - job.last_progress < _PROGRESS_SECONDS:
                return
            job.last_progress = now
            self._send(_progress(job, plain))

        return report

    async def _settle(self, job: _Job, done: m.Done | None, failure: m.Failure | None) -> None:
        job_id, job.settling = job.command.job, True
        try:
            await asyncio.to_thread(self._journal.end, job_id, done=done, failure=failure)
        except FastdlError as exc:
            # The journal still says "running": the next start finds the job finished.
            log.error("result could not be stored: %s", exc, extra={"job": job_id})
        self._running.pop(job_id, None)
        log.info(
            "job ended",
            extra={
                "job": job_id,
                "kind": job.command.kind,
                "code": failure.code if failure else 0,
                "fetched": _fetched(done),
            },
        )
        self._ended(job_id)


def _fetched(done: m.Done | None) -> int | None:
    """The bytes that a download received; 0 if its copy was there already."""
    if not isinstance(done, m.DownloadDone):
        return None
    return 0 if done.already_present else sum(mirror.bytes for mirror in done.mirrors)


def unfinished(journal: Journal) -> list[tuple[m.Command, bool]]:
    """(command, whether it was being stopped) of the jobs left by the last run.

    A row that this version cannot read, after a downgrade, fails with the reason.

    """
    found: list[tuple[m.Command, bool]] = []
    for row in journal.rows().values():
        if row.state is State.ENDED:
            continue
        try:
            found.append((row.command(), row.state is State.STOPPING))
        except FastdlError as exc:
            journal.end(row.job, done=None, failure=codec.failure_of(exc))
    return found


def _progress(job: _Job, plain: Mapping[str, Any]) -> m.Progress:
    return m.Progress(
        job=job.command.job,
        fence=job.fence,
        done=int(plain.get("done") or 0),
        total=plain.get("total"),
        fetched=int(plain.get("fetched") or 0),
        rate=float(plain.get("rate") or 0.0),
        eta=plain.get("eta"),
        stage=str(plain.get("stage") or "")[:32],
        bottleneck=str(plain.get("bottleneck") or "")[:16],
        mirrors=tuple(mirror_report(mirror) for mirror in plain.get("mirror_reports", ())[:16]),
    )
