# SPDX-License-Identifier: Apache-2.0
"""Can a template be changed and shared, and only by whom it belongs to?"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fastdl.errors import ApiAuthError, ApiConflictError, ApiParamError, FastdlError
from tests.env.fake_agent import FakeAgent, local_pool
from tests.env.manager import Client, Zone
from tests.env.manager import zone as running_zone


@pytest.fixture
async def zone(tmp_path: Path, database: str | None) -> AsyncIterator[Zone]:
    """A manager with a host, on each database."""
    async with running_zone(tmp_path / "manager", database=database) as made:
        await made.agent("kvm1", pools=(local_pool("p1"),))
        yield made


async def user(zone: Zone, name: str, **params: str) -> Client:
    """A client of a new user."""
    made = (await zone.api("createUser", username=name, password="password1", **params))["user"]
    keys = (await zone.api("registerUserKeys", id=made["id"]))["userkeys"]
    return Client({**zone.api.credentials, **keys})


async def seen(client: Client, filter_: str = "executable") -> list[str]:
    """The names of the templates that a user sees."""
    listed = await client("listTemplates", templatefilter=filter_)
    return [item["name"] for item in listed.get("template", [])]


async def theirs(client: Client, zone: Zone, name: str) -> dict[str, Any]:
    """A template that the user registered."""
    answer = await client(
        "registerTemplate",
        name=name,
        url=f"https://mirror.example/{name}.qcow2",
        format="QCOW2",
        hypervisor="KVM",
        zoneid=zone.id,
        directdownload="true",
    )
    item: dict[str, Any] = answer["template"][0]
    return item


async def test_attributes_change_and_stay(zone: Zone) -> None:
    """What is not named stays as it is."""
    item = await zone.template("old", displaytext="text", passwordenabled="true")
    os_type = (await zone.api("listOsTypes"))["ostype"][3]["id"]
    changed = await zone.api(
        "updateTemplate",
        id=item["id"],
        name="new",
        ostypeid=os_type,
        sshkeyenabled="true",
        requireshvm="false",
    )
    assert changed["template"]["name"] == "new"
    (found,) = (await zone.api("listTemplates", templatefilter="all", id=item["id"]))["template"]
    assert found == changed["template"] | {"downloaddetails": []}
    assert (found["displaytext"], found["ostypeid"]) == ("text", os_type)
    assert (found["passwordenabled"], found["sshkeyenabled"]) == (True, True)
    assert found["requireshvm"] is False
    assert (await zone.api("listEvents", type="TEMPLATE.UPDATE"))["count"] == 1


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"name": " "}, "needs a name"),
        ({"name": "systemvm-x"}, "reserved names"),
        ({"name": "x" * 252}, "max allowed length"),
        ({"format": "RAW"}, "The format belongs to what is downloaded"),
        ({"ostypeid": "00000000-0000-0000-0000-000000000000"}, "does not exist"),
        ({"details[0].HTTP_HEADER:X": "a\r\nb"}, "header"),
        ({"details[0].k": "v" * 4097}, "A detail's name"),
        ({"id": "00000000-0000-0000-0000-000000000000"}, "does not exist"),
    ],
)
async def test_what_cannot_be_is_refused(zone: Zone, params: dict[str, str], text: str) -> None:
    """And changes nothing."""
    item = await zone.template("old")
    before = await zone.api("listTemplates", templatefilter="all")
    with pytest.raises(ApiParamError, match=text):
        await zone.api.send("updateTemplate", {"id": item["id"], **params})
    assert await zone.api("listTemplates", templatefilter="all") == before


async def test_details_are_replaced_or_removed_as_a_whole(zone: Zone) -> None:
    """New headers count for the next download."""
    item = await zone.template("t")
    new = {"id": item["id"], "details[0].rootdisksize": "5", "details[1].HTTP_HEADER:X-A": "b"}
    shown = (await zone.api.send("updateTemplate", new))["template"]["details"]
    assert shown == {"rootdisksize": "5", "HTTP_HEADER:X-A": "********"}
    gone = await zone.api("updateTemplate", id=item["id"], cleanupdetails="true")
    assert gone["template"]["details"] == {}


async def test_a_template_is_listed_where_it_is(zone: Zone) -> None:
    """Deleted in one of its zones it is in the other alone, whatever was downloaded before."""
    other = (await zone.api("createZone", name="z2"))["zone"]["id"]
    far = FakeAgent(address=zone.manager.server.address, name="kvm2", pools=(local_pool("p2"),))
    await far.enrol((await zone.api("createHostToken", zoneid=other))["token"])
    await far.connect()
    zone.agents.append(far)
    item = await zone.template("t", zoneid="-1")
    for id_ in (zone.id, other):
        answer = await zone.api("prepareTemplate", zoneid=id_, templateid=item["id"])
        assert (await zone.api.job(answer))["jobstatus"] == 1

    async def where(**params: str) -> list[tuple[str, str]]:
        listed = await zone.api("listTemplateDownloads", templateid=item["id"], **params)
        return [(d["storagename"], d["state"]) for d in listed.get("templatedownload", [])]

    assert sorted(await where()) == [("p1", "DONE"), ("p2", "DONE")]
    await zone.api.job(await zone.api("deleteTemplate", id=item["id"], zoneid=zone.id))
    assert await where() == [("p2", "DONE")]
    assert await where(zoneid=zone.id) == []


async def test_an_iso_is_no_template(zone: Zone) -> None:
    """Each has commands of its own."""
    answer = await zone.api(
        "registerIso",
        name="i",
        url="https://mirror.example/i.iso",
        zoneid=zone.id,
        directdownload="true",
    )
    iso = answer["iso"][0]["id"]
    with pytest.raises(ApiParamError):
        await zone.api("updateTemplate", id=iso, name="x")
    changed = await zone.api("updateIso", id=iso, name="x", bootable="false")
    assert (changed["iso"]["name"], changed["iso"]["bootable"]) == ("x", False)
    await zone.api("updateIsoPermissions", id=iso, ispublic="true")
    assert (await zone.api("listIsoPermissions", id=iso))["templatepermission"]["ispublic"] is True


async def test_a_private_template_is_shared_with_accounts_by_name(zone: Zone) -> None:
    """They see and use it, without its URL and headers; nobody else learns that it exists."""
    one, two, three = [await user(zone, name) for name in ("u1", "u2", "u3")]
    item = await theirs(one, zone, "mine")
    share = {"id": item["id"], "op": "add", "accounts": "u2"}
    for stranger in (two, three):
        with pytest.raises(ApiParamError, match="does not exist"):
            await stranger("updateTemplatePermissions", **share)
    assert (await one("updateTemplatePermissions", **share))["success"] is True
    assert [await seen(client) for client in (one, two, three)] == [["mine"], ["mine"], []]
    assert await seen(two, "sharedexecutable") == ["mine"]
    assert await seen(one, "sharedexecutable") == []
    (shown,) = (await two("listTemplates", templatefilter="executable"))["template"]
    assert "url" not in shown
    assert "details" not in shown
    with pytest.raises(ApiParamError):
        await two("updateTemplate", id=item["id"], name="stolen")
    with pytest.raises(ApiParamError):
        await two("deleteTemplate", id=item["id"])
    with pytest.raises(ApiParamError):
        await two("listTemplatePermissions", id=item["id"])
    assert await two("listTemplateDownloads", templateid=item["id"]) == {}
    with pytest.raises(ApiParamError):
        await three("listTemplateDownloads", templateid=item["id"])
    listed = await one("listTemplatePermissions", id=item["id"])
    assert listed["templatepermission"]["account"] == ["u2"]

    await one("updateTemplatePermissions", id=item["id"], op="remove", accounts="u2")
    assert await seen(two) == []
    await one("updateTemplatePermissions", **{**share, "accounts": "u2,u3"})
    assert [await seen(client) for client in (two, three)] == [["mine"], ["mine"]]
    await one("updateTemplatePermissions", id=item["id"], op="reset")
    assert [await seen(client) for client in (two, three)] == [[], []]


async def test_permissions_that_cannot_be_are_refused(zone: Zone) -> None:
    """Half a request changes nothing."""
    one = await user(zone, "u1")
    item = await theirs(one, zone, "mine")
    for params, text in (
        ({"accounts": "u1"}, '"op" has to be given'),
        ({"op": "add"}, '"accounts" has to be given'),
        ({"op": "grant", "accounts": "u1"}, "Invalid operation"),
        ({"op": "add", "accounts": "admin,nobody"}, "account nobody"),
        ({"op": "add", "projectids": "x"}, "no projects"),
        ({"isfeatured": "true"}, "Only ROOT admins"),
        ({"isextractable": "true"}, "Only ROOT admins"),
    ):
        with pytest.raises(ApiParamError, match=text):
            await one("updateTemplatePermissions", id=item["id"], **params)
    listed = await one("listTemplatePermissions", id=item["id"])
    assert "account" not in listed["templatepermission"]
    await one("updateTemplatePermissions", id=item["id"], ispublic="true")
    other = await user(zone, "u2")
    assert await seen(other) == ["mine"]
    await zone.api("updateTemplatePermissions", id=item["id"], isfeatured="true")
    assert await seen(other, "featured") == ["mine"]


async def test_who_takes_an_accounts_name_gets_nothing_of_it(zone: Zone) -> None:
    """A deleted account's shares go with its last user."""
    one, two = await user(zone, "u1"), await user(zone, "u2", account="team")
    mate = await user(zone, "u3", account="team")
    item = await theirs(one, zone, "mine")
    await one("updateTemplatePermissions", id=item["id"], op="add", accounts="team")
    assert [await seen(client) for client in (two, mate)] == [["mine"], ["mine"]]
    ids = {u["username"]: u["id"] for u in (await zone.api("listUsers"))["user"]}
    await zone.api("deleteUser", id=ids["u2"])
    assert await seen(mate) == ["mine"]
    await zone.api("deleteUser", id=ids["u3"])
    assert await seen(await user(zone, "u4", account="team")) == []


async def test_accounts_are_made_and_listed_as_clients_expect(zone: Zone) -> None:
    """What Ansible and Terraform ask before they make a user."""
    (domain,) = (await zone.api("listDomains"))["domain"]
    assert (domain["name"], domain["path"]) == ("ROOT", "ROOT")
    values = {
        "username": "bob",
        "password": "password1",
        "firstname": "B",
        "lastname": "O",
        "email": "b@o.example",
        "account": "team",
        "domainid": domain["id"],
    }
    with pytest.raises(ApiParamError, match="Neither account type"):
        await zone.api("createAccount", **values)
    made = (await zone.api("createAccount", accounttype="0", **values))["account"]
    assert (made["name"], made["accounttype"]) == ("team", 0)
    assert made["user"][0]["email"] == "b@o.example"
    with pytest.raises(ApiConflictError, match="already exists"):
        await zone.api("createAccount", accounttype="1", **{**values, "username": "eve"})
    assert (await zone.api("listUsers"))["count"] == 2
    (found,) = (await zone.api("listAccounts", name="team", domainid=domain["id"]))["account"]
    assert found == made
    assert (await zone.api("listAccounts"))["count"] == 2
    keys = (await zone.api("registerUserKeys", id=made["user"][0]["id"]))["userkeys"]
    bob = Client({**zone.api.credentials, **keys})
    assert [a["name"] for a in (await bob("listAccounts"))["account"]] == ["team"]
    for name in (
        "createAccount",
        "updateHost",
        "deleteHost",
        "deleteZone",
        "createHostToken",
        "listHostTokens",
        "deleteHostToken",
        "prepareHostForMaintenance",
        "cancelHostMaintenance",
        "updateStoragePool",
        "deleteStoragePool",
        "listHostCas",
        "startHostCaRotation",
        "finishHostCaRotation",
    ):
        with pytest.raises((ApiAuthError, FastdlError), match="unable to verify"):
            await bob(name, id=found["id"])
