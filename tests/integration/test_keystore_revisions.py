# SPDX-License-Identifier: Apache-2.0
"""A host's reports overtake each other on their way: which one does the manager believe?

The keystore is read at one moment and reported at another. What a host read before
its last job ended, or before it connected, must not hide what it holds now.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fastdl.lab.certs import self_signed
from fastdl.manager.hosts.channel import Channel
from fastdl.manager.ledger import hosts
from fastdl.wire import messages as m
from tests.env.fake_agent import DEFAULTS, FakeAgent
from tests.env.manager import Zone
from tests.env.manager import zone as running_zone


@pytest.fixture
async def zone(tmp_path: Path, database: str | None) -> AsyncIterator[Zone]:
    """A manager with one zone, on each database."""
    async with running_zone(tmp_path / "manager", database=database) as made:
        yield made


async def upload(zone: Zone, name: str) -> dict[str, str]:
    """Upload a certificate; host name → status."""
    answer = await zone.api(
        "uploadTemplateDirectDownloadCertificate",
        certificate=self_signed(name),
        name=name,
        hypervisor="KVM",
        zoneid=zone.id,
    )
    item = answer["uploadtemplatedirectdownloadcertificate"]
    return {h["hostname"]: h["status"] for h in item["hostsmap"]}


async def listed(zone: Zone) -> dict[str, dict[str, Any]]:
    """Alias → what is said of the zone's only host."""
    answer = await zone.api("listTemplateDirectDownloadCertificates", listhosts="true")
    return {c["alias"]: c["hostsmap"][0] for c in answer["directdownloadcertificate"]}


async def heard(zone: Zone, agent: FakeAgent) -> None:
    """Wait until the manager has taken in all that *agent* said: it answers in order."""
    failure = m.Failure(code=1, message="the end of what was said")
    await agent.say(m.JobResult(job="mark", fence=1, kind="probe", failure=failure))
    async with asyncio.timeout(10):
        while all(ack.job != "mark" for ack in agent.acks):
            await asyncio.sleep(0.01)


async def held(zone: Zone, agent: FakeAgent) -> set[str] | None:
    """The aliases that the manager believes the host to have."""
    async with zone.manager.context.ledger.read() as tx:
        row = await hosts.get(tx, agent.host_id)
    assert row is not None
    found = hosts.keystore_of(row)
    return None if found is None else set(found)


async def test_an_old_inventory_does_not_hide_a_certificate_from_its_revocation(
    zone: Zone,
) -> None:
    """Else REVOKED would be said of a certificate that the host goes on trusting."""
    agent = await zone.agent("kvm1")
    old = agent.inventory()
    assert await upload(zone, "m1") == {"kvm1": "UPLOADED"}

    # The host is at work on another one, so that nothing mends what the manager believes.
    started, end = asyncio.Event(), asyncio.Event()

    async def fails(agent: FakeAgent, _command: m.Command) -> m.Done | m.Failure:
        started.set()
        await end.wait()
        agent.work["certificates"] = DEFAULTS["certificates"]
        return m.Failure(code=50, message="the passphrase is wrong")

    agent.work["certificates"] = fails
    second = asyncio.create_task(upload(zone, "m2"))
    await started.wait()
    await agent.say(m.InventoryReport(inventory=old))
    await heard(zone, agent)
    assert await held(zone, agent) == {"m1"}

    revocation = asyncio.create_task(
        zone.api(
            "revokeTemplateDirectDownloadCertificate", name="m1", hypervisor="KVM", zoneid=zone.id
        )
    )
    async with asyncio.timeout(10):
        while "not carried out" not in (await listed(zone))["m1"].get("details", ""):
            await asyncio.sleep(0.02)
    end.set()
    (status,) = (await revocation)["directdownloadcertificatehoststatus"]
    assert status["status"] == "REVOKED"
    assert "m1" not in agent.keystore, "it is said to be revoked, and the host trusts it"
    assert await second == {"kvm1": "FAILED"}


async def test_a_result_from_before_the_connection_does_not_hide_a_wiped_keystore(
    zone: Zone,
) -> None:
    """A result is repeated until it is acknowledged; the keystore in it is that of its time."""
    started, end = asyncio.Event(), asyncio.Event()

    async def gated(agent: FakeAgent, command: m.Command) -> m.Done | m.Failure:
        started.set()
        await end.wait()
        agent.work["certificates"] = DEFAULTS["certificates"]
        return await DEFAULTS["certificates"](agent, command)

    agent = await zone.agent("kvm1", work={"certificates": gated})
    uploading = asyncio.create_task(upload(zone, "m1"))
    await started.wait()
    await agent.close_connection_only()
    end.set()
    async with asyncio.timeout(10):
        while "m1" not in agent.keystore:
            await asyncio.sleep(0.01)
    agent.keystore.clear()
    await agent.connect()
    await uploading
    async with asyncio.timeout(10):
        while "m1" not in agent.keystore:
            await asyncio.sleep(0.01)
    assert agent.log.count(("import", "m1")) == 2


async def test_an_old_inventory_changes_nothing_about_pools_either(zone: Zone) -> None:
    """One from before the host's last connection may come in after it."""
    agent = await zone.agent("kvm1")
    old = agent.inventory()
    await agent.close()
    agent.keystore["by-hand"] = "ab" * 32
    agent.pools = (m.PoolInfo(id="p1", name="p1", type=m.PoolType.FILESYSTEM),)
    await agent.connect()
    await agent.say(m.InventoryReport(inventory=old))
    await heard(zone, agent)
    assert await held(zone, agent) == {"by-hand"}
    assert (await zone.api("listStoragePools"))["count"] == 1
    fleet = zone.manager.context.fleet
    assert fleet.hosts[agent.host_id].pools == {"p1"}


async def test_a_host_that_lost_its_memory_is_believed_again(zone: Zone) -> None:
    """Its looks are numbered from the start again; a connection says which numbers count."""
    agent = await zone.agent("kvm1")
    for _ in range(20):
        agent.inventory()
    await agent.report()
    await agent.close()
    agent.revisions = iter(range(1, 100))
    await agent.connect()
    agent.keystore["by-hand"] = "ab" * 32
    await agent.report()
    await heard(zone, agent)
    assert await held(zone, agent) == {"by-hand"}


async def test_what_an_earlier_connection_still_brings_is_stored_before_the_next_hello(
    zone: Zone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its number, of before the host lost its memory, is taken for the later one."""
    agent = await zone.agent("kvm1")
    for _ in range(20):
        agent.inventory()
    server, handler = zone.manager.server, zone.manager.handler
    receive, hello = handler.receive, server._hello
    reached, said, go = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def slow(host: str, message: m.Message) -> m.Message | None:
        if isinstance(message, m.InventoryReport) and not reached.is_set():
            reached.set()
            await go.wait()
        return await receive(host, message)

    async def noted(channel: Channel, host: str) -> m.Hello:
        found = await hello(channel, host)
        said.set()
        return found

    monkeypatch.setattr(handler, "receive", slow)
    monkeypatch.setattr(server, "_hello", noted)
    await agent.report()
    await reached.wait()
    await agent.close()
    agent.revisions = iter(range(1, 100))
    agent.keystore["by-hand"] = "ab" * 32
    connecting = asyncio.create_task(agent.connect())
    await said.wait()
    # A manager that did not wait would welcome the host meanwhile.
    await asyncio.wait({connecting}, timeout=0.5)
    go.set()
    await connecting
    agent.keystore["later"] = "cd" * 32
    await agent.report()
    await heard(zone, agent)
    assert await held(zone, agent) == {"by-hand", "later"}


async def test_a_host_that_does_not_number_its_looks_is_believed_as_ever(zone: Zone) -> None:
    """An agent from before there were numbers: its last word counts."""
    agent = await zone.agent("kvm1")
    agent.revisions = iter([0] * 10)
    await agent.close_connection_only()
    await agent.connect()
    assert await upload(zone, "m1") == {"kvm1": "UPLOADED"}
    agent.keystore.clear()
    await agent.report()
    async with asyncio.timeout(10):
        while "m1" not in agent.keystore:
            await asyncio.sleep(0.01)
