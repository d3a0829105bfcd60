# SPDX-License-Identifier: Apache-2.0
"""Does whoever reads the database learn a secret key of a user, or a token of a template?"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from fastdl.errors import ApiAuthError, UsageError
from fastdl.manager import sealed
from fastdl.manager.ledger import tables
from fastdl.manager.ledger.text import dumps
from fastdl.wire import codec
from fastdl.wire import messages as m
from tests.env.fake_agent import DEFAULTS, FakeAgent, local_pool
from tests.env.manager import Client, Zone
from tests.env.manager import zone as running_zone

TOKEN = "Bearer t0ken-of-a-template"
HEADER = "details[0].HTTP_HEADER:Authorization"


class Host:
    """What the host of a zone was told of headers, job by job."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, tuple[tuple[str, str], ...]]] = []

    def work(self) -> dict[str, Any]:
        """The kinds of work that come with headers, noted."""
        return {"download": self._noted("download"), "probe": self._noted("probe")}

    def _noted(self, kind: str) -> Any:
        async def carry_out(agent: FakeAgent, command: m.Command) -> m.Done | m.Failure:
            assert isinstance(command.args, m.DownloadArgs | m.ProbeArgs)
            self.seen.append((kind, command.args.transfer.headers))
            return await DEFAULTS[kind](agent, command)

        return carry_out


async def template(zone: Zone, name: str, **details: str) -> str:
    """A template of this name, with a token in its headers unless told otherwise."""
    id_: str = (await zone.template(name, **(details or {HEADER: TOKEN})))["id"]
    return id_


async def prepare(zone: Zone, template: str) -> None:
    """Have it downloaded."""
    job = await zone.api("prepareTemplate", templateid=template, zoneid=zone.id)
    assert (await zone.api.job(job))["jobstatus"] == 1


async def everything(zone: Zone) -> str:
    """All rows of the ledger."""
    async with zone.manager.context.ledger.read() as tx:
        return repr([(await tx.execute(select(t))).all() for t in tables.metadata.sorted_tables])


async def user(zone: Zone) -> Client:
    """Another user, with keys."""
    made = await zone.api(
        "createUser", username="u", password="pass-word-1", email="u@e", firstname="U", lastname="S"
    )
    keys = (await zone.api("registerUserKeys", id=made["user"]["id"]))["userkeys"]
    return Client({**zone.api.credentials, **keys})


async def test_the_ledger_holds_no_key_and_no_token_in_clear(
    tmp_path: Path, database: str | None
) -> None:
    """Not in a row, a job's arguments or a file; the host gets the header, the key signs."""
    state, host = tmp_path / "manager", Host()
    async with running_zone(state, database=database) as zone:
        await zone.agent("kvm1", pools=(local_pool("p1"),), work=host.work())
        other = await user(zone)
        assert (await other("listZones"))["count"] == 1
        first = await template(zone, "a")
        await prepare(zone, first)
        second = await template(zone, "b", displaytext="plain")
        changed = {HEADER: TOKEN + "2", "details[1].rootDiskController": "scsi"}
        await zone.api.send("updateTemplate", {"id": second, **changed})
        await prepare(zone, second)
        shown = await zone.api("listTemplates", templatefilter="all")
        rows = await everything(zone)
        secrets = [other.credentials["secretkey"], zone.api.credentials["secretkey"]]
    clear = (("Authorization", TOKEN),)
    assert host.seen == [
        ("probe", clear),
        ("download", clear),
        ("probe", ()),
        ("download", (("Authorization", TOKEN + "2"),)),
    ]
    files = {p: p.read_bytes() for p in state.rglob("*") if p.is_file() and p.name != "admin.json"}
    for secret in ("t0ken-of-a-template", *secrets):
        assert secret not in rows
        assert secret not in json.dumps(shown)
        assert [path for path, data in files.items() if secret.encode() in data] == []
    assert "scsi" in rows
    admin = json.loads((state / "admin.json").read_text())
    (state / "admin.json").unlink()
    async with running_zone(state, database=database) as zone:
        assert zone.api.credentials["secretkey"] == admin["secretkey"]
        other.credentials["url"] = zone.api.credentials["url"]
        assert (await other("listZones"))["count"] == 1


async def test_what_an_older_manager_left_in_clear_is_sealed_at_the_start(
    tmp_path: Path, database: str | None
) -> None:
    """Keys, details and the arguments of jobs; all of them go on working."""
    state, host = tmp_path / "manager", Host()
    async with running_zone(state, database=database) as zone:
        await zone.agent("kvm1", pools=(local_pool("p1"),), work=host.work())
        id_ = await template(zone, "a")
        other = await template(zone, "b")
        await prepare(zone, other)
        secret = zone.api.credentials["secretkey"]

        async def unseal(tx: Any) -> None:
            t = tables.template
            details = dumps({"HTTP_HEADER:Authorization": TOKEN, "x": "y"})
            await tx.execute(update(tables.account).values(secret_key=secret))
            await tx.execute(update(t).where(t.c.id == id_).values(details=details))
            (row,) = await tx.execute(select(tables.job).where(tables.job.c.template == other))
            plain = json.loads(row.args)
            plain["transfer"]["headers"] = [["Authorization", TOKEN]]
            args = json.dumps(plain, separators=(",", ":"))
            assert codec.args_from_json("download", args)
            await tx.execute(update(tables.job).where(tables.job.c.id == row.id).values(args=args))

        await zone.manager.context.ledger.write(unseal)
        assert "t0ken" in await everything(zone)
    host.seen.clear()
    async with running_zone(state, database=database) as zone:
        rows = await everything(zone)
        assert secret not in rows
        assert "t0ken" not in rows
        await zone.agent("kvm2", pools=(local_pool("p2"),), work=host.work())
        await prepare(zone, id_)
        vault = zone.manager.context.vault
        async with zone.manager.context.ledger.read() as tx:
            (row,) = await tx.execute(select(tables.job).where(tables.job.c.template == other))
    args = codec.args_from_json(row.kind, row.args)
    assert isinstance(args, m.DownloadArgs)
    assert sealed.open_headers(vault, args.transfer.headers) == (("Authorization", TOKEN),)
    assert host.seen == [("download", (("Authorization", TOKEN),))]


async def test_another_key_opens_nothing_and_stops_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A state folder without its key, which the operator has to confirm: new keys for users, and
    templates without their token."""
    state, host = tmp_path / "manager", Host()
    async with running_zone(state) as zone:
        other = await user(zone)
        await zone.agent("kvm1", pools=(local_pool("p1"),), work=host.work())
        id_ = await template(zone, "a")
        plain = await template(zone, "b", displaytext="plain")
    (state / "secret.key").write_text("00" * 32)
    (state / "admin.json").unlink()
    host.seen.clear()
    with pytest.raises(UsageError, match="restore that file from the backup"):
        async with running_zone(state):
            pass
    async with running_zone(state, accept_new_ca=True) as zone:
        other.credentials["url"] = zone.api.credentials["url"]
        with pytest.raises(ApiAuthError):
            await other("listZones")
        await zone.agent("kvm2", pools=(local_pool("p2"),), work=host.work())
        for one in (id_, plain):
            await prepare(zone, one)
    assert [headers for _, headers in host.seen] == [(), ()]
    said = [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert any("new keys" in r.message and vars(r)["username"] == "u" for r in said)
    assert any("request header cannot be decrypted" in r.message for r in said)


async def test_what_looks_sealed_is_sealed_once_more(tmp_path: Path) -> None:
    """A tenant who got hold of another one's sealed header does not have it opened."""
    host = Host()
    async with running_zone(tmp_path / "manager") as zone:
        await zone.agent("kvm1", pools=(local_pool("p1"),), work=host.work())
        await template(zone, "a")
        async with zone.manager.context.ledger.read() as tx:
            (details,) = (await tx.execute(select(tables.template.c.details))).scalars()
        stolen = json.loads(details)["HTTP_HEADER:Authorization"]
        assert stolen.startswith("aes-256-gcm:")
        await prepare(zone, await template(zone, "b", **{HEADER: stolen}))
    assert host.seen[1:] == [
        ("probe", (("Authorization", stolen),)),
        ("download", (("Authorization", stolen),)),
    ]
