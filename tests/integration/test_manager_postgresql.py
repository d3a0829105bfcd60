# SPDX-License-Identifier: Apache-2.0
"""Does a real ``fastdl manager`` on PostgreSQL survive its own death and the database's?"""

from __future__ import annotations

import asyncio
import signal
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from fastdl.errors import FastdlError
from fastdl.lab.certs import self_signed
from fastdl.wire import messages as m
from tests.env import postgresql
from tests.env.fake_agent import DEFAULTS, FakeAgent, local_pool
from tests.env.manager import Client
from tests.env.mortal_manager import SteadyAgent
from tests.env.process import ManagerProcess, eventually


@pytest.fixture
def database() -> Iterator[postgresql.Server]:
    """A server of this test alone: it will be stopped."""
    with postgresql.mortal_server(fsync=True) as made:
        yield made


@pytest.fixture
async def process(tmp_path: Path, database: postgresql.Server) -> AsyncIterator[ManagerProcess]:
    """A manager that has not been started yet."""
    made = ManagerProcess(tmp_path, postgresql.fresh_database(database.url, "fastdl"))
    try:
        yield made
    finally:
        if made.alive:
            await made.end(signal.SIGKILL)


def health(api: Client) -> int:
    """The status of the health page."""
    try:
        url = api.credentials["url"].replace("/client/api", "/healthz")
        with urllib.request.urlopen(url, timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as exc:
        return exc.code


async def test_no_job_is_lost_when_the_manager_and_its_database_die(
    process: ManagerProcess, database: postgresql.Server
) -> None:
    """Killed manager, then a crashed and restarted server, with downloads under way (A08, G02)."""
    gates = {name: asyncio.Event() for name in ("p1", "p2", "p3")}
    reported: set[str] = set()

    async def gated(agent: FakeAgent, command: m.Command) -> m.Done | m.Failure:
        assert isinstance(command.args, m.DownloadArgs)
        name = command.args.pool.removesuffix("-id")
        await gates[name].wait()
        reported.add(name)
        return await DEFAULTS["download"](agent, command)

    # From nothing: zone, token, host, certificate, template.
    api = await process.start()
    zone = (await api("createZone", name="z1"))["zone"]["id"]
    token = (await api("createHostToken", zoneid=zone))["token"]
    host, _, port = process.agents.rpartition(":")
    pools = tuple(local_pool(name) for name in gates)
    agent = SteadyAgent(address=(host, int(port)), pools=pools, work={"download": gated})
    await agent.enrol(token)
    await agent.connect()
    uploaded = await api(
        "uploadTemplateDirectDownloadCertificate",
        certificate=self_signed(),
        name="MIRROR1",
        hypervisor="KVM",
        zoneid=zone,
    )
    hosts = uploaded["uploadtemplatedirectdownloadcertificate"]["hostsmap"]
    assert [h["status"] for h in hosts] == ["UPLOADED"]
    template = (
        await api(
            "registerTemplate",
            name="t",
            url="https://mirror.example/t.qcow2",
            format="QCOW2",
            hypervisor="KVM",
            zoneid=zone,
            directdownload="true",
        )
    )["template"][0]["id"]
    answer = await api("prepareTemplate", zoneid=zone, templateid=template)

    async def states() -> dict[str, str]:
        found = await api("listTemplateDownloads", templateid=template)
        return {d["storagename"]: d["state"] for d in found["templatedownload"]}

    async def all_are(*wanted: str) -> bool:
        return sorted((await states()).values()) == sorted(wanted)

    await eventually(lambda: all_are("RUNNING", "RUNNING", "RUNNING"))

    # The manager dies; the host goes on, finishes one, and finds the new manager.
    assert await process.end(signal.SIGKILL) == -signal.SIGKILL
    gates["p1"].set()
    api = await process.start()
    await agent.close_connection_only()
    await agent.connect()
    await eventually(lambda: all_are("DONE", "RUNNING", "RUNNING"))

    # The database dies; a result comes in meanwhile and cannot be stored.
    acknowledged = {ack.job for ack in agent.acks}
    await asyncio.to_thread(database.stop)
    gates["p2"].set()
    assert await asyncio.to_thread(health, api) == 503
    with pytest.raises(FastdlError):
        await api("listZones")

    async def said() -> bool:
        return "p2" in reported

    await eventually(said)
    await asyncio.to_thread(database.start)

    async def healthy() -> bool:
        return await asyncio.to_thread(health, api) == 200

    await eventually(healthy)
    assert process.alive, "the manager must outlive its database"
    assert {ack.job for ack in agent.acks} == acknowledged, (
        "a result was acknowledged that nobody stored"
    )
    gates["p3"].set()
    await agent.close_connection_only()
    await agent.connect()

    state = await api.job(answer)
    assert state["jobstatus"] == 1, state
    assert await states() == dict.fromkeys(gates, "DONE")
    started = [job for what, job in agent.log if what == "started"]
    assert len(started) == len(set(started)) == 5  # a keystore update, a probe, three downloads
    listed = await api("listEvents", type="TEMPLATE.DIRECT.DOWNLOAD.SUCCESS")
    assert listed["count"] == 3
    await agent.close()
    assert await process.end(signal.SIGTERM) == 0
    assert "Traceback" not in process.log(), "an error that nobody expected"
