# SPDX-License-Identifier: Apache-2.0
"""Is a worker gone when its job is, and is every way of ending an error of one class?"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from pathlib import Path

import pytest

from fastdl.agent.death import CRASHES
from fastdl.agent.work import Work, run, series
from fastdl.errors import Cancelled, FastdlError, InternalError, NetError, UsageError
from fastdl.manager.downloads.scheduler import Next, after_failure
from fastdl.wire import codec
from tests.env.faults import Rule
from tests.env.origin import FaultOrigin, Resource, pseudo_random

CONTENT = pseudo_random(4, 8 * 1024 * 1024)


def _children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def _work(origin: FaultOrigin, folder: Path) -> Work:
    return Work(
        action="fetch",
        sources=(origin.url("/x"),),
        target=str(folder / "x"),
        options={"source_format": "raw"},
    )


async def test_a_result_and_progress_come_back(tmp_path: Path) -> None:
    """The engine's own words, across the process border."""
    seen: list[int] = []
    with FaultOrigin({"/x": Resource.of(CONTENT, rules=[Rule(rate=8e6)])}) as origin:
        result = await run(_work(origin, tmp_path), progress=lambda p: seen.append(p["done"]))
    assert (tmp_path / "x").read_bytes() == CONTENT
    assert result["target_bytes"] == len(CONTENT)
    assert seen


async def test_a_cancelled_job_leaves_no_process_and_can_be_resumed(tmp_path: Path) -> None:
    """Cancelling is how the agent stops, revokes and gives way."""
    before = _children()
    with FaultOrigin({"/x": Resource.of(CONTENT, rules=[Rule(rate=1e6)])}) as origin:
        job = asyncio.create_task(run(_work(origin, tmp_path)))
        await asyncio.to_thread(origin.wait_for, lambda: origin.sent > 6 * 1024 * 1024)
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
        assert _children() == before
        assert not (tmp_path / "x").exists()
        origin.resources["/x"].rules.clear()
        result = await run(_work(origin, tmp_path))
    assert result["resumed_bytes"] > 0
    assert (tmp_path / "x").read_bytes() == CONTENT


async def test_the_deadline_ends_a_job(tmp_path: Path) -> None:
    """``primary.storage.download.wait``: an origin that drips cannot hold a slot for ever."""
    with (
        FaultOrigin({"/x": Resource.of(CONTENT, rules=[Rule(rate=1e5)])}) as origin,
        pytest.raises(NetError, match="did not end within"),
    ):
        await run(_work(origin, tmp_path), deadline=2.0)


async def test_the_engines_errors_keep_their_class(tmp_path: Path) -> None:
    """What the worker raised is what the caller gets."""
    with pytest.raises(UsageError, match="no option"):
        await run(Work(action="probe", sources=("http://127.0.0.1:9/",), options={"bogus": 1}))


def _probe(origin: FaultOrigin) -> Work:
    return Work(action="probe", sources=(origin.url("/x"),), options={"source_format": "raw"})


def _of(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found]


async def _worker_and_probe(before: set[str]) -> tuple[int, int]:
    """The pids of the worker that is new since *before* and of the child that probes."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            for worker in map(int, _children() - before):
                for probe in _of(worker):
                    if "NoNewPrivs:\t1" in Path(f"/proc/{probe}/status").read_text():
                        return worker, probe
        await asyncio.sleep(0.01)
    raise AssertionError("no confined child appeared")


STUCK = [Rule(stall_at=0)]


async def test_the_works_of_a_job_share_one_process(tmp_path: Path) -> None:
    """Starting Python and loading the engine costs more than a small template's download."""
    before = _children()
    with FaultOrigin({"/x": Resource.of(CONTENT)}) as origin:
        async with series() as runner:
            assert (await runner(_probe(origin)))["size"] == len(CONTENT)
            (worker,) = _children() - before
            assert _of(int(worker)) == []
            result = await runner(_work(origin, tmp_path))
            assert _children() - before <= {worker}  # which ends with its last work
    assert result["target_bytes"] == len(CONTENT)
    assert (tmp_path / "x").read_bytes() == CONTENT
    assert _children() == before


async def test_only_the_probes_own_child_reads_the_origin_and_is_confined() -> None:
    """The process that will write the pool has not seen a byte of the origin while it waits."""
    before = _children()
    with FaultOrigin({"/x": Resource.of(CONTENT, rules=STUCK)}) as origin:
        job = asyncio.create_task(run(_probe(origin)))
        worker, probe = await _worker_and_probe(before)
        await asyncio.to_thread(origin.wait_for, lambda: origin.requests)
        assert "NoNewPrivs:\t0" in Path(f"/proc/{worker}/status").read_text()
        assert all("socket" not in os.readlink(fd) for fd in _descriptors(worker))
        ends = {os.readlink(f"/proc/{worker}/fd/{number}") for number in (0, 1)}
        assert ends.isdisjoint(map(os.readlink, _descriptors(probe)))
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job


def _descriptors(pid: int) -> list[Path]:
    return list(Path(f"/proc/{pid}/fd").iterdir())


async def test_a_cancelled_probe_leaves_no_process() -> None:
    """The child must end with its parent, or a stuck origin would collect processes."""
    before = _children()
    with FaultOrigin({"/x": Resource.of(CONTENT, rules=STUCK)}) as origin:
        job = asyncio.create_task(run(_probe(origin)))
        worker, probe = await _worker_and_probe(before)
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
    assert _children() == before
    assert not Path(f"/proc/{probe}").exists()
    assert not Path(f"/proc/{worker}").exists()


@pytest.mark.parametrize(
    ("victim", "number", "error"),
    [
        (0, signal.SIGTERM, Cancelled),
        (0, signal.SIGKILL, InternalError),
        (1, signal.SIGKILL, InternalError),
    ],
    ids=["the worker is asked to end", "the worker is killed", "the probe's child is killed"],
)
async def test_a_killed_process_is_an_error_of_the_job(
    victim: int, number: signal.Signals, error: type[Exception]
) -> None:
    """What somebody did to the process from outside says nothing about the job: it is retried."""
    before = _children()
    with FaultOrigin({"/x": Resource.of(CONTENT, rules=STUCK)}) as origin:
        job = asyncio.create_task(run(_probe(origin)))
        pids = await _worker_and_probe(before)
        os.kill(pids[victim], number)
        with pytest.raises(error) as caught:
            await job
        assert getattr(caught.value, "retryable", False)
    assert _children() == before


def _next_after(error: FastdlError) -> Next:
    """What the manager decides where the first of two hosts failed with *error*."""
    return after_failure(
        codec.failure_of(error), host="h0", attempt=1, tried=(), able_hosts=["h0", "h1"]
    )


@pytest.mark.parametrize("victim", [0, 1], ids=["the worker", "the probe's child"])
@pytest.mark.parametrize("number", sorted(CRASHES), ids=lambda number: number.name)
async def test_a_process_that_crashes_is_the_end_of_its_job(
    victim: int, number: signal.Signals
) -> None:
    """An image that crashes its reader must not visit the other hosts one by one."""
    before = _children()
    with FaultOrigin({"/x": Resource.of(CONTENT, rules=STUCK)}) as origin:
        job = asyncio.create_task(run(_probe(origin)))
        pids = await _worker_and_probe(before)
        os.kill(pids[victim], number)
        with pytest.raises(InternalError, match=f"crashed: signal {number.name}") as caught:
            await job
    assert (caught.value.retryable, caught.value.retry_elsewhere) == (False, False)
    assert not _next_after(caught.value).again
    assert _children() == before
