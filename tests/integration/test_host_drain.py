# SPDX-License-Identifier: Apache-2.0
"""A real zone on one machine: does work go on while hosts are drained and evicted?"""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.env import postgresql
from tests.env.faults import Rule, When
from tests.env.manager import Client
from tests.env.origin import FaultOrigin, Resource, pseudo_random
from tests.env.process import AgentProcess, ManagerProcess, eventually

SIZE = 12 << 20
RATE = 1e6
"""Slow enough to do something in between, in bytes a second; downloads have one connection."""


@pytest.fixture
def url(request: pytest.FixtureRequest, database_kind: str) -> Iterator[str | None]:
    """The manager's database; None is SQLite in its state folder."""
    if database_kind == "sqlite":
        yield None
        return
    with postgresql.server() as server:
        yield postgresql.fresh_database(server, "fastdl")


@pytest.fixture(params=["sqlite", "postgresql"])
def database_kind(request: pytest.FixtureRequest) -> str:
    """Which engine."""
    kind: str = request.param
    return kind


class RealZone:
    """A manager and two agents that share one pool folder, each a process."""

    def __init__(self, folder: Path, database: str | None, origin: FaultOrigin) -> None:
        self.folder = folder
        self.origin = origin
        self.manager = ManagerProcess(folder, database)
        self.agents: dict[str, AgentProcess] = {}
        self.api: Client
        self.zone = ""
        self.shared = folder / "shared"
        self.shared.mkdir()

    async def start(self) -> None:
        """Start everything; returns when both hosts are Up."""
        self.api = await self.manager.start()
        self.zone = (await self.api("createZone", name="z1"))["zone"]["id"]
        await self.api(
            "updateConfiguration", name="secstorage.allowed.internal.sites", value="127.0.0.0/8"
        )
        await self.api(
            "updateConfiguration", name="direct.download.connections.per.origin", value="1"
        )
        for name in ("kvm1", "kvm2"):
            agent = self.agents[name] = AgentProcess(self.folder, name, self.manager)
            token = (await self.api("createHostToken", zoneid=self.zone))["token"]
            await agent.start(token, "--pool", f"nfs=shared:{self.shared}", pools=False)
        await eventually(self.both_up)

    async def both_up(self) -> bool:
        """Whether both hosts are Up."""
        return bool((await self.api("listHosts", state="Up")).get("count") == 2)

    async def hosts(self) -> dict[str, dict[str, Any]]:
        """Id → host, as listHosts shows them."""
        return {h["id"]: h for h in (await self.api("listHosts")).get("host", [])}

    async def template(self, name: str) -> str:
        """A registered template, served slowly."""
        rules = [Rule(when=When(), rate=RATE)]
        content = pseudo_random(hash(name) & 0xFFFF, SIZE)
        self.origin.resources[f"/{name}.raw"] = Resource.of(content, rules=rules)
        answer = await self.api(
            "registerTemplate",
            name=name,
            url=self.origin.url(f"/{name}.raw"),
            format="RAW",
            hypervisor="KVM",
            zoneid=self.zone,
            directdownload="true",
        )
        return str(answer["template"][0]["id"])

    async def prepare(self, template: str) -> dict[str, Any]:
        """The job that brings it to the shared pool."""
        return await self.api("prepareTemplate", zoneid=self.zone, templateid=template)

    async def download(self, template: str) -> dict[str, Any]:
        """The download of the template, once some of it has come."""

        async def check() -> dict[str, Any] | None:
            listed = await self.api("listTemplateDownloads", templateid=template)
            (row,) = listed.get("templatedownload") or [{}]
            return row if row.get("state") == "RUNNING" and row["percent"] > 5 else None

        found: dict[str, Any] = await eventually(check)
        return found

    async def done(self, answer: dict[str, Any]) -> dict[str, Any]:
        """Wait for an async job's end."""

        async def check() -> dict[str, Any] | None:
            state = await self.api("queryAsyncJobResult", jobid=answer["jobid"])
            return state if state["jobstatus"] else None

        found: dict[str, Any] = await eventually(check, within=120)
        return found

    async def close(self) -> None:
        """End everything."""
        for process in (*self.agents.values(), self.manager):
            if process.alive:
                await process.end(signal.SIGKILL)


@pytest.fixture
async def zone(tmp_path: Path, url: str | None) -> AsyncIterator[RealZone]:
    """A running zone."""
    with FaultOrigin() as origin:
        made = RealZone(tmp_path, url, origin)
        try:
            await made.start()
            yield made
        finally:
            await made.close()


async def test_a_host_is_drained_and_another_one_evicted_while_they_work(zone: RealZone) -> None:
    """What runs on the drained one ends there; what ran on the evicted one ends elsewhere."""
    first = await zone.template("first")
    job = await zone.prepare(first)
    busy = (await zone.download(first))["hostid"]
    (other,) = (await zone.hosts()).keys() - {busy}
    drained = await zone.done(await zone.api("prepareHostForMaintenance", id=busy))
    assert drained["jobresult"]["host"]["resourcestate"] == "PrepareForMaintenance"
    second = await zone.template("second")
    later = await zone.prepare(second)
    assert (await zone.download(second))["hostid"] == other
    assert (await zone.done(job))["jobstatus"] == 1

    async def in_maintenance() -> bool:
        return bool((await zone.hosts())[busy]["resourcestate"] == "Maintenance")

    await eventually(in_maintenance)
    # The drained one works again, and the other goes in the middle of its download.
    await zone.done(await zone.api("cancelHostMaintenance", id=busy))
    third = await zone.template("third")
    await zone.api("updateHost", id=busy, allocationstate="Disable")
    last = await zone.prepare(third)
    assert (await zone.download(third))["hostid"] == other
    await zone.api("updateHost", id=busy, allocationstate="Enable")
    await zone.api("deleteHost", id=other, forced="true")
    states = [(await zone.done(answer))["jobstatus"] for answer in (later, last)]
    assert states == [1, 1]
    assert set(await zone.hosts()) == {busy}
    sizes = sorted(p.stat().st_size for p in zone.shared.iterdir() if p.is_file())
    assert sizes == [SIZE] * 3
    names = {a.name: a for a in zone.agents.values()}
    gone = next(a for a in names.values() if "not enrolled here" in a.log())
    assert gone.alive  # it waits for a token, and does nothing
