# SPDX-License-Identifier: Apache-2.0
"""A day with cloudstack-go: recorded, no Go runs (``tests/env/go_client.py`` says of what).

What Terraform's provider and other tools in Go send and decode; one field of another type than
theirs fails a whole command.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fastdl.lab.certs import self_signed
from tests.env.fake_agent import local_pool
from tests.env.go_client import COMMANDS, GoClient, GoError
from tests.env.manager import Client, Zone
from tests.env.manager import zone as running_zone


@pytest.fixture
async def zone(tmp_path: Path) -> AsyncIterator[Zone]:
    """A manager with one zone and one host."""
    async with running_zone(tmp_path) as made:
        await made.agent("kvm1", pools=(local_pool("p1"),))
        yield made


def first(answer: dict[str, Any], name: str) -> dict[str, Any]:
    """The only element of a list."""
    (item,) = answer[name]
    found: dict[str, Any] = item
    return found


def templates(go: GoClient, zone: str) -> None:
    """Register, share, bring to the pools, list with copies, change, delete.

    Not listTemplatePermissions: the client wants a list there and CloudStack answers an object.
    """
    template = first(
        go(
            "registerTemplate",
            name="t ~*ü&=+",
            displaytext="x",
            format="QCOW2",
            zoneid=zone,
            url="https://mirror.example/t.qcow2",
            hypervisor="KVM",
        ),
        "template",
    )
    assert template["directdownload"] is True
    go("prepareTemplate", templateid=template["id"], zoneid=zone)
    for _ in range(200):
        listed = first(go("listTemplates", templatefilter="self"), "template")
        if listed["downloaddetails"]:
            break
    assert listed["downloaddetails"][0]["downloadPercent"] == "100"
    go("updateTemplate", id=template["id"], displaytext="y")
    go("updateTemplatePermissions", id=template["id"], ispublic=True)
    go("deleteTemplate", id=template["id"])
    iso = go("registerIso", name="i", displaytext="i", url="https://m.example/i.iso", zoneid=zone)
    assert iso["name"] == "i"
    go("updateIso", id=iso["id"], displaytext="y")
    assert first(go("listIsos"), "iso")["displaytext"] == "y"
    go("deleteIso", id=iso["id"])


def certificates(go: GoClient, zone: str, host: str) -> None:
    """Upload, list, provision, revoke: fields where a client finds them that knows no name."""
    made = go(
        "uploadTemplateDirectDownloadCertificate",
        hypervisor="KVM",
        name="m1",
        zoneid=zone,
        certificate=self_signed(),
    )
    assert (made["alias"], made["hostsmap"]) == ("m1", ["kvm1: UPLOADED"])
    listed = go("listTemplateDirectDownloadCertificates", listhosts=True)
    assert listed["templatedirectdownloadcertificate"][0]["id"] == made["id"]
    pushed = go("provisionTemplateDirectDownloadCertificate", id=made["id"], hostid=host)
    assert pushed["status"] == "UPLOADED"
    go("revokeTemplateDirectDownloadCertificate", id=made["id"], zoneid=zone)


def people(go: GoClient) -> None:
    """Accounts and users come, are locked, disabled and enabled, and go."""
    whole = go(
        "createAccount",
        username="ann",
        password="password1",
        firstname="A",
        lastname="N",
        email="a@example",
        accounttype=0,
    )
    go("updateUser", id=whole["user"][0]["id"], email="b@example")
    keys = go("registerUserKeys", id=whole["user"][0]["id"])
    assert keys["secretkey"]
    user = go(
        "createUser",
        username="bob",
        password="password1",
        account="ann",
        firstname="B",
        lastname="B",
        email="b@example",
    )
    assert go("lockUser", id=user["id"])["state"] == "locked"
    assert go("enableUser", id=user["id"])["state"] == "enabled"
    assert go("disableUser", id=user["id"])["state"] == "disabled"
    assert len(go("listUsers")["user"]) == 3
    assert go("disableAccount", id=whole["id"], lock=True)["state"] == "locked"
    go("enableAccount", account="ann")
    go("lockAccount", account="ann")
    go("deleteUser", id=user["id"])
    assert go("deleteAccount", id=whole["id"])["success"] is True
    assert [a["name"] for a in go("listAccounts")["account"]] == ["admin"]


def infrastructure(go: GoClient, host: str) -> None:
    """Zones, hosts, pools, settings, and what is only listed."""
    zone = go("createZone", name="z2", dns1="9.9.9.9", internaldns1="9.9.9.9", networktype="Basic")
    go("updateZone", id=zone["id"], allocationstate="Disabled")
    assert {z["name"] for z in go("listZones")["zone"]} == {"z1", "z2"}
    go("deleteZone", id=zone["id"])
    go("updateHost", id=host, allocationstate="Disable")
    go("updateHost", id=host, allocationstate="Enable", hosttags="a,b")
    go("prepareHostForMaintenance", id=host)
    go("cancelHostMaintenance", id=host)
    assert first(go("listHosts"), "host")["hosttags"] == "a,b"
    pool = first(go("listStoragePools"), "storagepool")
    go("updateStoragePool", id=pool["id"], name="fast")
    setting = go("updateConfiguration", name="max.account.templates", value="7")
    assert setting["value"] == "7"
    for command in (
        "listConfigurations",
        "listEvents",
        "listAsyncJobs",
        "listOsTypes",
        "listApis",
        "listHypervisors",
        "listCapabilities",
        "listClusters",
        "listPods",
        "listDomains",
        "listCapacity",
    ):
        if command in COMMANDS:
            go(command)


async def test_a_whole_day(zone: Zone) -> None:
    """Every command that both know, in the order of a day."""
    go, host = GoClient(zone.api.credentials), zone.agents[0].host_id

    def day() -> None:
        certificates(go, zone.id, host)
        templates(go, zone.id)
        people(go)
        infrastructure(go, host)
        with pytest.raises(GoError, match="API error 431"):
            go("listZones", id="nonsense")

    await asyncio.to_thread(day)


async def test_a_wrong_secret_is_answered_under_the_commands_name(zone: Zone) -> None:
    """So that the client finds the sentence, and not an envelope that it does not know."""
    wrong = {**zone.api.credentials, "secretkey": "wrong"}
    with pytest.raises(GoError, match="401: unable to verify user credentials"):
        await asyncio.to_thread(GoClient(wrong), "listZones")


async def test_without_the_default_directdownload_has_to_be_said(zone: Zone) -> None:
    """Where the setting is off, nothing is registered by silence; false is never possible."""
    go = GoClient(zone.api.credentials)
    asked = {
        "name": "t",
        "displaytext": "t",
        "format": "QCOW2",
        "hypervisor": "KVM",
        "zoneid": zone.id,
        "url": "https://mirror.example/t.qcow2",
    }
    with pytest.raises(GoError, match="directdownload=false is impossible"):
        await asyncio.to_thread(lambda: go("registerTemplate", **asked, directdownload=False))
    await zone.api("updateConfiguration", name="direct.download.default", value="false")
    with pytest.raises(GoError, match="register with directdownload=true"):
        await asyncio.to_thread(lambda: go("registerTemplate", **asked))
    await asyncio.to_thread(lambda: go("registerTemplate", **asked, directdownload=True))


async def test_locked_people_are_out_and_somebody_stays_who_can_undo_it(zone: Zone) -> None:
    """Keys stop, the account's others too; the caller's and the first account cannot be shut."""
    root = await zone.api("createUser", username="root", password="password1", role="Admin")
    keys = (await zone.api("registerUserKeys", id=root["user"]["id"]))["userkeys"]
    go = GoClient(zone.api.credentials)
    other = Client({**zone.api.credentials, **keys})
    assert (await other("listZones"))["count"] == 1
    await asyncio.to_thread(go, "lockUser", id=root["user"]["id"])
    with pytest.raises(GoError, match="401"):
        await asyncio.to_thread(GoClient(other.credentials), "listZones")
    await asyncio.to_thread(go, "enableAccount", account="root")
    assert (await other("listZones"))["count"] == 1
    for client, account in ((other, "admin"), (other, "root"), (zone.api, "admin")):
        shut = GoClient(client.credentials)
        with pytest.raises(GoError, match="cannot be locked"):
            await asyncio.to_thread(shut, "lockAccount", account=account)
