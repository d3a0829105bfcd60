# SPDX-License-Identifier: Apache-2.0
"""Do images that cannot land while they arrive come by way of a verified file, and go again?"""

from __future__ import annotations

import errno
import fcntl
import os
import random
import shutil
import signal
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fastdl.engine.staging import SUFFIX
from tests.env import seam, vhd
from tests.env.command import Running, run_fastdl
from tests.env.faults import Rule
from tests.env.images import HAVE_QEMU, MIB, NEED_QEMU, fill_raw, run
from tests.env.landing import DEVICE, PACK, PATTERN, Bench, raw_of, sha256, tables_last
from tests.env.loopdev import LoopDevice, loop_device
from tests.env.origin import pseudo_random

pytestmark = pytest.mark.skipif(not HAVE_QEMU, reason=NEED_QEMU)

KINDS = {
    "vhd": ("vpc", "subformat=dynamic"),
    "vhdx": ("vhdx", "subformat=dynamic"),
    "vmdk": ("vmdk", "subformat=monolithicSparse"),
    "vmdk-stream": ("vmdk", "subformat=streamOptimized"),
    "vdi": ("vdi", ""),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bytes, bytes]]:
    """Each kind's file, made by qemu-img, and the disk that qemu-img reads from it."""
    folder = tmp_path_factory.mktemp("made")
    raw = folder / "raw"
    fill_raw(raw, 7 * MIB, random.Random(5))
    out = {}
    for name, (fmt, option) in KINDS.items():
        path = folder / name
        words = ["-o", option] if option else []
        run("qemu-img", "convert", "-f", "raw", "-O", fmt, *words, raw, path)
        out[name] = (path.read_bytes(), raw_of(path, fmt))
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_a_foreign_image_lands_by_way_of_a_file(
    bench: Bench, device: LoopDevice, made: dict[str, tuple[bytes, bytes]], kind: str
) -> None:
    """Verified, inspected, converted; the result says so, and the staged file is gone."""
    file, disk = made[kind]
    name = kind.partition("-")[0]
    words = ["--checksum", f"sha-256:{sha256(file)}"]
    url = bench.url(file, name=f"i.{name}")
    done = bench.get(device.path, url, *words)
    assert done.code == 0, done
    got = device.read()
    assert got[: len(disk)] == disk
    assert got[len(disk) : DEVICE - MIB].count(PATTERN) == DEVICE - MIB - len(disk)
    said = done.json
    assert (said["format"], said["landing"]) == (name, f"{name}-staged-to-raw")
    assert said["digests"]["sha-256"] == sha256(file)
    assert any("staged" in text for text in said["warnings"])
    done = bench.get(bench.pool / "disk.raw", url, *words, "--target-format", "raw")
    assert done.code == 0, done
    assert (bench.pool / "disk.raw").read_bytes() == disk
    assert bench.left_behind() == ["disk.raw"]


def test_a_converter_that_lives_on_harms_no_later_run(
    bench: Bench, made: dict[str, tuple[bytes, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its run was killed before it opened its file; it does so while the next run converts."""
    file, disk = made["vmdk"]
    tools = bench.folder / "tools"
    tools.mkdir()
    late, real = tools / "qemu-img", shutil.which("qemu-img")
    late.write_text(f"""#!/bin/sh
{real} "$@" || exit
for last; do :; done
[ -e {tools}/target ] && : > "$(cat {tools}/target)"
echo "$last" > {tools}/target
[ -e {tools}/killed ] || {{ : > {tools}/killed; kill -9 $PPID; }}
""")
    late.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    url = bench.url(file, name="i.vmdk")
    words = ["--target-format", "raw", "--checksum", f"sha-256:{sha256(file)}"]
    assert bench.get(bench.pool / "disk.raw", url, *words).code == -signal.SIGKILL
    done = bench.get(bench.pool / "disk.raw", url, *words)
    assert done.code == 0, done
    assert (bench.pool / "disk.raw").read_bytes() == disk
    assert bench.left_behind() == ["disk.raw"]


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_a_converter_ends_with_its_run_and_leaves_no_disk(
    bench: Bench,
    made: dict[str, tuple[bytes, bytes]],
    monkeypatch: pytest.MonkeyPatch,
    end: signal.Signals,
) -> None:
    """It would read and write for an hour; a part of a disk is worth nothing to the next run."""
    tools = bench.folder / "tools"
    tools.mkdir()
    slow, told = tools / "qemu-img", tools / "pid"
    slow.write_text(f"""#!/bin/sh
for last; do :; done
echo disk > "$last"
echo $$ > {told}.new && mv {told}.new {told}
exec sleep 60
""")
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    url, target = bench.url(made["vmdk"][0], name="i.vmdk"), bench.pool / "disk.raw"
    run = Running(["get", url, "-o", str(target), "--target-format", "raw"], home=bench.home)
    _until(told.exists)
    converter = Path("/proc") / told.read_text().strip()
    run.send(end)
    assert run.finish(timeout=30).code == (-end if end == signal.SIGKILL else 130)
    _until(lambda: not converter.exists())
    if end == signal.SIGINT:
        (folder,) = bench.pool.glob(f".*{SUFFIX}")
        assert sorted(path.name for path in folder.iterdir() if "raw" in path.name) == []
        assert (folder / "source").exists()


def _until(holds: Callable[[], bool]) -> None:
    ends = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.01)


@pytest.mark.parametrize("kind", ["vhd", "vhdx", "vmdk", "vdi"])
def test_a_foreign_image_keeps_its_format_in_a_folder(
    bench: Bench, made: dict[str, tuple[bytes, bytes]], kind: str
) -> None:
    """The default of file pools: nothing is converted, the image is checked all the same."""
    file, _ = made[kind]
    done = bench.get(bench.pool, bench.url(file, name=f"i.{kind}"))
    assert done.code == 0, done
    assert (bench.pool / f"i.{kind}").read_bytes() == file
    assert done.json["landing"] == "same"


ODD = 21 * 512 * 1024
"""A disk whose geometry holds 8 KiB less."""


@pytest.mark.parametrize("kind", ["fixed", "dynamic"])
@pytest.mark.parametrize("creator", vhd.CREATORS, ids=lambda name: name.decode().strip("\0 "))
def test_a_vhd_lands_with_the_size_that_it_states(
    bench: Bench, device: LoopDevice, kind: str, creator: bytes
) -> None:
    """Its tail is a partition table's copy: geometry and size are two readers' two disks."""
    disk = pseudo_random(7, 300_000).ljust(ODD - 512, b"\0") + pseudo_random(8, 512)
    url = bench.url({"fixed": vhd.fixed, "dynamic": vhd.dynamic}[kind](disk, creator), name="i.vhd")
    done = bench.get(device.path, url, "--source-format", "vhd")
    assert done.code == 0, done
    assert device.read(ODD) == disk
    assert done.json["virtual_size"] == done.json["target_bytes"] == ODD
    done = bench.get(
        bench.pool / "a,b.raw", url, "--source-format", "vhd", "--target-format", "raw"
    )
    assert done.code == 0, done
    assert (bench.pool / "a,b.raw").read_bytes() == disk


DISK = pseudo_random(9, 200_000).ljust(3 * MIB, b"\0")


@pytest.mark.parametrize("declared", ["auto", "vhd"])
@pytest.mark.parametrize("rule", [Rule(), Rule(ignore_range=True)], ids=["ranges", "none"])
def test_a_fixed_vhd_lands_in_one_pass_without_its_footer(
    bench: Bench, device: LoopDevice, declared: str, rule: Rule
) -> None:
    """It is the disk with 512 bytes behind it, which tell what it is when all is there."""
    file = vhd.fixed(DISK)
    words = (bench.url(file, rule, name="azure.vhd"), "--source-format", declared)
    words += ("--checksum", f"sha-256:{sha256(file)}")
    for target in (device.path, bench.pool / "disk.raw"):
        done = bench.get(target, *words, "--target-format", "raw")
        assert done.code == 0, done
        said = done.json
        assert (said["format"], said["landing"]) == ("vhd", "vhd-to-raw")
        assert said["virtual_size"] == said["target_bytes"] == len(DISK)
    assert (bench.pool / "disk.raw").read_bytes() == DISK
    got = device.read()
    assert got[: len(DISK)] == DISK
    assert not any(got[len(DISK) : len(DISK) + 512])
    assert bench.left_behind() == ["disk.raw"]


@pytest.mark.parametrize("declared", ["auto", "vhd"])
def test_a_fixed_vhd_fits_a_device_of_the_size_of_its_disk(
    bench: Bench, tmp_path: Path, declared: str
) -> None:
    """The footer has no room behind it: then by way of a file."""
    with loop_device(tmp_path, size=len(DISK)) as exact:
        exact.fill(PATTERN)
        url = bench.url(vhd.fixed(DISK), name="azure.vhd")
        done = bench.get(exact.path, url, "--source-format", declared)
        assert done.code == 0, done
        assert exact.read() == DISK
    assert bench.left_behind() == []


@pytest.mark.parametrize("outer", PACK)
def test_a_fixed_vhd_may_be_packed(bench: Bench, device: LoopDevice, outer: str) -> None:
    """As Azure's images are published: .vhd.xz, .vhd.bz2."""
    url = bench.url(PACK[outer](vhd.fixed(DISK)), name=f"azure.vhd.{outer}")
    for declared in ("auto", "vhd"):
        device.fill(PATTERN)
        for target in (device.path, bench.pool / f"{declared}.raw"):
            words = (url, "--source-format", declared, "--target-format", "raw")
            done = bench.get(target, *words)
            assert done.code == 0, done
            assert done.json["virtual_size"] == done.json["target_bytes"] == len(DISK)
        assert device.read(len(DISK)) == DISK
        assert (bench.pool / f"{declared}.raw").read_bytes() == DISK


@pytest.mark.parametrize("packed", [False, True])
def test_a_vhd_that_is_none_never_becomes_valid(
    bench: Bench, device: LoopDevice, packed: bool
) -> None:
    """Declared one and it is not; declared raw and it is one; a footer that is torn."""
    torn = bytearray(vhd.fixed(DISK))
    torn[-512 + 50] ^= 1
    for file, declared, codes in (
        (DISK, "vhd", {24}),
        (vhd.fixed(DISK), "raw", {24}),
        (bytes(torn), "auto", {23}),
    ):
        device.fill(PATTERN)
        url = bench.url(PACK["gz"](file) if packed else file, name="i.vhd")
        for target in (device.path, bench.pool / "disk.raw"):
            words = (url, "--source-format", declared, "--target-format", "raw")
            done = bench.get(target, *words)
            assert done.code in codes, (declared, target, done)
        got = device.read(MIB)
        assert got.count(PATTERN) == MIB or not any(got)
        assert bench.left_behind() == []


@pytest.mark.parametrize("kind", ["vhd", "vhdx", "vmdk", "vdi"])
@pytest.mark.parametrize("outer", ["zip", "xz"])
def test_a_declared_format_may_lie_under_one_layer(
    bench: Bench, device: LoopDevice, made: dict[str, tuple[bytes, bytes]], kind: str, outer: str
) -> None:
    """What appliances are published as: .vmdk.zip, .vhdx.xz."""
    file, disk = made[kind]
    url = bench.url(PACK[outer](file), name=f"i.{kind}.{outer}")
    done = bench.get(device.path, url, "--source-format", kind)
    assert done.code == 0, done
    assert device.read(len(disk)) == disk
    other = "vmdk" if kind != "vmdk" else "vdi"
    done = bench.get(bench.pool / "disk.raw", url, "--source-format", other)
    assert done.code == 24, done
    assert bench.left_behind() == []


def test_a_vdi_of_an_odd_size_is_as_large_as_its_last_sector(
    bench: Bench, made: dict[str, tuple[bytes, bytes]]
) -> None:
    """VBoxManage makes them of raw files; no reader has half a sector."""
    file, disk = made["vdi"]
    odd = file[:368] + struct.pack("<Q", len(disk) - 100) + file[376:]
    done = bench.get(
        bench.pool / "disk.raw", bench.url(odd, name="i.vdi"), "--target-format", "raw"
    )
    assert done.code == 0, done
    assert (bench.pool / "disk.raw").read_bytes() == disk
    assert done.json["virtual_size"] == len(disk)


@pytest.mark.parametrize("kind", ["vhd", "vhdx", "vmdk", "vdi"])
def test_a_converter_that_reads_another_disk_is_refused(
    bench: Bench, made: dict[str, tuple[bytes, bytes]], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it takes for the disk, what lands has the size of the one that was inspected."""
    real = shutil.which("qemu-img")
    tools = bench.folder / "tools"
    tools.mkdir()
    (tools / "qemu-img").write_text(
        f'#!/bin/sh\n{real} "$@" && for target; do :; done && truncate -s -512 "$target"\n'
    )
    (tools / "qemu-img").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    url = bench.url(made[kind][0], name=f"i.{kind}")
    done = bench.get(bench.pool / "disk.raw", url, "--target-format", "raw")
    assert done.code == 23, done
    assert "qemu-img reads" in done.stderr
    assert bench.left_behind() == []


def hostile(made: dict[str, tuple[bytes, bytes]], what: str) -> tuple[bytes, str, set[int]]:
    """A bad image, its kind, and the exit codes that name what is wrong with it."""
    if what == "vmdk extent is a path":
        file = made["vmdk"][0]
        at = file.index(b'SPARSE "')
        end = file.index(b'"', at + 8)
        text = b"/etc/shadow"[: end - at - 8].ljust(end - at - 8, b"x")
        return file[: at + 8] + text + file[end:], "vmdk", {24}
    if what == "vhd differencing":
        bent = bytearray(made["vhd"][0])
        for at in (0, len(bent) - 512):
            struct.pack_into(">I", bent, at + 60, 4)
            struct.pack_into(">I", bent, at + 64, 0)
            total = sum(bent[at : at + 512])
            struct.pack_into(">I", bent, at + 64, ~total & 0xFFFFFFFF)
        return bytes(bent), "vhd", {24}
    if what == "vhd checksum":
        bent = bytearray(made["vhd"][0])
        bent[64] ^= 1
        bent[-512 + 64] ^= 1
        return bytes(bent), "vhd", {23}
    if what == "vhdx both headers broken":
        bent = bytearray(made["vhdx"][0])
        for at in (64 * 1024, 128 * 1024):
            bent[at + 20] ^= 0xFF
        return bytes(bent), "vhdx", {23}
    if what == "vdi of an unknown kind":
        bent = bytearray(made["vdi"][0])
        struct.pack_into("<I", bent, 0x4C, 9)
        return bytes(bent), "vdi", {23, 24}
    if what == "truncated vmdk":
        bent = bytearray(made["vmdk-stream"][0])
        return bytes(bent[: len(bent) // 2]), "vmdk", {23, 24}
    raise ValueError(what)


HOSTILE = (
    "vmdk extent is a path",
    "vhd differencing",
    "vhd checksum",
    "vhdx both headers broken",
    "vdi of an unknown kind",
    "truncated vmdk",
)


@pytest.mark.parametrize("what", HOSTILE)
def test_an_unsafe_foreign_image_never_reaches_the_target(
    bench: Bench, device: LoopDevice, made: dict[str, tuple[bytes, bytes]], what: str
) -> None:
    """I13, I14: refused in the staging folder, which goes; the device is as it was."""
    file, kind, codes = hostile(made, what)
    url = bench.url(file, name=f"i.{kind}")
    done = bench.get(device.path, url)
    assert done.code in codes, done
    assert device.read().count(PATTERN) == DEVICE
    for fmt in ("raw", "same"):
        done = bench.get(bench.pool / "disk", url, "--target-format", fmt)
        assert done.code in codes, (fmt, done)
    assert bench.left_behind() == []


def test_a_wrong_checksum_stops_before_the_conversion(
    bench: Bench, device: LoopDevice, made: dict[str, tuple[bytes, bytes]]
) -> None:
    """qemu-img never opens unverified bytes."""
    url = bench.url(made["vmdk"][0], name="i.vmdk")
    done = bench.get(device.path, url, "--checksum", f"sha-256:{'0' * 64}")
    assert done.code == 21, done
    assert device.read().count(PATTERN) == DEVICE
    assert bench.left_behind() == []


def test_a_foreign_disk_larger_than_the_device_is_refused(
    bench: Bench, made: dict[str, tuple[bytes, bytes]], tmp_path: Path
) -> None:
    """I15 for a staged image: its size is known before the device is touched."""
    with loop_device(tmp_path, size=4 * MIB) as small:
        small.fill(PATTERN)
        done = bench.get(small.path, bench.url(made["vhdx"][0], name="i.vhdx"))
        assert done.code == 30, done
        assert small.read().count(PATTERN) == 4 * MIB
    done = bench.get(
        bench.pool / "d",
        bench.url(made["vdi"][0], name="i.vdi"),
        "--target-format",
        "raw",
        "--max-virtual-size",
        "4M",
    )
    assert done.code == 25, done
    assert bench.left_behind() == []


@pytest.fixture(scope="module")
def late(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """A qcow2 image with 36 MiB of data before its tables, and its disk."""
    folder = tmp_path_factory.mktemp("late")
    raw, path = folder / "raw", folder / "late.qcow2"
    raw.write_bytes(pseudo_random(41, 36 * MIB))
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, path)
    return tables_last(path.read_bytes()), raw.read_bytes()


def test_late_tables_without_ranges_are_staged_and_said(
    bench: Bench, late: tuple[bytes, bytes], tmp_path: Path
) -> None:
    """One stream, tables behind the data: a verified file first, and the result says why."""
    file, disk = late
    url = bench.url(file, Rule(ignore_range=True))
    with loop_device(tmp_path, size=40 * MIB) as device:
        device.fill(PATTERN)
        done = bench.get(device.path, url, "--checksum", f"sha-256:{sha256(file)}")
        assert done.code == 0, done
        assert device.read(len(disk)) == disk
    assert done.json["landing"] == "qcow2-staged-to-raw"
    assert any("not support ranges" in text for text in done.json["warnings"])
    assert bench.left_behind() == []


@pytest.mark.parametrize("kind", ["gz", "zip"])
def test_late_tables_under_compression_are_unpacked_first(
    bench: Bench, late: tuple[bytes, bytes], kind: str
) -> None:
    """The decoder cannot look ahead: unpacked to a file, then landed."""
    file = PACK[kind](late[0])
    target = bench.pool / "disk.raw"
    done = bench.get(
        target,
        bench.url(file, name=f"i.{kind}"),
        "--checksum",
        f"sha-256:{sha256(file)}",
        "--target-format",
        "raw",
    )
    assert done.code == 0, done
    assert target.read_bytes() == late[1]
    assert done.json["digests"]["sha-256"] == sha256(file)
    assert bench.left_behind() == ["disk.raw"]


@pytest.mark.parametrize("kind", ["vmdk", "vhdx"])
def test_a_compressed_foreign_image_is_unpacked_and_converted(
    bench: Bench, device: LoopDevice, made: dict[str, tuple[bytes, bytes]], kind: str
) -> None:
    """Both at once: one layer off, then the conversion."""
    file, disk = made[kind]
    packed = PACK["gz"](file)
    done = bench.get(
        device.path, bench.url(packed, name="i.gz"), "--checksum", f"sha-256:{sha256(packed)}"
    )
    assert done.code == 0, done
    assert device.read(len(disk)) == disk
    assert bench.left_behind() == []


def killed(bench: Bench, target: str, url: str, *, when: str) -> None:
    """Run until a call about *when* is made, and no further."""
    words = ["get", url, "-o", target, "--target-format", "raw", "--json"]
    done = run_fastdl(
        words, home=bench.home, prefix=seam.loaded(nth=1, after=when, do="kill"), timeout=60
    )
    assert done.code == -signal.SIGKILL, done


@pytest.mark.parametrize("sort", ["file", "device"])
@pytest.mark.parametrize("checked", [False, True], ids=["unchecked", "checked"])
def test_what_a_killed_run_staged_is_found_again(
    bench: Bench, device: LoopDevice, made: dict[str, tuple[bytes, bytes]], sort: str, checked: bool
) -> None:
    """It is whole and noted: the next run converts it and fetches nothing but its first bytes."""
    file, disk = made["vmdk"]
    url = bench.url(file, name="i.vmdk")
    target = device.path if sort == "device" else str(bench.pool / "disk.raw")
    words = ["--target-format", "raw"]
    words += ["--checksum", f"sha-256:{sha256(file)}"] if checked else []
    killed(bench, target, url, when="/source.raw")
    assert any(SUFFIX in name for name in bench.left_behind())
    done = bench.get(target, url, *words)
    assert done.code == 0, done
    assert done.json["fetched_bytes"] == 0
    assert done.json["resumed_bytes"] == len(file)
    with Path(target).open("rb") as landed:
        assert landed.read(len(disk)) == disk
    assert bench.left_behind() in ([], ["disk.raw"])


@pytest.mark.parametrize(
    ("call", "about", "number", "code"),
    [
        ("unlink", "/source.raw", errno.EACCES, 33),
        ("pread", f"{SUFFIX}/source", errno.EIO, 31),
        ("pread", f"{SUFFIX}/source", errno.ENOSPC, 30),
    ],
)
def test_a_staged_file_that_fails_is_the_storages_fault(
    bench: Bench, made: dict[str, tuple[bytes, bytes]],
    call: str, about: str, number: int, code: int,
) -> None:  # fmt: skip
    """And none of fastdl's."""
    url = bench.url(made["vmdk"][0], name="i.vmdk")
    if call == "unlink":  # what an earlier run converted
        killed(bench, str(bench.pool / "disk.raw"), url, when=about)
    prefix = seam.loaded(nth=1, call=call, do=str(number), only=about, ever=True)
    words = ["get", url, "-o", str(bench.pool / "disk.raw"), "--target-format", "raw", "--json"]
    done = run_fastdl(words, home=bench.home, prefix=prefix, timeout=60)
    assert done.code == code, done


def test_another_source_does_not_take_what_was_staged(
    bench: Bench, made: dict[str, tuple[bytes, bytes]]
) -> None:
    """The folder is the target's; what lies in it is one source's."""
    target = bench.pool / "disk.raw"
    killed(bench, str(target), bench.url(made["vmdk"][0], name="i.vmdk"), when="/source.raw")
    file, disk = made["vhdx"]
    done = bench.get(target, bench.url(file, name="i.vhdx"), "--target-format", "raw")
    assert done.code == 0, done
    assert target.read_bytes() == disk
    assert bench.left_behind() == ["disk.raw"]


def test_old_folders_of_killed_jobs_are_swept_and_those_in_use_are_not(
    bench: Bench, made: dict[str, tuple[bytes, bytes]]
) -> None:
    """Whoever stages beside them cleans up; a lock, or a day, keeps a folder."""
    folders = {}
    for name in ("old", "locked", "young"):
        folders[name] = bench.pool / f".{name}{SUFFIX}"
        folders[name].mkdir(mode=0o700)
        (folders[name] / "source").write_bytes(b"x")
        if name != "young":
            os.utime(folders[name], (1, 1))
    held = os.open(folders["locked"], os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        url = bench.url(made["vmdk"][0], name="i.vmdk")
        done = bench.get(bench.pool / "disk.raw", url, "--target-format", "raw")
    finally:
        os.close(held)
    assert done.code == 0, done
    left = {name for name, folder in folders.items() if folder.exists()}
    assert left == {"locked", "young"}
