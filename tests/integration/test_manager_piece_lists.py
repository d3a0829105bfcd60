# SPDX-License-Identifier: Apache-2.0
"""Whose list of pieces does a manager keep, and who gets it?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fastdl.manager.downloads import piece_lists as kept_lists
from fastdl.manager.ledger import piece_lists
from fastdl.manager.ledger.text import loads
from fastdl.wire import messages as m
from fastdl.wire.pieces import packed
from tests.env.fake_agent import FakeAgent, local_pool
from tests.env.manager import Zone
from tests.env.manager import zone as running_zone
from tests.env.process import eventually

SHA256 = "ab" * 32
SIZE = 40 << 20
PIECE = 1 << 20
KINDS = ("download", "remove", "certificates", "audit")


@pytest.fixture
async def zone(tmp_path: Path, database: str | None) -> AsyncIterator[Zone]:
    """A manager with one zone, on each database."""
    async with running_zone(tmp_path / "manager", database=database) as made:
        yield made


def a_list(filling: int, **changes: Any) -> m.PieceList:
    hashes = packed(bytes([filling]) * 32 * (SIZE // PIECE))
    values = {"sha256": SHA256, "size": SIZE, "length": PIECE, "hashes": hashes}
    return m.PieceList(**(values | changes))


@dataclass
class Host:
    """A host that does what a test says, and how its last download went."""

    agent: FakeAgent
    zone: Zone
    digest: str = SHA256
    source_bytes: int = SIZE
    before: list[m.Message] = field(default_factory=list)
    """What it sends while it downloads."""

    async def work(self, agent: FakeAgent, command: m.Command) -> m.Done:
        """Ask for the list, and say that the file was right."""
        self.command = command
        await agent.say(m.PiecesWanted(job=command.job, fence=command.fence))
        for message in self.before:
            await agent.say(message)
        self.known = await self._answer(command)
        assert isinstance(command.args, m.DownloadArgs)
        return m.DownloadDone(
            install_path=command.args.volume,
            virtual_size=1,
            source_bytes=self.source_bytes,
            digests={"sha-256": self.digest},
            integrity="strong",
        )

    async def _answer(self, command: m.Command) -> m.PiecesKnown:
        async def heard() -> m.PiecesKnown | None:
            found = (x for x in self.agent.heard if isinstance(x, m.PiecesKnown))
            return next((x for x in found if x.job == command.job), None)

        found: m.PiecesKnown = await eventually(heard)
        return found

    async def download(self, template: str) -> m.PiecesKnown:
        """Bring it here; what the manager knew."""
        pools = (await self.zone.api("listStoragePools"))["storagepool"]
        (pool,) = [p["id"] for p in pools if p["name"] == f"p-{self.agent.name}"]
        where = {"zoneid": self.zone.id, "templateid": template, "storageid": pool}
        job = await self.zone.api.job(await self.zone.api("prepareTemplate", **where))
        assert job["jobstatus"] == 1, job
        return self.known

    async def report(self, pieces: m.PieceList, **changes: Any) -> None:
        """Report a list; returns when the manager has processed it."""
        values = {"job": self.command.job, "fence": self.command.fence, "refused": False}
        await self.agent.say(m.PiecesFound(pieces=pieces, **(values | changes)))
        seen = len(self.agent.heard)
        await self.agent.say(m.PiecesWanted(job="nobody's", fence=seen))

        async def heard() -> bool:
            return len(self.agent.heard) > seen

        await eventually(heard)


async def hosts(zone: Zone, *names: str) -> list[Host]:
    made = []
    for name in names:
        agent = await zone.agent(name, pools=(local_pool(f"p-{name}"),), kinds=KINDS)
        host = Host(agent, zone)
        agent.work["download"] = host.work
        made.append(host)
    return made


async def registered(zone: Zone, **params: Any) -> str:
    """A template that a host which then goes away has probed."""
    prober = await zone.agent("prober", kinds=("probe",))
    item = await zone.template(**({"checksum": "{SHA-256}" + SHA256} | params))
    await prober.close()
    id_: str = item["id"]
    return id_


async def stored(zone: Zone, template: str) -> tuple[str, list[str]] | None:
    """The (hashes, refused hosts) that the ledger has."""
    async with zone.manager.context.ledger.read() as tx:
        row = await piece_lists.get(tx, template, SHA256)
    return None if row is None else (row.hashes, loads(row.refused))


async def test_the_first_verified_list_is_given_to_the_next_host(zone: Zone) -> None:
    """The manager asks until it has one, and keeps the first."""
    template = await registered(zone)
    one, two, three = await hosts(zone, "kvm1", "kvm2", "kvm3")
    known = await one.download(template)
    assert (known.pieces, known.wanted) == (None, True)
    await one.report(a_list(1))
    known = await two.download(template)
    assert (known.pieces, known.wanted) == (a_list(1), False)
    await two.report(a_list(2))
    assert (await three.download(template)).pieces == a_list(1)
    # Nobody speaks for another host, and who downloads nothing gets nothing.
    await one.report(a_list(3), job=three.command.job, fence=three.command.fence, refused=True)
    assert await stored(zone, template) == (a_list(1).hashes, [])
    last = one.agent.heard[-1]
    assert isinstance(last, m.PiecesKnown)
    assert (last.pieces, last.wanted) == (None, False)


@pytest.mark.parametrize(
    ("pieces", "host", "message"),
    [
        (a_list(1, sha256="cd" * 32), {}, {}),
        (a_list(1, size=SIZE + 1), {}, {}),
        (a_list(1, size=SIZE + PIECE), {}, {}),
        (a_list(1, length=3 * PIECE), {}, {}),
        (a_list(1, hashes="!!"), {}, {}),
        (a_list(1), {"digest": "cd" * 32}, {}),
        (a_list(1), {"source_bytes": SIZE - 1}, {}),
        (a_list(1), {}, {"fence": 1}),
        (a_list(1), {}, {"job": "no job"}),
    ],
)
async def test_a_list_that_no_result_vouches_for_is_not_kept(
    zone: Zone, pieces: m.PieceList, host: dict[str, Any], message: dict[str, Any]
) -> None:
    """It must be of the file that the template's digest names, and of a job of that host."""
    template = await registered(zone)
    (one,) = await hosts(zone, "kvm1")
    for name, value in host.items():
        setattr(one, name, value)
    await one.download(template)
    await one.report(pieces, **message)
    assert await stored(zone, template) is None


async def test_a_list_of_a_job_that_still_runs_is_not_kept(zone: Zone) -> None:
    """Nothing is verified yet."""
    template = await registered(zone)
    (one,) = await hosts(zone, "kvm1")
    said = asyncio.Event()

    async def early(agent: FakeAgent, command: m.Command) -> m.Done:
        one.command = command
        await one.report(a_list(1))
        said.set()
        return await one.work(agent, command)

    one.agent.work["download"] = early
    await one.download(template)
    assert said.is_set()
    assert await stored(zone, template) is None


async def test_a_wrong_list_is_replaced_and_reported(zone: Zone) -> None:
    """By that of the host that found out; the one that made it is not asked again."""
    template = await registered(zone)
    one, two, three = await hosts(zone, "kvm1", "kvm2", "kvm3")
    await one.download(template)
    await one.report(a_list(1))
    assert (await two.download(template)).pieces == a_list(1)
    await two.report(a_list(2), refused=True)
    assert await stored(zone, template) == (a_list(2).hashes, [one.agent.host_id])
    (event,) = (await zone.api("listEvents", type="TEMPLATE.PIECES.REFUSED"))["event"]
    assert (event["level"], event["resourceid"]) == ("WARN", template)
    assert "host kvm1 made" in event["description"]
    assert "that of host kvm2" in event["description"]
    # The first host cannot bring its list back by refusing in turn.
    await one.report(a_list(1), refused=True)
    assert (await three.download(template)).pieces == a_list(2)


async def test_hosts_that_refuse_each_other_end_with_no_list(
    zone: Zone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is kept busy with it."""
    monkeypatch.setattr(kept_lists, "REFUSED_MAX", 2)
    template = await registered(zone)
    one, two, three, four = await hosts(zone, "kvm1", "kvm2", "kvm3", "kvm4")
    await one.download(template)
    await one.report(a_list(1))
    for number, host in enumerate((two, three), 2):
        await host.download(template)
        await host.report(a_list(number), refused=True)
    known = await four.download(template)
    assert (known.pieces, known.wanted) == (None, False)


@pytest.mark.parametrize("checksum", ["{MD5}" + "ab" * 16, "{SHA-512}" + "ab" * 64])
async def test_without_a_sha256_nobody_asks(zone: Zone, checksum: str) -> None:
    """There is nothing that a list could be bound to."""
    template = await registered(zone, checksum=checksum)
    (one,) = await hosts(zone, "kvm1")
    known = await one.download(template)
    assert isinstance(one.command.args, m.DownloadArgs)
    assert (one.command.args.piece_lists, known.pieces, known.wanted) == (False, None, False)


async def test_an_audit_gets_the_list_and_makes_none(zone: Zone) -> None:
    """A host that reads a copy has verified nothing that others could rely on."""
    template = await registered(zone)
    one, two = await hosts(zone, "kvm1", "kvm2")
    await one.download(template)
    commands: list[m.Command] = []

    async def audit(agent: FakeAgent, command: m.Command) -> m.Done:
        commands.append(command)
        await agent.say(m.PiecesWanted(job=command.job, fence=command.fence))
        one.known = await one._answer(command)
        return m.AuditDone(state="damaged", why="so it says", pieces=40, length=PIECE, wrong=(7,))

    one.agent.work["audit"] = audit

    async def found() -> dict[str, Any]:
        pools = (await zone.api("listStoragePools"))["storagepool"]
        (pool,) = [p["id"] for p in pools if p["name"] == "p-kvm1"]
        answer = await zone.api("auditTemplateCopy", storageid=pool, templateid=template)
        (shown,) = (await zone.api.job(answer))["jobresult"]["templatecopyaudit"]
        assert isinstance(shown, dict)
        return shown

    assert (await found())["wrongpieces"] == [7]
    assert one.known.pieces is None
    one.command = commands[-1]
    await one.report(a_list(3), refused=True)
    assert await stored(zone, template) is None
    await two.download(template)
    await two.report(a_list(1))
    assert (await found())["state"] == "Damaged"
    assert one.known.pieces == a_list(1)
    one.command = commands[-1]
    await one.report(a_list(3), refused=True)
    assert await stored(zone, template) == (a_list(1).hashes, [])
    assert len((await zone.api("listEvents", type="TEMPLATE.COPY.DAMAGED"))["event"]) == 2
