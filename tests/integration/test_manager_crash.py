# SPDX-License-Identifier: Apache-2.0
"""Kill the manager at each statement of each command: is anything ever left half done (A08)?

A real ``fastdl manager`` process gets SIGKILL when it is about to execute or commit its k-th
statement after a command was sent, for every k until the command survives. After each death a
new process starts on the same folder; the effect must be there whole or not at all, the same
command sent again must end as the caller wanted, and what hosts hold must come to agree.

``FASTDL_FULL_SWEEP=1`` kills at every statement (some ten minutes); without it at each of the
first few, then at every eighth.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fastdl.errors import FastdlError, NetError
from fastdl.lab.certs import self_signed
from fastdl.wire import messages as m
from tests.env.fake_agent import DEFAULTS, FakeAgent, local_pool
from tests.env.manager import Client
from tests.env.mortal_manager import MortalManager, SteadyAgent

STEP = 1 if os.environ.get("FASTDL_FULL_SWEEP", "") not in ("", "0") else 8
FIRST = 4
STATEMENTS_MAX = 400
PEM, OTHER_PEM = self_signed(), self_signed("next.example")


@dataclass
class World:
    """A manager with a zone, a host with a pool, and the database beneath."""

    manager: MortalManager
    zone: str = ""
    host: SteadyAgent = None  # type: ignore[assignment]
    may_download: asyncio.Event = field(default_factory=asyncio.Event)

    async def call(self, command: str, params: dict[str, str]) -> dict[str, Any]:
        """Send one command to whichever process runs now."""
        return await self.manager.api.send(command, params, timeout_s=30)

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """What the database holds, read past the manager."""
        path = self.manager.state / "manager.db"
        with contextlib.closing(sqlite3.connect(path, timeout=10)) as connection:
            return connection.execute(query, values).fetchall()

    def count(self, query: str, *values: Any) -> int:
        """The one number that *query* selects."""
        ((found,),) = self.rows(query, *values)
        return int(found)

    async def until(self, check: Callable[[], Any], what: str) -> None:
        """Wait until *check* is true, 30 s at most."""
        for _ in range(600):
            if check():
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"never: {what}")

    async def template(self, name: str) -> str:
        """A registered template's id."""
        answer = await self.call("registerTemplate", template_params(self, name))
        return str(answer["template"][0]["id"])

    async def certificate(self, alias: str) -> str:
        """An uploaded certificate's id."""
        params = upload_params(self, alias)
        answer = await self.call("uploadTemplateDirectDownloadCertificate", params)
        return str(answer["uploadtemplatedirectdownloadcertificate"]["id"])

    def fingerprint(self, alias: str) -> str | None:
        """What the ledger says the host should hold under *alias*, None = nothing."""
        found = self.rows(
            "SELECT sha256 FROM cert JOIN cert_host ON cert.id = cert_host.cert "
            "WHERE live_alias = ? AND want = 'present' AND host = ?",
            alias,
            self.host.host_id,
        )
        return str(found[0][0]) if found else None

    async def keystore_agrees(self, alias: str) -> None:
        """The host comes to hold exactly what the ledger says."""
        await self.until(
            lambda: self.host.keystore.get(alias) == self.fingerprint(alias),
            f"the host holds what is wanted under {alias}",
        )

    async def quiet(self) -> None:
        """Every job and every API job comes to an end."""
        live = (
            "SELECT (SELECT count(*) FROM job WHERE ended IS NULL) + "
            "(SELECT count(*) FROM api_job WHERE status = 0)"
        )
        await self.until(lambda: self.manager.died or not self.count(live), "every job has ended")

    def check_whole(self) -> None:
        """No row without those that it was to be stored with."""
        assert self.rows("PRAGMA quick_check") == [("ok",)]
        assert self.rows("PRAGMA foreign_key_check") == []
        for what, query in HALVES.items():
            assert self.rows(query) == [], what


HALVES = {
    "a template offered nowhere":
        "SELECT id FROM template WHERE removed IS NULL AND id NOT IN "
        "(SELECT template FROM template_zone WHERE removed IS NULL)",
    "a removed template that is still offered":
        "SELECT t.id FROM template t JOIN template_zone z ON z.template = t.id "
        "WHERE t.removed IS NOT NULL AND z.removed IS NULL",
    "a live certificate that no host was told of":
        "SELECT id FROM cert WHERE live_alias IS NOT NULL AND NOT revoked AND id NOT IN "
        "(SELECT cert FROM cert_host)",
    "a deleted certificate that is wanted":
        "SELECT cert.id FROM cert JOIN cert_host ON cert.id = cert_host.cert "
        "WHERE live_alias IS NULL AND want = 'present'",
    "an API job that waits for nothing":
        "SELECT id FROM api_job WHERE status = 0 AND id NOT IN (SELECT api_job FROM api_job_part)",
    "a download that nobody asked for":
        "SELECT id FROM job WHERE kind = 'download' AND id NOT IN "
        "(SELECT job FROM api_job_part)",
    "a key without its secret":
        "SELECT id FROM account WHERE (api_key IS NULL) != (secret_key IS NULL)",
    "slots that nobody holds":
        "SELECT kind FROM slot GROUP BY 1 HAVING sum(active) != (SELECT count(*) FROM job "
        "WHERE job.kind = 'download' AND state IN ('GRANTED', 'RUNNING', 'CANCELLING') "
        "AND host IS NOT NULL)",
}  # fmt: skip


def template_params(world: World, name: str) -> dict[str, str]:
    """A registration."""
    return {
        "name": name,
        "url": f"https://mirror.example/{name}.qcow2",
        "format": "QCOW2",
        "hypervisor": "KVM",
        "zoneid": world.zone,
        "directdownload": "true",
    }


def upload_params(world: World, alias: str) -> dict[str, str]:
    """An upload."""
    return {"name": alias, "certificate": PEM, "hypervisor": "KVM", "zoneid": world.zone}


Judge = Callable[[World], Awaitable[None]]
Case = Callable[[World, str], Awaitable[tuple[str, dict[str, str], Judge]]]


async def create_zone(_world: World, name: str) -> tuple[str, dict[str, str], Judge]:
    """A zone is there once."""

    async def check(world: World) -> None:
        assert world.count("SELECT count(*) FROM zone WHERE name = ?", name) == 1

    return "createZone", {"name": name}, check


async def create_host_token(world: World, _name: str) -> tuple[str, dict[str, str], Judge]:
    """A host can enrol with the token of the answer."""

    async def check(world: World) -> None:
        answer = await world.call("createHostToken", {"zoneid": world.zone})
        agent = FakeAgent(address=world.host.address, name="newcomer")
        await agent.enrol(answer["token"])
        assert world.count("SELECT count(*) FROM host WHERE id = ?", agent.host_id) == 1

    return "createHostToken", {"zoneid": world.zone}, check


async def update_configuration(_world: World, name: str) -> tuple[str, dict[str, str], Judge]:
    """The setting is what was asked for, in the ledger and in force."""
    value = str(1000 + int(name.rpartition("-")[2]))

    async def check(world: World) -> None:
        listed = await world.call("listConfigurations", {"name": "event.purge.delay"})
        assert listed["configuration"][0]["value"] == value
        assert world.rows("SELECT value FROM setting WHERE name = 'event.purge.delay'") == [
            (value,)
        ]

    return "updateConfiguration", {"name": "event.purge.delay", "value": value}, check


async def create_user(_world: World, name: str) -> tuple[str, dict[str, str], Judge]:
    """A user is there once."""

    async def check(world: World) -> None:
        assert world.count("SELECT count(*) FROM account WHERE username = ?", name) == 1

    return "createUser", {"username": name, "password": "password1"}, check


async def register_keys(world: World, name: str) -> tuple[str, dict[str, str], Judge]:
    """The keys of the last answer are the ones that count."""
    params = {"username": name, "password": "password1"}
    user = (await world.call("createUser", params))["user"]["id"]

    async def check(world: World) -> None:
        keys = (await world.call("registerUserKeys", {"id": user}))["userkeys"]
        mine = Client({**world.manager.api.credentials, **keys})
        await mine.send("listZones", {})
        ((stored,),) = world.rows("SELECT secret_key FROM account WHERE id = ?", user)
        assert keys["secretkey"] not in stored, "it lies in the ledger in clear"

    return "registerUserKeys", {"id": user}, check


async def register_template(world: World, name: str) -> tuple[str, dict[str, str], Judge]:
    """Each registration that counts is whole; names may repeat, as in CloudStack."""

    async def check(world: World) -> None:
        listed = await world.call("listTemplates", {"templatefilter": "self", "name": name})
        assert listed["count"] in {1, 2}
        assert all(item["isready"] for item in listed["template"])

    return "registerTemplate", template_params(world, name), check


async def prepare_template(world: World, name: str) -> tuple[str, dict[str, str], Judge]:
    """The copy is there, and no job was carried out twice."""
    id_ = await world.template(name)

    async def check(world: World) -> None:
        assert world.rows("SELECT state FROM copy WHERE template = ?", id_) == [("ready",)]
        ends = world.rows("SELECT id, state FROM job WHERE template = ?", id_)
        assert {state for _, state in ends} == {"DONE"}
        runs = Counter(job for what, job in world.host.log if what == "started")
        assert all(runs[job] == 1 for job, _ in ends)

    return "prepareTemplate", {"templateid": id_, "zoneid": world.zone}, check


async def cancel_download(world: World, name: str) -> tuple[str, dict[str, str], Judge]:
    """The download ends as cancelled, on the host too."""
    id_ = await world.template(name)
    world.may_download.clear()
    await world.call("prepareTemplate", {"templateid": id_, "zoneid": world.zone})
    running = "SELECT count(*) FROM job WHERE template = ? AND state = 'RUNNING'"
    await world.until(lambda: world.count(running, id_), "the download runs")

    async def check(world: World) -> None:
        ((job, state),) = world.rows("SELECT id, state FROM job WHERE template = ?", id_)
        assert state in {"CANCELLED", "FAILED"}
        assert ("cancelled", job) in world.host.log
        world.may_download.set()

    return "cancelTemplateDownload", {"templateid": id_}, check


async def delete_template(world: World, name: str) -> tuple[str, dict[str, str], Judge]:
    """The template is gone, and so is its copy."""
    id_ = await world.template(name)
    await world.call("prepareTemplate", {"templateid": id_, "zoneid": world.zone})
    await world.quiet()

    async def check(world: World) -> None:
        assert world.count("SELECT removed IS NOT NULL FROM template WHERE id = ?", id_)
        assert world.rows("SELECT state FROM copy WHERE template = ?", id_) == []
        removals = "SELECT count(*) FROM job WHERE template = ? AND kind = 'remove'"
        assert world.count(removals, id_) == 1

    return "deleteTemplate", {"id": id_}, check


async def delete_while_downloading(world: World, name: str) -> tuple[str, dict[str, str], Judge]:
    """What is fetched although its template is gone does not stay either."""
    id_ = await world.template(name)
    world.may_download = asyncio.Event()  # not the last round's, whose timer may still run
    await world.call("prepareTemplate", {"templateid": id_, "zoneid": world.zone})
    running = "SELECT count(*) FROM job WHERE template = ? AND state = 'RUNNING'"
    await world.until(lambda: world.count(running, id_), "the download runs")
    asyncio.get_running_loop().call_later(1.5, world.may_download.set)

    async def check(world: World) -> None:
        assert world.count("SELECT removed IS NOT NULL FROM template WHERE id = ?", id_)
        assert world.rows("SELECT state FROM copy WHERE template = ?", id_) == []

    return "deleteTemplate", {"id": id_}, check


async def upload(world: World, alias: str) -> tuple[str, dict[str, str], Judge]:
    """The certificate is there once, and on the host."""

    async def check(world: World) -> None:
        assert world.count("SELECT count(*) FROM cert WHERE live_alias = ?", alias) == 1
        assert world.fingerprint(alias) is not None

    return "uploadTemplateDirectDownloadCertificate", upload_params(world, alias), check


async def update(world: World, alias: str) -> tuple[str, dict[str, str], Judge]:
    """The successor is on the host, under the same alias."""
    id_ = await world.certificate(alias)
    before = world.fingerprint(alias)

    async def check(world: World) -> None:
        assert world.fingerprint(alias) not in {None, before}

    params = {"id": id_, "certificate": OTHER_PEM}
    return "updateTemplateDirectDownloadCertificate", params, check


async def revoke(world: World, alias: str) -> tuple[str, dict[str, str], Judge]:
    """The host does not hold it, now and after every later round."""
    id_ = await world.certificate(alias)

    async def check(world: World) -> None:
        assert world.count("SELECT revoked FROM cert WHERE id = ?", id_)
        assert world.fingerprint(alias) is None

    params = {"id": id_, "zoneid": world.zone}
    return "revokeTemplateDirectDownloadCertificate", params, check


async def provision(world: World, alias: str) -> tuple[str, dict[str, str], Judge]:
    """A certificate revoked from the host is there again."""
    id_ = await world.certificate(alias)
    where = {"id": id_, "zoneid": world.zone, "hostid": world.host.host_id}
    await world.call("revokeTemplateDirectDownloadCertificate", where)

    async def check(world: World) -> None:
        assert world.fingerprint(alias) is not None

    params = {"id": id_, "hostid": world.host.host_id}
    return "provisionTemplateDirectDownloadCertificate", params, check


async def delete(world: World, alias: str) -> tuple[str, dict[str, str], Judge]:
    """It is wanted nowhere, and its alias is free."""
    id_ = await world.certificate(alias)

    async def check(world: World) -> None:
        assert world.count("SELECT count(*) FROM cert WHERE live_alias = ?", alias) == 0

    return "deleteTemplateDirectDownloadCertificate", {"id": id_}, check


AGAIN = {
    "createZone": "already",
    "createUser": "already exists",
    "uploadTemplateDirectDownloadCertificate": "has been already created",
    "deleteTemplateDirectDownloadCertificate": "entity does not exist",
    "deleteTemplate": "entity does not exist",
    "cancelTemplateDownload": "is not being downloaded there",
}
"""How a command that took effect already may answer when it is sent again."""

CASES: tuple[Case, ...] = (
    create_zone, create_host_token, update_configuration, create_user, register_keys,
    register_template, prepare_template, cancel_download, delete_template, delete_while_downloading,
    upload, update, revoke, provision, delete,
)  # fmt: skip


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A zone with one host whose downloads can be held up."""
    made = World(MortalManager(tmp_path))
    made.may_download.set()

    async def download(agent: FakeAgent, command: m.Command) -> m.Done | m.Failure:
        await made.may_download.wait()
        return await DEFAULTS["download"](agent, command)

    try:
        await made.manager.start()
        made.zone = (await made.call("createZone", {"name": "z"}))["zone"]["id"]
        token = (await made.call("createHostToken", {"zoneid": made.zone}))["token"]
        made.host = await made.manager.agent(
            "kvm1", token, pools=(local_pool("p"),), work={"download": download}
        )
        yield made
    finally:
        await made.manager.stop()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
async def test_killed_at_any_statement_a_command_took_effect_whole_or_not_at_all(
    world: World, case: Case
) -> None:
    """A crash must cost the caller one repetition, and nobody a repair by hand."""
    deaths, statement = 0, 0
    while statement < STATEMENTS_MAX:
        statement += 1 if statement < FIRST else STEP
        name = f"{case.__name__.replace('_', '-')}-{statement}"
        command, params, check = await case(world, name)
        world.manager.die_at(statement)
        survived = await survives(world, command, params)
        if not survived:
            deaths += 1
            await world.manager.gone()
            world.check_whole()
            await world.manager.start()
            await again(world, command, params)
        await world.quiet()
        if "Certificate" in command:
            await world.keystore_agrees(name)
        world.check_whole()
        await check(world)
        if survived:
            break
    assert survived, f"{command} did not survive {statement} statements"
    assert deaths >= 3, "the manager was hardly ever killed"
    print(f"{command}: {deaths} deaths within {statement} statements")


async def survives(world: World, command: str, params: dict[str, str]) -> bool:
    """Send *command*; whether its process outlives it, and what it set going."""
    try:
        await world.call(command, params)
    except NetError:
        assert world.manager.died
    else:
        await world.quiet()
    return not world.manager.disarm()


async def again(world: World, command: str, params: dict[str, str]) -> None:
    """Send the command again: it takes effect, or says that it did."""
    try:
        await world.call(command, params)
    except FastdlError as exc:
        if AGAIN.get(command, "no such text") not in exc.message:
            raise
