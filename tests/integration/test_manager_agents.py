# SPDX-License-Identifier: Apache-2.0
"""A manager and hosts over real mutual TLS: restarts, lost hosts, identity, sessions."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from fastdl.errors import (
    AgentRefusedError,
    ApiAuthError,
    ApiConflictError,
    ApiParamError,
)
from fastdl.manager.hosts import handler
from fastdl.wire import messages as m
from tests.env.fake_agent import DEFAULTS, FakeAgent, local_pool, shared_pool
from tests.env.manager import Client, Zone
from tests.env.manager import zone as running_zone
from tests.env.process import eventually
from tests.env.zone_views import enough, events_of, host_state, upload


@pytest.fixture
async def zone(tmp_path: Path, database: str | None) -> AsyncIterator[Zone]:
    """A manager with one zone, on each database."""
    async with running_zone(tmp_path / "manager", database=database) as made:
        yield made


async def test_restart_of_the_manager_loses_nothing(tmp_path: Path, database: str | None) -> None:
    """A job that a host works on survives the manager, its jobid too (G02)."""
    release = asyncio.Event()

    async def slow(agent: FakeAgent, command: m.Command) -> m.Done | m.Failure:
        await release.wait()
        return await DEFAULTS["download"](agent, command)

    async with running_zone(tmp_path / "m", database=database) as zone:
        agent = await zone.agent("kvm1", pools=(local_pool("p1"),), work={"download": slow})
        item = await zone.template()
        answer = await zone.api("prepareTemplate", zoneid=zone.id, templateid=item["id"])
        await eventually(lambda: enough(agent.log, 3))
        zone.agents.clear()
        port = zone.manager.server.address[1]
    await agent.close_connection_only()
    again = {"agent_listen": f"127.0.0.1:{port}", "database": database}
    async with running_zone(tmp_path / "m", **again) as zone:
        await agent.connect()
        release.set()
        state = await zone.api.job(answer)
        assert state["jobstatus"] == 1
        assert [what for what, _ in agent.log].count("started") == 2  # the probe, one download
        await agent.close()


async def test_lost_host_gives_a_shared_pools_job_to_the_next(
    zone: Zone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dead host must not hold a template back; its late result changes nothing."""
    monkeypatch.setattr(handler, "SILENT_S", 0.3)
    monkeypatch.setattr(handler, "BEAT_S", 0.2)

    async def endless(_agent: FakeAgent, _command: m.Command) -> m.Done:
        await asyncio.Event().wait()
        raise AssertionError

    dead = await zone.agent("kvm1", pools=(shared_pool("nfs"),), work={"download": endless})
    item = await zone.template()
    answer = await zone.api("prepareTemplate", zoneid=zone.id, templateid=item["id"])
    await eventually(lambda: enough(dead.log, 3))
    alive = await zone.agent("kvm2", pools=(shared_pool("nfs"),))
    beating = asyncio.create_task(beat(alive))
    await dead.close()
    assert (await zone.api.job(answer))["jobstatus"] == 1
    assert await host_state(zone, "kvm1") == "Down"
    fences = [c.fence for d in alive.documents for c in d.commands if c.kind == "download"]
    before = [c.fence for d in dead.documents for c in d.commands if c.kind == "download"]
    assert min(fences) > max(before)
    beating.cancel()


async def beat(agent: FakeAgent) -> None:
    """Keep a host present."""
    while True:
        await agent.say(m.Beat(clock=time.time()))
        await asyncio.sleep(0.1)


async def test_identity_cannot_be_borrowed(zone: Zone) -> None:
    """A host is who its certificate says, and nobody else (G05)."""
    one, two = await zone.agent("kvm1"), await zone.agent("kvm2", connect=False)
    await two.connect(host_id=one.host_id)
    assert two.refusals[0].code == 71
    assert await events_of(zone, "HOST.IMPERSONATION")
    await two.close()
    with pytest.raises(Exception, match="403"):
        await two.connect(certificate=False)
    await two.close()


async def test_result_for_a_job_of_another_host_is_refused(zone: Zone) -> None:
    """A compromised host can lie about itself only (T14, G05)."""
    release = asyncio.Event()

    async def slow(agent: FakeAgent, command: m.Command) -> m.Done | m.Failure:
        await release.wait()
        return await DEFAULTS["download"](agent, command)

    one = await zone.agent("kvm1", pools=(local_pool("p1"),), work={"download": slow})
    two = await zone.agent("kvm2")
    item = await zone.template()
    answer = await zone.api("prepareTemplate", zoneid=zone.id, templateid=item["id"])
    await eventually(lambda: enough([x for x in one.log if x[0] == "started"], 1))
    command = await eventually(lambda: find_download(one))
    done = m.DownloadDone(install_path="/etc/passwd", virtual_size=1)
    await two.say(m.JobResult(job=command.job, fence=1, kind="download", done=done))
    await eventually(lambda: enough(two.refusals, 1))
    assert await events_of(zone, "HOST.FOREIGN.JOB")
    release.set()
    assert (await zone.api.job(answer))["jobstatus"] == 1
    listed = await zone.api("listTemplateDownloads", templateid=item["id"])
    assert "passwd" not in listed["templatedownload"][0]["installpath"]


async def find_download(agent: FakeAgent) -> m.Command | None:
    """The download in the host's newest document."""
    commands = agent.documents[-1].commands if agent.documents else ()
    return next((c for c in commands if c.kind == "download"), None)


async def test_duplicate_and_stale_results_change_nothing(zone: Zone) -> None:
    """Every message may come a hundred times and late (G01, G03)."""
    agent = await zone.agent("kvm1", pools=(local_pool("p1"),))
    item = await zone.template()
    answer = await zone.api("prepareTemplate", zoneid=zone.id, templateid=item["id"])
    assert (await zone.api.job(answer))["jobstatus"] == 1
    (job,) = {c.job for d in agent.documents for c in d.commands if c.kind == "download"}
    before = len(agent.acks)
    failure = m.Failure(code=21, message="too late")
    for fence in (1, 1, 0, 7) * 10:
        await agent.say(m.JobResult(job=job, fence=fence, kind="download", failure=failure))
    await eventually(lambda: enough(agent.acks, before + 40))
    listed = await zone.api("listTemplateDownloads", templateid=item["id"])
    assert listed["templatedownload"][0]["state"] == "DONE"


async def test_token_works_once_but_a_lost_answer_costs_nothing(zone: Zone) -> None:
    """One host per token; the same key may ask again because the answer may have been lost."""
    token, key = await zone.token(), ec.generate_private_key(ec.SECP256R1())
    first = FakeAgent(address=zone.manager.server.address)
    await first.enrol(token, key=key)
    again = FakeAgent(address=zone.manager.server.address)
    await again.enrol(token, key=key)
    assert again.host_id == first.host_id
    with pytest.raises(AgentRefusedError, match="already been used"):
        await FakeAgent(address=zone.manager.server.address).enrol(token)
    parts = token.split(".")
    forged = ".".join([parts[0], parts[1], "A" * 43, parts[3]])
    with pytest.raises(AgentRefusedError, match="unknown"):
        await FakeAgent(address=zone.manager.server.address).enrol(forged)


async def test_clock_of_a_host_is_a_warning_and_nothing_else(zone: Zone) -> None:
    """Ten years of skew must not touch leases or presence (G04)."""
    agent = await zone.agent(
        "kvm1", pools=(local_pool("p1"),), clock=time.time() - 10 * 365 * 86400
    )
    item = await zone.template()
    answer = await zone.api("prepareTemplate", zoneid=zone.id, templateid=item["id"])
    assert (await zone.api.job(answer))["jobstatus"] == 1
    assert await events_of(zone, "HOST.CLOCK")
    assert await host_state(zone, agent.name) == "Up"


async def test_old_agent_is_asked_only_what_it_can_do(zone: Zone) -> None:
    """A kind that an agent does not name is never sent to it (G06)."""
    agent = await zone.agent("kvm1", kinds=("certificates", "later"))
    await upload(zone, "MIRROR1")
    assert "mirror1" in agent.keystore
    with pytest.raises(ApiConflictError, match="Couldn't find a host to validate URL"):
        await zone.template()
    with pytest.raises(ApiConflictError, match="cannot be reached now"):
        await zone.api("checkDirectDownloadOrigin", hostid=agent.host_id, url="https://m.example/")


async def test_agents_of_another_wire_version_are_told_so(zone: Zone) -> None:
    """Two versions that share none must say which one is too old (G06)."""
    agent = await zone.agent("kvm1", connect=False)
    await agent.connect(wire_oldest=90, wire_newest=99)
    assert "upgrade the older" in agent.refusals[0].message


async def test_garbage_on_the_wire_ends_one_connection_only(zone: Zone) -> None:
    """A broken host is its own problem."""
    bad, good = await zone.agent("kvm1"), await zone.agent("kvm2")
    assert bad._socket is not None
    await bad._socket.send_str("[" * 5000)
    await eventually(lambda: enough(bad.refusals, 1))
    await upload(zone, "MIRROR1")
    assert "mirror1" in good.keystore


async def test_login_session_serves_the_page(zone: Zone) -> None:
    """The page logs in with a password; the cookie alone is not enough (CSRF)."""
    admin = zone.api.credentials
    # "unsafe": this jar keeps cookies of servers without a name, as browsers do.
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
        form = {"command": "login", "username": "admin", "password": "wrong", "response": "json"}
        async with session.post(admin["url"], data=form) as answer:
            assert answer.status == 401
        password = json.loads((zone.manager.config.state / "admin.json").read_text())["password"]
        async with session.post(admin["url"], data={**form, "password": password}) as answer:
            key = (await answer.json())["loginresponse"]["sessionkey"]
        query = {"command": "listZones", "response": "json"}
        async with session.get(admin["url"], params=query) as answer:
            assert answer.status == 401
        async with session.get(admin["url"], params={**query, "sessionkey": key}) as answer:
            assert (await answer.json())["listzonesresponse"]["count"] == 1
        unknown = {"command": "noSuch", "response": "json", "sessionkey": key}
        async with session.get(admin["url"], params=unknown) as answer:
            assert answer.status == 432
            assert "errorresponse" in await answer.json()
        base = admin["url"].removesuffix("/client/api")
        async with session.get(f"{base}/events") as answer:
            assert answer.status == 401
        async with session.get(f"{base}/events", params={"sessionkey": key}) as stream:
            assert stream.status == 200
            await zone.api("createZone", name="z2")
            line = await asyncio.wait_for(stream.content.readline(), 5)
            assert line == b"event: event\n"
        async with session.get(f"{base}/metrics") as answer:
            assert "fastdl_api_requests_total" in await answer.text()
        async with session.get(f"{base}/healthz") as answer:
            assert (await answer.json())["status"] == "ok"


async def test_users_see_their_own_and_public_templates(zone: Zone) -> None:
    """Another account's template is as if it did not exist (A06)."""
    await zone.agent("kvm1", pools=(local_pool("p1"),))
    hidden, shown = await zone.template("hidden"), await zone.template("shown", ispublic="true")
    user = (await zone.api("createUser", username="u", password="password1"))["user"]
    keys = (await zone.api("registerUserKeys", id=user["id"]))["userkeys"]
    theirs = Client({**zone.api.credentials, **keys})
    listed = await theirs("listTemplates", templatefilter="executable")
    assert [t["id"] for t in listed["template"]] == [shown["id"]]
    assert "url" not in listed["template"][0]
    with pytest.raises(ApiParamError) as missing:
        await theirs("deleteTemplate", id="00000000-0000-0000-0000-000000000000")
    for id_ in (hidden["id"], shown["id"]):
        with pytest.raises(ApiParamError) as refused:
            await theirs("deleteTemplate", id=id_)
        text = str(refused.value).replace(id_, "00000000-0000-0000-0000-000000000000")
        assert text == str(missing.value)
    with pytest.raises(ApiAuthError):
        await theirs("listHosts")


async def test_a_connection_that_ends_while_a_ping_is_answered_is_no_error(
    zone: Zone, caplog: pytest.LogCaptureFixture
) -> None:
    """An agent that was killed, or gave the connection up."""
    for n in range(5):
        agent = await zone.agent(f"kvm{n}")
        assert agent._socket is not None
        for _ in range(20):
            await agent._socket.ping()
        assert agent._socket._conn is not None
        transport = agent._socket._conn.transport
        assert transport is not None
        transport.abort()

    async def left() -> bool:
        return not zone.manager.server.connected

    await eventually(left, within=10)
    assert "Error handling request" not in caplog.text
