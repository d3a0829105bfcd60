# SPDX-License-Identifier: Apache-2.0
"""What happens when the target fails: full, failing, lying about lengths, pulled out?

Faults are injected below the command: by the kernel (tmpfs, loop), by nbdkit's filters under
a loop device, and by strace at the n-th system call. Exit 0 must mean that every byte is there.
"""

from __future__ import annotations

import contextlib
import errno
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import CASE
from tests.env import seam
from tests.env.command import Outcome, run_fastdl, running_fastdl
from tests.env.faults import Rule
from tests.env.images import HAVE_QEMU, MIB, NEED_QEMU, fill_raw, run
from tests.env.landing import PACK, PATTERN, Bench, sha256
from tests.env.loopdev import attached, loop_device
from tests.env.nbd import nbdfuse
from tests.env.origin import pseudo_random
from tests.env.tmpfs import tmpfs

IMAGE = pseudo_random(51, 5 * MIB + 512)
SIZE = 8 * MIB
KINDS = ("raw", "qcow2", "gz")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bytes, bytes]]:
    """Of each kind: the file to download, and the disk it holds."""
    folder = tmp_path_factory.mktemp("sources")
    out = {"raw": (IMAGE, IMAGE), "gz": (PACK["gz"](IMAGE), IMAGE)}
    if HAVE_QEMU:
        raw, path = folder / "raw", folder / "q.qcow2"
        fill_raw(raw, 6 * MIB, random.Random(8))
        run("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", raw, path)
        out["qcow2"] = (path.read_bytes(), raw.read_bytes())
    return out


def source(sources: dict[str, tuple[bytes, bytes]], kind: str) -> tuple[bytes, bytes]:
    if kind not in sources:
        pytest.skip(NEED_QEMU)
    return sources[kind]


# --- strace: the n-th call fails --------------------------------------------------------


def inject(bench: Bench, target: Path | str, words: list[str], what: str) -> Outcome:
    """``fastdl get`` under strace with one injection rule."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    call = what.partition(":")[0]
    prefix = [
        "strace",
        "-f",
        "-qq",
        "-o",
        str(bench.folder / "trace"),
        "-e",
        f"trace={call}",
        "-e",
        f"inject={what}",
    ]
    done = run_fastdl(
        ["get", *words, "-o", str(target), "--json"], home=bench.home, prefix=prefix, timeout=60
    )
    if "ptrace" in done.stderr:
        pytest.skip("strace may not trace here")
    return done


def injected(bench: Bench) -> int:
    """How many calls the last run of :func:`inject` bent."""
    return (bench.folder / "trace").read_text().count("(INJECTED)")


FAILS = [
    ("pwrite64:error=EIO:when={n}", 31),
    ("pwrite64:error=EIO:when={n}+", 31),
    ("pwrite64:error=ENOSPC:when={n}", 30),
    ("pwrite64:error=EDQUOT:when={n}", 30),
    ("pwrite64:error=EFBIG:when={n}", 30),
    ("fdatasync:error=EIO:when={n}", 31),
    ("fsync:error=EIO:when={n}", 31),
    ("fsync:error=ENOSPC:when={n}", 30),
]
FAIL_NAMES = [what.replace(":when={n}", "") for what, _ in FAILS]


@pytest.mark.parametrize(("what", "code"), FAILS, ids=FAIL_NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_failing_call_on_a_device_is_never_success(
    bench: Bench,
    sources: dict[str, tuple[bytes, bytes]],
    kind: str,
    what: str,
    code: int,
    record_property: Callable[[str, object], None],
) -> None:
    """S02: the first, second and fourth write or flush fails, once or from then on."""
    record_property(CASE, "S02")
    file, _ = source(sources, kind)
    url = bench.url(file, name=f"i.{kind}")
    bent = 0
    for n in (1, 2, 4):
        with loop_device(bench.folder, size=SIZE) as device:
            device.fill(PATTERN)
            words = [url, "--no-resume", "--checksum", f"sha-256:{sha256(file)}"]
            done = inject(bench, device.path, words, what.format(n=n))
            if not injected(bench):
                continue
            bent += 1
            # A failure while the head is still zeroed, or in the clean-up of one: same class.
            assert done.code in (code, 31), (n, done)
            assert done.classes in (["SINK_IO"], ["SINK_SPACE"])
            if "+" not in what:
                got = device.read()
                untouched = got.count(PATTERN) == SIZE
                assert untouched or not any(got[:MIB]), (n, "the head looks valid")
    assert bent or what.startswith("fsync"), "nothing was injected: the test proves nothing"


@pytest.mark.parametrize(("what", "code"), FAILS, ids=FAIL_NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_failing_call_on_a_file_publishes_nothing(
    bench: Bench,
    sources: dict[str, tuple[bytes, bytes]],
    kind: str,
    what: str,
    code: int,
    record_property: Callable[[str, object], None],
) -> None:
    """S01, S02, S12 for files: the name stays free, nothing is left beside it."""
    record_property(CASE, "S02")
    file, disk = source(sources, kind)
    url = bench.url(file, name=f"i.{kind}")
    bent = 0
    for n in (1, 3):
        words = [url, "--no-resume", "--target-format", "raw"]
        done = inject(bench, bench.pool / "disk", words, what.format(n=n))
        if not injected(bench):
            for path in bench.pool.iterdir():
                path.unlink()
            continue
        bent += 1
        if done.code == 0:  # the call was none of the target's: a journal's, say
            assert "fsync" in what or "fdatasync" in what, (n, done)
            for path in bench.pool.iterdir():
                path.unlink()
            continue
        assert done.code == code, (n, done)
        if what.startswith("fsync") and bench.left_behind():
            # The folder's flush, after the rename: the name may be lost in a power cut, but
            # what it names is whole.
            assert (bench.pool / "disk").read_bytes() == disk
            (bench.pool / "disk").unlink()
        assert bench.left_behind() == [], n
    assert bent, "nothing was injected: the test proves nothing"


@pytest.mark.parametrize(("number", "code"), [(errno.EIO, 31), (errno.EACCES, 33)])
def test_a_target_that_cannot_be_read_back_is_the_storages_fault(
    bench: Bench, number: int, code: int
) -> None:
    """S02: once it is written, its end is looked at."""
    url = bench.url(IMAGE, name="i.raw")
    prefix = seam.loaded(nth=1, call="pread", do=str(number), only=str(bench.pool), ever=True)
    words = ["get", url, "-o", str(bench.pool / "disk"), "--target-format", "raw", "--json"]
    done = run_fastdl(words, home=bench.home, prefix=prefix, timeout=60)
    assert done.code == code, done


@pytest.mark.parametrize("error", ["EINTR", "EAGAIN"])
@pytest.mark.parametrize("kind", KINDS)
def test_interrupted_writes_are_gone_on_with(
    bench: Bench,
    sources: dict[str, tuple[bytes, bytes]],
    kind: str,
    error: str,
    record_property: Callable[[str, object], None],
) -> None:
    """S03: every other write is interrupted, or told to come again."""
    record_property(CASE, "S03")
    file, disk = source(sources, kind)
    url = bench.url(file, name=f"i.{kind}")
    words = [url, "--target-format", "raw"]
    done = inject(bench, bench.pool / "disk", words, f"pwrite64:error={error}:when=1+2")
    assert done.code == 0, done
    assert injected(bench)
    assert (bench.pool / "disk").read_bytes() == disk


@pytest.mark.parametrize("kind", KINDS)
def test_short_writes_at_a_size_limit_are_errors_not_ends(
    bench: Bench,
    sources: dict[str, tuple[bytes, bytes]],
    kind: str,
    record_property: Callable[[str, object], None],
) -> None:
    """S03, S12: at RLIMIT_FSIZE the kernel writes less than asked, then says EFBIG."""
    record_property(CASE, "S12")
    if shutil.which("prlimit") is None:
        pytest.skip("prlimit is not installed")
    file, _ = source(sources, kind)
    done = run_fastdl(
        [
            "get",
            bench.url(file, name=f"i.{kind}"),
            "-o",
            str(bench.pool / "disk"),
            "--target-format",
            "raw",
        ],
        home=bench.home,
        prefix=["prlimit", f"--fsize={2 * MIB + 1000}"],
    )
    assert done.code == 30, done
    assert bench.left_behind() == []


# --- the kernel: no space ---------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_disk_ends_with_30(
    bench: Bench,
    sources: dict[str, tuple[bytes, bytes]],
    kind: str,
    record_property: Callable[[str, object], None],
) -> None:
    """S01: at the start where the size is known, at byte k where it is not."""
    record_property(CASE, "S01")
    file, _ = source(sources, kind)
    url = bench.url(file, name=f"i.{kind}")
    with tmpfs(bench.pool, "2m"):
        done = bench.get(bench.pool / "disk", url, "--target-format", "raw")
        assert (done.code, done.classes) == (30, ["SINK_SPACE"]), done
        assert list(bench.pool.iterdir()) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_thin_device_without_space_below_fails(
    bench: Bench,
    sources: dict[str, tuple[bytes, bytes]],
    kind: str,
    record_property: Callable[[str, object], None],
) -> None:
    """S02: the device says 8 MiB, the file system below it has 3: errors come late."""
    record_property(CASE, "S02")
    file, _ = source(sources, kind)
    with tmpfs(bench.pool, "3m"), loop_device(bench.pool, size=SIZE) as device:
        done = bench.get(device.path, bench.url(file, name=f"i.{kind}"))
        assert done.code in (30, 31), done
        assert not any(device.read(MIB))


# --- nbdkit under a loop device ---------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FaultyDisk:
    """A loop device over nbdkit: touch ``trigger`` and its writes fail."""

    path: str
    trigger: Path
    process: subprocess.Popen[bytes]


@contextlib.contextmanager
def faulty_disk(folder: Path) -> Iterator[FaultyDisk]:
    """8 MiB of memory behind nbdkit with error-pwrite on a trigger file."""
    trigger = folder / "trigger"
    command = [
        "nbdkit",
        "-s",
        "--exit-with-parent",
        "--filter=error",
        "memory",
        str(SIZE),
        "error-pwrite=EIO",
        "error-pwrite-rate=100%",
        f"error-file={trigger}",
    ]
    with (
        nbdfuse(folder, command) as (disk, process),
        attached(disk, "--direct-io=on") as node,
    ):
        yield FaultyDisk(node, trigger, process)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", ["errors", "vanishes"])
def test_a_device_that_dies_midway_ends_with_31(
    bench: Bench,
    sources: dict[str, tuple[bytes, bytes]],
    kind: str,
    fault: str,
    record_property: Callable[[str, object], None],
) -> None:
    """S02, S06: from some byte on each write fails with EIO, or the whole device is gone."""
    record_property(CASE, "S06" if fault == "vanishes" else "S02")
    file, _ = source(sources, kind)
    # Slow enough that the fault comes while bytes are on their way.
    url = bench.url(file, Rule(rate=2 * MIB), name=f"i.{kind}")
    with faulty_disk(bench.folder) as disk:
        before = bench.origin.sent
        words = ["get", url, "-o", disk.path, "--max-connections", "1"]
        with running_fastdl(words, home=bench.home) as running:
            bench.origin.wait_for(lambda: bench.origin.sent - before > len(file) // 2)
            if fault == "errors":
                disk.trigger.touch()
            else:
                disk.process.kill()
            done = running.finish(timeout=60)
        assert (done.code, done.classes) == (31, ["SINK_IO"]), done
        if fault == "errors":
            disk.trigger.unlink()
            with open(disk.path, "rb") as device:
                assert not any(device.read(MIB))
