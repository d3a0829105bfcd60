# SPDX-License-Identifier: Apache-2.0
"""Once a target is published, does anything still make a failure of it?

What fails then is tidying up: a descriptor that cannot be closed, a file that cannot be removed.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastdl.engine.staging import SUFFIX
from tests.env import seam
from tests.env.command import Outcome, run_fastdl
from tests.env.faults import Rule
from tests.env.images import MIB
from tests.env.landing import PACK, Bench
from tests.env.loopdev import LoopDevice, loop_device
from tests.env.origin import FaultOrigin, pseudo_random

DISK = pseudo_random(51, 4 * MIB)
PACKED = PACK["gz"](DISK)
CLOSES = (errno.EINTR, errno.EIO)
RATE = 15_000_000
"""Bytes a second: a source that is much faster is not kept while it is unpacked."""


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with FaultOrigin({}) as origin:
        yield Bench(origin, tmp_path)


@pytest.fixture
def device(tmp_path: Path) -> Iterator[LoopDevice]:
    with loop_device(tmp_path, size=len(DISK) + MIB) as found:
        yield found


def get(bench: Bench, target: str, *, packed: bool, **fault: object) -> Outcome:
    slow = [Rule(rate=RATE)] if packed else []
    url = bench.url(PACKED if packed else DISK, *slow, name="image")
    words = ["get", url, "-o", target, "--target-format", "raw", "--json"]
    prefix = seam.loaded(nth=1, **fault) if fault else []
    return run_fastdl(words, home=bench.home, prefix=prefix, timeout=60)


@pytest.mark.parametrize(
    ("about", "packed"),
    [("journal", False), ("/pool/image", False), ("/pool", True), (".fastdl-release", False),
     (SUFFIX, True)],
)  # fmt: skip
@pytest.mark.parametrize("number", CLOSES)
def test_a_file_that_is_published_stays_a_success(
    bench: Bench, about: str, number: int, packed: bool
) -> None:
    """The kernel frees a descriptor in any case, and all that counts was flushed before."""
    target = bench.pool / "image"
    done = get(
        bench, str(target), packed=packed, call="close", do=str(errno.EINTR), only=about, ever=True
    )
    assert done.code == 0, done
    assert target.read_bytes() == DISK
    assert [name for name in bench.left_behind() if SUFFIX not in name] == ["image"]


@pytest.mark.parametrize("about", ["journal", "/dev/loop", ".release", SUFFIX])
def test_a_device_that_is_released_stays_a_success(
    bench: Bench, device: LoopDevice, about: str
) -> None:
    """The same for a device, whose note and kept source are in the state folder."""
    done = get(
        bench, device.path, packed=True, call="close", do=str(errno.EINTR), only=about, ever=True
    )
    assert done.code == 0, done
    assert device.read(len(DISK)) == DISK


@pytest.mark.parametrize("call", ["open", "unlink", "rmdir"])
def test_a_folder_that_resists_once_is_removed(bench: Bench, call: str) -> None:
    """What a source was kept in does not outlive its target."""
    target = bench.pool / "image"
    done = get(
        bench, str(target), packed=True, call=call, do=str(errno.EIO), only="staging",
        after=".fastdl-release",
    )  # fmt: skip
    assert done.code == 0, done
    assert target.read_bytes() == DISK
    assert bench.left_behind() == ["image"]


def test_a_folder_that_resists_is_no_failure_and_goes_when_it_is_old(bench: Bench) -> None:
    """Whoever stages next to it a day later removes it."""
    target = bench.pool / "image"
    done = get(
        bench, str(target), packed=True, call="open", do=str(errno.EMFILE), only=SUFFIX,
        after=".fastdl-release", ever=True,
    )  # fmt: skip
    assert done.code == 0, done
    (left,) = bench.pool.glob(f".*{SUFFIX}")
    os.utime(left, (1, 1))
    assert get(bench, str(bench.pool / "other"), packed=True).code == 0
    assert bench.left_behind() == ["image", "other"]
