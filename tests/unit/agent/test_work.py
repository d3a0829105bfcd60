# SPDX-License-Identifier: Apache-2.0
"""Is a worker gone when its job is, and is every way of ending an error of one class?"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from fastdl.agent.work import Work, run
from fastdl.errors import NetError, UsageError
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
        writable=(folder,),
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
