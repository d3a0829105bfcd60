# SPDX-License-Identifier: Apache-2.0
"""How does a test get a real block device? A loop device over a sparse temporary file."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

_ATTACH_TRIES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopDevice:
    """An attached device: its name, and the file that holds its bytes."""

    path: str
    backing: Path
    size: int
    sector_size: int

    def read(self, length: int | None = None, offset: int = 0) -> bytes:
        """Bytes of the device, past the page cache of whoever wrote last."""
        fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            return _read_all(fd, self.size - offset if length is None else length, offset)
        finally:
            os.close(fd)

    def fill(self, byte: int, length: int | None = None, offset: int = 0) -> None:
        """Overwrite a range (default: all) with *byte*, durably: a former tenant's data."""
        end = self.size if length is None else offset + length
        fd = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            while offset < end:
                offset += os.pwrite(fd, bytes([byte]) * min(1 << 20, end - offset), offset)
            os.fsync(fd)
        finally:
            os.close(fd)


@contextlib.contextmanager
def loop_device(
    folder: Path,
    *,
    size: int,
    sector_size: int = 512,
    direct_io: bool = False,
    read_only: bool = False,
) -> Iterator[LoopDevice]:
    """Attach a device of *size* zero bytes; detached at the end, and that device alone.

    Skips the test without root, losetup or loop devices.
    """
    words = [f"--sector-size={sector_size}", f"--direct-io={'on' if direct_io else 'off'}"]
    words += ["--read-only"] * read_only
    backing = folder / f"loop-{sector_size}-{time.monotonic_ns()}.img"
    with backing.open("wb") as file:
        file.truncate(size)
    with attached(backing, *words) as path:
        yield LoopDevice(path=path, backing=backing, size=size, sector_size=sector_size)
    backing.unlink()


@contextlib.contextmanager
def attached(backing: Path, *options: str) -> Iterator[str]:
    """A device over the file *backing*, with losetup's *options*: its name.

    Detached at the end, and that device alone. Skips the test without root, losetup or loop
    devices.
    """
    if os.geteuid() != 0:
        pytest.skip("loop devices need root")
    if not shutil.which("losetup") or not os.path.exists("/dev/loop-control"):
        pytest.skip("no loop devices here")
    path = _attach([*options, str(backing)])
    try:
        yield path
    finally:
        # Without --find and by the exact name: others use loop devices at the same time.
        subprocess.run(["losetup", "--detach", path], check=True, timeout=30)


def _attach(words: list[str]) -> str:
    """losetup finds a free device and may lose it to another process before it is attached."""
    for attempt in range(1, _ATTACH_TRIES + 1):
        done = subprocess.run(
            ["losetup", "--find", "--show", *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        if done.returncode == 0:
            return done.stdout.strip()
        if "busy" not in done.stderr.lower() or attempt == _ATTACH_TRIES:
            break
    pytest.skip(f"losetup failed: {done.stderr.strip()}")


def _read_all(fd: int, length: int, offset: int) -> bytes:
    parts = []
    while length and (part := os.pread(fd, min(length, 1 << 20), offset)):
        parts.append(part)
        offset += len(part)
        length -= len(part)
    return b"".join(parts)
