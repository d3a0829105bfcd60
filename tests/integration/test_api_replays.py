# SPDX-License-Identifier: Apache-2.0
"""Does a copy of a signed request change anything, whatever command it is?

Every command of the table that changes state is called on objects made for it; new ones are
walked too. What changed is checked by the whole ledger, row by row.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from sqlalchemy import select

from fastdl.lab.certs import self_signed
from fastdl.manager.api.registry import COMMANDS
from fastdl.manager.api.spec import Command, Kind
from fastdl.manager.ledger import tables
from fastdl.wire import messages as m
from tests.env.fake_agent import FakeAgent, local_pool
from tests.env.manager import Zone
from tests.env.manager import zone as running_zone
from tests.env.web import encoded, send, signed

CHANGING = sorted(command.name for command in COMMANDS.values() if command.changes)
COPIES = 5
NUMBERS = itertools.count(1)
QUIET_S = 0.2
_VOLATILE = {"lease", "replay"}


@pytest.fixture
async def zone(tmp_path: Path) -> AsyncIterator[Zone]:
    """A manager with a host that never ends a download, and a zone without hosts."""

    async def never(_agent: FakeAgent, _command: m.Command) -> m.Failure:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    async with running_zone(tmp_path / "manager") as made:
        await made.agent("kvm1", pools=(local_pool("p1"),), work={"download": never})
        await made.api("updateConfiguration", name="api.refused.per.second", value="1000000")
        yield made


class Objects:
    """Makes what a command is about, fresh for each call, by the command's own words."""

    def __init__(self, zone: Zone) -> None:
        self.zone = zone
        self.api = zone.api
        self.host = zone.agents[0].host_id

    async def template(self, *, iso: bool = False) -> str:
        number = next(NUMBERS)
        if iso:
            answer = await self.api(
                "registerIso",
                name=f"i{number}",
                zoneid=self.zone.id,
                directdownload="true",
                url=f"https://mirror.example/i{number}.iso",
            )
            return str(answer["iso"][0]["id"])
        return str((await self.zone.template(f"t{number}"))["id"])

    async def certificate(self) -> str:
        answer = await self.api(
            "uploadTemplateDirectDownloadCertificate",
            hypervisor="KVM",
            zoneid=self.zone.id,
            name=f"m{next(NUMBERS)}",
            certificate=self_signed(),
        )
        return str(answer["uploadtemplatedirectdownloadcertificate"]["id"])

    async def user(self) -> str:
        answer = await self.api("createUser", username=f"u{next(NUMBERS)}", password="password1")
        return str(answer["user"]["id"])

    async def account(self) -> str:
        """An account with a user."""
        user = await self.user()
        (found,) = (await self.api("listUsers", id=user))["user"]
        listed = await self.api("listAccounts", name=found["account"])
        return str(listed["account"][0]["id"])

    async def new_zone(self) -> str:
        return str((await self.api("createZone", name=f"z{next(NUMBERS)}"))["zone"]["id"])

    async def enrolled_host(self) -> str:
        """A host that was there once."""
        number = next(NUMBERS)
        agent = await self.zone.agent(f"kvm{number}", pools=(local_pool(f"gone{number}"),))
        await agent.close()
        return agent.host_id

    async def token(self) -> str:
        return str((await self.api("createHostToken", zoneid=self.zone.id))["id"])

    async def pool(self) -> str:
        """A pool that nobody reports any more."""
        name = f"p{next(NUMBERS)}"
        agent = await self.zone.agent(f"kvm{next(NUMBERS)}", pools=(local_pool(name),))
        await agent.close()
        await self.api("deleteHost", id=agent.host_id, forced="true")
        return f"{name}-id"

    async def follow(self) -> str:
        """A follow that is not due."""
        return await self.zone.follow(f"f{next(NUMBERS)}", await self.template())

    async def machine_host(self) -> str:
        """A host that can have virtual machines, and ends downloads."""
        name = f"p{next(NUMBERS)}"
        pool = local_pool(name)
        agent = await self.zone.agent(
            f"kvm{next(NUMBERS)}", pools=(pool,), machine_pools=(pool.id,)
        )
        return agent.host_id

    async def machine(self) -> str:
        """A virtual machine that runs."""
        made = await self.api(
            "deployVirtualMachine",
            templateid=await self.template(),
            zoneid=self.zone.id,
            hostid=await self.machine_host(),
        )
        assert (await self.api.job(made))["jobstatus"] == 1
        return str(made["id"])

    async def order(self, command: str, machine: str) -> None:
        """Carry out *command* for *machine*."""
        answer = await self.api(command, id=machine)
        assert (await self.api.job(answer))["jobstatus"] == 1

    async def id_of(self, noun: str) -> str:
        """The id of a new object of the kind that a command is named after."""
        makers = {
            "TemplateFollow": self.follow,
            "VirtualMachine": self.machine,
            "Certificate": self.certificate,
            "User": self.user,
            "Account": self.account,
            "Zone": self.new_zone,
            "Token": self.token,
            "Host": self.enrolled_host,
            "Template": self.template,
            "StoragePool": self.pool,
        }
        if "Iso" in noun:
            return await self.template(iso=True)
        for kind, maker in makers.items():
            if kind in noun:
                return await maker()
        raise AssertionError(f"say how to make what {noun} is about")

    async def params(self, command: Command) -> dict[str, str]:
        """Parameters with which *command* succeeds, once or again."""
        number = next(NUMBERS)
        values = {
            "zoneid": self.zone.id, "name": f"n{number}", "username": f"n{number}",
            "password": "password1", "hypervisor": "KVM", "hostid": self.host,
            "certificate": self_signed(), "format": "QCOW2", "directdownload": "true",
            "url": "https://mirror.example/x." + ("iso" if "Iso" in command.name else "qcow2"),
            "firstname": "F", "lastname": "L", "email": "e@x", "displaytext": f"d{number}",
            "lock": "true",
        }  # fmt: skip
        found = {p.name: values[p.name] for p in command.params if p.required and p.name in values}
        if "directdownload" in command.by_name:
            found["directdownload"] = "true"
        if "zoneid" in command.by_name and command.name.startswith("register"):
            found["zoneid"] = self.zone.id
        if "id" in command.by_name:
            found["id"] = await self.id_of(command.name)
        if "templateid" in command.by_name:
            found["templateid"] = await self.template()
        special = getattr(self, f"_{command.name}", None)
        return found | (await special(found) if special is not None else {})

    async def _updateUser(self, _found: dict[str, str]) -> dict[str, str]:  # noqa: N802
        return {"firstname": "F"}

    async def _createAccount(self, _found: dict[str, str]) -> dict[str, str]:  # noqa: N802
        return {"accounttype": "0"}

    async def _updateTemplate(self, _found: dict[str, str]) -> dict[str, str]:  # noqa: N802
        return {"displaytext": f"d{next(NUMBERS)}"}

    async def _updateTemplatePermissions(  # noqa: N802
        self, _found: dict[str, str]
    ) -> dict[str, str]:
        return {"ispublic": "true"}

    async def _updateZone(self, _found: dict[str, str]) -> dict[str, str]:  # noqa: N802
        return {"name": f"z{next(NUMBERS)}"}

    async def _createHostToken(self, _found: dict[str, str]) -> dict[str, str]:  # noqa: N802
        return {"zoneid": self.zone.id}

    async def _deleteHost(self, _found: dict[str, str]) -> dict[str, str]:  # noqa: N802
        return {"forced": "true"}

    async def _updateStoragePool(self, _found: dict[str, str]) -> dict[str, str]:  # noqa: N802
        return {"open": "true"}

    async def _cancelHostMaintenance(self, found: dict[str, str]) -> dict[str, str]:  # noqa: N802
        await self.api("prepareHostForMaintenance", id=found["id"])
        return {}

    async def _finishHostCaRotation(self, _found: dict[str, str]) -> dict[str, str]:  # noqa: N802
        await self.api("startHostCaRotation")
        return {"forced": "true"}

    async def _deployVirtualMachine(self, _found: dict[str, str]) -> dict[str, str]:  # noqa: N802
        return {"hostid": await self.machine_host()}

    async def _startVirtualMachine(self, found: dict[str, str]) -> dict[str, str]:  # noqa: N802
        await self.order("stopVirtualMachine", found["id"])
        return {}

    async def _expungeVirtualMachine(self, found: dict[str, str]) -> dict[str, str]:  # noqa: N802
        await self.order("destroyVirtualMachine", found["id"])
        return {}

    _recoverVirtualMachine = _expungeVirtualMachine  # noqa: N815

    async def _updateConfiguration(self, _found: dict[str, str]) -> dict[str, str]:  # noqa: N802
        return {"name": "default.page.size", "value": str(300 + next(NUMBERS))}

    async def _cancelTemplateDownload(self, found: dict[str, str]) -> dict[str, str]:  # noqa: N802
        template = found["templateid"]
        await self.api("prepareTemplate", zoneid=self.zone.id, templateid=template)
        return {}

    async def _auditTemplateCopy(self, found: dict[str, str]) -> dict[str, str]:  # noqa: N802
        return await self._deleteTemplateCopy(found)

    async def _deleteTemplateCopy(self, found: dict[str, str]) -> dict[str, str]:  # noqa: N802
        await self._cancelTemplateDownload(found)  # its row is there while it is brought
        return {"storageid": "p1-id"}


async def everything(zone: Zone) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of the ledger, once two looks in a row see the same."""
    last: dict[str, list[tuple[Any, ...]]] = {}
    async with asyncio.timeout(30):
        while True:
            found = {}
            async with zone.manager.context.ledger.read() as tx:
                for table in tables.metadata.sorted_tables:
                    if table.name not in _VOLATILE:
                        rows = (await tx.execute(select(table))).all()
                        found[table.name] = sorted(map(tuple, rows), key=repr)
            if found == last:
                return found
            last = found
            await asyncio.sleep(QUIET_S)


def named(events: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """The events that somebody asked for, from somewhere."""
    column = list(tables.event.c.keys()).index("address")
    return [row for row in events if row[column] is not None]


async def call(zone: Zone, params: dict[str, str], *, by_get: bool = False) -> int:
    """Send exactly *params*; return the status."""
    url, text = zone.api.credentials["url"], encoded(params.items())
    return (await (send(url, query=text) if by_get else send(url, form=text))).status


@pytest.mark.parametrize("name", CHANGING)
async def test_a_signed_request_takes_effect_once(zone: Zone, name: str) -> None:
    """Copies at once: one is carried out. Copies later: refused, and not a row changes (A03)."""
    command = COMMANDS[name.lower()]
    params = signed(zone.api.credentials, name, **await Objects(zone).params(command))
    before = await everything(zone)
    codes = sorted(await asyncio.gather(*(call(zone, params) for _ in range(COPIES))))
    assert codes[0] == 200, codes
    assert set(codes[1:]) <= {401, 409}, codes
    after = await everything(zone)
    assert after != before
    assert len(named(after["event"])) == len(named(before["event"])) + 1
    signature = params["signature"]
    for copy in (
        params,
        {**params, "signature": f" {signature}\n"},
        dict(reversed(params.items())),
        {key.upper(): value for key, value in params.items()},
    ):
        for by_get in (False, True):
            assert await call(zone, copy, by_get=by_get) in {401, 409}
    assert await everything(zone) == after


async def test_a_session_may_ask_the_same_again(zone: Zone) -> None:
    """Nothing of that concerns who is logged in: what can be done twice is done twice."""
    url, objects = zone.api.credentials["url"], Objects(zone)
    await zone.api("createUser", username="root", password="password1", role="Admin")
    login = {"command": "login", "username": "root", "password": "password1", "response": "json"}
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
        answer = await send(url, form=encoded(login.items()), session=session)
        key = {"response": "json", "sessionkey": answer.content["sessionkey"]}
        for name in sorted(CHANGING, key=lambda name: "Rotation" in name):  # it ends connections
            params = {**await objects.params(COMMANDS[name.lower()]), "command": name, **key}
            first, second = [
                await send(url, form=encoded(params.items()), session=session) for _ in range(2)
            ]
            assert first.status == 200, (name, first.body)
            assert "carried out before" not in second.body


def test_the_walk_walks_every_command_that_could_change_something() -> None:
    """A command that is named like a change is declared as one."""
    verbs = ("list", "get", "query", "check", "logout")
    undeclared = [c.name for c in COMMANDS.values() if not c.changes]
    assert [name for name in undeclared if not name.startswith(verbs)] == []
    assert len(CHANGING) >= 20
    ids = [p for c in COMMANDS.values() if c.changes for p in c.params if p.name == "id"]
    assert all(p.kind in {Kind.UUID, Kind.STRING} for p in ids)
