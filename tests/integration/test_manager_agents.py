# SPDX-License-Identifier: Apache-2.0
"""A manager and hosts over real mutual TLS: certificates, downloads, failures, identity."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from fastdl.errors import (
    AgentRefusedError,
    ApiAuthError,
    ApiConflictError,
    ApiParamError,
)
from fastdl.lab.certs import self_signed
from fastdl.manager.hosts import handler
from fastdl.manager.ledger import slots
from fastdl.wire import messages as m
from tests.env.fake_agent import DEFAULTS, FakeAgent, local_pool, shared_pool
from tests.env.manager import Client, Zone
from tests.env.manager import zone as running_zone


@pytest.fixture
async def zone(tmp_path: Path, database: str | None) -> AsyncIterator[Zone]:
    """A manager with one zone, on each database."""
    async with running_zone(tmp_path / "manager", database=database) as made:
        yield made


async def eventually(check: Callable[[], Awaitable[Any]], *, within: float = 10.0) -> Any:
    """Wait for *check* to return something true."""
    async with asyncio.timeout(within):
        while not (answer := await check()):
            await asyncio.sleep(0.02)
    return answer


async def host_state(zone: Zone, name: str) -> str:
    """The state that listHosts shows."""
    answer = await zone.api("listHosts", name=name)
    state: str = answer["host"][0]["state"]
    return state


async def statuses(zone: Zone) -> dict[str, str]:
    """Host name → status of the zone's only certificate."""
    answer = await zone.api("listTemplateDirectDownloadCertificates", listhosts="true")
    (item,) = answer["directdownloadcertificate"]
    return {h["hostname"]: h["status"] for h in item["hostsmap"]}


async def test_documented_certificate_walk_through(zone: Zone) -> None:
    """The four command lines of the documentation, in their order, as written."""
    one, two = await zone.agent("kvm1"), await zone.agent("kvm2")
    pem = self_signed()
    bare = "".join(line for line in pem.splitlines() if "-----" not in line)
    name = {"hypervisor": "KVM", "name": "MIRROR1", "zoneid": zone.id}
    answer = await zone.api("uploadTemplateDirectDownloadCertificate", certificate=bare, **name)
    uploaded = answer["uploadtemplatedirectdownloadcertificate"]
    assert {(h["hostname"], h["status"], h["details"]) for h in uploaded["hostsmap"]} == {
        ("kvm1", "UPLOADED", ""),
        ("kvm2", "UPLOADED", ""),
    }
    assert uploaded["subject"] == "CN=mirror.example, O=Org"
    assert uploaded["serialnum"] == "SerialNumber: 0e:f7:0d:fd"
    assert uploaded["version"] == "3"
    assert uploaded["hypervisor"] == "KVM"
    assert "mirror1" in one.keystore
    assert "mirror1" in two.keystore

    answer = await zone.api("revokeTemplateDirectDownloadCertificate", **name)
    assert {h["status"] for h in answer["directdownloadcertificatehoststatus"]} == {"REVOKED"}
    assert not one.keystore
    assert not two.keystore
    assert await zone.api("revokeTemplateDirectDownloadCertificate", **name) == {}

    host = {"hostid": one.host_id}
    await zone.api("uploadTemplateDirectDownloadCertificate", certificate=bare, **name, **host)
    assert await statuses(zone) == {"kvm1": "UPLOADED", "kvm2": "REVOKED"}
    assert "mirror1" in one.keystore
    assert not two.keystore
    answer = await zone.api("revokeTemplateDirectDownloadCertificate", **name, **host)
    (status,) = answer["directdownloadcertificatehoststatus"]
    assert status == {"hostid": one.host_id, "hostname": "kvm1", "status": "REVOKED"}
    await zone.api("uploadTemplateDirectDownloadCertificate", certificate=bare, **name, **host)
    assert "mirror1" in one.keystore


async def test_new_host_gets_earlier_certificates_when_it_connects(zone: Zone) -> None:
    """New hosts lack what was uploaded before they came."""
    await upload(zone, "MIRROR1")
    late = await zone.agent("kvm9")
    await eventually(lambda: has_status(zone, "kvm9", "UPLOADED"))
    assert "mirror1" in late.keystore


async def has_status(zone: Zone, name: str, status: str) -> bool:
    """Whether the list shows *status* for a host."""
    return (await statuses(zone)).get(name) == status


async def held(agent: FakeAgent, alias: str) -> bool:
    """Whether the host's keystore has *alias*."""
    return alias in agent.keystore


async def upload(zone: Zone, name: str, pem: str | None = None) -> dict[str, Any]:
    """Upload a certificate to the zone."""
    answer = await zone.api(
        "uploadTemplateDirectDownloadCertificate",
        certificate=pem or self_signed(),
        name=name,
        hypervisor="KVM",
        zoneid=zone.id,
    )
    item: dict[str, Any] = answer["uploadtemplatedirectdownloadcertificate"]
    return item


async def test_revocation_on_one_host_outlives_sync_and_reconnect(zone: Zone) -> None:
    """The background task must not put back what was taken from this host alone."""
    one, two = await zone.agent("kvm1"), await zone.agent("kvm2")
    item = await upload(zone, "MIRROR1")
    await zone.api(
        "revokeTemplateDirectDownloadCertificate",
        id=item["id"],
        zoneid=zone.id,
        hostid=one.host_id,
    )
    await zone.manager.context.background.round()
    await one.close()
    await one.connect()
    await upload(zone, "OTHER")  # its push proves that the host was planned since
    assert "other" in one.keystore
    assert "mirror1" not in one.keystore
    assert "mirror1" in two.keystore


async def test_a_host_that_joins_gets_what_was_uploaded_again_host_by_host(zone: Zone) -> None:
    """The zone's revocation is history once a host has the certificate again; until then not."""
    one = await zone.agent("kvm1")
    item = await upload(zone, "MIRROR1")
    revoke = "revokeTemplateDirectDownloadCertificate"
    await zone.api(revoke, id=item["id"], zoneid=zone.id)
    early = await zone.agent("kvm2")
    await zone.manager.context.background.round()
    await upload(zone, "OTHER")  # its push proves that the host was planned since
    assert "mirror1" not in early.keystore
    await zone.api(
        "uploadTemplateDirectDownloadCertificate",
        certificate="again",
        name="MIRROR1",
        hypervisor="KVM",
        zoneid=zone.id,
        hostid=one.host_id,
    )
    late = await zone.agent("kvm3")
    await eventually(lambda: held(late, "mirror1"))
    await zone.manager.context.background.round()
    await eventually(lambda: held(early, "mirror1"))
    await zone.api(revoke, id=item["id"], zoneid=zone.id, hostid=late.host_id)
    await zone.manager.context.background.round()
    await upload(zone, "THIRD")
    assert "mirror1" not in late.keystore


async def test_another_certificate_under_a_taken_alias_is_named(zone: Zone) -> None:
    """The operator has to know that the hosts still hold the old one, and what replaces it."""
    pem = self_signed()
    await upload(zone, "MIRROR1", pem)
    with pytest.raises(ApiConflictError, match=r"already created$"):
        await upload(zone, "mirror1", pem)
    with pytest.raises(ApiConflictError, match=r"another certificate.*updateTemplateDirect"):
        await upload(zone, "MIRROR1", self_signed("new"))


async def test_clients_find_a_certificate_where_they_look(zone: Zone) -> None:
    """cloudstack-go decodes flat fields, and a list under a name made of the command's."""
    await zone.agent("kvm1")
    answer = await zone.api(
        "uploadTemplateDirectDownloadCertificate",
        certificate=self_signed(),
        name="m",
        hypervisor="KVM",
        zoneid=zone.id,
    )
    nested = answer.pop("uploadtemplatedirectdownloadcertificate")
    held = [f"{host['hostname']}: {host['status']}" for host in nested["hostsmap"]]
    assert answer == {**nested, "hostsmap": held}
    assert answer["alias"] == "m"
    listed = await zone.api("listTemplateDirectDownloadCertificates", zoneid=zone.id)
    assert listed["templatedirectdownloadcertificate"] == listed["directdownloadcertificate"]


async def test_wiped_keystore_is_restored_when_the_host_reports_it(zone: Zone) -> None:
    """The truth is the keystore found on the host, not what the manager once sent (K10)."""
    one = await zone.agent("kvm1")
    await upload(zone, "MIRROR1")
    one.keystore.clear()
    await one.report()
    await eventually(lambda: held(one, "mirror1"))


async def test_host_that_is_away_is_skipped_then_converges(zone: Zone) -> None:
    """Never UPLOADED for a host that nobody could reach, and right once it is back."""
    one, two = await zone.agent("kvm1"), await zone.agent("kvm2")
    await two.close()
    await eventually(lambda: is_state(zone, "kvm2", "Disconnected"))
    item = await upload(zone, "MIRROR1")
    found = {h["hostname"]: h for h in item["hostsmap"]}
    assert found["kvm1"]["status"] == "UPLOADED"
    assert found["kvm2"]["status"] == "SKIPPED"
    assert "Disconnected" in found["kvm2"]["details"]
    await two.connect()
    await eventually(lambda: held(two, "mirror1"))
    assert one.log.count(("import", "MIRROR1")) == 1


async def is_state(zone: Zone, name: str, state: str) -> bool:
    """Whether listHosts shows *state*."""
    return await host_state(zone, name) == state


async def test_failed_push_is_failed_in_list_and_retried(zone: Zone) -> None:
    """CloudStack lists such a host as UPLOADED for ever; we say FAILED and try again."""
    broken = True

    async def flaky(agent: FakeAgent, command: m.Command) -> m.Done | m.Failure:
        if broken:
            return m.Failure(code=51, message="the keystore is damaged")
        return await DEFAULTS["certificates"](agent, command)

    one = await zone.agent("kvm1", work={"certificates": flaky})
    item = await upload(zone, "MIRROR1")
    (status,) = item["hostsmap"]
    assert status["status"] == "FAILED"
    assert status["details"].endswith("due to: the keystore is damaged")
    assert await statuses(zone) == {"kvm1": "FAILED"}
    broken = False
    answer = await zone.api(
        "provisionTemplateDirectDownloadCertificate", id=item["id"], hostid=one.host_id
    )
    assert answer["directdownloadcertificatehoststatus"]["details"] == "OK"
    assert await statuses(zone) == {"kvm1": "UPLOADED"}


async def test_success_that_the_keystore_does_not_show_is_a_failure(zone: Zone) -> None:
    """An agent whose import does nothing must not be believed (CloudStack issue 11112)."""

    async def pretends(agent: FakeAgent, command: m.Command) -> m.Done:
        assert isinstance(command.args, m.CertificatesArgs)
        names = tuple(m.AliasOutcome(alias=w.alias) for w in command.args.install)
        return m.CertificatesDone(outcomes=names, certificates=agent.certificates())

    await zone.agent("kvm1", work={"certificates": pretends})
    (status,) = (await upload(zone, "MIRROR1"))["hostsmap"]
    assert status["status"] == "FAILED"
    assert "keystore shows otherwise" in status["details"]


async def test_rotation_and_deletion_reach_every_host(zone: Zone) -> None:
    """A certificate that expires is replaced in place; a deleted one leaves no trace."""
    one, away = await zone.agent("kvm1"), await zone.agent("kvm2")
    item = await upload(zone, "MIRROR1")
    before = one.keystore["mirror1"]
    await away.close()
    await zone.api(
        "updateTemplateDirectDownloadCertificate", id=item["id"], certificate=self_signed("new")
    )
    assert one.keystore["mirror1"] != before
    await zone.api("deleteTemplateDirectDownloadCertificate", id=item["id"])
    await eventually(lambda: gone(one, "mirror1"))
    await away.connect()
    await eventually(lambda: gone(away, "mirror1"))
    assert await zone.api("listTemplateDirectDownloadCertificates") == {}
    await upload(zone, "MIRROR1")


async def gone(agent: FakeAgent, alias: str) -> bool:
    """Whether the host's keystore lacks *alias*."""
    return alias not in agent.keystore


@pytest.mark.parametrize(
    ("params", "error", "text"),
    [
        ({"hypervisor": "XenServer"}, ApiParamError, "Currently supporting KVM hosts only"),
        ({"name": "cloud"}, ApiConflictError, "Please provide a different alias name"),
        ({"name": "CloudCA.1"}, ApiConflictError, "Please provide a different alias name"),
        ({"name": "a#2"}, ApiParamError, "printable characters"),
        ({"certificate": "not a certificate!"}, ApiConflictError, "Cannot parse the certificate"),
        (
            {"certificate": self_signed(days=1, start=-2)},
            ApiConflictError,
            "Certificate is invalid",
        ),
        ({"certificate": self_signed(start=2)}, ApiConflictError, "Certificate is invalid"),
        ({"zoneid": "00000000-0000-0000-0000-000000000000"}, ApiParamError, "does not exist"),
        ({"certificate": ""}, ApiParamError, "missing parameter certificate"),
    ],
)
async def test_uploads_that_cannot_stand_are_refused_in_cloudstacks_words(
    zone: Zone, params: dict[str, str], error: type[Exception], text: str
) -> None:
    """Scripts match on these texts."""
    values = {"certificate": self_signed(), "name": "m1", "hypervisor": "KVM", "zoneid": zone.id}
    with pytest.raises(error, match=text):
        await zone.api("uploadTemplateDirectDownloadCertificate", **{**values, **params})


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


async def enough(items: list[Any], count: int) -> bool:
    """Whether *items* has at least *count*."""
    return len(items) >= count


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


async def events_of(zone: Zone, type_: str) -> list[dict[str, Any]]:
    """The events of a type."""
    events: list[dict[str, Any]] = (await zone.api("listEvents", type=type_)).get("event", [])
    return events


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
    assert min(fences) == max(before) + 1
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
