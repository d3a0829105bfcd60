# SPDX-License-Identifier: Apache-2.0
"""What does running these commands cost? Wall and processor time, memory, bytes moved.

Every command is a direct child: its processor time comes from wait4(), its bytes from
/proc/PID/io read while it is a zombie (Linux adds what its own reaped children did), its
memory from VmHWM, sampled every 20 ms and summed over the processes alive at the same time.
ru_maxrss is not used: it survives exec, so a small tool would show this suite's own size.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

SAMPLE_S: Final = 0.02
START_S: Final = 10.0
TIME_LIMIT: Final = "time limit reached"
_IO_FIELDS: Final = ("rchar", "wchar", "syscr", "syscw", "read_bytes", "write_bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One process. ``stdin``/``stdout`` are paths; without them a pipeline connects it."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    stdin: Path | None = None
    stdout: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Commands that run together: a pipeline, others next to it, and services to stop after it.

    ``ready`` is the path (a socket) that a service creates when it is ready.
    """

    pipeline: tuple[Command, ...]
    beside: tuple[Command, ...] = ()
    services: tuple[Command, ...] = ()
    ready: Path | None = None


@dataclass(slots=True)
class Cost:
    """The sum over all processes of a run. Times in seconds, sizes in bytes."""

    wall_s: float = 0.0
    user_s: float = 0.0
    sys_s: float = 0.0
    peak_bytes: int = 0
    io: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_IO_FIELDS, 0))
    output: str = ""
    failure: str | None = None

    @property
    def cpu_s(self) -> float:
        return self.user_s + self.sys_s


@dataclass(slots=True, kw_only=True)
class _Context:
    """What all processes of a run share: folder, logs, the account and the time limit."""

    folder: Path
    out: IO[bytes]
    err: IO[bytes]
    cost: Cost
    deadline: float


class _Process:
    """A started command and what is known about it."""

    def __init__(
        self,
        command: Command,
        context: _Context,
        *,
        stdin: int | IO[bytes] = subprocess.DEVNULL,
        stdout: int | IO[bytes],
    ) -> None:
        self.name = Path(command.argv[0]).name
        self.popen = subprocess.Popen(
            command.argv,
            stdin=stdin,
            stdout=stdout,
            stderr=context.err,
            cwd=context.folder,
            env={**os.environ, **command.env},
            start_new_session=True,
        )
        self.pidfd = os.pidfd_open(self.popen.pid)

    def sample(self) -> int:
        """The high-water mark of resident memory, summed over the living process tree."""
        alive: dict[int, int] = {}
        pending = [self.popen.pid]
        while pending:
            pid = pending.pop()
            with contextlib.suppress(OSError, ValueError):
                alive[pid] = _vm_hwm(pid)
                pending += _children(pid)
        return sum(alive.values())

    def reap(self, cost: Cost) -> int:
        """Collect the zombie: add its costs, return its exit status."""
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{self.popen.pid}/io").read_text().splitlines():
                key, _, value = line.partition(": ")
                if key in cost.io:
                    cost.io[key] += int(value)
        _, status, usage = os.wait4(self.popen.pid, 0)
        self.popen.returncode = os.waitstatus_to_exitcode(status)
        os.close(self.pidfd)
        cost.user_s += usage.ru_utime
        cost.sys_s += usage.ru_stime
        return self.popen.returncode

    def kill(self) -> None:
        if self.popen.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.popen.pid, signal.SIGKILL)


def _vm_hwm(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for task in os.scandir(f"/proc/{pid}/task"):
        found += map(int, Path(task.path, "children").read_text().split())
    return found


def run(steps: Sequence[Step], folder: Path, *, timeout_s: float) -> Cost:
    """Run *steps* one after the other in *folder* and return what they cost.

    Standard output that no pipe or path takes ends in ``Cost.output``. A failure (exit status,
    time limit) stops the run and is reported in ``Cost.failure``; nothing keeps running afterwards.
    """
    cost = Cost()
    out = folder / "stdout"
    err = folder / "stderr"
    begin = time.monotonic()
    with out.open("wb") as out_file, err.open("wb") as err_file:
        context = _Context(
            folder=folder, out=out_file, err=err_file, cost=cost, deadline=begin + timeout_s
        )
        for step in steps:
            if not _run_step(step, context):
                break
    cost.wall_s = time.monotonic() - begin
    cost.output = out.read_text(errors="replace")
    if cost.failure:
        tail = err.read_text(errors="replace").strip().splitlines()[-3:]
        cost.failure = " / ".join([cost.failure, *tail])[:500]
    return cost


def _run_step(step: Step, context: _Context) -> bool:
    services: list[_Process] = []
    workers: list[_Process] = []
    try:
        for command in step.services:
            services += [_Process(command, context, stdout=context.err)]
        if step.ready is not None and not _wait_for(step.ready, services):
            context.cost.failure = f"{step.services[0].argv[0]} did not start"
            return False
        _start_pipeline(step.pipeline, context, workers)
        for command in step.beside:
            workers += [_Process(command, context, stdout=context.out)]
        _wait(workers, services, context)
        return context.cost.failure is None
    finally:
        for process in services:
            process.popen.terminate()
            select.select([process.pidfd], [], [], START_S)
        for process in (*workers, *services):
            if process.popen.returncode is None:
                process.kill()
                process.reap(context.cost)


def _start_pipeline(
    commands: Sequence[Command], context: _Context, started: list[_Process]
) -> None:
    """Start *commands*, each reading from the one before; only they keep the pipes' ends."""
    previous: int = subprocess.DEVNULL
    for at, command in enumerate(commands):
        with contextlib.ExitStack() as files:
            if previous != subprocess.DEVNULL:
                files.callback(os.close, previous)
            stdin: int | IO[bytes] = previous
            if command.stdin is not None:
                stdin = files.enter_context(command.stdin.open("rb"))
            stdout: int | IO[bytes] = context.out
            if command.stdout is not None:
                stdout = files.enter_context(command.stdout.open("wb"))
            elif at + 1 < len(commands):
                previous, stdout = os.pipe()
                files.callback(os.close, stdout)
            started.append(_Process(command, context, stdin=stdin, stdout=stdout))


def _wait(workers: list[_Process], services: list[_Process], context: _Context) -> None:
    """Wait for all *workers*, sampling memory; the first failure or the deadline ends it."""
    cost = context.cost
    poll = select.poll()
    running = {process.pidfd: process for process in workers}
    for fd in running:
        poll.register(fd, select.POLLIN)
    while running:
        together = sum(process.sample() for process in (*running.values(), *services))
        cost.peak_bytes = max(cost.peak_bytes, together)
        for fd, _ in poll.poll(SAMPLE_S * 1000):
            poll.unregister(fd)
            process = running.pop(fd)
            code = process.reap(cost)
            if code != 0 and cost.failure is None:
                cost.failure = f"{process.name} ended with {code}"
                return
        if time.monotonic() > context.deadline:
            cost.failure = TIME_LIMIT
            return


def _wait_for(path: Path, services: list[_Process]) -> bool:
    """Wait until a service has made *path*; False if one ended or START_S passed."""
    poll = select.poll()
    for service in services:
        poll.register(service.pidfd, select.POLLIN)
    deadline = time.monotonic() + START_S
    while not path.exists():
        if poll.poll(2) or time.monotonic() > deadline:
            return False
    return True


def as_dict(cost: Cost) -> dict[str, Any]:
    """The figures of *cost* as JSON."""
    return {
        "wall_s": round(cost.wall_s, 4),
        "user_s": round(cost.user_s, 4),
        "sys_s": round(cost.sys_s, 4),
        "peak_bytes": cost.peak_bytes,
        **cost.io,
    }
