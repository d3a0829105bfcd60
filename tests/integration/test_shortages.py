# SPDX-License-Identifier: Apache-2.0
"""What a machine ran out of, and a state folder that is none, have a class and a sentence."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastdl.engine.staging import SUFFIX
from tests.env import seam
from tests.env.command import run_fastdl
from tests.env.faults import Rule
from tests.env.images import HAVE_QEMU, MIB, NEED_QEMU, run
from tests.env.landing import PACK, Bench
from tests.env.loopdev import LoopDevice, loop_device
from tests.env.origin import FaultOrigin, pseudo_random

DISK = pseudo_random(52, 4 * MIB)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with FaultOrigin({}) as origin:
        yield Bench(origin, tmp_path)


@pytest.fixture
def device(tmp_path: Path) -> Iterator[LoopDevice]:
    with loop_device(tmp_path, size=len(DISK) + MIB) as found:
        yield found


@pytest.mark.parametrize("nth", [1, 2, 4])
@pytest.mark.parametrize("packed", [False, True], ids=["raw", "gz"])
@pytest.mark.parametrize(
    ("call", "number", "only"),
    [
        ("thread", errno.EAGAIN, None),
        ("open", errno.EMFILE, ".image."),
        ("open", errno.ENFILE, ".image."),
        ("open", errno.ENOMEM, ".image."),
    ],
)
def test_a_shortage_is_a_limit(
    bench: Bench, call: str, number: int, only: str | None, nth: int, packed: bool
) -> None:
    """Somebody raises a limit: it is no bug, and nothing shows. 0 where it could do without."""
    url = bench.url(PACK["gz"](DISK) if packed else DISK)
    target = bench.pool / "image"
    prefix = seam.loaded(nth=nth, call=call, do=str(number), only=only, ever=True)
    words = ["get", url, "-o", str(target), "--target-format", "raw", "--json"]
    done = run_fastdl(words, home=bench.home, prefix=prefix, timeout=60)
    assert (done.code, done.classes) in ((0, []), (25, ["LIMIT"])), done
    assert target.exists() == (done.code == 0)
    assert nth > 1 or done.code == 25


@pytest.mark.parametrize("state", ["absent", "read-only"])
@pytest.mark.parametrize("kind", ["raw", "gz", "vmdk"])
def test_a_state_folder_that_is_none_is_a_warning_or_the_storages_refusal(
    bench: Bench, device: LoopDevice, state: str, kind: str
) -> None:
    """What only makes a resume possible is done without; what has to be staged is refused."""
    if kind == "vmdk":
        if not HAVE_QEMU:
            pytest.skip(NEED_QEMU)
        raw, made = bench.folder / "raw", bench.folder / "made"
        raw.write_bytes(DISK)
        run("qemu-img", "convert", "-f", "raw", "-O", "vmdk", raw, made)
        file = made.read_bytes()
    else:
        file = PACK["gz"](DISK) if kind == "gz" else DISK
    slow = [Rule(rate=15_000_000)] if kind == "gz" else []  # a faster one is not kept anyway
    words = ["get", bench.url(file, *slow), "-o", device.path, "--json"]
    prefix = ["env", "XDG_STATE_HOME=/proc/absent"]
    if state == "read-only":
        prefix = seam.loaded(nth=1, call="mkdir", do=str(errno.EROFS), ever=True)
    done = run_fastdl(words, home=bench.home, prefix=prefix, timeout=60)
    assert [p for p in bench.home.rglob("*") if SUFFIX in p.name] == []
    if kind == "vmdk":
        assert (done.code, done.classes) == (33, ["SINK_REFUSED"]), done
        assert not any(device.read())
        return
    assert done.code == 0, done
    assert device.read(len(DISK)) == DISK
    assert any("cannot be resumed" in text for text in done.json["warnings"])
