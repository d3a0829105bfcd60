# SPDX-License-Identifier: Apache-2.0
"""Two things happen to a template at once: does a copy outlive it, does a list show half of each?

A list is made from several queries; on PostgreSQL only a snapshot makes them agree.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.errors import FastdlError
from fastdl.manager.downloads import dispatch
from fastdl.manager.downloads.dispatch import CANCEL_S
from fastdl.manager.ledger import copies, job_list, tables
from fastdl.wire import messages as m
from tests.env.fake_agent import DEFAULTS, FakeAgent, local_pool
from tests.env.manager import Zone
from tests.env.manager import zone as running_zone


@pytest.fixture
async def zone(tmp_path: Path) -> AsyncIterator[Zone]:
    """A manager with a zone."""
    async with running_zone(tmp_path / "manager") as made:
        yield made


async def nothing_left(zone: Zone, ids: list[str]) -> None:
    """Wait until no job on these templates is live; no copy may be there then.

    A job that was cancelled before its host heard of it ends after CANCEL_S.
    """
    ledger = zone.manager.context.ledger
    async with asyncio.timeout(CANCEL_S + 15):
        while True:
            async with ledger.read() as tx:
                live = sum((await job_list.count_live(tx)).values())
                held = [copy for id_ in ids for copy in await copies.of_template(tx, id_)]
            if not live and not held:
                return
            await asyncio.sleep(0.05)


async def test_a_download_that_ends_after_its_templates_deletion_is_removed(zone: Zone) -> None:
    """A host may be done just when it is told to stop; nobody else would remove that copy."""
    started = asyncio.Event()

    async def stubborn(agent: FakeAgent, command: m.Command) -> m.Done | m.Failure:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return await DEFAULTS["download"](agent, command)
        raise AssertionError("unreachable")

    agent = await zone.agent("kvm1", pools=(local_pool("p1"),), work={"download": stubborn})
    template = (await zone.template())["id"]
    await zone.api("prepareTemplate", templateid=template, zoneid=zone.id)
    await started.wait()
    await zone.api("deleteTemplate", id=template)
    await nothing_left(zone, [template])
    assert sum(what == "done" for what, _ in agent.log) == 3, "probe, download and removal"


async def test_a_download_whose_host_never_says_that_it_stopped_leaves_no_copy(
    zone: Zone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have been cancelled before its host heard of it: the manager ends it by itself."""
    monkeypatch.setattr(dispatch, "CANCEL_S", 0.5)
    started, over = asyncio.Event(), asyncio.Event()

    async def deaf(_agent: FakeAgent, _command: m.Command) -> m.Done | m.Failure:
        started.set()
        while not over.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await over.wait()
        return m.Failure(code=130, message="cancelled")

    await zone.agent("kvm1", pools=(local_pool("p1"),), work={"download": deaf})
    template = (await zone.template())["id"]
    await zone.api("prepareTemplate", templateid=template, zoneid=zone.id)
    await started.wait()
    await zone.api("deleteTemplate", id=template)
    try:
        await nothing_left(zone, [template])
    finally:
        over.set()


async def test_deletion_against_preparation_leaves_no_copy(zone: Zone) -> None:
    """Whoever of the two is first: the template is gone, and so is what was fetched of it."""
    await zone.agent("kvm1", pools=(local_pool("p1"), local_pool("p2")))
    ids = [(await zone.template(f"t{n}"))["id"] for n in range(8)]
    answers = await asyncio.gather(
        *(
            zone.api(command, **{name: id_}, zoneid=zone.id)
            for id_ in ids
            for command, name in (("prepareTemplate", "templateid"), ("deleteTemplate", "id"))
        ),
        return_exceptions=True,
    )
    for deleted in answers[1::2]:
        assert not isinstance(deleted, BaseException), deleted
    assert all(isinstance(a, dict | FastdlError) for a in answers)
    await nothing_left(zone, ids)


async def test_a_list_never_shows_half_of_a_change(tmp_path: Path, database: str | None) -> None:
    """What one transaction renames at once has one name in every answer."""
    async with running_zone(tmp_path / "manager", database=database) as zone:
        for name in ("kvm1", "kvm2"):
            await zone.agent(name, pools=(local_pool(name),))
        for n in range(3):
            await zone.template(f"t{n}")
        renamed, over = asyncio.Event(), asyncio.Event()

        async def write() -> None:
            for n in itertools.count():
                zone_name, template_name = f"v{n}", "shown" if n % 2 else "hidden"

                async def rename(
                    tx: AsyncConnection, new: str = zone_name, name: str = template_name
                ) -> None:
                    for table in (tables.zone, tables.host):
                        await tx.execute(update(table).values(name=new))
                    await tx.execute(update(tables.template).values(name=name))

                await zone.manager.context.ledger.write(rename)
                renamed.set()
                if over.is_set():
                    return

        writer = asyncio.create_task(write())
        await renamed.wait()
        seen = set()
        try:
            for _ in range(60):
                hosts = (await zone.api("listHosts"))["host"]
                assert len({h["name"] for h in hosts} | {h["zonename"] for h in hosts}) == 1
                found = await zone.api("listTemplates", templatefilter="all", name="shown")
                assert found.get("count", 0) == len(found.get("template", ())) in {0, 3}, found
                seen.add(hosts[0]["name"])
        finally:
            over.set()
            await writer
        assert len(seen) > 5, "nothing was written meanwhile"
