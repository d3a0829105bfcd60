# SPDX-License-Identifier: Apache-2.0
"""Is a forked worker as separate from others, and as confined, as one that was executed?"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from fastdl.agent import work, workers
from fastdl.agent.death import CRASHES
from fastdl.agent.work import Work, run
from fastdl.errors import Cancelled, InternalError
from tests.env.faults import Rule
from tests.env.origin import FaultOrigin, Resource, pseudo_random

CONTENT = pseudo_random(6, 1 << 20)
STUCK = [Rule(stall_at=0)]
SECRET = "secret-" + "7f3a" * 8
DOWNLOADS = """
import asyncio, sys
from fastdl.agent import work

async def main():
    async with work.forking():
        for number in range(3):
            await work.run(work.Work(
                action="fetch", sources=(sys.argv[1],), target=f"{sys.argv[2]}/{number}",
                options={"source_format": "raw", "target_format": "same"},
            ))

asyncio.run(main())
"""


@pytest.fixture
def origin() -> Iterator[FaultOrigin]:
    resources = {"/x": Resource.of(CONTENT), "/stuck": Resource.of(CONTENT, rules=STUCK)}
    with FaultOrigin(resources) as server:
        yield server


@pytest.fixture
async def forking() -> AsyncIterator[set[int]]:
    """Workers are forked; the children that this process had before. None of ours stays."""
    before = children(os.getpid())
    async with work.forking():
        yield before
    assert children(os.getpid()) == before


def children(pid: int) -> set[int]:
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def probe(origin: FaultOrigin, path: str = "/x", header: str = "x") -> Work:
    options = {"source_format": "raw", "headers": [["X-Secret", header]]}
    return Work(action="probe", sources=(origin.url(path),), options=options)


async def until(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not check():
            await asyncio.sleep(0.01)


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


async def confined(parents: Callable[[], set[int]]) -> tuple[int, int]:
    """The pids of a worker among *parents* and of its confined child."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            for worker in parents():
                for child in children(worker):
                    if status(child)["Seccomp"] == "2":
                        return worker, child
        await asyncio.sleep(0.01)
    raise AssertionError("no confined child appeared")


def of_servers(before: set[int]) -> Callable[[], set[int]]:
    """The workers of the servers that are new since *before*."""
    return lambda: {w for s in children(os.getpid()) - before for w in children(s)}


async def test_workers_come_from_one_process(forking: set[int], origin: FaultOrigin) -> None:
    """Which has its code once, and stays for the next."""
    for _ in range(3):
        assert (await run(probe(origin)))["size"] == len(CONTENT)
    (server,) = children(os.getpid()) - forking
    assert children(server) == set()


def memory_of(pid: int) -> bytes:
    """All that is readable in the memory of a process."""
    found = []
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in maps:
            ends, permissions, *_, name = [*line.split(), ""]
            if permissions[:2] != "rw" or name.startswith("[v"):
                continue
            start, end = (int(x, 16) for x in ends.split("-"))
            with contextlib.suppress(OSError):
                memory.seek(start)
                found.append(memory.read(end - start))
    return b"".join(found)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may read another process")
async def test_a_job_has_nothing_of_another(forking: set[int], origin: FaultOrigin) -> None:
    """No data in its memory, and none of its descriptors: it was forked before both."""
    first = asyncio.create_task(run(probe(origin, "/stuck", SECRET)))
    workers_now = of_servers(forking)
    one, reader = await confined(workers_now)
    assert SECRET.encode() in memory_of(one)
    second = asyncio.create_task(run(probe(origin, "/stuck", "other")))
    await until(lambda: len(workers_now()) == 2)
    two, _ = await confined(lambda: workers_now() - {one})
    (server,) = children(os.getpid()) - forking
    for pid in (server, two):
        assert SECRET.encode() not in memory_of(pid), pid
    ends = {os.readlink(fd) for fd in Path(f"/proc/{one}/fd").iterdir()}
    pipes = {end for end in ends if end.startswith("pipe:")}
    for pid in (server, two):
        others = {os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()}
        assert not pipes & others - {os.readlink("/proc/self/fd/2")}, pid
    assert status(reader)["NoNewPrivs"] == "1"
    for job in (first, second):
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
    assert workers_now() == set()


async def test_it_is_confined_as_one_that_was_executed(origin: FaultOrigin) -> None:
    """The same identity, limits, filter and descriptors, in worker and child."""
    fields = ("NoNewPrivs", "Seccomp", "CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb", "Groups",
              "SigIgn", "SigCgt", "SigBlk", "Threads", "Umask")  # fmt: skip
    seen = []
    before = children(os.getpid())

    async def look(parents: Callable[[], set[int]]) -> None:
        job = asyncio.create_task(run(probe(origin, "/stuck")))
        pair = await confined(parents)
        await until(lambda: len(origin.requests) == len(seen) + 1)
        limits = [Path(f"/proc/{pid}/limits").read_text().splitlines() for pid in pair]
        seen.append(
            (
                [{name: status(pid)[name] for name in fields} for pid in pair],
                [
                    [line for line in found if "address" not in line and "data" not in line]
                    for found in limits
                ],
                [len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pair],
                [os.readlink(f"/proc/{pid}/cwd") for pid in pair[1:]],
                [os.getsid(pid) == pair[0] for pid in pair],
            )
        )
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job

    await look(lambda: children(os.getpid()) - before)
    async with work.forking():
        await look(of_servers(before))
    assert seen[0] == seen[1]


@pytest.mark.parametrize("number", [signal.SIGKILL, *sorted(CRASHES)[:2]], ids=lambda n: n.name)
async def test_how_a_worker_died_is_known(
    forking: set[int], origin: FaultOrigin, number: signal.Signals
) -> None:
    """A crash is permanent, a kill is not; the others do not notice."""
    job = asyncio.create_task(run(probe(origin, "/stuck")))
    worker, _ = await confined(of_servers(forking))
    os.kill(worker, number)
    with pytest.raises(InternalError, match=number.name) as caught:
        await job
    assert caught.value.retryable is (number is signal.SIGKILL)
    assert (await run(probe(origin)))["size"] == len(CONTENT)


async def test_a_server_that_dies_is_replaced(forking: set[int], origin: FaultOrigin) -> None:
    """Its jobs end with it, and may be tried again."""
    job = asyncio.create_task(run(probe(origin, "/stuck")))
    worker, child = await confined(of_servers(forking))
    (server,) = children(os.getpid()) - forking
    os.kill(server, signal.SIGKILL)
    with pytest.raises((InternalError, Cancelled)) as caught:  # the worker may have time to report
        await job
    assert caught.value.retryable
    await until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in (worker, child)))
    assert (await run(probe(origin)))["size"] == len(CONTENT)
    assert server not in children(os.getpid())


async def test_a_server_makes_no_more_than_its_share(
    forking: set[int], origin: FaultOrigin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have one address layout: what one of them gives away is of use for few others."""
    monkeypatch.setattr(workers, "JOBS_MAX", 2)
    servers = []
    for _ in range(4):
        await run(probe(origin))
        servers.append(children(os.getpid()) - forking)
    assert len(set.union(*servers)) == 2


async def test_a_server_with_nothing_to_do_ends(
    forking: set[int], origin: FaultOrigin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that downloads nothing keeps no process for it."""
    monkeypatch.setattr(workers, "IDLE_S", 0.01)
    await run(probe(origin))
    await until(lambda: children(os.getpid()) == forking)


def test_a_download_finds_its_code_loaded(origin: FaultOrigin, tmp_path: Path) -> None:
    """A module that each worker loads again is seen more often than by the agent and its server."""
    done = subprocess.run(
        [sys.executable, "-c", DOWNLOADS, origin.url("/x"), tmp_path],
        env={**os.environ, "PYTHONPROFILEIMPORTTIME": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = Counter(line.rpartition("|")[2].strip() for line in done.stderr.splitlines())
    assert len(list(tmp_path.iterdir())) == 3
    assert loaded["fastdl.agent.worker"] == 1
    assert {name: times for name, times in loaded.items() if times > 2} == {}
