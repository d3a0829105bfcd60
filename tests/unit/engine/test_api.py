# SPDX-License-Identifier: Apache-2.0
"""Do the asynchronous forms of the public functions give the same, and stop when cancelled?"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import fastdl
from fastdl.errors import HttpStatusError
from tests.env.faults import Rule
from tests.env.origin import FaultOrigin, Resource, pseudo_random

CONTENT = pseudo_random(21, 3 << 20)


@pytest.fixture
def origin() -> Iterator[FaultOrigin]:
    """An origin with an image, and one that never responds."""
    silent = Resource.of(CONTENT, rules=[Rule(silent=True)])
    with FaultOrigin({"/i": Resource.of(CONTENT), "/silent": silent}) as server:
        yield server


async def test_fetch_reports_in_the_loops_thread(origin: FaultOrigin, tmp_path: Path) -> None:
    """A callback that touches the caller's state must not race with it."""
    threads: set[int] = set()
    target = tmp_path / "i"
    result = await fastdl.fetch(
        origin.url("/i"), target, progress=lambda _: threads.add(threading.get_ident())
    )
    assert target.read_bytes() == CONTENT
    assert result.fetched_bytes == len(CONTENT)
    assert threads == {threading.get_ident()}


async def test_progress_tells_which_mirrors_give_and_what_holds_them_up(tmp_path: Path) -> None:
    """While it runs, not only in the result: shares, errors, and the stage that is waited for."""
    slow = Resource.of(CONTENT, rules=[Rule(rate=2e6)])
    reports: list[fastdl.Progress] = []
    with FaultOrigin({"/i": slow}) as one, FaultOrigin({"/i": slow}) as two:
        urls = [one.url("/i"), two.url("/i")]
        # Without a digest only the first one may give.
        checksum = f"sha-256:{hashlib.sha256(CONTENT).hexdigest()}"
        result = await fastdl.fetch(
            urls, tmp_path / "i", checksum=checksum, progress=reports.append
        )
    running = [report for report in reports if 0 < report.done < len(CONTENT)]
    assert {mirror.url for report in running for mirror in report.mirror_reports} == set(urls)
    assert all(report.bottleneck == "network" for report in running)
    last = reports[-1]
    assert sum(mirror.bytes for mirror in last.mirror_reports) <= result.fetched_bytes
    assert last.to_dict()["mirror_reports"][0].keys() == result.to_dict()["mirrors"][0].keys()


async def test_probe_finds_what_probe_sync_finds(origin: FaultOrigin) -> None:
    """There is one probe, whichever way it is called."""
    found = await fastdl.probe(origin.url("/i"))
    assert found == await asyncio.to_thread(fastdl.probe_sync, origin.url("/i"))
    assert (found.size, found.ranges) == (len(CONTENT), True)
    with pytest.raises(HttpStatusError):
        await fastdl.probe(origin.url("/gone"))


@pytest.mark.parametrize("call", ["fetch", "probe"])
async def test_a_cancelled_task_leaves_no_thread(
    origin: FaultOrigin, tmp_path: Path, call: str
) -> None:
    """Who cancels wants the connection closed, not only to stop waiting for it."""
    calls: dict[str, Callable[[], Awaitable[Any]]] = {
        "fetch": lambda: fastdl.fetch(origin.url("/silent"), tmp_path / "i", stall_timeout=600),
        "probe": lambda: fastdl.probe(origin.url("/silent"), stall_timeout=600),
    }
    task = asyncio.ensure_future(calls[call]())
    await asyncio.to_thread(origin.wait_for, lambda: len(origin.requests) > 0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(asyncio.shield(task), 30)
    assert not (tmp_path / "i").exists()
