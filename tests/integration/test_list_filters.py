# SPDX-License-Identifier: Apache-2.0
"""Is there a filter that a list command ignores? Who lists to delete would delete everything."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.errors import ApiParamError
from fastdl.lab.certs import self_signed
from fastdl.manager.api.filters import SHOWS, By, Contains, Is, Refused
from fastdl.manager.api.registry import COMMANDS
from fastdl.manager.api.spec import Command, Kind, Param
from fastdl.manager.ledger import vms
from fastdl.manager.ledger.text import new_id
from tests.env.fake_agent import ALL_KINDS, local_pool
from tests.env.manager import Zone
from tests.env.manager import zone as running_zone

LISTS = [c for c in COMMANDS.values() if c.is_list and not c.empty]
EMPTY = [c for c in COMMANDS.values() if c.empty]
SINGLE = {"listCapabilities", "listTemplatePermissions", "listIsoPermissions"}
"""Which answer one object, whatever their name says."""
NOBODY = "00000000-0000-0000-0000-000000000001"

CLOUDSTACK = {
    "listAccounts": "accounttype apikeyaccess details domainid id iscleanuprequired isrecursive "
    "keyword listall name page pagesize showicon state tag",
    "listApis": "name",
    "listAsyncJobs": "account domainid isrecursive keyword listall managementserverid page "
    "pagesize resourceid resourcetype startdate",
    "listConfigurations": "accountid category clusterid domainid group imagestoreuuid keyword name "
    "page pagesize parent storageid subgroup zoneid",
    "listDomains": "details id keyword level listall name page pagesize showicon tag",
    "listEvents": "account archived domainid duration enddate entrytime id isrecursive keyword "
    "level listall page pagesize projectid resourceid resourcetype startdate startid state type",
    "listHosts": "arch clusterid details hahost hypervisor id keyword managementserverid name "
    "outofbandmanagementenabled outofbandmanagementpowerstate page pagesize podid resourcestate "
    "state storageaccessgroup type version virtualmachineid zoneid",
    "listHypervisors": "zoneid",
    "listIsos": "account arch bootable domainid hypervisor id imagestoreid isofilter ispublic "
    "isready isrecursive keyword listall name oscategoryid page pagesize projectid showicon "
    "showremoved showunique storageid tags zoneid",
    "listOsCategories": "arch id isfeatured isiso isvnf keyword name page pagesize showicon zoneid",
    "listOsTypes": "description fordisplay id ids keyword oscategoryid page pagesize",
    "listStoragePools": "clusterid hostid id ipaddress keyword name page pagesize path podid scope "
    "status storageaccessgroup storagecustomstats zoneid",
    "listTemplates": "account arch details domainid extensionid forcks hypervisor id ids "
    "imagestoreid isready isrecursive isvnf keyword listall name oscategoryid page pagesize "
    "parenttemplateid projectid showicon showremoved showunique storageid tags templatefilter "
    "templatetype zoneid",
    "listUsers": "account accounttype apikeyaccess domainid id isrecursive keyword listall page "
    "pagesize showicon state username usersource",
    "listZones": "available domainid id ids keyword name networktype page pagesize showcapacities "
    "showicon storageaccessgroup tags",
}
"""What CloudStack's clients can send, by its API reference of 4.22."""


@pytest.fixture
async def zone(tmp_path: Path, database: str | None) -> AsyncIterator[Zone]:
    """Two of everything that is listed, which differ."""
    async with running_zone(tmp_path / "manager", database=database) as made:
        await fill(made)
        yield made


async def fill(zone: Zone) -> None:
    """Make what the lists show."""
    api = zone.api
    first = await zone.agent("kvm1", pools=(local_pool("p1"),), kinds=ALL_KINDS)
    other = await zone.agent("kvm2", pools=(local_pool("p2"),))
    second = (await api("createZone", name="z2"))["zone"]["id"]
    await api("createUser", username="ann", password="password1")
    os_types = (await api("listOsTypes", keyword="Ubuntu"))["ostype"]
    one = await zone.template("one", ispublic="true", ostypeid=os_types[0]["id"])
    await zone.template("two", zoneid="-1", arch="aarch64")
    for name, flag in (("i1", "true"), ("i2", "false")):
        await api(
            "registerIso",
            name=name,
            url=f"https://mirror.example/{name}.iso",
            bootable=flag,
            zoneid="-1" if flag == "true" else zone.id,
            directdownload="true",
            ispublic=flag,
        )
    pool = (await api("listStoragePools", hostid=first.host_id))["storagepool"][0]["id"]
    for where in ({"storageid": pool}, {}):
        await api.job(await api("prepareTemplate", templateid=one["id"], zoneid=zone.id, **where))
    for name, where in (("m1", zone.id), ("m2", second)):
        await api(
            "uploadTemplateDirectDownloadCertificate",
            hypervisor="KVM",
            name=name,
            zoneid=where,
            certificate=self_signed(name),
        )
    await api("createHostToken", zoneid=second, clustername="spare")
    two, iso = [
        (await api(f"list{kind}s", name=name, **{f"{kind.lower()}filter": "all"}))[kind.lower()][0]
        for kind, name in (("Template", "two"), ("Iso", "i2"))
    ]
    for name, template in (("f1", one), ("f2", two)):
        await zone.follow(name, template["id"])
    users = {user["account"]: user["id"] for user in (await api("listUsers"))["user"]}

    async def machines(tx: AsyncConnection) -> None:
        for name, state, host, pool, where, account, template, is_iso in (
            ("v1", vms.RUNNING, first, "p1", zone.id, "admin", one["id"], False),
            ("v2", vms.STOPPED, other, "p2", second, "ann", iso["id"], True),
        ):
            await vms.add(
                tx, id=new_id(), zone=where, owner=users[account], account=account, name=name,
                display_name=f"the {name}", template=template, iso=is_iso, host=host.host_id,
                pool=f"{pool}-id", disk=new_id(), processors=1, memory=1 << 29, deployed=True,
                state=state, goal=state, created=1.0, updated=1.0,
            )  # fmt: skip

    await zone.manager.context.ledger.write(machines)


async def required(zone: Zone, command: Command) -> dict[str, str]:
    """What a command has to be given to list everything."""
    match command.name:
        case "listTemplates":
            return {"templatefilter": "all"}
        case "listIsos":
            return {"isofilter": "all"}
        case "listAsyncJobs":
            return {"listall": "true"}
        case "listTemplateDownloads":
            listed = await zone.api("listTemplates", templatefilter="all", name="one")
            return {"templateid": listed["template"][0]["id"]}
        case _:
            return {}


async def rows(zone: Zone, command: Command, params: dict[str, str]) -> list[dict[str, Any]]:
    """What a list command answers."""
    answer = await zone.api.send(command.name, params)
    found = [value for value in answer.values() if isinstance(value, list)]
    assert answer.get("count", 0) == (len(found[0]) if found else 0)
    return found[0] if found else []


def keys(items: list[dict[str, Any]]) -> list[str]:
    """What tells rows apart, whatever else changes meanwhile."""
    names = ("id", "jobid", "volume", "storageid", "name")
    return [
        next(str(item[n]) for n in names if n in item) + str(item.get("zoneid")) for item in items
    ]


def alien(param: Param) -> Iterator[dict[str, str]]:
    """Values that nothing has."""
    match param.kind:
        case Kind.UUID | Kind.LIST:
            yield {param.name: NOBODY}
        case Kind.INTEGER:
            yield {param.name: str(param.most)}
        case Kind.DATE:
            yield {param.name: "2001-01-01" if param.name == "enddate" else "2099-01-01"}
        case Kind.MAP:
            yield {f"{param.name}[0].key": "env", f"{param.name}[0].value": "none"}
        case Kind.STRING if not param.choices:
            yield {param.name: "no such thing"}
        case _:
            return


def test_every_parameter_of_a_list_command_says_how_it_narrows() -> None:
    """One that does not would be read and forgotten."""
    assert len(LISTS) > 15
    silent = [(c.name, p.name) for c in LISTS for p in c.params if p.narrows is None]
    assert silent == []


@pytest.mark.parametrize("name", sorted(CLOUDSTACK))
def test_what_cloudstacks_clients_send_is_known(name: str) -> None:
    """They would get a refusal for a filter that could have been honoured."""
    assert set(CLOUDSTACK[name].split()) - set(COMMANDS[name.lower()].by_name) == set()


async def test_a_value_that_nothing_has_leaves_nothing(zone: Zone) -> None:
    """Each list, each of its parameters: no rows, or a refusal that names it; and of two values
    that are opposites no row has both."""
    for command in LISTS:
        if command.name in SINGLE:
            continue
        base = await required(zone, command)
        everything = keys(await rows(zone, command, base))
        assert everything, f"{command.name} has nothing to narrow"
        for param in command.params:
            where = f"{command.name} {param.name}"
            if param.narrows is SHOWS or param.name in base or param.name.endswith("filter"):
                continue
            for given in alien(param):
                if isinstance(param.narrows, Refused):
                    with pytest.raises(ApiParamError, match=param.name):
                        await rows(zone, command, {**base, **given})
                else:
                    assert await rows(zone, command, {**base, **given}) == [], where
            if param.kind is Kind.BOOLEAN and not isinstance(param.narrows, Refused):
                yes = keys(await rows(zone, command, {**base, param.name: "true"}))
                no = keys(await rows(zone, command, {**base, param.name: "false"}))
                if param.name not in {"showunique", "listall"}:
                    assert not set(yes) & set(no), where
                assert set(yes) | set(no) <= set(everything), where
                assert min(len(yes), len(no)) < len(everything), where


async def test_a_value_that_a_row_has_leaves_those_that_have_it(zone: Zone) -> None:
    """Of what is shown: with each value of each row, exactly the rows that show it."""
    tried = 0
    for command in LISTS:
        if command.name in SINGLE:
            continue
        base = await required(zone, command)
        items = await rows(zone, command, base)
        for param in command.params:
            match param.narrows:
                case By(field) if param.kind in {Kind.STRING, Kind.UUID, Kind.INTEGER}:
                    field = field or param.name
                    kept = lambda item, value, field=field: str(item.get(field)) == value  # noqa: E731
                case Contains(fields):
                    field = fields[0]
                    kept = lambda item, value, fields=fields: any(  # noqa: E731
                        value.lower() in str(item.get(f)).lower() for f in fields
                    )
                case Is(constant):
                    given = str(constant).lower()
                    assert keys(await rows(zone, command, {**base, param.name: given})) == keys(
                        items
                    ), f"{command.name} {param.name}"
                    continue
                case _:
                    continue
            for value in sorted({str(i[field]) for i in items if i.get(field) not in {None, ""}})[
                :4
            ]:
                exact = param.kind is not Kind.STRING or param.name.endswith(("id", "volume"))
                for spelt in {value} if exact else {value, value.upper()}:
                    found = await rows(zone, command, {**base, param.name: spelt})
                    wanted = [item for item in items if kept(item, value)]
                    assert keys(found) == keys(wanted), f"{command.name} {param.name}={spelt}"
                    tried += 1
    assert tried > 100


@pytest.mark.parametrize("command", LISTS, ids=lambda c: c.name)
async def test_what_is_no_filter_or_blank_is_refused(zone: Zone, command: Command) -> None:
    """A slip of the pen, and a variable of a script that was not set."""
    base = await required(zone, command)
    for name in ("zonid", "tags.key", "ID[0]", "command2"):
        with pytest.raises(ApiParamError, match="no parameter"):
            await zone.api.send(command.name, {**base, name: "x"})
    for param in command.params:
        if param.narrows is SHOWS or param.kind is Kind.MAP or param.name in {"keyword", *base}:
            continue
        with pytest.raises(ApiParamError, match=param.name):
            await zone.api.send(command.name, {**base, param.name: ""})


async def test_every_list_has_pages(zone: Zone) -> None:
    """Walked a row at a time they show every row once, and count the whole."""
    for command in (*LISTS, *EMPTY):
        if command.name in SINGLE:
            continue
        base = await required(zone, command)
        for half in ({"page": "1"}, {"pagesize": "1"}):
            with pytest.raises(ApiParamError, match="required when"):
                await zone.api.send(command.name, {**base, **half})
        everything = [] if command.empty else await rows(zone, command, base)
        if len(everything) > 30:
            continue
        seen = []
        for page in range(1, len(everything) + 1):
            answer = await zone.api.send(command.name, {**base, "page": str(page), "pagesize": "1"})
            assert answer["count"] == len(everything), command.name
            seen += next(value for value in answer.values() if isinstance(value, list))
        assert keys(seen) == keys(everything), command.name
        behind = {**base, "page": str(len(everything) + 1), "pagesize": "1"}
        answer = await zone.api.send(command.name, behind)
        assert answer == ({"count": len(everything)} if everything else {}), command.name


async def test_lists_of_what_there_is_not_take_any_filter(zone: Zone) -> None:
    """Nothing is narrowed there, so nothing can be ignored."""
    for command in EMPTY:
        assert await zone.api(command.name, account="a", domainid=NOBODY, state="Running") == {}


async def test_filters_are_joined(zone: Zone) -> None:
    """Two of them leave what both leave."""
    both = await zone.api("listTemplates", templatefilter="all", arch="x86_64", name="two")
    assert both == {}
    (found,) = (
        await zone.api("listTemplates", templatefilter="all", arch="AARCH64", zoneid=zone.id)
    )["template"]
    assert (found["name"], found["arch"]) == ("two", "aarch64")


async def test_stored_properties_narrow(zone: Zone) -> None:
    """Where the parameter is not called like what is shown."""
    api = zone.api

    async def names(command: str, **params: str) -> list[str]:
        filters = {"listTemplates": {"templatefilter": "all"}, "listIsos": {"isofilter": "all"}}
        answer = await api(command, **filters.get(command, {}), **params)
        found = [item for value in answer.values() if isinstance(value, list) for item in value]
        return [item["name"] for item in found]

    assert await names("listTemplates", showunique="true") == ["one", "two"]
    assert await names("listTemplates") == ["one", "two", "two"]
    assert await names("listIsos", bootable="true") == ["i1", "i1"]
    assert await names("listIsos", ispublic="false") == ["i2"]
    pools = {p["name"]: p["id"] for p in (await api("listStoragePools"))["storagepool"]}
    assert await names("listTemplates", storageid=pools["p1"]) == ["one"]
    families = {c["name"]: c["id"] for c in (await api("listOsCategories"))["oscategory"]}
    assert await names("listTemplates", oscategoryid=families["Ubuntu"]) == ["one"]
    assert await names("listTemplates", oscategoryid=families["Other"]) == ["two", "two"]
    ids = [t["id"] for t in (await api("listTemplates", templatefilter="all"))["template"]]
    assert await names("listTemplates", ids=f"{ids[0]},{NOBODY}") == ["one"]
    (host,) = (await api("listHosts", name="KVM1"))["host"]
    assert await names("listStoragePools", hostid=host["id"]) == ["p1"]
    assert await names("listStoragePools", status="Up") == ["p1", "p2"]
    events = await api("listEvents", resourcetype="Iso")
    assert {e["type"] for e in events["event"]} == {"ISO.CREATE"}
    whole = (await api("listEvents"))["count"]
    for since, left in (("2020-01-01", whole), ("2020-01-01 10:00:00", whole), ("2099-01-01", 0)):
        assert (await api("listEvents", startdate=since)).get("count", 0) == left
    last = (await api("listEvents"))["event"][-1]["created"]
    assert (await api("listEvents", startdate=last, enddate=last))["count"] >= 1
    with pytest.raises(ApiParamError, match="startdate"):
        await api("listEvents", startdate="yesterday")
    assert (await api("listAsyncJobs", listall="true", account="ADMIN"))["count"] == 2
