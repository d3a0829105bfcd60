# SPDX-License-Identifier: Apache-2.0
"""Do block devices work as people have them: large, small, partitioned, linked, pulled out?"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.env.command import running_fastdl
from tests.env.faults import Rule
from tests.env.images import HAVE_QEMU, MIB, NEED_QEMU, Recipe, build
from tests.env.landing import DEVICE, PACK, PATTERN, Bench, raw_of, sha256
from tests.env.loopdev import LoopDevice, attached, loop_device
from tests.env.origin import pseudo_random

IMAGE = pseudo_random(21, 6 * MIB + 512)
CHECKSUM = f"sha-256:{sha256(IMAGE)}"


def head_and_tail_are_zero(device: LoopDevice, size: int) -> bool:
    """Whether nothing at the ends of the image's place could be taken for an image."""
    got = device.read()
    return not any(got[:MIB]) and not any(got[size - MIB : size])


@pytest.mark.parametrize("kind", ["raw", "qcow2"])
def test_what_lies_behind_the_image_stays_or_is_zeroed(
    bench: Bench, device: LoopDevice, kind: str, tmp_path: Path
) -> None:
    """The rest is somebody's business only by ``--zero-rest``; a stale backup table goes."""
    file = disk = IMAGE
    if kind == "qcow2":
        if not HAVE_QEMU:
            pytest.skip(NEED_QEMU)
        path = build(tmp_path / "i.qcow2", Recipe(size=6 * MIB + 512, seed=4))
        file, disk = path.read_bytes(), raw_of(path)
    url = bench.url(file, name=f"i.{kind}")
    assert bench.get(device.path, url).code == 0
    got = device.read()
    assert got[: len(disk)] == disk
    assert got[len(disk) : DEVICE - MIB].count(PATTERN) == DEVICE - MIB - len(disk)
    device.fill(PATTERN)
    done = bench.get(device.path, url, "--zero-rest")
    assert done.code == 0, done
    got = device.read()
    assert got[: len(disk)] == disk
    assert not any(got[len(disk) :])


def test_the_rest_is_zeroed_beside_a_page_that_is_not_written_yet(
    bench: Bench, device: LoopDevice
) -> None:
    """An image that ends within a page of the device's last MiB, whose cache cannot be dropped."""
    image = pseudo_random(23, DEVICE - MIB + 512)
    done = bench.get(device.path, bench.url(image, name="i.raw"), "--zero-rest")
    assert done.code == 0, done
    got = device.read()
    assert got[: len(image)] == image
    assert not any(got[len(image) :])


@pytest.mark.parametrize("packing", sorted(PACK))
def test_the_former_backup_table_goes_where_the_size_shows_only_at_the_end(
    bench: Bench, device: LoopDevice, packing: str
) -> None:
    """A compressed source: what the former tenant left in the last MiB must not outlive it."""
    with Path(device.path).open("r+b", buffering=0) as raw:
        raw.seek(DEVICE - 512)
        raw.write(b"EFI PART".ljust(512, b"\1"))
    url = bench.url(PACK[packing](IMAGE), name=f"i.raw.{packing}")
    done = bench.get(device.path, url, "--overwrite", "gpt")
    assert done.code == 0, done
    got = device.read()
    assert got[: len(IMAGE)] == IMAGE
    assert not any(got[DEVICE - MIB :])


def test_a_packed_image_that_fills_the_device_keeps_its_own_tail(
    bench: Bench, device: LoopDevice
) -> None:
    """The zeros at the end are for what the image does not cover."""
    whole = pseudo_random(22, DEVICE)
    done = bench.get(device.path, bench.url(PACK["gz"](whole), name="i.raw.gz"))
    assert done.code == 0, done
    assert device.read() == whole


def test_a_device_is_found_by_a_stable_name(bench: Bench, device: LoopDevice) -> None:
    """Names below /dev/disk/by-id are links: they are followed, and told as typed."""
    link = bench.folder / "by-id"
    link.mkdir()
    name = link / "virtio-root-disk"
    name.symlink_to(device.path)
    done = bench.get(name, bench.url(IMAGE, name="i.raw"), "--checksum", CHECKSUM)
    assert done.code == 0, done
    assert device.read(len(IMAGE)) == IMAGE
    assert name.is_symlink()


@contextlib.contextmanager
def partition(disk: str) -> Iterator[str]:
    """The first partition of the loop device *disk*; skips where the kernel shows none."""
    part = f"{disk}p1"
    try:
        if not Path(part).exists():  # a kernel that reads no tables itself is told by partx
            subprocess.run(["partx", "--add", disk], capture_output=True, check=False, timeout=30)
        if not Path(part).exists():
            pytest.skip("no partitions of loop devices here")
        yield part
    finally:
        subprocess.run(["partx", "--delete", disk], capture_output=True, check=False, timeout=30)


def test_a_partition_is_a_target_and_its_neighbour_is_not(bench: Bench, tmp_path: Path) -> None:
    """A partition of a loop device: the table and the second partition stay as they are."""
    if not shutil.which("parted"):
        pytest.skip("parted is not installed")
    backing = tmp_path / "disk.img"
    backing.write_bytes(bytes([PATTERN]) * (32 * MIB))
    subprocess.run(
        [
            "parted",
            "-s",
            str(backing),
            "mklabel",
            "gpt",
            "mkpart",
            "a",
            "1MiB",
            "12MiB",
            "mkpart",
            "b",
            "12MiB",
            "24MiB",
        ],
        check=True,
        capture_output=True,
        timeout=60,
    )
    with attached(backing, "--partscan") as disk, partition(disk) as part:
        before = backing.read_bytes()
        done = bench.get(part, bench.url(IMAGE, name="i.raw"), "--checksum", CHECKSUM)
        assert done.code == 0, done
        after = backing.read_bytes()
        assert after[MIB : MIB + len(IMAGE)] == IMAGE
        assert after[:MIB] == before[:MIB]
        assert after[12 * MIB :] == before[12 * MIB :]
        # The whole disk carries a table: it is not a blank device.
        done = bench.get(disk, bench.url(IMAGE, name="i.raw"))
        assert done.code == 33, done
        assert "gpt" in done.stderr
        too_large = pseudo_random(22, 11 * MIB + 512)
        done = bench.get(part, bench.url(too_large, name="i.raw"))
        assert done.code == 30, done
        assert backing.read_bytes() == after


@pytest.mark.skipif(not HAVE_QEMU, reason=NEED_QEMU)
@pytest.mark.parametrize("packed", [False, True], ids=["qcow2", "qcow2.gz"])
def test_a_disk_larger_than_the_device_is_refused_before_any_write(
    bench: Bench, device: LoopDevice, packed: bool, tmp_path: Path
) -> None:
    """I15: it is the virtual size that counts, however small the file is."""
    path = build(tmp_path / "i.qcow2", Recipe(size=DEVICE + 512, seed=4))
    file = path.read_bytes()
    url = bench.url(PACK["gz"](file), name="i.gz") if packed else bench.url(file)
    done = bench.get(device.path, url)
    assert (done.code, done.classes) == (30, ["SINK_SPACE"]), done
    assert device.read().count(PATTERN) == DEVICE


@pytest.mark.parametrize("kind", ["raw", "qcow2"])
def test_a_device_that_shrinks_under_the_job_ends_with_its_class(
    bench: Bench, device: LoopDevice, tmp_path: Path, kind: str
) -> None:
    """S06: most of the device goes away while the job writes."""
    image = pseudo_random(23, 12 * MIB)
    if kind == "qcow2":
        if not HAVE_QEMU:
            pytest.skip(NEED_QEMU)
        raw = tmp_path / "raw"
        raw.write_bytes(image)
        subprocess.run(
            ["qemu-img", "convert", "-O", "qcow2", str(raw), str(tmp_path / "q")], check=True
        )
        image = (tmp_path / "q").read_bytes()
    url = bench.url(image, Rule(rate=4 * MIB), name=f"i.{kind}")
    before = bench.origin.sent
    words = ["get", url, "-o", device.path, "--max-connections", "1"]
    with running_fastdl(words, home=bench.home) as run:
        bench.origin.wait_for(lambda: bench.origin.sent - before > 3 * MIB)
        os.truncate(device.backing, 2 * MIB)
        subprocess.run(["losetup", "--set-capacity", device.path], check=True, timeout=30)
        done = run.finish(timeout=60)
    assert done.code == 31, done
    assert done.classes == ["SINK_IO"]
    assert not any(device.read(MIB))


def test_a_killed_download_onto_a_device_goes_on(bench: Bench, device: LoopDevice) -> None:
    """R01 on a device: nothing valid meanwhile, little fetched twice, the digest right."""
    url = bench.url(pseudo_random(24, 12 * MIB), Rule(rate=3 * MIB), name="i.raw")
    image = pseudo_random(24, 12 * MIB)
    check = f"sha-256:{sha256(image)}"
    before = bench.origin.sent
    words = ["get", url, "-o", device.path, "--checksum", check, "--max-connections", "1"]
    with running_fastdl(words, home=bench.home) as run:
        bench.origin.wait_for(lambda: bench.origin.sent - before > 8 * MIB, timeout=60)
        run.send(signal.SIGKILL)
        run.finish(timeout=30)
    assert head_and_tail_are_zero(device, len(image))
    bench.origin.resources[url.removeprefix(bench.origin.base)].rules.clear()
    done = bench.get(device.path, url, "--checksum", check)
    assert done.code == 0, done
    assert device.read(len(image)) == image
    assert done.json["resumed_bytes"] >= 3 * MIB, done
    assert done.json["fetched_bytes"] <= len(image) - done.json["resumed_bytes"] + MIB


def test_a_device_that_holds_a_file_system_is_left_alone(bench: Bench, tmp_path: Path) -> None:
    """S07, and the way to say that it may go."""
    if not shutil.which("mkfs.ext4"):
        pytest.skip("mkfs.ext4 is not installed")
    with loop_device(tmp_path, size=DEVICE) as device:
        subprocess.run(["mkfs.ext4", "-q", device.path], check=True, timeout=60)
        before = device.read()
        url = bench.url(IMAGE, name="i.raw")
        done = bench.get(device.path, url)
        assert done.code == 33, done
        assert device.read() == before
        assert bench.get(device.path, url, "--overwrite", "ext4").code == 0
        assert device.read(len(IMAGE)) == IMAGE
