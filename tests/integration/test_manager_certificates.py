# SPDX-License-Identifier: Apache-2.0
"""Certificates that a manager gives to hosts over real mutual TLS."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fastdl.errors import (
    ApiConflictError,
    ApiParamError,
)
from fastdl.lab.certs import self_signed
from fastdl.wire import messages as m
from tests.env.fake_agent import DEFAULTS, FakeAgent
from tests.env.manager import Zone
from tests.env.manager import zone as running_zone
from tests.env.process import eventually
from tests.env.zone_views import host_state, upload


@pytest.fixture
async def zone(tmp_path: Path, database: str | None) -> AsyncIterator[Zone]:
    """A manager with one zone, on each database."""
    async with running_zone(tmp_path / "manager", database=database) as made:
        yield made


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
