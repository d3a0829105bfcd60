# SPDX-License-Identifier: Apache-2.0
"""What happens while storage is not mounted, or libvirt has stopped a pool? Nothing is made, the
pool is Down with the reason, and jobs wait."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.env import libvirtd
from tests.env.loopdev import loop_device
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
    """A site that is not started yet."""
    made = Site(tmp_path, origin)
    yield made
    await made.end()


@pytest.fixture
def file_system(tmp_path: Path) -> Iterator[str]:
    """A device with an empty file system of 64 MiB."""
    with loop_device(tmp_path, size=64 << 20) as device:
        subprocess.run(["mkfs.ext4", "-q", device.path], check=True, capture_output=True)
        yield device.path


def mount(device: str, folder: Path) -> None:
    """Mount it; skips where that is not allowed."""
    done = subprocess.run(["mount", device, folder], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.decode()}")


def unmount(folder: Path) -> None:
    """Unmount it."""
    subprocess.run(["umount", folder], check=True, capture_output=True)


async def test_a_pool_that_is_not_mounted_is_down_and_its_jobs_wait(
    site: Site, file_system: str
) -> None:
    """Told within seconds; nothing is written to the root disk; back as soon as it is mounted."""
    folder = site.host.pool
    mount(file_system, folder)
    try:
        await site.start()
        template = await site.template()
        unmount(folder)
        (pool,) = await eventually(lambda: site.pools("Down"), within=20)
        assert "is its storage mounted?" in pool["error"]
        job = await site.prepare_at(template, pool["id"])
        (row,) = await site.downloads(template)
        assert row["state"] == "QUEUED"
        assert list(folder.iterdir()) == []
        mount(file_system, folder)
        assert (await site.api.job(job))["jobstatus"] == 1
        (back,) = await site.pools()
        assert back["id"] == pool["id"]
        (row,) = await site.copies()
        assert (folder / row["installpath"]).read_bytes() == CONTENT
    finally:
        await site.end()
        unmount(folder)
    assert list(folder.iterdir()) == []


async def test_a_pool_that_libvirt_stops_is_down_at_once(site: Site, tmp_path: Path) -> None:
    """By libvirt's own event, not by the next look; and Up when it is started again."""
    libvirt = pytest.importorskip("libvirt")
    with libvirtd.running(tmp_path) as uri:
        connection = libvirt.open(uri)
        made: list[Any] = []
        try:
            (tmp_path / "dir").mkdir()
            name = libvirtd.new_name()
            made.append(
                connection.storagePoolDefineXML(
                    f"<pool type='dir'><name>{name}</name><target><path>{tmp_path}/dir</path>"
                    "</target></pool>"
                )
            )
            made[0].create()
            await site.start("--libvirt", uri, pools=False)

            async def ours(state: str) -> list[dict[str, Any]]:
                return [pool for pool in await site.pools(state) if pool["name"] == name]

            await eventually(lambda: ours("Up"))
            made[0].destroy()
            (pool,) = await eventually(lambda: ours("Down"), within=15)
            assert "not started" in pool["error"]
            made[0].create()
            await eventually(lambda: ours("Up"), within=15)
        finally:
            for pool in made:
                if pool.isActive():
                    pool.destroy()
                pool.undefine()
            connection.close()
