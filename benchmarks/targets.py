# SPDX-License-Identifier: Apache-2.0
"""What is written to? A file, a loop device or nothing; fresh for every run."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.payload import content_digest, data_extents

_LOW_BIT: Final = bytes(value & 1 for value in range(256))  # of a page's flags: it is there


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where a contestant writes. ``backing`` is the file behind a loop device."""

    kind: str
    path: Path
    size: int
    backing: Path | None = None

    @property
    def word(self) -> str:
        """The target as a tool's argument."""
        return "null:" if self.kind == "null" else str(self.path)

    def wipe(self) -> None:
        """Make the target as good as new, and leave no dirty pages at the next run's expense."""
        if self.kind == "file":
            self.path.unlink(missing_ok=True)
        elif self.kind == "block":
            subprocess.run(["blkdiscard", "-f", self.path], check=True, capture_output=True)
        os.sync()

    def flush(self) -> None:
        """Wait until the target's bytes are on the disk: the end of durable time."""
        if self.kind == "null":
            return
        fd = os.open(self.path, os.O_RDONLY)
        try:
            os.fdatasync(fd)
        finally:
            os.close(fd)

    def content(self) -> str:
        """content_digest() of what is on the disk, not in the page cache."""
        for path in (self.path, self.backing):
            if path is not None:
                _drop_cache(path)
        size = self.size if self.kind == "block" else self.path.stat().st_size
        return content_digest(self.path, size, holes_of=self.backing, direct=True)

    def cached_bytes(self) -> int:
        """How much of the target is in the page cache: 0 after direct writes."""
        if self.kind == "null":
            return 0
        with self.path.open("rb") as file, (self.backing or self.path).open("rb") as map_:
            size = file.seek(0, os.SEEK_END)
            pages = sum(
                _resident(file.fileno(), begin, end)
                for begin, end in data_extents(map_.fileno(), size)
            )
        return pages * mmap.PAGESIZE


def _resident(fd: int, begin: int, end: int) -> int:
    """How many pages of [begin, end) of the file are in the page cache (mincore)."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    size = end - begin
    address = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, fd, begin)
    if address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "mmap for mincore")
    try:
        vector = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
        if libc.mincore(address, size, vector) != 0:
            raise OSError(ctypes.get_errno(), "mincore")
        return bytes(vector).translate(_LOW_BIT).count(1)
    finally:
        libc.munmap(address, size)


def _drop_cache(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


@contextlib.contextmanager
def opened(kind: str, folder: Path, size: int, name: str = "target") -> Iterator[Target]:
    """A target of *kind* for an image of *size* bytes; removed at the end.

    A block target is a loop device with direct I/O over a sparse file in *folder*: like a
    thin volume it allocates while it is written, and it does not cache twice.
    """
    path = folder / f"{name}.img"
    if kind != "block":
        target = Target(kind=kind, path=Path("/dev/null") if kind == "null" else path, size=size)
        try:
            yield target
        finally:
            if kind == "file":
                path.unlink(missing_ok=True)
        return
    with path.open("wb") as file:
        file.truncate(size)
    device = ""
    try:
        device = subprocess.run(
            ["losetup", "--find", "--show", "--direct-io=on", path],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        yield Target(kind=kind, path=Path(device), size=size, backing=path)
    finally:
        if device:
            subprocess.run(["losetup", "--detach", device], check=False)
        path.unlink(missing_ok=True)
