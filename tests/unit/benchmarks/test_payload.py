# SPDX-License-Identifier: Apache-2.0
"""The images that are served, and the digest that checks what arrives."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks.payload import content_digest, make

MiB = 1 << 20


def test_equal_disks_have_equal_digests_however_zeros_are_stored(tmp_path: Path) -> None:
    """A contestant may write zeros or leave holes: both are the same disk."""
    holes, full = tmp_path / "holes", tmp_path / "full"
    data = os.urandom(MiB)
    with holes.open("wb") as file:
        file.truncate(8 * MiB)
        file.seek(3 * MiB + 4096)
        file.write(data)
    full.write_bytes(holes.read_bytes())
    assert content_digest(holes, 8 * MiB) == content_digest(full, 8 * MiB)


@pytest.mark.parametrize("at", [0, 3 * MiB, 8 * MiB - 1])
def test_a_single_wrong_byte_changes_the_digest(tmp_path: Path, at: int) -> None:
    """Wrong bytes anywhere, in former holes too, must be seen."""
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(5 * MiB) + os.urandom(3 * MiB))
    before = content_digest(disk, 8 * MiB)
    with disk.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]))
    assert content_digest(disk, 8 * MiB) != before


@pytest.mark.parametrize("size", [8 * MiB, 5 * MiB + 512, 3 * MiB + 4097])
def test_a_digest_is_the_same_past_the_page_cache(tmp_path: Path, size: int) -> None:
    """A check that fills and frees the cache would make the next run slower."""
    disk = tmp_path / "disk"
    disk.write_bytes(os.urandom(size))
    assert content_digest(disk, size, direct=True) == content_digest(disk, size)


def test_a_moved_block_changes_the_digest(tmp_path: Path) -> None:
    """The same blocks at other offsets are another disk."""
    first, second = tmp_path / "a", tmp_path / "b"
    data = os.urandom(MiB)
    first.write_bytes(data + bytes(MiB))
    second.write_bytes(bytes(MiB) + data)
    assert content_digest(first, 2 * MiB) != content_digest(second, 2 * MiB)


def test_a_payload_is_the_same_everywhere_and_made_once(tmp_path: Path) -> None:
    """Results of two machines are about the same bytes; making them again costs minutes."""
    first = make(tmp_path, "raw", 4 * MiB)
    made_at = (tmp_path / first.name).stat().st_mtime_ns
    assert make(tmp_path, "raw", 4 * MiB) == first
    assert (tmp_path / first.name).stat().st_mtime_ns == made_at
    other = tmp_path / "other"
    other.mkdir()
    assert make(other, "raw", 4 * MiB).sha256 == first.sha256


@pytest.mark.parametrize("image", ["qcow2plain", "qcow2zlib", "qcow2zstd", "sparse100G"])
def test_an_image_stands_for_the_disk_that_qemu_reads(tmp_path: Path, image: str) -> None:
    """The expected content must be what qemu-img itself makes of the served file."""
    if not shutil.which("qemu-img"):
        pytest.skip("qemu-img is not installed")
    payload = make(tmp_path, image, 4 * MiB)
    raw = tmp_path / "raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", tmp_path / payload.name, raw], check=True)
    assert raw.stat().st_size == payload.virtual_bytes
    assert content_digest(raw, payload.virtual_bytes) == payload.content
