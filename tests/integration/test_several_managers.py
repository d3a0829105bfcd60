# SPDX-License-Identifier: Apache-2.0
"""Do several managers on one PostgreSQL ledger act as one, wherever a host is connected?"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.errors import FastdlError
from fastdl.lab.certs import self_signed
from fastdl.manager.hosts import known_ca
from fastdl.manager.ledger import hosts, pools, tables
from fastdl.wire import messages as m
from tests.env import postgresql
from tests.env.fake_agent import DEFAULTS, FakeAgent, local_pool, shared_pool
from tests.env.manager import Zone, zone
from tests.env.process import eventually


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A server for the tests here."""
    with postgresql.server() as url:
        yield url


@pytest.fixture
async def managers(tmp_path: Path, server: str) -> AsyncIterator[tuple[Zone, Zone]]:
    """Two managers of one ledger, each with a client and no hosts."""
    url = postgresql.fresh_database(server, "fastdl")
    async with contextlib.AsyncExitStack() as running:
        a = await running.enter_async_context(zone(tmp_path / "a", database=url))
        (tmp_path / "b").mkdir(mode=0o700)
        shutil.copy(tmp_path / "a" / "secret.key", tmp_path / "b")
        b = await running.enter_async_context(zone(tmp_path / "b", database=url))
        assert a.id == b.id
        yield a, b


def at(zone: Zone) -> tuple[str, int]:
    """Where agents find that manager."""
    return zone.manager.server.address


async def state_of(zone: Zone, host: str) -> str:
    """The host's state, as that manager lists it."""
    found: str = (await zone.api("listHosts", id=host))["host"][0]["state"]
    return found


async def test_a_job_of_one_manager_runs_on_a_host_of_another(
    managers: tuple[Zone, Zone],
) -> None:
    """Registration (a probe), the download, its progress and its end cross from A to B and back."""
    a, b = managers
    go = asyncio.Event()

    async def slow(agent: FakeAgent, command: m.Command) -> m.Done | m.Failure:
        await agent.say(
            m.Progress(job=command.job, fence=command.fence, done=1 << 19, total=1 << 20, rate=5.0)
        )
        await go.wait()
        return await DEFAULTS["download"](agent, command)

    host = await b.agent("kvm1", pools=(local_pool("p1"),), work={"download": slow})

    async def heard_of() -> bool:
        return host.host_id in a.manager.context.fleet.hosts

    await eventually(heard_of)
    template = (await a.template("t"))["id"]
    answer = await a.api("prepareTemplate", zoneid=a.id, templateid=template)

    async def halfway() -> bool:
        found = await a.api("listTemplateDownloads", templateid=template)
        (row,) = found["templatedownload"]
        return bool(row["state"] == "RUNNING" and row.get("percent") == 50 and row.get("rate") == 5)

    await eventually(halfway, within=10)
    go.set()
    assert (await a.api.job(answer, within=10))["jobstatus"] == 1
    assert [what for what, _ in host.log].count("done") == 2  # the probe and the download


async def test_certificates_reach_the_hosts_of_every_manager(managers: tuple[Zone, Zone]) -> None:
    """An upload and a revocation at A answer for hosts at A and at B."""
    a, b = managers
    agents = [await a.agent("kvm1"), await b.agent("kvm2")]
    values = {"name": "MIRROR1", "hypervisor": "KVM", "zoneid": a.id}
    command = "uploadTemplateDirectDownloadCertificate"
    found = (await a.api(command, certificate=self_signed(), **values))[command.lower()]
    assert {h["status"] for h in found["hostsmap"]} == {"UPLOADED"}
    assert len(found["hostsmap"]) == 2
    assert all(len(agent.keystore) == 1 for agent in agents)
    await a.api("revokeTemplateDirectDownloadCertificate", **values)

    async def gone() -> bool:
        return not any(agent.keystore for agent in agents)

    await eventually(gone, within=10)


async def test_a_host_moves_and_its_old_manager_does_not_report_it_lost(
    managers: tuple[Zone, Zone],
) -> None:
    """The connection to A ends after the one to B was admitted: the host stays Up."""
    a, b = managers
    host = await a.agent("kvm1", pools=(local_pool("p1"),))
    again = host.copied(address=at(b))
    a.agents.append(again)
    await again.connect()

    async def let_go() -> bool:
        return not host.connected and host.host_id not in a.manager.server.connections.by_host

    await eventually(let_go, within=10)
    await host.close()
    assert await state_of(a, host.host_id) == await state_of(b, host.host_id) == "Up"
    template = (await a.template("t"))["id"]
    answer = await a.api("prepareTemplate", zoneid=a.id, templateid=template)
    assert (await a.api.job(answer, within=10))["jobstatus"] == 1
    assert [what for what, _ in again.log].count("done") == 2

    # The departure itself, however late, is of a host that is connected elsewhere.
    await a.manager.handler._leave(host.host_id, "Disconnected", "late")
    await a.manager.context.dispatcher.host_lost(host.host_id, gateway=a.manager.name)
    assert await state_of(b, host.host_id) == "Up"
    await again.close_connection_only()

    async def left() -> bool:
        return await state_of(a, host.host_id) == "Disconnected"

    await eventually(left, within=10)


async def test_an_inventory_that_the_old_manager_still_stores_is_not_the_last_word(
    managers: tuple[Zone, Zone], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host moved meanwhile, and what it said to the new manager is the later state."""
    a, b = managers
    host = await a.agent("kvm1")
    for _ in range(20):
        host.inventory()
    reached, go, processed = asyncio.Event(), asyncio.Event(), asyncio.Event()
    store, receive = hosts.store_inventory, a.manager.handler.receive

    async def slow(*args: Any, **values: Any) -> pools.Outcome | None:
        reached.set()
        await go.wait()
        return await store(*args, **values)

    async def noted(host: str, message: m.Message) -> m.Message | None:
        reply = await receive(host, message)
        processed.set()
        return reply

    monkeypatch.setattr(hosts, "store_inventory", slow)
    monkeypatch.setattr(a.manager.handler, "receive", noted)
    await host.report()
    await reached.wait()
    again = host.copied(address=at(b))
    a.agents.append(again)
    again.revisions = iter(range(1, 100))
    again.keystore["by-hand"] = "ab" * 32
    await again.connect()
    go.set()
    async with asyncio.timeout(10):
        await processed.wait()
    async with b.manager.context.ledger.read() as tx:
        row = await hosts.get(tx, host.host_id)
    assert row is not None
    assert row.keystore_revision == 1
    assert set(hosts.keystore_of(row) or ()) == {"by-hand"}


async def test_a_deleted_host_loses_its_connection_to_another_manager(
    managers: tuple[Zone, Zone],
) -> None:
    """At once, not at the next sweep."""
    a, b = managers
    host = await b.agent("kvm1")
    await a.api("deleteHost", id=host.host_id, forced="true")

    async def refused() -> bool:
        return bool(host.refusals)

    await eventually(refused, within=3)


async def test_settings_and_logins_are_everybodys(managers: tuple[Zone, Zone]) -> None:
    """A setting changed at A is in force at B; a login at A is used at B, and ends for both."""
    a, b = managers
    name = "direct.download.origin.max.active"
    await a.api("updateConfiguration", name=name, value="3")

    async def in_force() -> bool:
        return b.manager.context.settings.whole(name) == 3

    await eventually(in_force, within=5)

    one, two = a.manager.context.sessions, b.manager.context.sessions
    now = a.manager.context.clock.steady()
    session = await one.open("u", now=now)
    assert (await two.check(session.cookie, session.key, now=now)).user == "u"
    with pytest.raises(FastdlError):
        await two.check(session.cookie, "x", now=now)
    await two.close(session.cookie)

    async def ended() -> bool:
        with contextlib.suppress(FastdlError):
            await one.check(session.cookie, session.key, now=now)
            return False
        return True

    await eventually(ended, within=5)


async def test_the_ca_is_rotated_by_all(managers: tuple[Zone, Zone]) -> None:
    """A rotation begun at A is followed by B, whose hosts get certificates of the next CA."""
    a, b = managers
    await a.api("startHostCaRotation")

    async def same() -> bool:
        one, two = a.manager.context.authority, b.manager.context.authority
        return one.fingerprints == two.fingerprints and len(one.cas) == 2

    await eventually(same, within=5)
    host = await b.agent("kvm1")
    await a.api("finishHostCaRotation")

    async def one_left() -> bool:
        found = [z.manager.context.authority for z in managers]
        return len({x.sha256 for x in found}) == 1 and all(len(x.cas) == 1 for x in found)

    await eventually(one_left, within=5)
    again = host.copied(address=at(a))
    a.agents.append(again)
    await again.connect()
    assert not again.refusals


async def test_a_rotation_begins_once_the_ledger_knows(managers: tuple[Zone, Zone]) -> None:
    """Not before: a host must not get a certificate of a CA that might be forgotten."""
    a, _ = managers
    c, held, release = a.manager.context, asyncio.Event(), asyncio.Event()

    async def hold(tx: AsyncConnection) -> None:
        await tx.execute(text("LOCK TABLE setting IN EXCLUSIVE MODE"))
        held.set()
        await release.wait()

    async def waited_for() -> bool:
        async with c.ledger.read() as tx:
            query = (
                "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'setting'::regclass"
            )
            return bool(await tx.scalar(text(query)))

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(c.ledger.write(hold))
        await held.wait()
        started = tasks.create_task(a.api("startHostCaRotation"))
        await eventually(waited_for)
        assert len(c.authority.cas) == 1
        assert not await known_ca.follow(c.ledger, c.vault, c.authority)
        release.set()
        assert len((await started)["hostca"]) == 2
    assert not await known_ca.follow(c.ledger, c.vault, c.authority)
    assert len(c.authority.cas) == 2


async def test_a_shared_pool_gets_one_copy_whoever_asks(managers: tuple[Zone, Zone]) -> None:
    """Both managers are asked at once; hosts of both reach the pool."""
    a, b = managers
    pool = shared_pool("nfs", proof="x" * 64)
    agents = [await a.agent("kvm1", pools=(pool,)), await b.agent("kvm2", pools=(pool,))]
    template = (await a.template("t"))["id"]
    before = sum(what == "done" for agent in agents for what, _ in agent.log)
    answers = await asyncio.gather(
        *(z.api("prepareTemplate", zoneid=a.id, templateid=template) for z in managers)
    )
    for z, answer in zip(managers, answers, strict=True):
        assert (await z.api.job(answer, within=10))["jobstatus"] == 1
    assert sum(what == "done" for agent in agents for what, _ in agent.log) == before + 1


async def test_two_agents_of_one_host_are_noticed_at_different_managers(
    managers: tuple[Zone, Zone],
) -> None:
    """The copy of a state folder connects elsewhere: the one that comes back is refused."""
    a, b = managers
    host = await a.agent("kvm1", instance="first")
    copy = host.copied(address=at(b), instance="second")
    a.agents.append(copy)
    await copy.connect()

    async def displaced() -> bool:
        seen = a.manager.context.fleet.hosts.get(host.host_id)
        return seen is not None and not seen.here and not host.connected

    await eventually(displaced, within=10)
    for z in (a, b):
        again = host.copied(address=at(z))
        a.agents.append(again)
        await again.connect()
        assert again.refusals, z.manager.name
    found = await a.api("listEvents", type="HOST.TWO.AGENTS")
    assert 1 <= len(found["event"]) <= 2
    assert copy.connected
    restarted = copy.copied(address=at(a), instance="third")
    a.agents.append(restarted)
    await restarted.connect()
    assert not restarted.refusals


async def test_managers_that_could_not_say_that_they_are_alive_are_not_buried(
    managers: tuple[Zone, Zone],
) -> None:
    """After an outage of the database nobody was seen for long: it proves nothing."""
    a, b = managers
    host = await b.agent("kvm1")
    peers = a.manager._fabric.receive.__self__  # type: ignore[union-attr, attr-defined]
    peers._began -= 1000
    peers._looked -= 1000

    async def work(tx: AsyncConnection) -> None:
        row = tables.manager.c
        await tx.execute(update(tables.manager).where(row.name == b.manager.name).values(seen=1.0))

    await a.manager.context.ledger.write(work)
    await peers.round()
    assert await state_of(a, host.host_id) == "Up"
    assert host.connected


async def test_hosts_follow_a_ledger_that_lost_what_it_had(managers: tuple[Zone, Zone]) -> None:
    """A standby that lagged: documents have lower numbers again, copies get higher fences."""
    a, _ = managers
    host = await a.agent("kvm1", pools=(local_pool("p1"),), beats=True)
    (template,) = [(await a.template("t"))["id"]]

    async def work(tx: AsyncConnection) -> None:
        await tx.execute(update(tables.host).values(rev=0))

    await a.manager.context.ledger.write(work)
    a.manager.server.connections.post(host.host_id)

    async def let_go() -> bool:
        return not host.connected

    await eventually(let_go, within=10)
    again = host.copied()
    a.agents.append(again)
    await again.connect()
    began = int(time.time())
    answer = await a.api("prepareTemplate", zoneid=a.id, templateid=template)
    assert (await a.api.job(answer, within=10))["jobstatus"] == 1
    fences = [c.fence for d in again.documents for c in d.commands if c.kind == m.Kind.DOWNLOAD]
    assert min(fences) >= began
