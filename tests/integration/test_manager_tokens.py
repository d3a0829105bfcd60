# SPDX-License-Identifier: Apache-2.0
"""Who may become which host, and stay it?"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from fastdl.errors import AgentRefusedError, ApiParamError, Reason
from fastdl.manager.hosts import server
from tests.env.fake_agent import FakeAgent, local_pool
from tests.env.host_views import events_of, host, pools, refused, reported
from tests.env.manager import Zone
from tests.env.manager import zone as running_zone
from tests.env.process import eventually


@pytest.fixture
async def zone(tmp_path: Path, database: str | None) -> AsyncIterator[Zone]:
    """A manager with one zone, on each database."""
    async with running_zone(tmp_path / "manager", database=database) as made:
        yield made


async def test_tokens_are_listed_without_secrets_and_revoked(zone: Zone) -> None:
    """Whoever found one in a mailbox finds it worthless."""
    made = await zone.api("createHostToken", zoneid=zone.id, clustername="c1")
    agent = await zone.agent("kvm1")
    listed = (await zone.api("listHostTokens"))["hosttoken"]
    assert [t["state"] for t in listed] == ["Unused", "Used"]
    assert listed[0]["clustername"] == "c1"
    assert (listed[1]["hostid"], listed[1]["hostname"]) == (agent.host_id, "kvm1")
    assert made["token"].split(".")[2] not in str(listed)
    assert (await zone.api("listHostTokens", state="Used"))["count"] == 1
    await zone.api("deleteHostToken", id=made["id"])
    with pytest.raises(AgentRefusedError, match="is unknown"):
        await FakeAgent(address=agent.address).enrol(made["token"])
    with pytest.raises(ApiParamError):
        await zone.api("deleteHostToken", id=made["id"])
    await zone.api("deleteHostToken", id=listed[1]["id"])  # its host stays
    assert (await host(zone, agent))["state"] == "Up"


async def test_a_machine_set_up_again_takes_its_old_place_by_a_token_for_it(zone: Zone) -> None:
    """The same host with a new key: its pools, labels and wishes stay, the old key ends at once."""
    old = await zone.agent("kvm1", pools=(local_pool("p1"),))
    await zone.api("updateHost", id=old.host_id, hosttags="ssd")
    token = await zone.api("createHostToken", hostid=old.host_id)
    assert token["zoneid"] == zone.id
    new = FakeAgent(address=old.address, name="kvm1", pools=(local_pool("p1"),))
    await new.enrol(token["token"])
    zone.agents.append(new)
    assert new.host_id == old.host_id
    await eventually(lambda: refused(old))
    await new.connect()
    assert not new.refusals
    await old.close()
    old.refusals.clear()
    await old.connect()
    assert [r.reason for r in old.refusals] == [Reason.UNKNOWN_HOST]
    (item,) = (await zone.api("listHosts"))["host"]
    assert (item["state"], item["hosttags"]) == ("Up", "ssd")
    assert (await pools(zone))["p1-id"]["state"] == "Up"
    with pytest.raises(AgentRefusedError, match="already been used"):
        await FakeAgent(address=old.address).enrol(token["token"])


async def test_a_machine_set_up_again_with_any_token_leaves_a_question(zone: Zone) -> None:
    """Two hosts of one name: an event says so, and what answers it."""
    old = await zone.agent("kvm1", pools=(local_pool("p1"),))
    await old.close()
    new = await zone.agent("kvm1", pools=(local_pool("p1"),))
    (text,) = await events_of(zone, "HOST.NAME")
    assert f"deleteHost id={old.host_id}" in text
    # The local pool is the old host's until the operator says that there is none.
    (why,) = await events_of(zone, "HOST.POOL.REFUSED")
    assert "another host's, and not shared" in why
    await zone.api("deleteHost", id=old.host_id, forced="true")
    await reported(new)
    assert (await pools(zone))["p1-id"]["state"] == "Up"


async def test_a_host_with_its_key_stays_itself_whatever_token_it_shows(zone: Zone) -> None:
    """An agent whose certificate expired heals with any token of its zone, as the same host."""
    key = ec.generate_private_key(ec.SECP256R1())
    agent = FakeAgent(address=zone.manager.server.address, name="kvm1")
    await agent.enrol(await zone.token(), key=key)
    host_id, token = agent.host_id, await zone.token()
    await agent.enrol(token, key=key)
    assert agent.host_id == host_id
    assert (await zone.api("listHosts"))["count"] == 1
    other = (await zone.api("createZone", name="z2"))["zone"]["id"]
    foreign = (await zone.api("createHostToken", zoneid=other))["token"]
    with pytest.raises(AgentRefusedError, match="of another zone"):
        await agent.enrol(foreign, key=key)
    assert (await zone.api("listHostTokens", zoneid=other))["hosttoken"][0]["state"] == "Unused"
    rival = await zone.agent("kvm2", connect=False)
    theirs = (await zone.api("createHostToken", hostid=rival.host_id))["token"]
    with pytest.raises(AgentRefusedError, match="the token is for another one"):
        await agent.enrol(theirs, key=key)


async def test_a_renewal_never_changes_who_may_come_in(zone: Zone) -> None:
    """Whoever stole a certificate and renews it with a key of their own locks nobody out."""
    agent = await zone.agent("kvm1")
    stranger = ec.generate_private_key(ec.SECP256R1())
    for _ in range(2):
        await agent.renew(stranger)
        await eventually(lambda: refused(agent))
        assert "the key that the host was enrolled with" in agent.refusals[-1].message
        await agent.close()
        agent.refusals.clear()
        await agent.connect()
        assert not agent.refusals
    assert len(await events_of(zone, "HOST.RENEWAL")) == 2


async def test_two_agents_with_one_key_are_noticed(zone: Zone) -> None:
    """A copied state folder or a stolen key shows as soon as both are there."""
    owner = await zone.agent("kvm1", instance="first")
    await owner.close_connection_only()
    await owner.connect()
    assert not owner.refusals  # the same agent again is no second one
    thief = owner.copied(instance="second")
    await thief.connect()
    zone.agents.append(thief)
    assert not thief.refusals  # the agent may have been restarted
    await owner.close_connection_only()
    await owner.connect()
    assert [r.reason for r in owner.refusals] == [Reason.TWO_AGENTS]
    (text,) = await events_of(zone, "HOST.TWO.AGENTS")
    assert "createHostToken hostid" in text
    # The way out: a new key, which ends both.
    token = (await zone.api("createHostToken", hostid=owner.host_id))["token"]
    await eventually(lambda: is_closed(owner))
    await owner.close_connection_only()
    owner.refusals.clear()
    await owner.enrol(token)
    await eventually(lambda: refused(thief))
    await owner.connect()
    assert not owner.refusals


async def is_closed(agent: FakeAgent) -> bool:
    """Whether its connection is over."""
    return agent._socket is None or agent._socket.closed


async def test_an_enrolment_that_does_not_arrive_is_not_waited_for(
    zone: Zone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody can send half of one, without a token, and keep a descriptor with each."""
    monkeypatch.setattr(server, "HELLO_S", 0.2)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    reader, writer = await asyncio.open_connection(*zone.manager.server.address, ssl=context)
    writer.write(b"POST /enrol HTTP/1.1\r\nHost: m\r\nContent-Length: 100\r\n\r\n{")
    async with asyncio.timeout(10):
        assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")
    writer.close()
