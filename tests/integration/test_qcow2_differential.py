# SPDX-License-Identifier: Apache-2.0
"""Do our landers put the same bytes on a target as ``qemu-img convert``, or refuse?

The driver (tests/c/land_file.c, under sanitizers) feeds files through the landers as the
engine would. Targets are filled with a pattern first, and what lies behind the virtual
size must survive. FASTDL_DIFFERENTIAL_SCALE multiplies the number of images.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import random
import subprocess
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.env.images import (
    HAVE_QEMU,
    KIB,
    MIB,
    NEED_QEMU,
    Recipe,
    build,
    fill_raw,
    mutations,
    random_recipe,
    run,
    to_raw,
)
from tests.env.shared_clusters import Layout, packed, shared_image

ROOT = Path(__file__).resolve().parents[2]
SCALE = int(os.environ.get("FASTDL_DIFFERENTIAL_SCALE", "1"))
PATTERN = b"\xee"
BEHIND = b"what lies behind the image stays"
BLOCKS = (4096, 16384, 65536, MIB)
PARTS = (
    "base/buf",
    "base/err",
    "base/landed",
    "base/sum*",
    "base/zero",
    "decode/*",
    "sink/sink",
    "sink/sink_fd",
    "sink/sink_null",
    "sink/sink_write",
)

pytestmark = pytest.mark.skipif(not HAVE_QEMU, reason=NEED_QEMU)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the driver said about one file."""

    code: int
    size: int
    what: str


class Driver:
    """One running land_file: a crash or a sanitizer's report ends it and fails the test."""

    def __init__(self, program: Path) -> None:
        self._process = subprocess.Popen(
            [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, command: str) -> Answer:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the driver died of: {command}"
        code, size, what = line.rstrip("\n").split(" ", 2)
        return Answer(int(code), int(size), what)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(timeout=30) == 0


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The driver, built once with AddressSanitizer and UBSan."""
    folder = tmp_path_factory.mktemp("land_file")
    csrc = ROOT / "csrc"
    sources = [
        str(path.relative_to(csrc)) for part in PARTS for path in sorted(csrc.glob(f"{part}.c"))
    ]
    subprocess.run(
        [
            "make",
            "-s",
            "-C",
            csrc,
            f"BUILD={folder}",
            "VARIANT=asan",
            f"SOURCES={' '.join(sources)}",
        ],
        check=True,
        capture_output=True,
        timeout=300,
    )
    out = folder / "land_file"
    subprocess.run(
        [
            "cc",
            "-std=gnu11",
            "-D_GNU_SOURCE",
            "-g",
            "-O1",
            "-fsanitize=address,undefined",
            "-fno-sanitize-recover=all",
            f"-I{csrc}",
            ROOT / "tests/c/land_file.c",
            folder / "asan/libfdl.a",
            "-lz",
            "-ldeflate",
            "-lzstd",
            "-llzma",
            "-lbz2",
            "-lpthread",
            "-o",
            out,
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )
    return out


@pytest.fixture
def driver(program: Path) -> Iterator[Driver]:
    running = Driver(program)
    yield running
    running.close()


def land(driver: Driver, image: Path, want: bytes | None, flags: str, block: int) -> Answer:
    """Land *image* on a patterned target; where it is accepted, compare with *want*."""
    target = image.parent / "target"
    size = MIB if want is None else len(want)
    target.write_bytes(PATTERN * size + BEHIND)
    answer = driver.ask(f"qcow2 {image} {target} {block} {flags}")
    if answer.code == 0:
        assert want is not None, "accepted what qemu-img refuses"
        assert answer.size == len(want)
        assert target.read_bytes() == want + BEHIND
    return answer


def oracle(image: Path) -> bytes | None:
    """The bytes that qemu-img makes of *image*, None where it refuses."""
    raw = image.parent / "oracle"
    return raw.read_bytes() if to_raw(image, raw) else None


NAMED = {
    "512-byte clusters": Recipe(size=100 * KIB, cluster_size=512, writes=40, seed=1),
    "2 MiB clusters": Recipe(size=11 * MIB, cluster_size=2 * MIB, writes=10, seed=2),
    "2 MiB clusters, zstd": Recipe(
        size=9 * MIB + 512, cluster_size=2 * MIB, compressed=True, compression="zstd", seed=3
    ),
    "version 2, zlib": Recipe(size=3 * MIB + 512, compat="0.10", compressed=True, seed=4),
    "extended L2": Recipe(size=5 * MIB + 512, extended_l2=True, writes=40, seed=5),
    "extended L2, 16 KiB": Recipe(
        size=2 * MIB, cluster_size=16 * KIB, extended_l2=True, writes=40, seed=6
    ),
    "extended L2, zstd": Recipe(
        size=4 * MIB, extended_l2=True, compressed=True, compression="zstd", seed=7
    ),
    "preallocated": Recipe(size=2 * MIB + 512, preallocation="metadata", writes=4, seed=8),
    "empty, one sector": Recipe(size=512, writes=0),
    "empty, 1 TiB": Recipe(size=2**40, writes=0),
}


@pytest.mark.parametrize("flags", ["-", "d", "s", "t", "u", "udt", "o", "od"])
@pytest.mark.parametrize("name", [n for n in NAMED if "TiB" not in n])
def test_each_kind_of_image_lands_as_qemu_img_converts_it(
    driver: Driver, tmp_path: Path, name: str, flags: str
) -> None:
    """Every option of the format, with tables and data fed in every way we have."""
    image = build(tmp_path / "image", NAMED[name])
    want = oracle(image)
    assert want is not None
    for block in BLOCKS:
        assert land(driver, image, want, flags, block).code == 0


def test_random_images_land_as_qemu_img_converts_them(driver: Driver, tmp_path: Path) -> None:
    """Random options and random guest writes find what nobody thought of."""
    rng = random.Random(20)
    compared = 0
    for _ in range(25 * SCALE):
        recipe = random_recipe(rng)
        image = build(tmp_path / "image", recipe)
        want = oracle(image)
        if want is not None:  # qemu-io can break a version 2 image on its own
            for flags in ("-", "ud", "so"):
                answer = land(driver, image, want, flags, rng.choice(BLOCKS))
                assert answer.code == 0, (recipe, answer)
            compared += 1
        image.unlink()
    assert compared > 20 * SCALE


def test_mutated_images_are_refused_or_land_as_qemu_img_converts_them(
    driver: Driver, tmp_path: Path
) -> None:
    """A lie in a header or a table is never accepted with other bytes than qemu-img gives."""
    rng = random.Random(21)
    verdicts = {0: 0, -23: 0, -24: 0, -25: 0}
    for _ in range(10 * SCALE):
        data = build(tmp_path / "image", random_recipe(rng)).read_bytes()
        (tmp_path / "image").unlink()
        if len(data) > 3 * MIB:
            continue
        for mutant in mutations(data, 20, rng.randrange(2**31)):
            image = tmp_path / "mutant"
            image.write_bytes(mutant)
            answer = land(driver, image, oracle(image), rng.choice(["-", "d"]), 65536)
            assert answer.code in verdicts, answer
            verdicts[answer.code] += 1
    assert verdicts[-23] > 0
    assert verdicts[0] > 0


SHARED = {
    "the second ends before the block does": [(-60_000, 256), (-59_000, 1)],
    "the second ends with the block": [(-60_000, 256), (-512, 1)],
    "the second ends in the next block": [(-60_000, 256), (-1000, 200)],
    "the second straddles while the first waits": [(-60_000, 256), (-500, 3)],
    "many are the same": [(-60_000, 256)] * 3 + [(-60_000, 2)] * 3,
    "the first of many ends last": [(-60_000, 256), *((-59_000 + 900 * n, 2) for n in range(12))],
    "one begins at the block": [(-30_000, 256), (0, 1), (700, 90)],
    "two wait for three blocks": [(-1000, 256), (-100, 256), (2048, 1), (65_024, 1)],
}


@pytest.mark.parametrize("name", SHARED)
def test_clusters_that_share_bytes_land_as_qemu_img_converts_them(
    driver: Driver, tmp_path: Path, name: str
) -> None:
    """The sector counts of compressed clusters may overlap in any way, around any block's edge."""
    for edge in (MIB, MIB + 65536):
        layout = Layout(bits=16, guests=len(SHARED[name]))
        for guest, (where, sectors) in enumerate(SHARED[name]):
            layout.put(edge + where, packed(bytes([where % 251 + 1]) * layout.cluster, "zlib"))
            layout.compress(guest, edge + where, sectors)
        layout.grow(edge + 200_000)
        image = tmp_path / "image"
        image.write_bytes(layout.image())
        want = oracle(image)
        assert want is not None
        assert len(set(want[:: layout.cluster])) > 1 or "same" in name
        for block in BLOCKS:
            for flags in ("-", "u", "dst"):
                assert land(driver, image, want, flags, block).code == 0


def ends_with_zeros(cluster: int, compression: str) -> bytes:
    """Content whose compressed form ends with a byte of zeros."""
    for seed in range(10_000):
        plain = random.Random(seed).randbytes(64).ljust(cluster, b"\0")
        if packed(plain, compression).endswith(b"\0"):
            return plain
    raise AssertionError("no stream ends like that")


@pytest.mark.parametrize("compression", ["zlib", "zstd"])
@pytest.mark.parametrize("sectors", [1, 2, 200])
def test_a_file_that_ends_inside_its_last_cluster_goes_on_with_zeros(
    driver: Driver, tmp_path: Path, compression: str, sectors: int
) -> None:
    """Whoever strips a file of its trailing zeros may strip a stream of its last bytes."""
    layout = Layout(bits=16, guests=1, compression=compression)
    stream = packed(ends_with_zeros(layout.cluster, compression), compression)
    layout.put(layout.first_data + 100, stream)
    layout.compress(0, layout.first_data + 100, sectors)
    file = layout.image().rstrip(b"\0")
    assert len(file) < layout.first_data + 100 + len(stream)
    image = tmp_path / "image"
    image.write_bytes(file)
    want = oracle(image)
    assert want is not None
    for block in BLOCKS:
        for flags in ("-", "u", "dst"):
            assert land(driver, image, want, flags, block).code == 0
    image.write_bytes(file[:-40])  # what is no stream any more is refused, or the same disk
    land(driver, image, oracle(image), "-", MIB)


def test_random_clusters_that_share_bytes_land_as_qemu_img_converts_them(
    driver: Driver, tmp_path: Path
) -> None:
    """Clusters that overlap, nest, repeat and surround tables, in all sizes and both codecs."""
    rng = random.Random(22)
    for number in range(60 * SCALE):
        image = tmp_path / "image"
        image.write_bytes(shared_image(rng))
        want = oracle(image)
        assert want is not None, number
        for flags in ("-", "ud", "st"):
            answer = land(driver, image, want, flags, rng.choice(BLOCKS))
            assert answer.code == 0, (number, answer)


def test_bent_entries_of_shared_clusters_are_refused_or_land_as_qemu_img_converts_them(
    driver: Driver, tmp_path: Path
) -> None:
    """What a lie in a table makes of such an image is never other bytes, and never a crash."""
    rng = random.Random(23)
    verdicts = {0: 0, -23: 0, -24: 0, -25: 0}
    for _ in range(15 * SCALE):
        data = shared_image(rng)
        if len(data) > 2 * MIB:
            continue
        for mutant in mutations(data, 12, rng.randrange(2**31)):
            image = tmp_path / "mutant"
            image.write_bytes(mutant)
            answer = land(driver, image, oracle(image), rng.choice(["-", "u"]), rng.choice(BLOCKS))
            assert answer.code in verdicts, answer
            verdicts[answer.code] += 1
    assert min(verdicts[0], verdicts[-23]) > 0


def test_a_data_cluster_of_two_guest_clusters_is_refused(driver: Driver, tmp_path: Path) -> None:
    """Readers take it, checkers call it corrupt, and no tool writes it into a template."""
    layout = Layout(bits=16, guests=2)
    layout.put(8 * layout.cluster, b"x" * layout.cluster)
    for guest in (0, 1):
        layout.plain(guest, 8 * layout.cluster)
    image = tmp_path / "image"
    image.write_bytes(layout.image())
    answer = land(driver, image, None, "-", MIB)
    assert (answer.code, "used twice" in answer.what) == (-23, True)


def test_an_empty_terabyte_costs_no_time(driver: Driver, tmp_path: Path) -> None:
    """A mostly empty image costs what its data costs: a new file stays sparse."""
    image = build(tmp_path / "image", NAMED["empty, 1 TiB"])
    run("qemu-io", "-f", "qcow2", "-c", "write -P 7 500G 64k", image)
    target = tmp_path / "target"
    target.write_bytes(b"")
    os.truncate(target, 2**40)
    assert driver.ask(f"qcow2 {image} {target} {MIB} b").code == 0
    assert target.stat().st_size == 2**40
    assert target.stat().st_blocks * 512 < MIB
    with target.open("rb") as file:
        file.seek(500 * 2**30)
        assert file.read(65537) == b"\7" * 65536 + b"\0"


def test_internal_snapshots_are_refused(driver: Driver, tmp_path: Path) -> None:
    """A template with snapshots holds disk states nobody asked for."""
    image = build(tmp_path / "image", Recipe(size=MIB, seed=9))
    run("qemu-img", "snapshot", "-c", "before", image)
    answer = land(driver, image, None, "-", MIB)
    assert (answer.code, "snapshot" in answer.what) == (-23, True)


@pytest.mark.parametrize("create", ["backing_file", "data_file"])
def test_images_that_refer_to_other_files_are_refused(
    driver: Driver, tmp_path: Path, create: str
) -> None:
    """Whatever the name is, it is never looked at."""
    run("qemu-img", "create", "-q", "-f", "raw", tmp_path / "base", "1M")
    image = tmp_path / "image"
    option = (
        ("-b", tmp_path / "base", "-F", "raw")
        if create == "backing_file"
        else ("-o", f"data_file={tmp_path / 'data'}")
    )
    run("qemu-img", "create", "-q", "-f", "qcow2", *option, image, "1M")
    assert land(driver, image, None, "-", MIB).code == -24


def compress(kind: str, plain: Path) -> Path:
    """*plain* compressed next to it."""
    out = plain.with_suffix(f".{kind}")
    data = plain.read_bytes()
    if kind == "gz":
        out.write_bytes(gzip.compress(data[:100_000]) + gzip.compress(data[100_000:], 1))
    elif kind == "bz2":
        out.write_bytes(bz2.compress(data))
    elif kind == "xz":
        out.write_bytes(lzma.compress(data, preset=1))
    elif kind == "zst":
        run("zstd", "-q", "-f", plain, "-o", out)
    else:
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(plain, "disk.raw")
    return out


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz", "zst", "zip"])
def test_compressed_sources_land_as_their_tools_unpack_them(
    driver: Driver, tmp_path: Path, kind: str
) -> None:
    """The bytes on the target are those that were compressed, however blocks are cut."""
    plain = tmp_path / "disk"
    fill_raw(plain, 3 * MIB + 777, random.Random(5))
    packed = compress(kind, plain)
    for block in BLOCKS:
        target = tmp_path / "target"
        target.write_bytes(b"")
        answer = driver.ask(f"stream {kind} {packed} {target} {block}")
        assert (answer.code, answer.size) == (0, 3 * MIB + 777)
        assert target.read_bytes() == plain.read_bytes()


@pytest.mark.parametrize("kind", ["gz", "xz", "zst", "zip"])
def test_a_compressed_qcow2_lands_where_its_tables_come_first(
    driver: Driver, tmp_path: Path, kind: str
) -> None:
    """Decoded blocks go on to the qcow2 lander, without a file in between."""
    image = build(tmp_path / "image", Recipe(size=6 * MIB + 512, compressed=True, seed=11))
    want = oracle(image)
    assert want is not None
    target = tmp_path / "target"
    target.write_bytes(PATTERN * len(want))
    answer = driver.ask(f"stream {kind} {compress(kind, image)} {target} 65536")
    assert (answer.code, answer.size) == (0, len(want))
    assert target.read_bytes() == want


def test_a_compressed_qcow2_with_tables_behind_its_data_needs_staging(
    driver: Driver, tmp_path: Path
) -> None:
    """What cannot be streamed is said before anything is written."""
    image = build(tmp_path / "image", Recipe(size=600 * MIB, writes=0))
    for at in (0, 550):  # the second L2 table is allocated behind the first data
        run("qemu-io", "-f", "qcow2", "-c", f"write -P 3 {at}M 5M", image)
    target = tmp_path / "target"
    target.write_bytes(PATTERN * 4096)
    answer = driver.ask(f"stream gz {compress('gz', image)} {target} 65536")
    assert answer.code == 1
    assert target.read_bytes() == PATTERN * 4096
