# SPDX-License-Identifier: Apache-2.0
"""A host that was away goes on where it was: after a reboot, a partition, a new manager.

Away for so long that it counts as Down and its jobs are given back: what it fetched is kept.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.env.faults import Rule, When
from tests.env.origin import FaultOrigin, Resource, pseudo_random
from tests.env.process import eventually
from tests.env.relay import relay
from tests.env.site import Site

MIB = 1 << 20
CONTENT = pseudo_random(43, 48 * MIB)


@pytest.fixture
def origin() -> Iterator[FaultOrigin]:
    """An origin with a template of 48 MiB."""
    with FaultOrigin({"/x.raw": Resource.of(CONTENT)}) as server:
        yield server


@pytest.fixture
async def site(tmp_path: Path, origin: FaultOrigin) -> AsyncIterator[Site]:
    """A site that is not started yet."""
    made = Site(tmp_path, origin, CONTENT)
    yield made
    await made.end()


def slow(site: Site, rate: float | None) -> None:
    """Serve at so many bytes a second and connection; None: as fast as may be."""
    rules = site.origin.resources["/x.raw"].rules
    rules[:] = [] if rate is None else [Rule(when=When(), rate=rate)]


async def half_fetched(site: Site) -> str:
    """Start a download and wait until half of it is there; the template."""
    template = await site.template()
    slow(site, 3e6)
    await site.prepare(template)

    async def half() -> bool:
        return site.origin.sent > len(CONTENT) // 2

    await eventually(half)
    return template


async def finished(site: Site, template: str) -> None:
    """Wait for the copy, and compare it."""

    async def ready() -> bool:
        return [row["state"] for row in await site.copies(templateid=template)] == ["Ready"]

    await eventually(ready)
    (row,) = await site.copies(templateid=template)
    assert (site.host.pool / row["installpath"]).read_bytes() == CONTENT


async def test_a_host_that_was_rebooted_resumes(site: Site) -> None:
    """Off for longer than its jobs are kept for it."""
    await site.start()
    template = await half_fetched(site)
    (row,) = await site.downloads(template)
    assert (row["state"], row["hostname"]) == ("RUNNING", "kvm1")
    assert 0 < row["bytes"] <= row["totalbytes"] == len(CONTENT)
    assert row["created"] <= row["started"]
    percent = row["percent"]
    await site.host.end(signal.SIGKILL)
    await eventually(lambda: site.hosts("Disconnected"))
    (row,) = await site.downloads(template)
    assert row["state"] == "WAITING"
    assert "not connected" in row["error"]
    assert "rate" not in row
    assert row["percent"] >= percent
    await eventually(lambda: site.hosts("Down"), within=90)
    (row,) = await site.downloads(template)
    assert row["state"] == "QUEUED"
    slow(site, None)
    await site.host.start()
    await finished(site, template)
    (row,) = await site.downloads(template)
    assert (row["state"], row["percent"], row["bytes"]) == ("DONE", 100, len(CONTENT))
    assert row["started"] <= row["completed"]
    # What was under way or not yet written down is fetched again, not what was fetched before.
    assert site.origin.sent < len(CONTENT) + 18 * MIB


async def test_a_partition_costs_nothing_that_was_fetched(site: Site) -> None:
    """The host works on by itself; when it is heard of again, the job is done or goes on."""
    site.api = await site.manager.start()
    direct = site.manager.agents
    async with relay(direct) as wire:
        await site.manager.end(signal.SIGTERM)
        site.manager.agents = direct
        await site.start(through=wire.address)
        template = await site.template()
        slow(site, 200e3)
        await site.prepare(template)

        async def begun() -> bool:
            return site.origin.sent > 4 * MIB

        await eventually(begun)
        wire.cut()
        await eventually(lambda: site.hosts("Down"), within=90)
        wire.mend()
        slow(site, None)
        await finished(site, template)
        assert site.origin.sent < len(CONTENT) + 8 * MIB


async def test_an_upgrade_of_the_manager_disturbs_no_download(site: Site) -> None:
    """Stopped for a while and started again: the host goes on meanwhile, and reports."""
    await site.start()
    template = await half_fetched(site)
    await site.manager.end(signal.SIGTERM)
    await asyncio.sleep(2)
    site.api = await site.manager.start()
    await finished(site, template)
    assert site.origin.sent < 1.2 * len(CONTENT)
