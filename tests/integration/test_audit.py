# SPDX-License-Identifier: Apache-2.0
"""Is a damaged copy found, and mended with its wrong pieces alone? With a manager and its host."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.env import guests
from tests.env.origin import FaultOrigin, Resource, pseudo_random
from tests.env.process import eventually
from tests.env.site import Site

PIECE = 1 << 20
CONTENT = pseudo_random(53, 36 * PIECE + 4711)
COUNT = 37


class Audited(Site):
    """A site whose copies can be damaged and audited."""

    async def audit(self, template: str) -> dict[str, Any]:
        """What an audit of the template's copy in the pool says."""
        (pool,) = await self.pools()
        answer = await self.api("auditTemplateCopy", storageid=pool["id"], templateid=template)
        job = await self.api.job(answer)
        assert job["jobstatus"] == 1, job
        (found,) = job["jobresult"]["templatecopyaudit"]
        assert isinstance(found, dict)
        return found

    async def listed(self, template: str) -> None:
        """Wait until the manager has the list of the template's pieces, which comes after the
        download's result."""

        async def known() -> bool:
            return bool((await self.audit(template))["pieces"])

        await eventually(known)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Audited]:
    with FaultOrigin({"/x.raw": Resource.of(CONTENT)}) as origin:
        made = Audited(tmp_path / "site", origin, CONTENT)
        await made.start()
        try:
            yield made
        finally:
            await made.end()


def damage(path: Path, *offsets: int, quietly: bool = True) -> None:
    """Flip a bit at each of *offsets*; *quietly*: as storage does, with no trace in its time."""
    before = path.stat()
    with path.open("r+b") as file:
        for offset in offsets:
            file.seek(offset)
            (byte,) = file.read(1)
            file.seek(offset)
            file.write(bytes([byte ^ 1]))
    if quietly:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


async def test_rot_is_found_and_only_its_pieces_are_fetched(site: Audited) -> None:
    """Nothing but reading all of it shows that the storage has lost a bit."""
    template = await site.template()
    path = await site.brought(template)
    await site.listed(template)
    assert (await site.audit(template))["state"] == "Intact"
    damage(path, 3 * PIECE + 5, 4 * PIECE, len(CONTENT) - 1)
    found = await site.audit(template)
    assert (found["state"], found["wrongpieces"]) == ("Damaged", [3, 4, COUNT - 1])
    assert (found["pieces"], found["piecelength"]) == (COUNT, PIECE)
    assert found["bytes"] == len(CONTENT)
    assert "counted from 0: 3-4, 36" in found["reason"]
    told = await site.fastdl("template", "audit", "t1")
    assert (told.code, "Damaged" in told.out, "3-4, 36" in told.out) == (21, True, True), told
    event, _ = await site.events("TEMPLATE.COPY.DAMAGED")
    assert (event["level"], event["resourceid"]) == ("ERROR", template)
    (row,) = await site.copies(templateid=template)
    assert row["reason"] == found["reason"]
    before = site.origin.sent
    assert await site.brought(template) == path
    assert path.read_bytes() == CONTENT
    # Its probe and first response start before anything is known of the copy.
    assert site.origin.sent - before < 8 * PIECE
    assert (await site.audit(template))["state"] == "Intact"
    (row,) = await site.copies(templateid=template)
    assert not row.get("reason")


async def test_a_damaged_copy_in_use_is_left_alone(site: Audited) -> None:
    """It is reported; who uses it decides."""
    template = await site.template()
    path = await site.brought(template)
    await site.listed(template)
    disk = guests.overlay(site.host.pool / "disk-of-vm1", path.name)
    damage(path, 7 * PIECE)
    broken = path.read_bytes()
    found = await site.audit(template)
    assert (found["state"], found["wrongpieces"]) == ("Damaged", [7])
    assert found["users"] == [f"image {disk}"]
    await site.prepare(template)

    async def refused() -> bool:
        (row,) = await site.downloads(template)
        return "in use by image" in str(row)

    await eventually(refused)
    assert path.read_bytes() == broken
    await site.api("cancelTemplateDownload", templateid=template)
    disk.unlink()
    await site.brought(template)
    assert path.read_bytes() == CONTENT
