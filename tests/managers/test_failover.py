# SPDX-License-Identifier: Apache-2.0
"""Three managers, forty hosts, kill -9 of the manager that dispatches: what do the hosts say?

The invariants are checked from the hosts' own logs, never from the ledger.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import pytest

from fastdl.manager.hosts.waits import LEASE_S, QUIET_S
from fastdl.wire import messages as m
from tests.env.cluster import Cluster, cluster
from tests.env.fake_agent import DEFAULTS, FakeAgent, local_pool
from tests.env.mortal_manager import SteadyAgent
from tests.env.process import eventually

pytestmark = pytest.mark.skipif(
    "FASTDL_MANAGERS" not in os.environ, reason="takes minutes: scripts/test-managers"
)

HOSTS = 40
TEMPLATES = 5
LIMIT = 4
WORK_S = 0.5
FAILOVER_S = {False: 35.0, True: 10.0}
"""Without and with NATS."""


@pytest.fixture(params=[False, True], ids=["postgresql", "nats"])
async def three(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Cluster]:
    """Three managers that serve."""
    async with cluster(tmp_path, with_nats=request.param) as made:
        yield made


class Origins:
    """How many downloads of each origin run at this moment, by the hosts' own account."""

    def __init__(self) -> None:
        self.running: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.starts: list[float] = []

    async def work(self, agent: FakeAgent, command: m.Command) -> m.Done | m.Failure:
        """One download."""
        assert isinstance(command.args, m.DownloadArgs)
        origin = command.args.transfer.sources[0].split("/")[2]
        self.running[origin] += 1
        self.most[origin] = max(self.most[origin], self.running[origin])
        self.starts.append(time.monotonic())
        try:
            await asyncio.sleep(WORK_S)
        finally:
            self.running[origin] -= 1
        return await DEFAULTS["download"](agent, command)


class Host(SteadyAgent):
    """Looks for the next manager when its own is gone, as ``fastdl agent`` does."""

    places: list[tuple[str, int]]

    async def stay(self) -> None:
        """Keep connected, until cancelled."""
        while True:
            await asyncio.sleep(0.5)
            if self.connected:
                continue
            await self.close_connection_only()
            self.refusals.clear()
            self.places = [*self.places[1:], self.places[0]]
            self.address = self.places[0]
            try:
                await asyncio.wait_for(self.connect(), 10)
            except (OSError, TimeoutError):
                continue


def place(address: str) -> tuple[str, int]:
    """What connects to it takes."""
    host, _, port = address.rpartition(":")
    return host, int(port)


async def test_all_jobs_end_although_the_dispatching_manager_is_killed(
    three: Cluster,
) -> None:
    """200 downloads from five origins with a limit of four each; the manager that dispatches
    dies in the middle of them. The API, and half of the hosts, are behind the balancer."""
    a, managers = three.api, three.managers
    zone = (await a("createZone", name="z1"))["zone"]["id"]
    await a("updateConfiguration", name="direct.download.origin.max.active", value=LIMIT)
    origins, hosts, staying = Origins(), list[Host](), list[asyncio.Task[None]]()
    try:
        for n in range(HOSTS):
            where = [place(managers[(n + k) % 3].agents) for k in range(3)]
            if n % 2:
                where = [place(three.agents)]
            host = Host(
                address=where[0],
                name=f"kvm{n}",
                pools=(local_pool(f"p{n}"),),
                work={"download": origins.work},
                beats=True,
            )
            host.places = where
            await host.enrol((await a("createHostToken", zoneid=zone))["token"])
            await host.connect()
            hosts.append(host)
            staying.append(asyncio.create_task(host.stay()))
        answers = []
        for n in range(TEMPLATES):
            registered = await a(
                "registerTemplate",
                name=f"t{n}",
                url=f"https://mirror{n}.example/t.qcow2",
                format="QCOW2",
                hypervisor="KVM",
                zoneid=zone,
                directdownload="true",
            )
            template = registered["template"][0]["id"]
            order = {"zoneid": zone, "templateid": template, "priority": "urgent"}
            answers.append(await a("prepareTemplate", **order))

        async def under_way() -> bool:
            return len(origins.starts) >= HOSTS

        await eventually(under_way)
        leader = await three.holder()
        await leader.end(signal.SIGKILL)
        for answer in answers:
            assert (await a.job(answer, within=120))["jobstatus"] == 1
        gaps = [later - earlier for earlier, later in pairwise(origins.starts)]
        assert max(gaps) < FAILOVER_S[bool(three.nats)], f"nothing began for {max(gaps):.1f} s"
        assert max(origins.most.values()) == LIMIT, origins.most
        done = Counter((h.name, job) for h in hosts for what, job in h.log if what == "done")
        assert max(done.values()) == 1, "a host did something twice"
        assert len(origins.starts) == HOSTS * TEMPLATES
        up = (await a("listHosts", pagesize=500, page=1))["host"]
        assert Counter(h["state"] for h in up) == {"Up": HOSTS}
        print(f"longest gap between two starts: {max(gaps):.1f} s")
    finally:
        for task in staying:
            task.cancel()
        await asyncio.gather(*staying, return_exceptions=True)
        for host in hosts:
            await host.close()
    for process in managers:
        if process is leader:
            continue
        assert await process.end(signal.SIGTERM) == 0
        assert "Traceback" not in process.log()


async def test_hosts_of_a_killed_manager_are_down_soon(three: Cluster) -> None:
    """One that finds no other manager is Down after 50 s, and what it was to do is queued again."""
    first, b = three.managers[0], three.api
    zone = (await b("createZone", name="z1"))["zone"]["id"]
    host = FakeAgent(address=place(first.agents), beats=True)
    await host.enrol((await b("createHostToken", zoneid=zone))["token"])
    await host.connect()

    async def state() -> str:
        found: str = (await b("listHosts", id=host.host_id))["host"][0]["state"]
        return found

    async def is_up() -> bool:
        return await state() == "Up"

    await eventually(is_up, within=10)
    await first.end(signal.SIGKILL)
    died = time.monotonic()

    async def is_down() -> bool:
        return await state() == "Down"

    await eventually(is_down, within=90)
    assert LEASE_S + QUIET_S < time.monotonic() - died < 65
    await host.close()
