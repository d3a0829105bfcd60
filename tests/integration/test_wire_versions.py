# SPDX-License-Identifier: Apache-2.0
"""An old agent with this manager, this agent with an old and with a newer manager (G06)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from fastdl.lab.certs import self_signed
from fastdl.wire import messages as m
from fastdl.wire.version import CURRENT, OLDEST, VERSIONS
from tests.env.agent_process import Process, placed
from tests.env.fake_agent import FakeAgent, local_pool
from tests.env.manager import zone as running_zone
from tests.env.origin import FaultOrigin, Resource, pseudo_random
from tests.env.wire_manager import WireManager
from tests.env.wire_versions import as_spoken_by, from_the_future

CONTENT = pseudo_random(12, 1 << 20)


@dataclass
class AgentOf(FakeAgent):
    """A host of another version: it says nothing that its version does not know."""

    version: int = OLDEST

    async def say(self, message: m.Message) -> None:
        """Send *message* as that version puts it."""
        assert self._socket is not None
        known = self.version in VERSIONS
        text = as_spoken_by(self.version, message) if known else from_the_future(message)
        await self._socket.send_str(text)


@pytest.mark.parametrize("version", [*VERSIONS, CURRENT + 1])
async def test_an_agent_of_another_age_works_for_this_manager(tmp_path: Path, version: int) -> None:
    """An old one leaves out what is newer; a newer one adds what we do not know (G06)."""
    async with running_zone(tmp_path / "manager") as zone:
        agent = AgentOf(
            address=zone.manager.server.address, pools=(local_pool("p1"),), version=version
        )
        await agent.enrol(await zone.token())
        zone.agents.append(agent)
        await agent.connect(wire_oldest=min(version, CURRENT), wire_newest=version)
        assert not agent.refusals
        answer = await zone.api(
            "uploadTemplateDirectDownloadCertificate",
            certificate=self_signed(),
            name="M1",
            hypervisor="KVM",
            zoneid=zone.id,
        )
        hosts = answer["uploadtemplatedirectdownloadcertificate"]["hostsmap"]
        assert [h["status"] for h in hosts] == ["UPLOADED"]
        item = await zone.template()
        done = await zone.api("prepareTemplate", zoneid=zone.id, templateid=item["id"])
        assert (await zone.api.job(done))["jobstatus"] == 1


async def test_an_agent_outside_the_table_is_told_which_side_to_upgrade(tmp_path: Path) -> None:
    """A connection that just ends would send its operator looking for the network (G06)."""
    async with running_zone(tmp_path / "manager") as zone:
        for oldest, newest in ((CURRENT + 1, CURRENT + 3), (0, OLDEST - 1)):
            agent = await zone.agent("kvm1", connect=False)
            await agent.connect(wire_oldest=oldest, wire_newest=newest)
            (refused,) = agent.refusals
            assert refused.code == 71
            assert f"speaks wire versions {oldest} to {newest}" in refused.message
            assert "upgrade the older of the two" in refused.message


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[WireManager]:
    """The other side of the wire."""
    with WireManager(tmp_path / "manager") as running:
        yield running


@pytest.fixture
def agent(tmp_path: Path, manager: WireManager) -> Iterator[Process]:
    """A real agent that has not been started."""
    with placed(tmp_path / "agent", manager) as one:
        yield one


@pytest.mark.parametrize("version", [*VERSIONS, CURRENT + 1])
def test_this_agent_works_for_a_manager_of_another_age(
    manager: WireManager, agent: Process, version: int
) -> None:
    """Old: defaults fill what it does not say. Newer: unknown fields and messages pass (G06)."""
    old = partial(as_spoken_by, version)
    manager.dialect = old if version in VERSIONS else from_the_future
    agent.start()
    host = manager.host()
    with FaultOrigin({"/x.raw": Resource.of(CONTENT)}) as origin:
        transfer = m.Transfer(sources=(origin.url("/x.raw"),), allowed_cidrs=("127.0.0.0/8",))
        args = m.DownloadArgs(
            template="t", pool=agent.pool_id, volume="v1", format="RAW", transfer=transfer
        )
        wanted = m.Command(job="j1", kind=m.Kind.DOWNLOAD, fence=1, args=args)
        strange = m.Command(job="j2", kind="dance", fence=1, args=m.UnknownArgs())
        manager.want(host, wanted, strange)
        done = manager.result("j1").done
        assert isinstance(done, m.DownloadDone)
        assert (agent.pool / done.install_path).read_bytes() == CONTENT
        failure = manager.result("j2").failure
        assert failure is not None
        assert failure.code == 71


def test_this_agent_says_why_a_manager_outside_the_table_refuses_it(
    manager: WireManager, agent: Process
) -> None:
    """Its operator reads the agent's log, not the manager's (G06)."""
    reason = "the other side speaks wire versions 1 to 1, this one 7 to 9: upgrade the older"
    manager.refuses = m.Refused(code=71, message=reason)
    agent.start()
    manager.wait(lambda: manager.all(m.Hello) or None)
    deadline = time.monotonic() + 20
    while reason not in agent.log.read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert f"the manager refuses this host: {reason}" in agent.log.read_text()
    assert "Traceback" not in agent.log.read_text()
