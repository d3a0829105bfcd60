# SPDX-License-Identifier: Apache-2.0
"""Can a host be disabled, drained and evicted, and what follows?"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from fastdl.errors import AgentRefusedError, ApiConflictError, ApiParamError, Reason
from fastdl.lab.certs import self_signed
from fastdl.manager.hosts import server
from fastdl.manager.hosts.pace import EVENTS_BURST, PER_MESSAGE
from fastdl.manager.ledger import certs, hosts
from fastdl.wire import messages as m
from tests.env.fake_agent import FakeAgent, local_pool, shared_pool
from tests.env.host_views import (
    counted,
    downloads,
    events_of,
    given,
    held_back,
    host,
    pools,
    prepared,
    refused,
    reported,
    state_is,
)
from tests.env.manager import Zone
from tests.env.manager import zone as running_zone
from tests.env.process import eventually


@pytest.fixture
async def zone(tmp_path: Path, database: str | None) -> AsyncIterator[Zone]:
    """A manager with one zone, on each database."""
    async with running_zone(tmp_path / "manager", database=database) as made:
        yield made


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


async def test_a_host_that_is_deleted_while_it_connects_stays_out(
    zone: Zone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its row was read before. Later only the ledger counts."""
    agent = await zone.agent("kvm1", connect=False)
    handler, arrive = zone.manager.handler, hosts.arrive

    async def deleted_meanwhile(*args: Any, **named: Any) -> Any:
        admitted = await arrive(*args, **named)
        handler.evict_here(agent.host_id, admitted[0].row.key_hash)
        return admitted

    monkeypatch.setattr(hosts, "arrive", deleted_meanwhile)
    await agent.connect()
    assert [r.reason for r in agent.refusals] == [Reason.UNKNOWN_HOST]
    monkeypatch.undo()
    await agent.close()
    agent.refusals.clear()
    await agent.connect()  # the ledger knows it
    assert agent.connected


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
