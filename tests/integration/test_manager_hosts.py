# SPDX-License-Identifier: Apache-2.0
"""Can a host be disabled, drained and evicted, and can it take what is another's?"""

from __future__ import annotations

import asyncio
import dataclasses
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from fastdl.errors import AgentRefusedError, ApiConflictError, ApiParamError, Reason
from fastdl.lab.certs import self_signed
from fastdl.manager.clock import Clock
from fastdl.manager.downloads.unreachable import Unreached
from fastdl.manager.hosts import handler, server
from fastdl.manager.hosts.pace import EVENTS_BURST, PER_MESSAGE
from fastdl.manager.ledger import certs, hosts
from fastdl.manager.ledger.pools import OWNED_MAX
from fastdl.wire import messages as m
from tests.env.fake_agent import DEFAULTS, FakeAgent, local_pool, shared_pool
from tests.env.manager import Zone
from tests.env.manager import zone as running_zone


@pytest.fixture
async def zone(tmp_path: Path, database: str | None) -> AsyncIterator[Zone]:
    """A manager with one zone, on each database."""
    async with running_zone(tmp_path / "manager", database=database) as made:
        yield made


async def eventually(check: Callable[[], Awaitable[Any]], *, within: float = 20.0) -> Any:
    """Wait for *check* to return something true."""
    async with asyncio.timeout(within):
        while not (answer := await check()):
            await asyncio.sleep(0.02)
    return answer


async def host(zone: Zone, agent: FakeAgent) -> dict[str, Any]:
    """The host as listHosts shows it."""
    (item,) = (await zone.api("listHosts", id=agent.host_id))["host"]
    found: dict[str, Any] = item
    return found


async def reported(agent: FakeAgent) -> None:
    """Have it report; returns when the manager has taken that in (what it hears comes in order)."""
    await agent.report()
    stale = m.JobResult(job="none", fence=0, kind="remove", failure=m.Failure(code=74, message=""))
    before = len(agent.acks)
    await agent.say(stale)
    async with asyncio.timeout(20):
        while len(agent.acks) == before:
            await asyncio.sleep(0.01)


async def pools(zone: Zone) -> dict[str, dict[str, Any]]:
    """Pool id → pool, as listStoragePools shows them."""
    return {p["id"]: p for p in (await zone.api("listStoragePools")).get("storagepool", [])}


async def events_of(zone: Zone, type_: str) -> list[str]:
    """What the events of a type say."""
    return [e["description"] for e in (await zone.api("listEvents", type=type_)).get("event", [])]


def held_back() -> tuple[asyncio.Event, Callable[[FakeAgent, m.Command], Awaitable[Any]]]:
    """(what lets them end, downloads that wait for it)."""
    release = asyncio.Event()

    async def slow(agent: FakeAgent, command: m.Command) -> m.Done | m.Failure:
        await release.wait()
        return await DEFAULTS["download"](agent, command)

    return release, slow


def downloads(agent: FakeAgent) -> list[str]:
    """The jobs that the host was given to download."""
    found = (c.job for d in agent.documents for c in d.commands if c.kind == "download")
    return list(dict.fromkeys(found))


async def prepared(zone: Zone, name: str, **where: str) -> dict[str, Any]:
    """The job of a template that is brought to pools."""
    item = await zone.template(name)
    return await zone.api("prepareTemplate", zoneid=zone.id, templateid=item["id"], **where)


# --- eviction ----------------------------------------------------------------------------


async def test_a_deleted_host_is_out_at_once_and_stays_out(zone: Zone) -> None:
    """Its connection ends, its certificate and its token are worth nothing, its name is free."""
    token, key = await zone.token(), ec.generate_private_key(ec.SECP256R1())
    evil = FakeAgent(address=zone.manager.server.address, name="kvm1")
    await evil.enrol(token, key=key)
    await evil.connect()
    zone.agents.append(evil)
    with pytest.raises(ApiConflictError, match="not in maintenance mode"):
        await zone.api("deleteHost", id=evil.host_id)
    assert (await zone.api("deleteHost", id=evil.host_id, forced="true"))["success"]
    await eventually(lambda: refused(evil))
    assert evil.refusals[-1].reason == Reason.UNKNOWN_HOST
    assert await zone.api("listHosts") == {}
    await evil.close()
    evil.refusals.clear()
    await evil.connect()
    assert [r.reason for r in evil.refusals] == [Reason.UNKNOWN_HOST]
    with pytest.raises(AgentRefusedError, match="is unknown"):
        await FakeAgent(address=evil.address).enrol(token, key=key)
    assert await events_of(zone, "HOST.DELETE") == ["host kvm1 deleted"]
    with pytest.raises(ApiParamError, match="does not exist"):
        await zone.api("deleteHost", id=evil.host_id, forced="true")


async def refused(agent: FakeAgent) -> bool:
    """Whether the manager had a last word for it."""
    return bool(agent.refusals)


async def test_what_a_deleted_host_still_says_does_not_count(zone: Zone) -> None:
    """A message that was on its way when the host was deleted changes nothing."""
    release, slow = held_back()
    agent = await zone.agent("kvm1", pools=(local_pool("p1"),), work={"download": slow})
    await prepared(zone, "u24")
    await eventually(lambda: given(agent, 1))
    link = zone.manager.handler
    await zone.api("deleteHost", id=agent.host_id, forced="true")
    with pytest.raises(AgentRefusedError, match="not enrolled"):
        await link.receive(agent.host_id, m.InventoryReport(inventory=m.Inventory()))
    release.set()
    assert not (await pools(zone))["p1-id"].get("hosts")


async def given(agent: FakeAgent, count: int) -> bool:
    """Whether the host was given so many downloads."""
    return len(downloads(agent)) >= count


async def test_a_host_that_another_manager_deleted_is_dropped(
    zone: Zone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger decides, whoever changed it: a sweep finds connections that are nobody's."""
    agent = await zone.agent("kvm1")
    context = zone.manager.context

    async def delete(tx: Any) -> None:
        await hosts.remove(tx, agent.host_id)

    await context.ledger.write(delete)
    await zone.manager.handler.sweep()
    await eventually(lambda: refused(agent))
    assert agent.host_id not in context.fleet.hosts


async def test_work_of_a_deleted_host_goes_on_elsewhere(zone: Zone) -> None:
    """A shared pool's job moves at once; a local pool keeps its row for the machine's return."""
    _, slow = held_back()
    both = (shared_pool("nfs"), local_pool("p1"))
    gone = await zone.agent("kvm1", pools=both, work={"download": slow})
    answer = await prepared(zone, "u24", storageid="nfs-id")
    await eventually(lambda: given(gone, 1))
    other = await zone.agent("kvm2", pools=(shared_pool("nfs"),))
    await zone.api("deleteHost", id=gone.host_id, forced="true")
    assert (await zone.api.job(answer))["jobstatus"] == 1
    assert downloads(other)
    found = await pools(zone)
    assert (found["nfs-id"]["state"], found["p1-id"]["state"]) == ("Up", "Down")
    assert found["p1-id"]["error"] == "no host reports it"
    again = await zone.agent("kvm1", pools=(local_pool("p1"),))
    assert (await pools(zone))["p1-id"]["state"] == "Up"
    await zone.api("deleteHost", id=again.host_id, forced="true", forcedestroylocalstorage="true")
    assert set(await pools(zone)) == {"nfs-id"}


async def test_a_job_ends_with_the_pool_that_it_waits_for(zone: Zone) -> None:
    """Nobody waits for ever for storage that is gone."""
    _, slow = held_back()
    gone = await zone.agent("kvm1", pools=(local_pool("p1"),), work={"download": slow})
    answer = await prepared(zone, "u24")
    await eventually(lambda: given(gone, 1))
    with pytest.raises(ApiConflictError, match="reports it"):
        await zone.api("deleteStoragePool", id="p1-id", forced="true")
    await zone.api("deleteHost", id=gone.host_id, forced="true")
    await zone.api("deleteStoragePool", id="p1-id")
    state = await zone.api.job(answer)
    assert (state["jobstatus"], state["jobresult"]["errortext"]) == (
        2,
        "the storage pool was deleted",
    )


async def test_a_pool_with_copies_is_forgotten_only_by_force(zone: Zone) -> None:
    """What is known of copies is not lost by a slip."""
    agent = await zone.agent("kvm1", pools=(local_pool("p1"),))
    assert (await zone.api.job(await prepared(zone, "u24")))["jobstatus"] == 1
    await zone.api("deleteHost", id=agent.host_id, forced="true")
    with pytest.raises(ApiConflictError, match="1 copies of templates are known there"):
        await zone.api("deleteStoragePool", id="p1-id")
    await zone.api("deleteStoragePool", id="p1-id", forced="true")
    assert await pools(zone) == {}


async def test_jobs_on_a_pool_that_nobody_reaches_end_after_the_setting(zone: Zone) -> None:
    """With the reason, and not one second earlier."""
    _, slow = held_back()
    agent = await zone.agent("kvm1", pools=(local_pool("p1"),), work={"download": slow})
    answer = await prepared(zone, "u24")
    await eventually(lambda: given(agent, 1))
    context = zone.manager.context
    await agent.close()
    await eventually(lambda: state_is(zone, agent, "Disconnected"))
    await context.dispatcher.host_lost(agent.host_id)
    clock = Ahead(context.clock)
    unreached = Unreached(
        context.dispatcher,
        ledger=context.ledger,
        clock=clock,
        settings=context.settings,
        events=context.events,
    )
    assert await unreached.round() == 0
    clock.seconds = 86_399
    assert await unreached.round() == 0
    clock.seconds = 86_401
    assert await unreached.round() == 1
    state = await zone.api.job(answer)
    assert state["jobresult"]["errortext"] == (
        "nobody reached the storage pool for 86400 s: host kvm1 is Down"
    )
    assert await events_of(zone, "TEMPLATE.DIRECT.DOWNLOAD.FAILURE")


class Ahead:
    """A clock as it will be in *seconds*; the time of day stays."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.seconds = 0.0

    def time(self) -> float:
        return self._clock.time()

    def steady(self) -> float:
        return self._clock.steady() + self.seconds

    async def sleep(self, seconds: float) -> None:
        await self._clock.sleep(seconds)


async def state_is(zone: Zone, agent: FakeAgent, state: str) -> bool:
    """Whether listHosts shows *state*."""
    return bool((await host(zone, agent))["state"] == state)


async def test_certificates_of_dead_hosts_keep_nobody_waiting(zone: Zone) -> None:
    """Skipped while a host is away, gone with it when it is deleted, pending for none."""
    here, away = await zone.agent("kvm1"), await zone.agent("kvm2")
    answer = await zone.api(
        "uploadTemplateDirectDownloadCertificate",
        certificate=self_signed(),
        name="M1",
        hypervisor="KVM",
        zoneid=zone.id,
    )
    id_ = answer["uploadtemplatedirectdownloadcertificate"]["id"]
    await away.close()
    await eventually(lambda: state_is(zone, away, "Disconnected"))
    await zone.api(
        "updateTemplateDirectDownloadCertificate", id=id_, certificate=self_signed("new")
    )
    assert here.keystore

    async def pushes() -> dict[str, int]:
        async with zone.manager.context.ledger.read() as tx:
            return await certs.counts(tx)

    assert await pushes() == {"UPLOADED": 1, "SKIPPED": 1}
    await zone.api("deleteHost", id=away.host_id, forced="true")
    assert await pushes() == {"UPLOADED": 1}
    (item,) = (await zone.api("listTemplateDirectDownloadCertificates", listhosts="true"))[
        "directdownloadcertificate"
    ]
    assert [h["hostname"] for h in item["hostsmap"]] == ["kvm1"]


# --- allocation --------------------------------------------------------------------------


async def test_a_disabled_host_gets_nothing_new(zone: Zone) -> None:
    """Downloads go elsewhere; what it has is still removed there; certificates still come."""
    agent = await zone.agent("kvm1", pools=(local_pool("p1"),))
    other = await zone.agent("kvm2", pools=(local_pool("p2"),))
    item = await zone.template()
    where = {"zoneid": zone.id, "templateid": item["id"]}
    assert (await zone.api.job(await zone.api("prepareTemplate", **where)))["jobstatus"] == 1
    shown = await zone.api("updateHost", id=agent.host_id, allocationstate="Disable")
    assert shown["host"]["resourcestate"] == "Disabled"
    assert (await zone.api("listHosts", resourcestate="Disabled"))["count"] == 1
    before = len(downloads(agent))
    await prepared(zone, "second")
    await eventually(lambda: given(other, 2))
    waits = await prepared(zone, "third", storageid="p1-id")
    gone = await zone.api("deleteTemplate", id=item["id"])
    assert (await zone.api.job(gone))["jobstatus"] == 1
    assert len(downloads(agent)) == before
    answer = await zone.api(
        "uploadTemplateDirectDownloadCertificate",
        certificate=self_signed(),
        name="M1",
        hypervisor="KVM",
        zoneid=zone.id,
    )
    found = answer["uploadtemplatedirectdownloadcertificate"]["hostsmap"]
    assert [h["status"] for h in found] == ["UPLOADED"] * 2
    await zone.api("updateHost", id=agent.host_id, allocationstate="Enable")
    assert (await zone.api.job(waits))["jobstatus"] == 1


async def test_a_drained_host_finishes_first(zone: Zone) -> None:
    """PrepareForMaintenance while it works, Maintenance when it does not; then it may go."""
    release, slow = held_back()
    agent = await zone.agent("kvm1", pools=(shared_pool("nfs"),), work={"download": slow})
    running, second = await prepared(zone, "u24"), await zone.template("second")
    await eventually(lambda: given(agent, 1))
    job = await zone.api.job(await zone.api("prepareHostForMaintenance", id=agent.host_id))
    assert job["jobresult"]["host"]["resourcestate"] == "PrepareForMaintenance"
    assert job["jobinstancetype"] == "Host"
    where = {"zoneid": zone.id, "templateid": second["id"], "storageid": "nfs-id"}
    waiting = await zone.api("prepareTemplate", **where)
    await zone.manager.handler.sweep()
    assert (await host(zone, agent))["resourcestate"] == "PrepareForMaintenance"
    release.set()
    assert (await zone.api.job(running))["jobstatus"] == 1
    await zone.manager.handler.sweep()
    assert (await host(zone, agent))["resourcestate"] == "Maintenance"
    assert len(downloads(agent)) == 1
    with pytest.raises(ApiConflictError, match="cancelHostMaintenance"):
        await zone.api("updateHost", id=agent.host_id, allocationstate="Enable")
    with pytest.raises(ApiConflictError, match="Cannot perform maintain"):
        await zone.api("prepareHostForMaintenance", id=agent.host_id)
    job = await zone.api.job(await zone.api("cancelHostMaintenance", id=agent.host_id))
    assert job["jobresult"]["host"]["resourcestate"] == "Enabled"
    assert (await zone.api.job(waiting))["jobstatus"] == 1
    with pytest.raises(ApiConflictError, match="Cannot perform cancelMaintenance"):
        await zone.api("cancelHostMaintenance", id=agent.host_id)
    # With nothing to finish it is there at once, and may be deleted without force.
    job = await zone.api.job(await zone.api("prepareHostForMaintenance", id=agent.host_id))
    assert job["jobresult"]["host"]["resourcestate"] == "Maintenance"
    await zone.api("deleteHost", id=agent.host_id)


async def test_a_host_may_be_renamed_and_tagged(zone: Zone) -> None:
    """What an operator says outlives what the host calls itself."""
    agent = await zone.agent("kvm1")
    item = await zone.api("updateHost", id=agent.host_id, name="rack4-7", hosttags="ssd,rack4")
    assert (item["host"]["name"], item["host"]["hosttags"]) == ("rack4-7", "ssd,rack4")
    await agent.close()
    await agent.connect()
    assert (await host(zone, agent))["name"] == "rack4-7"
    for wrong in ({"allocationstate": "Maintenance"}, {"name": " "}):
        with pytest.raises(ApiParamError):
            await zone.api("updateHost", id=agent.host_id, **wrong)


# --- tokens ------------------------------------------------------------------------------


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


# --- identity ----------------------------------------------------------------------------


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


# --- pools of others ---------------------------------------------------------------------


def claim(pool: m.PoolInfo, **changes: Any) -> m.PoolInfo:
    """*pool* as somebody else reports it."""
    return dataclasses.replace(pool, **changes)


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        (local_pool("p"), local_pool("p")),
        (local_pool("p"), claim(local_pool("p"), shared=True)),
        (shared_pool("p"), claim(shared_pool("p"), shared=False)),
        (shared_pool("p", proof="a" * 64), shared_pool("p")),
        (shared_pool("p", proof="a" * 64), shared_pool("p", proof="b" * 64)),
    ],
    ids=["local", "called-shared", "unshared", "unproven", "wrong-proof"],
)
async def test_a_host_cannot_take_a_pool_by_naming_it(
    zone: Zone, mine: m.PoolInfo, theirs: m.PoolInfo
) -> None:
    """It gets no downloads (and no tenant's headers), and changes nothing that is known of it."""
    owner = await zone.agent("kvm1", pools=(mine,))
    before = (await pools(zone))["p-id"]
    named = claim(theirs, name="mine now", path="/evil")
    evil = await zone.agent("kvm2", pools=(claim(named, error="not mounted yet"),))
    await reported(evil)
    assert not await events_of(zone, "HOST.POOL.REFUSED")
    evil.pools = (named,)
    for _ in range(2):
        await reported(evil)
    assert (await pools(zone))["p-id"] == before
    assert len(await events_of(zone, "HOST.POOL.REFUSED")) == 1
    item = await zone.template(**{"details[0].HTTP_HEADER:Authorization": "secret"})
    where = {"zoneid": zone.id, "templateid": item["id"], "storageid": "p-id"}
    assert (await zone.api.job(await zone.api("prepareTemplate", **where)))["jobstatus"] == 1
    assert downloads(owner)
    assert not downloads(evil)
    await owner.close()
    await eventually(lambda: pool_is(zone, "p-id", "Down"))
    with pytest.raises(ApiConflictError, match="No primary storage pool"):
        await zone.api("prepareTemplate", zoneid=zone.id, templateid=item["id"])


async def pool_is(zone: Zone, pool: str, state: str) -> bool:
    """Whether listStoragePools shows *state*."""
    return bool((await pools(zone))[pool]["state"] == state)


async def test_hosts_join_a_shared_pool_by_what_only_its_readers_know(zone: Zone) -> None:
    """The proof counts across clusters; a hiccup of one host unshares nothing for the others."""
    shared = shared_pool("nfs", proof="a" * 64)
    one = await zone.agent("kvm1", pools=(shared,))
    two = FakeAgent(address=one.address, name="kvm2", pools=(shared,))
    await two.enrol(await zone.token(clustername="far"))
    await two.connect()
    zone.agents.append(two)
    context = zone.manager.context
    assert set(context.fleet.reaching("nfs-id")) == {one.host_id, two.host_id}
    two.pools = (claim(shared, name="mine", path="/x", available=5),)
    await reported(two)
    found = (await pools(zone))["nfs-id"]
    assert (found["name"], found.get("path")) == ("nfs", "")
    assert found["disksizeused"] == (1 << 40) - 5  # the room left is anybody's to tell
    one.pools = (m.PoolInfo(id="nfs-id", name="nfs", type=shared.type, error="stale handle"),)
    await reported(one)
    found = (await pools(zone))["nfs-id"]
    assert (found["scope"], found["state"]) == ("CLUSTER", "Up")
    one.pools = (claim(shared, shared=False),)
    await reported(one)
    assert (await pools(zone))["nfs-id"]["scope"] == "CLUSTER"


async def test_an_operator_lets_hosts_join_what_proves_nothing(zone: Zone) -> None:
    """Block storage: hosts of one cluster, or, where that is not enough, by the operator's word."""
    rbd = claim(shared_pool("rbd"), type=m.PoolType.RBD)
    one = await zone.agent("kvm1", pools=(rbd,))
    await zone.agent("kvm2", pools=(rbd,))
    far = FakeAgent(address=one.address, name="kvm3", pools=(rbd,))
    await far.enrol(await zone.token(clustername="far"))
    await far.connect()
    zone.agents.append(far)
    context = zone.manager.context
    assert len(context.fleet.reaching("rbd-id")) == 2
    await zone.api("updateConfiguration", name="storage.pool.join.approved.only", value="true")
    four = await zone.agent("kvm4", pools=(rbd,))
    assert len(context.fleet.reaching("rbd-id")) == 2  # who was in stays in
    item = await zone.api("updateStoragePool", id="rbd-id", open="true")
    assert item["storagepool"]["open"] is True
    await eventually(lambda: reached_by(zone, "rbd-id", 4))
    assert four.host_id in context.fleet.reaching("rbd-id")


async def reached_by(zone: Zone, pool: str, count: int) -> bool:
    """Whether so many connected hosts have the pool."""
    return len(zone.manager.context.fleet.reaching(pool)) == count


async def test_a_lost_owner_leaves_its_pool_to_who_shares_it(zone: Zone) -> None:
    """And an orphan with a proof is not for whoever names it first."""
    shared = shared_pool("nfs", proof="a" * 64)
    one = await zone.agent("kvm1", pools=(shared,))
    two = await zone.agent("kvm2", pools=(shared,))
    await zone.api("deleteHost", id=one.host_id, forced="true")
    two.pools = (claim(shared, name="renamed"),)
    await reported(two)
    assert (await pools(zone))["nfs-id"]["name"] == "renamed"
    await zone.api("deleteHost", id=two.host_id, forced="true")
    await zone.agent("evil", pools=(shared_pool("nfs", proof="b" * 64),))
    assert (await pools(zone))["nfs-id"]["state"] == "Down"
    await zone.agent("kvm3", pools=(shared,))
    assert (await pools(zone))["nfs-id"]["state"] == "Up"


# --- zones -------------------------------------------------------------------------------


async def test_a_zone_goes_when_it_is_empty(zone: Zone) -> None:
    """What keeps it is named; certificates and tokens go with it."""
    agent = await zone.agent("kvm1", pools=(local_pool("p1"),))
    item = await zone.template()
    await zone.api(
        "uploadTemplateDirectDownloadCertificate",
        certificate=self_signed(),
        name="M1",
        hypervisor="KVM",
        zoneid=zone.id,
    )
    await zone.token()

    async def kept_by(what: str) -> None:
        with pytest.raises(ApiConflictError, match=f"there are {what} in it"):
            await zone.api("deleteZone", id=zone.id)

    await kept_by("hosts")
    await zone.api("deleteHost", id=agent.host_id, forced="true")
    await kept_by("storage pools")
    await zone.api("deleteStoragePool", id="p1-id")
    await kept_by("templates or ISOs")
    await zone.api.job(await zone.api("deleteTemplate", id=item["id"]))
    assert (await zone.api("deleteZone", id=zone.id))["success"]
    assert await zone.api("listZones") == {}
    assert await zone.api("listTemplateDirectDownloadCertificates") == {}
    assert await zone.api("listHostTokens") == {}


async def test_silent_hosts_pools_are_down(zone: Zone, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool is Up while a host that is Up can use it."""
    monkeypatch.setattr(handler, "SILENT_S", 0.3)
    monkeypatch.setattr(handler, "BEAT_S", 0.2)
    agent = await zone.agent("kvm1", pools=(local_pool("p1"),))
    await agent.close()
    await eventually(lambda: state_is(zone, agent, "Down"))
    assert (await pools(zone))["p1-id"]["error"] == "host kvm1 is Down"


async def counted(zone: Zone, command: str, **params: str) -> int:
    """How many rows a list has in all."""
    answer = await zone.api(command, page="1", pagesize="1", **params)
    return int(answer["count"])


async def test_a_host_makes_no_pools_without_end(zone: Zone) -> None:
    """Each report may name new ones; those that only ever had an error leave no trace."""
    evil = await zone.agent("kvm1")
    for turn in range(6):
        evil.pools = tuple(local_pool(f"p{turn}-{n}") for n in range(256))
        await reported(evil)
    assert await counted(zone, "listStoragePools") == OWNED_MAX
    assert await events_of(zone, "HOST.POOL.REFUSED")
    other = await zone.agent("kvm2")
    for turn in range(3):
        named = (local_pool(f"q{turn}-{n}") for n in range(256))
        other.pools = tuple(claim(pool, error="broken") for pool in named)
        await reported(other)
    assert await counted(zone, "listStoragePools") == OWNED_MAX + 256


async def test_a_host_that_repeats_itself_fills_no_table_of_events(zone: Zone) -> None:
    """Claims that come and go are told as often as somebody can read it."""
    mine = tuple(local_pool(f"p{n}") for n in range(200))
    await zone.agent("kvm1", pools=mine)
    evil = await zone.agent("kvm2")
    for _ in range(5):
        for evil.pools in (mine, ()):
            await reported(evil)
    assert await counted(zone, "listEvents", type="HOST.POOL.REFUSED") == EVENTS_BURST


async def test_a_host_that_floods_waits_and_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One host's beats, sent without a pause, kept the whole manager from answering."""
    monkeypatch.setattr(server, "MESSAGES_BURST", 16 * PER_MESSAGE)
    monkeypatch.setattr(server, "MESSAGES_PER_S", 100 * PER_MESSAGE)
    async with running_zone(tmp_path / "manager") as zone:
        evil = await zone.agent("kvm1")
        for _ in range(2):  # a new connection brings no new allowance
            began = time.monotonic()
            for _ in range(100):
                await evil.say(m.Beat())
            waiting = asyncio.create_task(reported(evil))
            await zone.api("listHosts")
            assert not waiting.done()
            await waiting
            assert time.monotonic() - began > 0.8
            await evil.close_connection_only()
            await evil.connect()


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
