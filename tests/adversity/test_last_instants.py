# SPDX-License-Identifier: Apache-2.0
"""Killed between the moment in which a target becomes visible and the end of the process.

Each call of that stretch is a point. The same command, run again, always ends with 0, the right
bytes and nothing left behind, whatever signature the image carries and however it lands.
"""

from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.env import seam
from tests.env.command import Outcome, run_fastdl
from tests.env.images import HAVE_QEMU, MIB, NEED_QEMU, run
from tests.env.landing import PACK, Bench, sha256
from tests.env.loopdev import LoopDevice, loop_device
from tests.env.origin import FaultOrigin
from tests.env.signed import MAKERS, TAILED, signed

SIZE = 6 * MIB
POINTS_MAX = 100
STEP = 1 if os.environ.get("FASTDL_FULL_SWEEP") else 5
"""Every fifth point in each run, beginning with another one in each case."""


def _qemu(fmt: str) -> Callable[[bytes, Path], bytes]:
    def make(disk: bytes, folder: Path) -> bytes:
        if not HAVE_QEMU:
            pytest.skip(NEED_QEMU)
        raw, made = folder / "raw", folder / "made"
        raw.write_bytes(disk)
        run("qemu-img", "convert", "-f", "raw", "-O", fmt, raw, made)
        return made.read_bytes()

    return make


WAYS: dict[str, Callable[[bytes, Path], bytes]] = {
    "raw": lambda disk, _folder: disk,
    "gz": lambda disk, _folder: PACK["gz"](disk),
    "qcow2": _qemu("qcow2"),
    "vmdk": _qemu("vmdk"),
}
CASES = [
    *((kind, "raw") for kind in MAKERS),
    *((kind, "gz") for kind in ("gpt", "ext4", *TAILED)),
    *(("gpt", way) for way in ("qcow2", "vmdk")),
]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with FaultOrigin({}) as origin:
        yield Bench(origin, tmp_path)


@pytest.fixture
def device(tmp_path: Path) -> Iterator[LoopDevice]:
    with loop_device(tmp_path, size=SIZE + MIB // 2) as found:
        yield found


def command(bench: Bench, target: str, url: str, *more: str, prefix: list[str]) -> Outcome:
    words = ["get", url, "-o", target, "--json", "--progress", "none", *more]
    return run_fastdl(words, home=bench.home, prefix=prefix, timeout=60)


def points(seed: int) -> range:
    return range(1 + seed % STEP, POINTS_MAX, STEP)


def check_sweep(
    attempt: Callable[[list[str]], Outcome],
    reset: Callable[[], None],
    check: Callable[[], None],
    *,
    after: str,
    seed: int,
    told: bool = False,
) -> int:
    """Kill at each point until the command ends before it; how many.

    *told*: the stretch ends when the result has been printed.
    """
    swept = 0
    for nth in points(seed):
        reset()
        killed = attempt(seam.loaded(nth=nth, after=after))
        if killed.code == 0:
            break
        assert killed.code == -signal.SIGKILL, (nth, killed)
        swept += 1
        if told and killed.stdout.endswith("}\n"):
            break
        done = attempt([])
        assert done.code == 0, (nth, done)
        check()
    return swept


@pytest.mark.parametrize(("kind", "way"), CASES, ids=["-".join(case) for case in CASES])
def test_a_device_is_its_own_commands_whenever_that_was_killed(
    bench: Bench, device: LoopDevice, kind: str, way: str
) -> None:
    """R03: 33 for an image's own signature would make the device useless for its command."""
    disk = signed(kind, SIZE)
    url = bench.url(WAYS[way](disk, bench.folder), name=f"image.{way}")

    def attempt(prefix: list[str]) -> Outcome:
        return command(bench, device.path, url, prefix=prefix)

    def check() -> None:
        assert device.read(SIZE) == disk
        assert bench.left_behind() == []

    swept = check_sweep(
        attempt, lambda: device.fill(0), check, after=".release", seed=CASES.index((kind, way))
    )
    assert swept >= 20 // STEP
    # What is done is told from what is not: nothing is written a second time.
    assert attempt([]).json["already_present"] == (kind in MAKERS)


@pytest.mark.parametrize("nth", [1, 6, 15])
def test_killed_before_its_tail_is_known_it_is_its_own_commands(
    bench: Bench, device: LoopDevice, nth: int
) -> None:
    """R03: nothing holds back the end of what does not tell its size: a signature shows early."""
    disk = signed("linux_raid_member", device.size)
    url = bench.url(PACK["gz"](disk), name="image.gz")
    device.fill(0)
    prefix = seam.loaded(nth=nth, call="pwrite", only=device.path)
    assert command(bench, device.path, url, prefix=prefix).code == -signal.SIGKILL
    done = command(bench, device.path, url, prefix=[])
    assert done.code == 0, done
    assert device.read() == disk


@pytest.mark.parametrize("way", ["raw", "gz", "vmdk"])
@pytest.mark.parametrize("checked", [False, True], ids=["unchecked", "checked"])
def test_a_file_is_its_own_commands_whenever_that_was_killed(
    bench: Bench, way: str, checked: bool
) -> None:
    """R03: killed between the rename and its last tidying up, a run has published: the next one
    says so."""
    disk = signed("gpt", SIZE)
    source = WAYS[way](disk, bench.folder)
    url = bench.url(source, name=f"image.{way}")
    target = bench.pool / "image"
    more = ["--target-format", "raw"]
    if checked:
        more += ["--checksum", f"sha-256:{sha256(source)}"]

    def attempt(prefix: list[str]) -> Outcome:
        return command(bench, str(target), url, *more, prefix=prefix)

    def check() -> None:
        assert target.read_bytes() == disk
        assert bench.left_behind() == ["image"]

    swept = check_sweep(
        attempt,
        lambda: target.unlink(missing_ok=True),
        check,
        after=".fastdl-release",
        seed=checked * 2,
        told=not (checked and way == "raw"),
    )
    assert swept >= 8 // STEP


@pytest.mark.parametrize("more", [(), ("-c",), ("-R",)])
def test_a_file_is_known_until_its_result_is_printed(bench: Bench, more: tuple[str, ...]) -> None:
    """R03: who sees a result knows; who sees none runs the command again, and is told."""
    disk = signed("gpt", SIZE)
    url = bench.url(disk, name="image.raw")
    target = bench.pool / "image"
    prefix = seam.loaded(nth=1, call="write", only="/stdout")
    killed = command(bench, str(target), url, *more, prefix=prefix)
    assert (killed.code, killed.stdout) == (-signal.SIGKILL, "")
    for _ in range(2):
        killed = command(bench, str(target), url, *more, prefix=prefix)
        assert (killed.code, killed.stdout) == (-signal.SIGKILL, "")
    done = command(bench, str(target), url, *more, prefix=[])
    assert (done.code, done.json["already_present"]) == (0, True), done
    assert target.read_bytes() == disk
    assert bench.left_behind() == ["image"]


def test_each_of_many_files_is_known_until_its_line_is_printed(bench: Bench) -> None:
    """R03: as for one."""
    disk = signed("gpt", SIZE)
    urls = [bench.url(disk, name=f"{name}.raw") for name in "ab"]
    words = ["get", "-Z", *urls, "-d", str(bench.pool), "--json", "--progress", "none", "-j", "1"]
    for nth in (1, 1, 2):  # a line is one call
        prefix = seam.loaded(nth=nth, call="write", only="/stdout")
        killed = run_fastdl(words, home=bench.home, prefix=prefix, timeout=60)
        assert killed.code == -signal.SIGKILL
    done = run_fastdl(words, home=bench.home, timeout=60)
    first, second = map(json.loads, done.stdout.splitlines())
    assert first["error"]["class"] == "SINK_REFUSED"  # its line was there
    assert second["already_present"]
    assert bench.left_behind() == ["a.raw", "b.raw"]


def test_a_name_that_could_not_be_flushed_is_flushed_by_the_next_run(bench: Bench) -> None:
    """S01: 31 says so, and that the same command flushes it."""
    disk = signed("gpt", SIZE)
    url = bench.url(disk, name="image.raw")
    target = bench.pool / "image"
    log = bench.folder / "calls"
    assert command(bench, str(target), url, prefix=seam.loaded(log=log)).code == 0
    names = [call.name for call in seam.calls(log)]
    named = names[: names.index("rename")].count("fsync") + 1
    target.unlink()
    prefix = seam.loaded(nth=named, call="fsync", do=str(errno.EIO))
    failed = command(bench, str(target), url, prefix=prefix)
    assert failed.code == 31, failed
    done = command(bench, str(target), url, prefix=[])
    assert (done.code, done.json["already_present"]) == (0, True), done
    assert bench.left_behind() == ["image"]


def killed_when_released(bench: Bench, device: LoopDevice, url: str) -> None:
    prefix = seam.loaded(nth=1, call="exit")
    assert command(bench, device.path, url, prefix=prefix).code == -signal.SIGKILL


def test_another_job_is_refused_what_a_killed_one_left(bench: Bench, device: LoopDevice) -> None:
    """S07: the permission is this job's alone."""
    killed_when_released(bench, device, bench.url(signed("gpt", SIZE), name="a.raw"))
    before = device.read()
    other = command(bench, device.path, bench.url(signed("dos", SIZE), name="b.raw"), prefix=[])
    assert (other.code, other.classes) == (33, ["SINK_REFUSED"]), other
    assert device.read() == before


@pytest.mark.parametrize("at", [4096, SIZE - 512, SIZE + MIB // 4])
def test_a_device_that_was_written_to_since_is_refused(
    bench: Bench, device: LoopDevice, at: int
) -> None:
    """S07: who uses what a killed run left has it for good: at its ends, or behind the image."""
    url = bench.url(signed("gpt", SIZE), name="a.raw")
    killed_when_released(bench, device, url)
    device.fill(0xAB, 512, at)
    before = device.read()
    again = command(bench, device.path, url, prefix=[])
    if at < SIZE:
        assert (again.code, again.classes) == (33, ["SINK_REFUSED"]), again
    assert device.read() == before


def test_a_body_that_was_written_to_since_is_refused_where_a_digest_tells(
    bench: Bench, device: LoopDevice
) -> None:
    """The whole is read again before the command says that it is there."""
    disk = signed("gpt", SIZE)
    url = bench.url(disk, name="a.raw")
    more = ("--checksum", f"sha-256:{sha256(disk)}")
    prefix = seam.loaded(nth=1, call="exit")
    assert command(bench, device.path, url, *more, prefix=prefix).code == -signal.SIGKILL
    done = command(bench, device.path, url, *more, prefix=[])
    assert done.code == 0, done
    assert done.json["already_present"]
    device.fill(0xAB, 512, 3 * MIB)
    again = command(bench, device.path, url, *more, prefix=[])
    assert (again.code, again.classes) == (33, ["SINK_REFUSED"]), again


def test_a_published_file_that_changed_since_is_not_said_to_be_there(bench: Bench) -> None:
    """A guest may have written to it: without a checksum nothing says what it should be."""
    url = bench.url(signed("gpt", SIZE), name="a.raw")
    target = bench.pool / "image"
    prefix = seam.loaded(nth=1, call="unlink", only=".fastdl-")
    assert command(bench, str(target), url, prefix=prefix).code == -signal.SIGKILL
    with target.open("r+b") as file:
        file.write(b"a guest")
    again = command(bench, str(target), url, prefix=[])
    assert (again.code, again.classes) == (33, ["SINK_REFUSED"]), again
