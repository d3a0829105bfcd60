# SPDX-License-Identifier: Apache-2.0
"""Do managers act as one, and keep their promises, whatever carries their messages?"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fastdl.wire import messages as m
from tests.env import postgresql
from tests.env.fake_agent import DEFAULTS, FakeAgent, local_pool
from tests.env.manager import Zone, zone
from tests.env.process import eventually
from tests.env.seats import Combination, unique

LIMIT = 2


@pytest.fixture
def own_database(postgres: str) -> str:
    """Each test's: managers of one ledger share a key, which each test makes."""
    return postgresql.fresh_database(postgres, unique("conformance"))


@pytest.fixture
async def managers(tmp_path: Path, combination: Combination) -> AsyncIterator[tuple[Zone, Zone]]:
    """Two managers of one ledger; of a ledger that can have one only, that one twice."""
    async with contextlib.AsyncExitStack() as running:
        a = b = await running.enter_async_context(zone(tmp_path / "a", **combination.options))
        if combination.shared:
            (tmp_path / "b").mkdir(mode=0o700)
            shutil.copy(tmp_path / "a" / "secret.key", tmp_path / "b")
            b = await running.enter_async_context(zone(tmp_path / "b", **combination.options))
        yield a, b


class Work:
    """What all hosts do: the first download waits half-way until ``go``."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.running = self.most = 0
        self.done = Counter[str]()

    async def download(self, agent: FakeAgent, command: m.Command) -> m.Done | m.Failure:
        """One download, on any host."""
        self.running += 1
        self.most = max(self.most, self.running)
        if not self.go.is_set():
            half = m.Progress(job=command.job, fence=command.fence, done=1, total=2, rate=5.0)
            await agent.say(half)
            await self.go.wait()
        await asyncio.sleep(0.1)
        self.running -= 1
        self.done[f"{agent.name} {command.job}"] += 1
        return await DEFAULTS["download"](agent, command)


async def test_jobs_of_one_manager_run_on_hosts_of_another_whatever_happens_to_messages(
    managers: tuple[Zone, Zone], combination: Combination
) -> None:
    """A download is ordered at one manager, its host is connected to the other, and progress comes
    back. In the middle of many more everything that carries messages ends, and what it had stored
    is lost: all jobs end, none twice, and never more at once than the origin's limit. What counts
    is what the hosts say."""
    a, b = managers
    work = Work()
    name = "direct.download.origin.max.active"
    await a.api("updateConfiguration", name=name, value=str(LIMIT))
    hosts = [await b.agent("kvm0", pools=(local_pool("p0"),), work={"download": work.download})]

    async def known() -> bool:
        return all(len(zone.manager.context.fleet.hosts) == len(hosts) for zone in managers)

    await eventually(known, within=15)
    for manager in managers:
        hears = manager.manager.context.metrics.registry.get_sample_value("fastdl_managers_heard")
        assert hears == 1
    template = (await a.template("t"))["id"]
    order = {"zoneid": a.id, "templateid": template, "priority": "urgent"}
    answer = await a.api("prepareTemplate", **order)

    async def halfway() -> bool:
        (row,) = (await a.api("listTemplateDownloads", templateid=template))["templatedownload"]
        return bool(row["state"] == "RUNNING" and row.get("percent") == 50)

    await eventually(halfway, within=15)
    work.go.set()
    assert (await a.api.job(answer, within=15))["jobstatus"] == 1

    hosts += [
        await where.agent(f"kvm{n}", pools=(local_pool(f"p{n}"),), work={"download": work.download})
        for n, where in enumerate([a, b] * 3, 1)
    ]
    await eventually(known, within=15)
    answer = await b.api("prepareTemplate", **order)

    async def under_way() -> bool:
        return sum(work.done.values()) >= 3

    await eventually(under_way, within=15)
    await combination.interrupt(wipe=True)
    assert (await a.api.job(answer, within=30))["jobstatus"] == 1
    assert work.most == LIMIT
    assert sum(work.done.values()) == 1 + len(hosts)
    assert set(work.done.values()) == {1}
