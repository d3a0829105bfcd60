# SPDX-License-Identifier: Apache-2.0
"""How does a test serve an image, land it, and learn what should have arrived?

The oracle is always ``qemu-img convert``; the origin counts every body byte it sent.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import shutil
import struct
import subprocess
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fastdl.engine import staging
from tests.env.command import Outcome, run_fastdl
from tests.env.faults import Rule
from tests.env.images import MIB, run
from tests.env.origin import FaultOrigin, Resource

PATTERN = 0xEE
"""What lies on a target before: a former tenant's bytes, never zero."""
DEVICE = 24 * MIB
"""Bytes of the fixture ``device``: more than any image here, but those made to be too large."""


@dataclass(slots=True)
class Bench:
    """One origin, one private folder: everything that a landing test needs."""

    origin: FaultOrigin
    folder: Path
    served: int = 0

    def url(self, content: bytes, *rules: Rule, name: str = "image.qcow2") -> str:
        """Serve *content* under a path of its own and return its URL."""
        self.served += 1
        path = f"/{self.served}/{name}"
        self.origin.resources[path] = Resource.of(content, rules=list(rules))
        return self.origin.url(path)

    def get(self, target: Path | str, *words: str, timeout: float = 60) -> Outcome:
        """``fastdl get WORDS -o TARGET --json`` to its end."""
        return run_fastdl(
            ["get", *words, "-o", str(target), "--json"], home=self.home, timeout=timeout
        )

    @property
    def home(self) -> Path:
        """The home folder of the runs: their state folder lies in it."""
        return self.folder / "home"

    @property
    def pool(self) -> Path:
        """An otherwise empty folder for file targets."""
        made = self.folder / "pool"
        made.mkdir(exist_ok=True)
        return made

    def left_behind(self) -> list[str]:
        """What lies in the pool, and staging folders in the state folder."""
        left = sorted(str(path.relative_to(self.pool)) for path in self.pool.rglob("*"))
        return left + sorted(str(p) for p in self.home.rglob(f"*{staging.SUFFIX}"))


def sha256(data: bytes) -> str:
    """The digest of *data* as the command line takes it, behind ``sha-256:``."""
    return hashlib.sha256(data).hexdigest()


def raw_of(image: Path, fmt: str = "qcow2") -> bytes:
    """The guest's disk as ``qemu-img convert`` sees it."""
    raw = image.with_suffix(".oracle")
    run("qemu-img", "convert", "-f", fmt, "-O", "raw", image, raw)
    content = raw.read_bytes()
    raw.unlink()
    return content


def tables_last(data: bytes) -> bytes:
    """The same qcow2 image with its L1 and L2 tables behind all data.

    The old tables stay where they were, unreferenced; refcounts are not kept, readers do
    not need them.
    """
    (bits,) = struct.unpack_from(">I", data, 20)
    entries, l1 = struct.unpack_from(">IQ", data, 36)
    cluster = 1 << bits
    out = bytearray(data)
    out += bytes(-len(out) % cluster)
    table = list(struct.unpack_from(f">{entries}Q", data, l1))
    for i, entry in enumerate(table):
        old = entry & 0x00FFFFFFFFFFFE00
        if old:
            table[i] = entry & ~0x00FFFFFFFFFFFE00 | len(out)
            out += data[old : old + cluster].ljust(cluster, b"\0")
            out[old : old + cluster] = b"\xff" * len(out[old : old + cluster])
    struct.pack_into(">Q", out, 40, len(out))
    out += struct.pack(f">{entries}Q", *table)
    out += bytes(-len(out) % cluster)
    return bytes(out)


def _zip(data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("disk.img", data)
    return out.getvalue()


def _zstd(data: bytes) -> bytes:
    return subprocess.run(
        ["zstd", "-q", "-c"], input=data, capture_output=True, check=True, timeout=60
    ).stdout


PACK: dict[str, Callable[[bytes], bytes]] = {
    "gz": lambda data: gzip.compress(data, 3),
    "bz2": lambda data: bz2.compress(data, 1),
    "xz": lambda data: lzma.compress(data, preset=0),
    "zip": _zip,
}
if shutil.which("zstd"):
    PACK["zst"] = _zstd
