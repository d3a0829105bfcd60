# SPDX-License-Identifier: Apache-2.0
"""A template is deleted while it is being fetched: does a copy outlive it?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fastdl.errors import FastdlError
from fastdl.manager.ledger import jobs, templates
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
    """Wait until no job on these templates is live (20 s at most); no copy may be there then."""
    ledger = zone.manager.core.services.ledger
    async with asyncio.timeout(20):
        while True:
            async with ledger.read() as tx:
                live = sum((await jobs.count_live(tx)).values())
                states = {copy.state for id_ in ids for copy in await templates.copies(tx, id_)}
            if not live and states <= {"absent"}:
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
