# SPDX-License-Identifier: Apache-2.0
"""Templates from their registration to pools, over real mutual TLS."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fastdl.manager.ledger import slots
from fastdl.wire import messages as m
from tests.env.fake_agent import DEFAULTS, FakeAgent, local_pool, shared_pool
from tests.env.manager import Zone
from tests.env.manager import zone as running_zone
from tests.env.process import eventually
from tests.env.zone_views import enough, events_of


@pytest.fixture
async def zone(tmp_path: Path, database: str | None) -> AsyncIterator[Zone]:
    """A manager with one zone, on each database."""
    async with running_zone(tmp_path / "manager", database=database) as made:
        yield made


async def test_what_will_be_refused_is_said_at_registration(zone: Zone) -> None:
    """CloudStack registers what can be reached; nobody should learn the rest from a VM."""
    reason = "the image has a backing file: /etc/passwd"
    found = m.ProbeDone(
        size=1 << 20, format="qcow2", warnings=("one mirror is away",), unsafe=(reason,)
    )

    async def probe(_agent: FakeAgent, _command: m.Command) -> m.Done:
        return found

    agent = await zone.agent("kvm1", work={"probe": probe})
    item = await zone.template("bad")
    said = [f"every download of it will be refused: {reason}", "one mirror is away"]
    assert item["warnings"] == said
    listed = await zone.api("listTemplates", templatefilter="all", id=item["id"])
    assert listed["template"][0]["warnings"] == said
    (event,) = (await zone.api("listEvents", type="TEMPLATE.DIRECT.DOWNLOAD.UNSAFE"))["event"]
    assert (event["level"], event["resourceid"]) == ("WARN", item["id"])
    assert reason in event["description"]

    agent.work.clear()
    assert "warnings" not in await zone.template("good")
    assert (await zone.api("listEvents", type="TEMPLATE.DIRECT.DOWNLOAD.UNSAFE"))["count"] == 1


async def test_template_from_registration_to_pool_and_away(zone: Zone) -> None:
    """Register, prepare, list, delete: the whole life of a template."""
    agent = await zone.agent("kvm1", pools=(local_pool("p1"), local_pool("p2")))
    item = await zone.template(checksum="{SHA-256}" + "ab" * 32)
    assert (item["isready"], item["status"]) == (True, "Bypassed Secondary Storage")
    assert item["checksum"] == "ab" * 32
    assert item["size"] == 1 << 30
    answer = await zone.api("prepareTemplate", zoneid=zone.id, templateid=item["id"])
    state = await zone.api.job(answer)
    assert state["jobstatus"] == 1, state
    assert state["jobresult"]["template"]["id"] == item["id"]
    downloads = await zone.api("listTemplateDownloads", templateid=item["id"])
    assert {d["storagename"]: d["state"] for d in downloads["templatedownload"]} == {
        "p1": "DONE",
        "p2": "DONE",
    }
    listed = await zone.api("listTemplates", templatefilter="self", id=item["id"])
    assert len(listed["template"][0]["downloaddetails"]) == 2
    state = await zone.api.job(await zone.api("deleteTemplate", id=item["id"]))
    assert state["jobresult"] == {"success": True}
    assert sum(what == "done" for what, _ in agent.log) == 5  # a probe, 2 copies, 2 removals
    assert await zone.api("listTemplates", templatefilter="self") == {}


async def test_one_download_however_many_ask(zone: Zone) -> None:
    """Ten deployments of one template on one pool cost the origin one download (G01, C01)."""
    release = asyncio.Event()

    async def slow(agent: FakeAgent, command: m.Command) -> m.Done | m.Failure:
        await release.wait()
        return await DEFAULTS["download"](agent, command)

    fields = {"pools": (shared_pool("nfs"),), "work": {"download": slow}}
    agents = [await zone.agent(f"kvm{i}", **fields) for i in range(3)]
    item = await zone.template()
    where = {"zoneid": zone.id, "templateid": item["id"], "storageid": "nfs-id"}
    pool = (await zone.api("listStoragePools"))["storagepool"][0]["id"]
    where["storageid"] = pool
    answers = await asyncio.gather(*(zone.api("prepareTemplate", **where) for _ in range(10)))
    release.set()
    for answer in answers:
        assert (await zone.api.job(answer))["jobstatus"] == 1
    jobs = [c.job for a in agents for d in a.documents for c in d.commands if c.kind == "download"]
    assert len(set(jobs)) == 1


async def test_next_host_is_really_the_next(zone: Zone) -> None:
    """CloudStack tries h0, h1, h1; a third host that could have done it is never asked."""
    asked: list[str] = []

    def fails_on(limit: int) -> Any:
        async def work(agent: FakeAgent, command: m.Command) -> m.Done | m.Failure:
            asked.append(agent.name)
            if len(asked) < limit:
                return m.Failure(code=14, message="no certificate matches", elsewhere=True)
            return await DEFAULTS["download"](agent, command)

        return work

    work = {"download": fails_on(3)}
    for i in range(3):
        await zone.agent(f"kvm{i}", pools=(shared_pool("nfs"),), work=work)
    item = await zone.template()
    answer = await zone.api("prepareTemplate", zoneid=zone.id, templateid=item["id"])
    assert (await zone.api.job(answer))["jobstatus"] == 1
    assert sorted(asked) == ["kvm0", "kvm1", "kvm2"]


async def test_wrong_checksum_is_not_tried_elsewhere(zone: Zone) -> None:
    """The same wrong bytes from another host would only burden the origin again."""
    asked: list[str] = []

    async def mismatch(agent: FakeAgent, _command: m.Command) -> m.Failure:
        asked.append(agent.name)
        return m.Failure(code=21, message="the sha-256 digest does not match")

    for i in range(2):
        await zone.agent(f"kvm{i}", pools=(shared_pool("nfs"),), work={"download": mismatch})
    item = await zone.template()
    answer = await zone.api("prepareTemplate", zoneid=zone.id, templateid=item["id"])
    state = await zone.api.job(answer)
    assert state["jobstatus"] == 2
    assert "digest does not match" in state["jobresult"]["errortext"]
    assert len(asked) == 1
    events = await eventually(lambda: events_of(zone, "TEMPLATE.DIRECT.DOWNLOAD.FAILURE"))
    assert len(events) == 1


async def test_cancel_frees_the_host_and_the_origin(zone: Zone) -> None:
    """What was cancelled must not go on burdening anybody (C07)."""
    started = asyncio.Event()

    async def endless(_agent: FakeAgent, _command: m.Command) -> m.Done:
        started.set()
        await asyncio.Event().wait()
        raise AssertionError

    agent = await zone.agent("kvm1", pools=(local_pool("p1"),), work={"download": endless})
    item = await zone.template()
    answer = await zone.api("prepareTemplate", zoneid=zone.id, templateid=item["id"])
    await started.wait()
    await zone.api("cancelTemplateDownload", templateid=item["id"])
    state = await zone.api.job(answer)
    assert state["jobstatus"] == 2
    assert any(what == "cancelled" for what, _ in agent.log)
    listed = await zone.api("listTemplateDownloads", templateid=item["id"])
    assert listed["templatedownload"][0]["state"] == "CANCELLED"
    async with zone.manager.context.ledger.read() as tx:
        assert (await slots.usage(tx))[0] == {}


async def test_urgent_download_starts_beside_a_full_bulk_load(zone: Zone) -> None:
    """A VM that waits now is served before a thousand templates seeded ahead (C04)."""
    release, order = asyncio.Event(), []

    async def slow(agent: FakeAgent, command: m.Command) -> m.Done | m.Failure:
        assert isinstance(command.args, m.DownloadArgs)
        order.append(command.args.transfer.sources[0])
        await release.wait()
        return await DEFAULTS["download"](agent, command)

    await zone.api("updateConfiguration", name="direct.download.origin.max.active", value="3")
    pools = tuple(local_pool(f"p{i}") for i in range(8))
    await zone.agent("kvm1", pools=pools, work={"download": slow})
    bulk, urgent = await zone.template("bulk"), await zone.template("urgent")
    await zone.api("prepareTemplate", zoneid=zone.id, templateid=bulk["id"])
    await eventually(lambda: enough(order, 2))
    pool = (await zone.api("listStoragePools"))["storagepool"][0]["id"]
    await zone.api("prepareTemplate", zoneid=zone.id, templateid=urgent["id"], storageid=pool)
    await eventually(lambda: enough(order, 3))
    assert [url.rsplit("/", 1)[1] for url in order] == ["bulk.qcow2", "bulk.qcow2", "urgent.qcow2"]
    release.set()


async def test_content_drift_is_reported(zone: Zone) -> None:
    """Without a checksum nothing else tells that the origin's file was replaced."""

    async def other(agent: FakeAgent, command: m.Command) -> m.Done | m.Failure:
        done = await DEFAULTS["download"](agent, command)
        assert isinstance(done, m.DownloadDone)
        return m.DownloadDone(
            install_path=done.install_path,
            virtual_size=1,
            validators=m.Validators(size=1 << 20, etag='"v2"'),
        )

    await zone.agent("kvm1", pools=(local_pool("p1"),), work={"download": other})
    item = await zone.template()
    await zone.api.job(await zone.api("prepareTemplate", zoneid=zone.id, templateid=item["id"]))
    events = await eventually(lambda: events_of(zone, "TEMPLATE.DIRECT.DOWNLOAD.DRIFT"))
    assert '"v1"' in events[0]["description"]
    listed = await zone.api("listTemplates", templatefilter="self", id=item["id"])
    assert "ETag" in listed["template"][0]["drift"]
