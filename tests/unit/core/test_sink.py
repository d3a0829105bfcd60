# SPDX-License-Identifier: Apache-2.0
"""Does the sink's owner write what it is given, and refuse what it must?"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fastdl.core.sink import Sink
from fastdl.errors import SinkIOError, SizeError


def test_bytes_land_at_their_offsets_and_zeros_are_zeros(tmp_path: Path) -> None:
    """The two things that a sink is for."""
    fd = os.open(tmp_path / "x", os.O_RDWR | os.O_CREAT)
    sink = Sink(fd, fd, align=1, size=100_000, hold=0, blank=False)
    sink.begin()
    sink.pwrite(b"\xff" * 100_000, 0)
    sink.pwrite(bytearray(b"abc"), 99_997)
    sink.zero(10, 5000)
    sink.pwrite(b"", 100_000)
    sink.flush()
    sink.release()
    got = os.pread(fd, 200_000, 0)
    assert got == b"\xff" * 10 + bytes(5000) + b"\xff" * (99_997 - 5010) + b"abc"
    assert sink.stats()[0] >= 100_003
    sink.close()
    with pytest.raises(ValueError, match="closed"):
        sink.flush()
    os.close(fd)


def test_nothing_lands_behind_the_end(tmp_path: Path) -> None:
    """An image larger than it should be must not reach what lies behind it."""
    fd = os.open(tmp_path / "x", os.O_RDWR | os.O_CREAT)
    sink = Sink(fd, fd, align=1, size=10, hold=0, blank=True)
    for data, offset in ((b"12345678901", 0), (b"x", 10), (b"xx", 2**64 - 1)):
        with pytest.raises(SizeError):
            sink.pwrite(data, offset)
    assert os.fstat(fd).st_size == 0
    os.close(fd)


def test_the_kernels_refusal_is_told_with_its_name(tmp_path: Path) -> None:
    """The operator needs the errno, not only that it failed."""
    (tmp_path / "x").write_bytes(b"")
    fd = os.open(tmp_path / "x", os.O_RDONLY)
    sink = Sink(fd, fd, align=1, size=10, hold=0, blank=True)
    with pytest.raises(SinkIOError, match="EBADF"):
        sink.pwrite(b"x", 0)
    os.close(fd)


def test_the_null_sink_takes_everything() -> None:
    """Benchmarks need a target that costs nothing."""
    sink = Sink(-1, -1, align=1, size=None, hold=0, blank=True)
    sink.begin()
    sink.pwrite(b"x" * 1000, 2**40)
    sink.flush()
    sink.release()
