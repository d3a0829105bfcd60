# SPDX-License-Identifier: Apache-2.0
"""What can this machine do at best? The floors of every scenario, measured in the same run."""

from __future__ import annotations

import hashlib
import mmap
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from benchmarks.scenarios import MiB
from benchmarks.targets import Target

_WRITERS: Final = 4
_HASHED: Final = 256 * MiB


def measure(target: Target, size: int, *, hashed: bool) -> dict[str, float]:
    """Minimum seconds for *size* bytes: to hash on one core if asked, to write durably."""
    found = {"hash_s": round(size / hash_rate("sha256"), 4)} if hashed else {}
    if target.kind != "null":
        found["write_s"] = round(_write_s(target, min(size, target.size)), 4)
    return found


def hash_rate(algorithm: str) -> float:
    """Bytes/s of one core over a buffer larger than its caches, the best of three."""
    block = memoryview(os.urandom(16 * MiB))
    best = 0.0
    for _ in range(3):
        digest = hashlib.new(algorithm)
        begin = time.perf_counter()
        for _ in range(_HASHED // len(block)):
            digest.update(block)
        best = max(best, _HASHED / (time.perf_counter() - begin))
    return best


def _write_s(target: Target, size: int) -> float:
    """The best of two durable direct writes of *size* bytes in MiB blocks from four threads."""
    best = float("inf")
    with mmap.mmap(-1, MiB) as block:
        block.write(os.urandom(MiB))
        for _ in range(2):
            target.wipe()
            begin = time.perf_counter()
            _write_all(target, size, block)
            best = min(best, time.perf_counter() - begin)
    target.wipe()
    return best


def _write_all(target: Target, size: int, block: mmap.mmap) -> None:
    flags = os.O_WRONLY | os.O_DIRECT | (os.O_CREAT if target.kind == "file" else 0)
    try:
        fd = os.open(target.path, flags, 0o644)
    except OSError:  # a file system without direct I/O has a buffered floor
        fd = os.open(target.path, flags & ~os.O_DIRECT, 0o644)
    try:
        if target.kind == "file":
            os.posix_fallocate(fd, 0, size)
        whole = size // MiB * MiB

        def write(first: int) -> None:
            for offset in range(first * MiB, whole, _WRITERS * MiB):
                os.pwrite(fd, block, offset)

        with ThreadPoolExecutor(_WRITERS) as pool:
            list(pool.map(write, range(_WRITERS)))
        os.fdatasync(fd)
    finally:
        os.close(fd)
