# SPDX-License-Identifier: Apache-2.0
"""Is what lies in a pool known for what it is, also by an agent that did not see it come?"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from fastdl.agent.pools import Image, Marker, Usage, Volume
from fastdl.agent.pools.directory import DirectoryPool
from fastdl.agent.present import before, image_in

MIB = 1 << 20


def test_a_file_says_what_disk_it_holds(tmp_path: Path) -> None:
    """Its length is that of the disk for raw alone."""
    raw, made = tmp_path / "raw", tmp_path / "made"
    raw.write_bytes(bytes(range(256)) * 4096)
    assert image_in(raw, MIB) == ("raw", MIB)
    if not shutil.which("qemu-img"):
        pytest.skip("qemu-img is not installed")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", made, "8M"], check=True)
    assert image_in(made, made.stat().st_size) == ("qcow2", 8 * MIB)


def test_a_copy_that_had_landed_when_the_agent_died_has_its_format(tmp_path: Path) -> None:
    """A machine cannot have a disk of which nobody knows what it is."""
    pool, volume = DirectoryPool(tmp_path / "pool", name="p"), Volume("t")
    pool.path.mkdir()
    pool.markers.write(Marker(volume="t"))
    with pool.place(volume, Image(source_size=MIB, virtual_size=MIB)) as placement:
        Path(placement.target).write_bytes(bytes(range(256)) * 4096)
    ready = before(pool, volume, None, Usage(lambda: (), libvirt="")).ready
    assert ready is not None
    assert (ready.complete, ready.format, ready.virtual_size) == (True, "raw", MIB)
