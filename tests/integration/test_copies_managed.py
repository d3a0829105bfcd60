# SPDX-License-Identifier: Apache-2.0
"""What becomes of copies when templates go, hosts are away and ledgers are restored?

The manager, its hosts and the origin are processes of their own, as an operator has them.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.env import guests
from tests.env.origin import FaultOrigin, Resource
from tests.env.process import eventually
from tests.env.site import CONTENT, Site


@pytest.fixture
def origin() -> Iterator[FaultOrigin]:
    """An origin with a template of 8 MiB."""
    with FaultOrigin({"/x.raw": Resource.of(CONTENT)}) as server:
        yield server


@pytest.fixture
async def site(tmp_path: Path, origin: FaultOrigin) -> AsyncIterator[Site]:
    """A site that runs."""
    made = Site(tmp_path, origin)
    try:
        await made.start()
        yield made
    finally:
        await made.end()


async def test_a_template_that_is_deleted_leaves_its_clones_alone(site: Site) -> None:
    """The copy stays for as long as a disk needs it, is listed with that disk, and goes then."""
    path = await site.brought(await site.template())
    disk = guests.overlay(site.host.pool / "disk-of-vm1", path.name)
    (row,) = await site.copies()
    job = await site.api.job(await site.api("deleteTemplate", id=row["templateid"]))
    assert job["jobstatus"] == 1
    assert "in use by image" in job["jobresult"]["displaytext"]
    (row,) = await site.copies(orphaned="true")
    assert (row["state"], row["users"]) == ("Removing", [f"image {disk}"])
    assert row["templateremoved"]
    assert path.read_bytes() == CONTENT
    (event,) = await site.events("TEMPLATE.COPY.KEPT")
    assert event["level"] == "WARN"
    disk.unlink()

    async def gone() -> bool:
        return not await site.copies()

    await eventually(gone, within=90)
    assert not path.exists()
    (event,) = await site.events("TEMPLATE.COPY.REMOVE")
    assert event["level"] == "INFO"


async def test_an_administrator_may_force_it(site: Site) -> None:
    """forced=true of deleteTemplateCopy, of a copy that a user's deletion left."""
    path = await site.brought(await site.template())
    guests.overlay(site.host.pool / "disk-of-vm1", path.name)
    (row,) = await site.copies()
    for forced, left in (("false", True), ("true", False)):
        job = await site.api.job(
            await site.api(
                "deleteTemplateCopy",
                storageid=row["storageid"],
                volume=row["volume"],
                forced=forced,
            )
        )
        assert job["jobstatus"] == 1, job
        assert path.exists() == left
    assert not await site.copies()


async def test_what_no_template_needs_is_listed_and_can_be_removed(site: Site) -> None:
    """Copies that were kept on purpose, and those that nobody here knows."""
    first = await site.template("t1")
    path = await site.brought(first)
    await site.api.job(await site.api("deleteTemplate", id=first, keepcopies="true"))
    assert path.exists()
    (row,) = await site.copies(orphaned="true")
    pool = row["storageid"]
    marker = site.host.pool / ".fastdl" / f"{path.name}.json"
    text = marker.read_text().replace(path.name, "of-another").replace(first, "unknown")
    (marker.parent / "of-another.json").write_text(text)
    shutil.copy2(path, site.host.pool / "of-another")
    rows = await site.copies(storageid=pool, refresh="true", orphaned="true")
    assert {row["volume"]: row["state"] for row in rows} == {
        path.name: "Ready",
        "of-another": "Orphan",
    }
    assert {row.get("templatename") for row in rows} == {"t1", None}
    for row in rows:
        done = await site.api.job(
            await site.api("deleteTemplateCopy", storageid=pool, volume=row["volume"])
        )
        assert done["jobstatus"] == 1, done
    assert not await site.copies(storageid=pool, refresh="true")
    assert [p.name for p in site.host.pool.iterdir()] == [".fastdl"]


async def test_a_restored_ledger_finds_the_copies_that_it_does_not_know(
    site: Site, tmp_path: Path
) -> None:
    """They are their templates' again, and may be fetched anew and removed: no fence is reused."""
    template = await site.template()
    await site.manager.end(signal.SIGTERM)
    shutil.copytree(site.manager.state, tmp_path / "backup")
    site.api = await site.manager.start()
    await eventually(site.pools)
    path = await site.brought(template)
    await site.manager.end(signal.SIGTERM)
    shutil.rmtree(site.manager.state)
    shutil.copytree(tmp_path / "backup", site.manager.state)
    site.api = await site.manager.start()
    (pool,) = await eventually(site.pools)
    assert not await site.copies()
    (row,) = await site.copies(storageid=pool["id"], refresh="true")
    assert (row["state"], row["volume"], row["templateid"]) == ("Ready", path.name, template)
    sent = site.origin.sent
    assert await site.brought(template) == path
    assert site.origin.sent == sent
    job = await site.api.job(await site.api("deleteTemplate", id=template))
    assert job["jobstatus"] == 1, job
    assert not path.exists()


async def test_a_copy_that_was_changed_is_reported_and_repaired(site: Site) -> None:
    """Cut short behind fastdl's back: an event once, and the next prepareTemplate mends it."""
    template = await site.template()
    path = await site.brought(template)
    os.truncate(path, 1 << 20)
    (row,) = await site.copies()
    for _ in range(2):
        (row,) = await site.copies(storageid=row["storageid"], refresh="true")
        assert "1048576 bytes" in row["reason"]
    (event,) = await site.events("TEMPLATE.COPY.CHANGED")
    assert event["level"] == "WARN"
    assert await site.brought(template) == path
    assert path.read_bytes() == CONTENT
    assert len(await site.events("TEMPLATE.COPY.REPLACED")) == 1
    path.unlink()
    await site.copies(storageid=row["storageid"], refresh="true")
    assert len(await site.events("TEMPLATE.COPY.GONE")) == 1
    assert await site.brought(template) == path
    assert path.read_bytes() == CONTENT
