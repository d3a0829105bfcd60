# SPDX-License-Identifier: Apache-2.0
"""Three managers, forty hosts, kill -9 of the manager that dispatches: what do the hosts say?

The invariants are checked from the hosts' own logs, never from the ledger.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from fastdl.manager.ledger.engine import driver_url
from fastdl.wire import messages as m
from tests.env import postgresql
from tests.env.fake_agent import DEFAULTS, FakeAgent, local_pool
from tests.env.manager import Client
from tests.env.mortal_manager import SteadyAgent
from tests.env.process import ManagerProcess, eventually

pytestmark = pytest.mark.skipif(
    "FASTDL_MANAGERS" not in os.environ, reason="takes minutes: scripts/test-managers"
)

HOSTS = 40
TEMPLATES = 5
LIMIT = 4
WORK_S = 0.5
FAILOVER_S = 35.0


@pytest.fixture
def server() -> Iterator[str]:
    """A server of these tests alone."""
    with postgresql.server(fsync=True) as url:
        yield url


@pytest.fixture
async def managers(tmp_path: Path, server: str) -> AsyncIterator[list[ManagerProcess]]:
    """Three that serve."""
    url = postgresql.fresh_database(server, "fastdl")
    made = [ManagerProcess(tmp_path, url, name=name) for name in "abc"]
    try:
        for number, process in enumerate(made):
            if number:
                process.state.mkdir(mode=0o700)
                shutil.copy(made[0].state / "secret.key", process.state)
            await process.start()
        yield made
    finally:
        for process in made:
            if process.alive:
                await process.end(signal.SIGKILL)


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


def place(process: ManagerProcess) -> tuple[str, int]:
    """Where agents find it."""
    host, _, port = process.agents.rpartition(":")
    return host, int(port)


async def test_all_jobs_end_although_the_dispatching_manager_is_killed(
    managers: list[ManagerProcess], server: str
) -> None:
    """200 downloads from five origins with a limit of four each; the manager that dispatches
    dies in the middle of them."""
    a, b = (Client(credentials(process)) for process in managers[:2])
    zone = (await a("createZone", name="z1"))["zone"]["id"]
    await a("updateConfiguration", name="direct.download.origin.max.active", value=LIMIT)
    origins, hosts, staying = Origins(), list[Host](), list[asyncio.Task[None]]()
    try:
        for n in range(HOSTS):
            where = [place(managers[(n + k) % 3]) for k in range(3)]
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
            registered = await b(
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
            answers.append(await b("prepareTemplate", **order))

        async def under_way() -> bool:
            return len(origins.starts) >= HOSTS

        await eventually(under_way)
        leader = await dispatching(managers, server)
        b = Client(credentials(next(process for process in managers if process is not leader)))
        await leader.end(signal.SIGKILL)
        for answer in answers:
            assert (await b.job(answer, within=120))["jobstatus"] == 1
        gaps = [later - earlier for earlier, later in pairwise(origins.starts)]
        assert max(gaps) < FAILOVER_S, f"nothing began for {max(gaps):.1f} s"
        assert max(origins.most.values()) == LIMIT, origins.most
        done = Counter((h.name, job) for h in hosts for what, job in h.log if what == "done")
        assert max(done.values()) == 1, "a host did something twice"
        assert len(origins.starts) == HOSTS * TEMPLATES
        up = (await b("listHosts", pagesize=500, page=1))["host"]
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


async def test_hosts_of_a_killed_manager_are_down_soon(managers: list[ManagerProcess]) -> None:
    """One that finds no other manager is Down after 35 s, and what it was to do is queued again."""
    first, second, _ = managers
    b = Client(credentials(second))
    zone = (await b("createZone", name="z1"))["zone"]["id"]
    host = FakeAgent(address=place(first), beats=True)
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

    await eventually(is_down, within=60)
    assert 25 < time.monotonic() - died < 50
    await host.close()


async def dispatching(managers: list[ManagerProcess], server: str) -> ManagerProcess:
    """The manager that has the lease."""
    engine = create_async_engine(driver_url(f"{server.rpartition('/')[0]}/fastdl"))
    async with engine.connect() as connection:
        owner = await connection.scalar(text("SELECT owner FROM lease WHERE name = 'dispatch'"))
    await engine.dispose()
    return next(p for p in managers if (p.state / "instance").read_text() == owner)


def credentials(process: ManagerProcess) -> dict[str, str]:
    """What its admin.json says."""
    found: dict[str, str] = json.loads((process.state / "admin.json").read_text())
    return found
