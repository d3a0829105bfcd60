# SPDX-License-Identifier: Apache-2.0
"""Do hosts on a cluster of three NATS servers get their work done, once and all of it, whichever of
the servers die or stand still?"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from nats.errors import Error as NatsError

from fastdl.errors import ApiConflictError
from fastdl.manager.hosts.nats_streams import REPLICAS
from fastdl.wire.nats import subjects
from tests.env import nats
from tests.env.faults import Rule, When
from tests.env.nats_site import NatsSite
from tests.env.origin import FaultOrigin, Resource
from tests.env.process import eventually
from tests.env.site import CONTENT

pytestmark = pytest.mark.skipif(
    "FASTDL_MANAGERS" not in os.environ, reason="takes minutes: scripts/test-managers"
)
BOTH = pytest.mark.parametrize("site", [False, True], ids=["listed", "callout"], indirect=True)
SLOW = 0.4e6
"""Bytes a second of a connection: a download takes five seconds or so."""
FLAPS = 10
LINES = 20
"""In a log, each time: attempts back off, and a reason is said once."""


@pytest.fixture
def origin() -> Iterator[FaultOrigin]:
    """A template of 8 MiB."""
    rules = [Rule(when=When(), rate=SLOW)]
    with FaultOrigin({"/x.raw": Resource.of(CONTENT, rules=rules)}) as running:
        yield running


@pytest.fixture
async def site(
    request: pytest.FixtureRequest, tmp_path: Path, origin: FaultOrigin
) -> AsyncIterator[NatsSite]:
    """A manager and a host on three servers, which have three copies of everything. With the
    parameter True they ask the manager who connects."""
    made = NatsSite(tmp_path, origin, servers=3, callout=getattr(request, "param", False))
    try:
        await made.start()
        await eventually(lambda: _replicated(made))
        yield made
    finally:
        await made.end()


@BOTH
async def test_all_servers_are_killed_in_turn(site: NatsSite) -> None:
    """That of the host first, then the leader of what is stored, in the middle of a download: it
    ends well, and so does one that is asked for meanwhile."""
    jobs = []
    for turn in range(3):
        template, late = [await site.template(f"{name}{turn}") for name in ("t", "late")]
        jobs.append(await site.prepare(template))
        await _started(site, template)
        victim = await _leader(site) if turn else await _server_of(site, "agent")
        victim.kill()
        jobs.append(await _ask(site, late))
        for job in jobs[-2:]:
            assert (await site.api.job(job, within=180))["jobstatus"] == 1
        await asyncio.to_thread(victim.start)
        await eventually(lambda: _replicated(site))
    await _all_done(site, jobs)


@BOTH
async def test_one_of_three_is_left(site: NatsSite) -> None:
    """Nothing can be stored, and nobody says so for seconds: sessions do without."""
    first, second = await site.template(), await site.template("t2")
    for server in site.servers[:2]:
        server.kill()
    job = await _ask(site, first)
    await _all_done(site, [job], stored=False)
    for server in site.servers[:2]:
        await asyncio.to_thread(server.start)
    job = await _ask(site, second)
    await _all_done(site, [job])


@pytest.mark.parametrize("whose", ["agent", "manager"])
async def test_a_server_stands_still(site: NatsSite, whose: str) -> None:
    """Who is on it goes to another one, and does not wait for it; when it is back, nothing that it
    held up is done again."""
    template, other = await site.template(), await site.template("t2")
    job = await site.prepare(template)
    await _started(site, template)
    stopped = await _server_of(site, whose)
    stopped.pause()
    try:
        late = await _ask(site, other)
        assert (await site.api.job(job, within=120))["jobstatus"] == 1
        assert (await site.api.job(late, within=120))["jobstatus"] == 1
        await eventually(lambda: site.hosts("Up"))
    finally:
        stopped.resume()
    await _all_done(site, [job, late])


async def test_all_servers_stand_still(site: NatsSite, origin: FaultOrigin) -> None:
    """For longer than a lease lasts: the host stops what nobody counts any more, and goes on with
    what it has when they are back."""
    origin.resources["/x.raw"].rules[:] = [Rule(when=When(), rate=SLOW / 20)]
    template = await site.template()
    job = await site.prepare(template)
    await _started(site, template)
    for server in site.servers:
        server.pause()
    await _said(site, "cut off from the managers: 1 downloads wait")
    origin.resources["/x.raw"].rules.clear()
    for server in site.servers:
        server.resume()
    await _all_done(site, [job])


async def _ask(site: NatsSite, template: str) -> dict[str, Any]:
    """As ``prepare``, again and again until the host is there."""
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(ApiConflictError):
                return await site.prepare(template)
            await asyncio.sleep(0.2)


async def test_servers_come_and_go(site: NatsSite) -> None:
    """All of them are away for five seconds, ten times: nothing of it is left in the processes, and
    their logs are short."""
    watched = (site.host, site.manager)
    before = [len(os.listdir(f"/proc/{one.pid}/fd")) for one in watched]
    lines = [one.log().count("\n") for one in watched]
    for _ in range(FLAPS):
        for server in site.servers:
            server.kill()
        await asyncio.sleep(5)
        for server in site.servers:
            await asyncio.to_thread(server.start)
        await eventually(lambda: site.hosts("Up"))
    job = await _ask(site, await site.template())
    await _all_done(site, [job])

    async def nothing_left() -> bool:
        now = [len(os.listdir(f"/proc/{one.pid}/fd")) for one in watched]
        return all(later <= earlier + 2 for earlier, later in zip(before, now, strict=True))

    await eventually(nothing_left)
    for one, had in zip(watched, lines, strict=True):
        assert one.log().count("\n") - had < LINES * FLAPS, one.log()


async def _all_done(site: NatsSite, jobs: list[dict[str, Any]], *, stored: bool = True) -> None:
    """All *jobs* end well, each after one download, and nothing waits to be stored."""
    for job in jobs:
        assert (await site.api.job(job, within=180))["jobstatus"] == 1
    done = re.findall(r"job ended job=(\S+) kind=download code=0 fetched=[1-9]", site.host.log())
    assert len(done) == len(set(done)) == len(await site.copies())
    assert "Traceback" not in site.manager.log() + site.host.log()
    if stored:
        await eventually(lambda: _nothing_waits(site))


async def _nothing_waits(site: NatsSite) -> bool:
    with contextlib.suppress(NatsError, OSError):
        async with site.as_manager() as client:
            info = await client.jetstream().stream_info(subjects.RESULTS)
            return info.state.messages == 0
    return False


async def _replicated(site: NatsSite) -> bool:
    """Whether all three servers have everything that is stored."""
    with contextlib.suppress(NatsError, OSError):
        async with site.as_manager() as client:
            for name in (subjects.BOX, subjects.RESULTS):
                info = await client.jetstream(timeout=2).stream_info(name)
                others = info.cluster.replicas or [] if info.cluster else []
                current = [one for one in others if one.current and not one.offline]
                if len(current) != REPLICAS - 1:
                    return False
            return True
    return False


async def _server_of(site: NatsSite, whose: str) -> nats.Server:
    for server in site.servers:
        if any(name.startswith(f"fastdl {whose}") for name in server.clients()):
            return server
    raise AssertionError(f"no {whose} is connected")


async def _leader(site: NatsSite) -> nats.Server:
    """The server that leads the stream of results."""
    async with site.as_manager() as client:
        info = await client.jetstream().stream_info(subjects.RESULTS)
    assert info.cluster is not None
    return next(one for one in site.servers if one.name == info.cluster.leader)


async def _started(site: NatsSite, template: str) -> None:
    """Wait for its download to begin."""
    await _said(site, f"template={template}")


async def _said(site: NatsSite, text: str) -> None:
    """Wait for a line in the host's log."""

    async def said() -> bool:
        return text in site.host.log()

    await eventually(said)
