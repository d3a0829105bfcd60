# SPDX-License-Identifier: Apache-2.0
"""Does an image that is converted while it arrives become exactly the guest's disk?

The real command against real servers; ``qemu-img convert`` says what should have arrived,
the origin how many bytes it took.
"""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest

from fastdl.lab.metalink import metalink_of
from tests.env.certs import CertLab
from tests.env.faults import Rule, When
from tests.env.images import HAVE_QEMU, KIB, MIB, NEED_QEMU, Recipe, build, fill_raw, run
from tests.env.landing import DEVICE, PACK, PATTERN, Bench, raw_of, sha256, tables_last
from tests.env.loopdev import LoopDevice, loop_device
from tests.env.nginx import start_nginx
from tests.env.origin import pseudo_random

pytestmark = pytest.mark.skipif(not HAVE_QEMU, reason=NEED_QEMU)

NO_RANGES = Rule(ignore_range=True)

RECIPES = {
    "plain": Recipe(size=12 * MIB, writes=40, seed=1),
    "ragged": Recipe(size=5 * MIB + 512, writes=30, seed=2),
    "version 2": Recipe(size=8 * MIB, compat="0.10", compressed=True, seed=3),
    "zlib": Recipe(size=8 * MIB + 512, compressed=True, seed=4),
    "zstd": Recipe(size=8 * MIB, compressed=True, compression="zstd", seed=5),
    "extended L2": Recipe(size=8 * MIB, extended_l2=True, writes=60, seed=6),
    "512-byte clusters": Recipe(size=2 * MIB, cluster_size=512, writes=60, seed=7),
    "2 MiB clusters": Recipe(size=17 * MIB, cluster_size=2 * MIB, writes=12, seed=8),
    "empty": Recipe(size=6 * MIB, writes=0),
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bytes, bytes]]:
    """Each recipe's qcow2 file and the disk that qemu-img reads from it."""
    folder = tmp_path_factory.mktemp("images")
    out = {}
    for name, recipe in RECIPES.items():
        path = build(folder / f"{name}.qcow2", recipe)
        out[name] = (path.read_bytes(), raw_of(path))
    return out


def same(got: bytes, want: bytes) -> None:
    """Compare without a megabyte of pytest's explanation."""
    if got != want:
        length = min(len(got), len(want))
        at = next((i for i in range(0, length, 512) if got[i : i + 512] != want[i : i + 512]), -1)
        pytest.fail(f"{len(got)} bytes, {len(want)} wanted; first difference near {at}")


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize(
    ("ranges", "sector"), [(True, 512), (False, 4096)], ids=["ranges, 512", "one stream, 4096"]
)
def test_a_qcow2_lands_on_a_device_as_qemu_img_reads_it(
    bench: Bench,
    images: dict[str, tuple[bytes, bytes]],
    name: str,
    ranges: bool,
    sector: int,
    tmp_path: Path,
) -> None:
    """Every kind of cluster, over the former tenant's bytes; what lies behind stays."""
    file, disk = images[name]
    url = bench.url(file, *([] if ranges else [NO_RANGES]))
    before = bench.origin.sent
    with loop_device(tmp_path, size=DEVICE, sector_size=sector) as device:
        device.fill(PATTERN)
        done = bench.get(device.path, url, "--checksum", f"sha-256:{sha256(file)}")
        assert done.code == 0, done
        got = device.read()
    same(got[: len(disk)], disk)
    # The very end may have been a backup partition table: it is zeroed, the rest stays.
    stays = got[len(disk) : max(len(disk), DEVICE - MIB)]
    assert stays.count(PATTERN) == len(stays)
    said = done.json
    assert said["digests"]["sha-256"] == sha256(file)
    assert (said["format"], said["landing"]) == ("qcow2", "qcow2-to-raw")
    assert (said["virtual_size"], said["target_bytes"]) == (len(disk), len(disk))
    assert said["source_bytes"] == len(file)
    # The tables were read ahead of the data, and yet nothing came twice.
    assert bench.origin.sent - before <= len(file) + 64 * KIB


@pytest.mark.parametrize("name", RECIPES)
def test_a_qcow2_becomes_a_raw_file(
    bench: Bench, images: dict[str, tuple[bytes, bytes]], name: str
) -> None:
    """``--target-format raw`` on a file: the same bytes, and nothing beside it."""
    file, disk = images[name]
    target = bench.pool / "disk.raw"
    done = bench.get(target, bench.url(file), "--target-format", "raw")
    assert done.code == 0, done
    same(target.read_bytes(), disk)
    assert bench.left_behind() == ["disk.raw"]
    assert done.json["integrity"] == "none"


def test_a_qcow2_from_a_real_nginx_over_https(
    bench: Bench,
    device: LoopDevice,
    images: dict[str, tuple[bytes, bytes]],
    certs: CertLab,
    tmp_path: Path,
) -> None:
    """Not only our own test server: TLS, and a server block without ranges."""
    file, disk = images["zstd"]
    with start_nginx(tmp_path / "nginx", certs, {"a.qcow2": file}) as nginx:
        for manner in ("tls", "no-ranges"):
            device.fill(PATTERN)
            done = bench.get(
                device.path,
                nginx.url(manner, "a.qcow2"),
                "--cacert",
                str(certs.ca.cert_file),
                "--checksum",
                f"sha-256:{sha256(file)}",
            )
            assert done.code == 0, done
            same(device.read(len(disk)), disk)


def metalink(file: bytes, urls: list[str], *, piece: int) -> bytes:
    """A metalink of *file* with SHA-256 pieces."""
    return metalink_of(file, urls, name="i.qcow2", piece=piece, ranked=False).encode()


@pytest.mark.parametrize("where", ["header", "tables", "data"])
@pytest.mark.parametrize("readback", [False, True], ids=["", "read back"])
def test_a_corrupt_mirror_among_three_costs_nothing_but_time(
    bench: Bench, device: LoopDevice, where: str, readback: bool, tmp_path: Path
) -> None:
    """M08 for an image whose bytes are decoded before the whole is verified."""
    path = build(tmp_path / "m.qcow2", Recipe(size=16 * MIB, writes=60, seed=11))
    file, disk = path.read_bytes(), raw_of(path)
    l1 = struct.unpack_from(">Q", file, 40)[0]
    l2 = struct.unpack_from(">Q", file, l1)[0] & 0x00FFFFFFFFFFFE00
    at = {"header": 24, "tables": l2 + 3, "data": len(file) - 3 * 64 * KIB}[where]
    bad = bench.url(file, Rule(corrupt=at))
    good = [bench.url(file), bench.url(file)]
    meta = bench.url(metalink(file, [bad, *good], piece=256 * KIB), name="i.meta4")
    words = ["--verify-readback"] * readback
    done = bench.get(device.path, meta, *words)
    assert done.code == 0, done
    same(device.read(len(disk)), disk)


def test_without_checksum_what_no_guest_byte_needs_is_not_fetched(
    bench: Bench, device: LoopDevice, tmp_path: Path
) -> None:
    """A discarded region stays in the file, but nobody has to pay for its way."""
    path = tmp_path / "discarded.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", path, "20M")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 7 0 20M", "-c", "discard 2M 16M", path)
    file, disk = path.read_bytes(), raw_of(path)
    assert len(file) > 20 * MIB
    # Not every qemu leaves the discarded clusters in the tables of freed space.
    before = bench.origin.sent
    done = bench.get(device.path, bench.url(file))
    assert done.code == 0, done
    same(device.read(len(disk)), disk)
    assert bench.origin.sent - before < len(file) // 2
    assert done.json["fetched_bytes"] < len(file) // 2
    before = bench.origin.sent
    device.fill(PATTERN)
    done = bench.get(device.path, bench.url(file), "--checksum", f"sha-256:{sha256(file)}")
    assert done.code == 0, done
    assert bench.origin.sent - before >= len(file)


def test_tables_behind_the_data_are_fetched_first_and_once(
    bench: Bench, device: LoopDevice, images: dict[str, tuple[bytes, bytes]]
) -> None:
    """Where the server gives ranges, no order of the file needs a temporary copy."""
    file, disk = images["plain"]
    file = tables_last(file)
    before = bench.origin.sent
    done = bench.get(device.path, bench.url(file), "--checksum", f"sha-256:{sha256(file)}")
    assert done.code == 0, done
    same(device.read(len(disk)), disk)
    assert done.json["landing"] == "qcow2-to-raw"
    # The first answer is open while the tables are read: it may run on for a buffer's worth.
    assert bench.origin.sent - before <= len(file) + 256 * KIB


# --- compressed sources -----------------------------------------------------------------


@pytest.mark.parametrize("kind", PACK)
@pytest.mark.parametrize("inner", ["raw", "plain", "zlib"])
def test_a_compressed_image_lands_decoded(
    bench: Bench,
    device: LoopDevice,
    images: dict[str, tuple[bytes, bytes]],
    kind: str,
    inner: str,
    tmp_path: Path,
) -> None:
    """One layer around a raw disk or a qcow2; the digest is of the bytes as downloaded."""
    if inner == "raw":
        fill_raw(tmp_path / "disk", 5 * MIB + 512, random.Random(3))
        disk = content = (tmp_path / "disk").read_bytes()
    else:
        content, disk = images[inner]
    file = PACK[kind](content)
    url = bench.url(file, name=f"image.{kind}")
    check = ("--checksum", f"sha-256:{sha256(file)}")
    done = bench.get(device.path, url, *check)
    assert done.code == 0, done
    same(device.read(len(disk)), disk)
    assert done.json["source_bytes"] == len(file)
    assert done.json["digests"]["sha-256"] == sha256(file)
    assert done.json["target_bytes"] == len(disk)
    target = bench.pool / "disk.raw"
    done = bench.get(target, url, *check, "--target-format", "raw")
    assert done.code == 0, done
    same(target.read_bytes(), disk)
    assert bench.left_behind() == ["disk.raw"]


def _bomb(kind: str) -> bytes:
    """Far more output than input: each of the compressors at its best."""
    unit = PACK[kind](bytes(32 * MIB)) if kind != "bz2" else PACK[kind](bytes(8 * MIB))
    return unit * (64 if kind != "bz2" else 256)


@pytest.mark.parametrize("kind", [k for k in PACK if k != "zip"])
@pytest.mark.parametrize("where", ["device", "file"])
def test_a_bomb_ends_at_its_limit(bench: Bench, tmp_path: Path, kind: str, where: str) -> None:
    """I16: 2 GiB of zeros from a small file stop at the device's end or the limit given."""
    url = bench.url(_bomb(kind), name=f"bomb.{kind}")
    if where == "device":
        with loop_device(tmp_path, size=8 * MIB) as small:
            small.fill(PATTERN)
            done = bench.get(small.path, url)
            assert done.code in (25, 30), done
            got = small.read()
            assert not any(got[:MIB])
            assert not any(got[-MIB:])
    else:
        words = ("--target-format", "raw", "--max-virtual-size", "16M")
        done = bench.get(bench.pool / "disk.raw", url, *words)
        assert done.code == 25, done
        assert bench.left_behind() == []
    assert done.max_rss < 64 * MIB + 8 * 4 * MIB + 24 * MIB


@pytest.mark.skipif("zst" not in PACK, reason="zstd is not installed")
def test_the_ratio_counts_what_is_written(bench: Bench) -> None:
    """An almost empty disk of 2 GiB lands; one of a pattern is a bomb unless the caller knows."""
    zeros, ones = PACK["zst"](bytes(64 * MIB)), PACK["zst"](b"\xff" * (64 * MIB))
    url = bench.url(PACK["zst"](pseudo_random(5, 4096)) + zeros * 32, name="empty.zst")
    done = bench.get(bench.pool / "empty.raw", url, "--target-format", "raw")
    assert done.code == 0, done
    assert (bench.pool / "empty.raw").stat().st_size == 2048 * MIB + 4096
    assert (bench.pool / "empty.raw").stat().st_blocks * 512 < 64 * MIB
    (bench.pool / "empty.raw").unlink()
    url = bench.url(ones * 20, name="ones.zst")
    done = bench.get(bench.pool / "ones.raw", url, "--target-format", "raw")
    assert done.code == 25, done
    done = bench.get("null:", url, "--target-format", "raw", "--max-ratio", "0")
    assert done.code == 0, done
    assert bench.left_behind() == []


@pytest.mark.parametrize("kind", ["gz", "bz2"])
@pytest.mark.parametrize("tail", [bytes(512), b"metadata" * 9], ids=["zeros", "text"])
def test_bytes_after_the_stream_are_ignored_with_a_warning(
    bench: Bench, device: LoopDevice, kind: str, tail: bytes
) -> None:
    """The published digest covers them; what lands does not."""
    disk = pseudo_random(5, 3 * MIB)
    file = PACK[kind](disk) + tail
    words = (bench.url(file, name=f"i.{kind}"), "--checksum", f"sha-256:{sha256(file)}")
    done = bench.get(device.path, *words)
    assert done.code == 0, done
    same(device.read(len(disk)), disk)
    assert any(f"{len(tail)} bytes after the {kind} data" in text for text in done.json["warnings"])


@pytest.mark.parametrize("kind", PACK)
def test_a_truncated_compressed_image_is_refused(
    bench: Bench, device: LoopDevice, kind: str
) -> None:
    """I17: the server's whole file is a torn one (23), or its connection is (10)."""
    file = PACK[kind](pseudo_random(5, 3 * MIB))
    for cut in (len(file) // 3, len(file) - 3):
        done = bench.get(device.path, bench.url(file[:cut], name=f"i.{kind}"))
        assert done.code == 23, done
        got = device.read()
        assert not any(got[:MIB])
    short = Rule(ignore_range=True, body_cut=len(file) // 2)
    done = bench.get(device.path, bench.url(file, short, name=f"i.{kind}"), "--retry", "1")
    assert done.code == 10, done


@pytest.mark.parametrize("outer", PACK)
@pytest.mark.parametrize("inner", ["gz", "xz"])
def test_two_layers_are_refused(bench: Bench, outer: str, inner: str) -> None:
    """I16: nested compression is never what a template is."""
    file = PACK[outer](PACK[inner](pseudo_random(5, 200 * KIB)))
    target = bench.pool / "disk.raw"
    done = bench.get(target, bench.url(file, name=f"i.{outer}"), "--target-format", "raw")
    assert done.code == 23, done
    assert bench.left_behind() == []


# --- the file as it is ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["plain", "zlib", "extended L2"])
def test_a_qcow2_stays_one_in_a_folder(
    bench: Bench, images: dict[str, tuple[bytes, bytes]], name: str
) -> None:
    """File pools keep the format: byte for byte, under the URL's name."""
    file, disk = images[name]
    done = bench.get(bench.pool, bench.url(file, name="tmpl.qcow2"))
    assert done.code == 0, done
    same((bench.pool / "tmpl.qcow2").read_bytes(), file)
    assert done.json["virtual_size"] == len(disk)
    assert bench.left_behind() == ["tmpl.qcow2"]


def patched(data: bytes, at: int, layout: str, *values: int) -> bytes:
    """*data* with some big-endian numbers at *at* replaced."""
    out = bytearray(data)
    struct.pack_into(">" + layout, out, at, *values)
    return bytes(out)


def hostile(data: bytes) -> dict[str, tuple[bytes, int]]:
    """Bad images made of a good one, and the exit code of each."""
    (l1,) = struct.unpack_from(">Q", data, 40)
    (l2,) = struct.unpack_from(">Q", data, l1)
    l2 &= 0x00FFFFFFFFFFFE00
    late = tables_last(data)
    (late_l1,) = struct.unpack_from(">Q", late, 40)
    (late_l2,) = struct.unpack_from(">Q", late, late_l1)
    late_l2 &= 0x00FFFFFFFFFFFE00
    beyond = 1 << 63 | 1 << 40
    backing = bytearray(patched(data, 8, "QI", 0x300, 11))
    backing[0x300:0x30B] = b"/etc/passwd"
    return {
        "backing file": (bytes(backing), 24),
        "data file": (patched(data, 72, "Q", 4), 24),
        "encrypted": (patched(data, 32, "I", 1), 24),
        "unknown feature": (patched(data, 72, "Q", 1 << 9), 23),
        "L1 outside": (patched(data, 40, "Q", 1 << 40), 23),
        "L2 outside": (patched(data, l1, "Q", beyond), 23),
        "cluster outside": (patched(data, l2 + 8, "Q", beyond), 23),
        "cluster outside, tables last": (patched(late, late_l2 + 8, "Q", beyond), 23),
        "snapshots": (patched(data, 60, "IQ", 1, 0x10000), 23),
    }


HOSTILE = (
    "backing file",
    "data file",
    "encrypted",
    "unknown feature",
    "L1 outside",
    "L2 outside",
    "cluster outside",
    "cluster outside, tables last",
    "snapshots",
)


@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "one stream"])
def test_a_hostile_qcow2_leaves_no_trace(
    bench: Bench,
    images: dict[str, tuple[bytes, bytes]],
    what: str,
    ranges: bool,
    tmp_path: Path,
) -> None:
    """I01-I10 as a file, as a raw file and on a device: refused, and nothing is left."""
    file, code = hostile(images["plain"][0])[what]
    url = bench.url(file, *([] if ranges else [NO_RANGES]))
    for words in ((), ("--target-format", "raw")):
        done = bench.get(bench.pool / "disk", url, *words)
        assert done.code == code, (words, done)
        assert bench.left_behind() == []
    with loop_device(tmp_path, size=16 * MIB) as device:
        device.fill(PATTERN)
        done = bench.get(device.path, url)
        assert done.code == code, done
        # Its tables are checked before the first write: the device is as it was.
        assert device.read().count(PATTERN) == 16 * MIB


@pytest.mark.parametrize("kind", PACK)
@pytest.mark.parametrize("what", ["backing file", "cluster outside", "encrypted"])
def test_compression_hides_no_hostile_qcow2(
    bench: Bench,
    images: dict[str, tuple[bytes, bytes]],
    device: LoopDevice,
    kind: str,
    what: str,
) -> None:
    """The same verdicts under a layer; nothing that was refused is on the device."""
    file, code = hostile(images["plain"][0])[what]
    done = bench.get(device.path, bench.url(PACK[kind](file), name=f"i.{kind}"))
    assert done.code == code, done
    got = device.read()
    if what == "cluster outside":  # where the file ends is known at its end alone
        assert not any(got[:MIB])
    else:
        assert got[MIB:-MIB].count(PATTERN) == len(got) - 2 * MIB


def test_luks_is_refused(bench: Bench, tmp_path: Path) -> None:
    """I11: encrypted bytes are no template, whatever they are called."""
    file = b"LUKS\xba\xbe\x00\x01" + pseudo_random(9, MIB)
    for words in ((), ("--source-format", "raw"), ("--target-format", "raw")):
        done = bench.get(bench.pool / "disk", bench.url(file, name="x.raw"), *words)
        assert done.code == 24, (words, done)
        assert bench.left_behind() == []


def test_a_qcow2_declared_raw_is_refused(
    bench: Bench, images: dict[str, tuple[bytes, bytes]], device: LoopDevice
) -> None:
    """I12: the guest would choose what the host opens."""
    url = bench.url(images["plain"][0], name="innocent.raw")
    for target in (bench.pool / "disk", device.path):
        done = bench.get(target, url, "--source-format", "raw")
        assert done.code == 24, done
    assert bench.left_behind() == []
    assert device.read().count(PATTERN) == DEVICE


# --- what could be left over ------------------------------------------------------------


def test_a_window_smaller_than_what_lies_behind_the_tables(bench: Bench, tmp_path: Path) -> None:
    """Without ranges, tables 10 MiB into the file: nothing comes twice, nothing waits for ever."""
    raw, path = tmp_path / "raw", tmp_path / "wide.qcow2"
    raw.write_bytes(pseudo_random(17, 32 * MIB))
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-o", "cluster_size=2M", raw, path)
    file = path.read_bytes()
    before = bench.origin.sent
    target = bench.pool / "disk.raw"
    words = ("--target-format", "raw", "--window", "16M", "--checksum", f"sha-256:{sha256(file)}")
    done = bench.get(target, bench.url(file, NO_RANGES), *words)
    assert done.code == 0, done
    same(target.read_bytes(), raw.read_bytes())
    assert bench.origin.sent - before == len(file)


def test_a_connection_cut_inside_the_tables_is_taken_up(
    bench: Bench, images: dict[str, tuple[bytes, bytes]]
) -> None:
    """H16 while the map is read: the next request goes on, with ranges and without."""
    file, disk = images["2 MiB clusters"]
    for rule in (
        Rule(when=When(last_nth=2), body_cut=100 * KIB),
        Rule(when=When(last_nth=1), ignore_range=True, body_cut=9 * MIB),
    ):
        rules = [rule, *([NO_RANGES] if rule.ignore_range else [])]
        target = bench.pool / "disk.raw"
        words = ("--target-format", "raw", "--checksum", f"sha-256:{sha256(file)}")
        done = bench.get(target, bench.url(file, *rules), *words)
        assert done.code == 0, done
        same(target.read_bytes(), disk)
        target.unlink()


@pytest.mark.parametrize("checked", [False, True], ids=["", "checksum"])
def test_an_image_that_changed_midway_leaves_nothing_of_its_former_version(
    bench: Bench, tmp_path: Path, checked: bool
) -> None:
    """The restart writes into a file that holds the first try: its holes must be zero again."""
    first = tmp_path / "first.qcow2"
    second = tmp_path / "second.qcow2"
    size = 24 * MIB
    build(first, Recipe(size=size, writes=0))
    run("qemu-io", "-f", "qcow2", "-c", f"write -P 9 0 {size}", first)
    build(second, Recipe(size=size, writes=0))
    # As large as the first one, so that only the validator tells them apart.
    run("qemu-io", "-f", "qcow2", "-c", f"write -P 5 {size // 2} {size // 2}", second)
    one, two, disk = first.read_bytes(), second.read_bytes(), raw_of(second)
    two = two.ljust(len(one), b"\0")
    url = bench.url(one, Rule(when=When(start_min=12 * MIB), version=2))
    path = url.removeprefix(bench.origin.base)
    resource = bench.origin.resources[path]
    resource.versions.append(type(resource.version)(content=two, etag='"v2"'))
    words = ["--checksum", f"sha-256:{sha256(two)}"] if checked else []
    target = bench.pool / "disk.raw"
    done = bench.get(target, url, *words, "--target-format", "raw", "--max-connections", "1")
    assert resource.now == 1, "the origin never changed"
    if done.code == 0:
        same(target.read_bytes(), disk)
    else:
        assert done.code in (13, 21), done
        assert not target.exists()


def test_a_sparse_image_stays_sparse_in_a_file(bench: Bench, tmp_path: Path) -> None:
    """Zeros of the guest are holes of the file, however they were said."""
    path = tmp_path / "sparse.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", path, "512M")
    run(
        "qemu-io",
        "-f",
        "qcow2",
        "-c",
        "write -P 3 1M 1M",
        "-c",
        "write -z 8M 64M",
        "-c",
        "write -P 0 128M 8M",
        path,
    )
    target = bench.pool / "disk.raw"
    done = bench.get(target, bench.url(path.read_bytes()), "--target-format", "raw")
    assert done.code == 0, done
    found = target.stat()
    assert found.st_size == 512 * MIB
    assert found.st_blocks * 512 < 4 * MIB, "zeros were allocated"
    # The same through a decompressor, where the zeros are data.
    target.unlink()
    file = PACK["gz"](bytes(64 * MIB) + b"end" * 1000)
    done = bench.get(target, bench.url(file, name="i.gz"), "--target-format", "raw")
    assert done.code == 0, done
    assert target.stat().st_blocks * 512 < 4 * MIB, "zeros were allocated"


def test_memory_is_the_window_and_the_tables(bench: Bench, tmp_path: Path) -> None:
    """3 GiB of disk, 48 MiB of data: memory knows neither figure."""
    path = tmp_path / "large.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", path, "3G")
    args = []
    for at in range(48):
        args += ["-c", f"write -P {at + 1} {at * 64}M 1M"]
    run("qemu-io", "-f", "qcow2", *args, path)
    file = path.read_bytes()
    tables = 48 * 64 * KIB + MIB
    with loop_device(tmp_path, size=3 * 1024 * MIB) as device:
        done = bench.get(device.path, bench.url(file), "--checksum", f"sha-256:{sha256(file)}")
        assert done.code == 0, done
        for at in range(48):
            assert device.read(MIB, at * 64 * MIB) == bytes([at + 1]) * MIB
            assert not any(device.read(MIB, at * 64 * MIB + MIB))
        assert device.backing.stat().st_blocks * 512 < 256 * MIB, "zeros fill what lies below"
    assert done.max_rss <= 64 * MIB + 8 * 4 * MIB + 24 * MIB + tables
