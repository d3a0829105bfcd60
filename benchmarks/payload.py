# SPDX-License-Identifier: Apache-2.0
"""What is downloaded? Images of every kind, made once and kept in the working folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import random
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from benchmarks.scenarios import SPARSE, MiB
from fastdl.lab.metalink import metalink

_BLOCK: Final = MiB
_PIECE: Final = MiB
_EXTENT: Final = 4 * MiB
_SPREAD: Final = 2.5  # virtual size over data, as in a freshly installed template
_CONVERT: Final[dict[str, tuple[str, ...]]] = {
    "qcow2plain": (),
    "qcow2zlib": ("-c", "-o", "compression_type=zlib"),
    "qcow2zstd": ("-c", "-o", "compression_type=zstd"),
    **dict.fromkeys(SPARSE, ()),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """An image to serve. ``sha256`` and ``source_content`` are of the file that is served,
    ``content`` is content_digest() of the disk that it represents."""

    name: str
    source_bytes: int
    virtual_bytes: int
    sha256: str
    source_content: str
    content: str

    def metalink(self, folder: Path, name: str, urls: Sequence[str]) -> str:
        """The metalink of the file in *folder*, served as *name* from *urls*: size, digest, and
        pieces of a MiB."""
        digests = []
        with (folder / self.name).open("rb") as file:
            while piece := file.read(_PIECE):
                digests.append(hashlib.sha256(piece).hexdigest())
        return metalink(
            name,
            urls,
            size=self.source_bytes,
            sha256=self.sha256,
            pieces=(_PIECE, digests),
            ranked=False,
        )


def make(folder: Path, image: str, size: int) -> Payload:
    """The payload of kind *image* with *size* bytes of guest data, made if missing."""
    name = f"{image}-{size // MiB}MiB.{'raw' if image == 'raw' else 'qcow2'}"
    record = folder / f"{name}.json"
    path = folder / name
    if record.exists() and path.exists():
        payload = Payload(**json.loads(record.read_text()))
        if path.stat().st_size == payload.source_bytes:
            return payload
    if image == "raw":
        _write_raw(path, [(at, _BLOCK) for at in range(0, size, _BLOCK)], size, hard=True)
        raw = path
    else:
        raw = folder / f"{name}.tmp-raw"
        virtual = SPARSE.get(image, int(size * _SPREAD))
        extents = [(at, min(_EXTENT, size - done)) for at, done in _spread(size, virtual)]
        _write_raw(raw, extents, virtual, hard=False)
        subprocess.run(
            ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", *_CONVERT[image], raw, path],
            check=True,
        )
    payload = Payload(
        name=name,
        source_bytes=path.stat().st_size,
        virtual_bytes=raw.stat().st_size,
        sha256=_sha256(path),
        source_content=content_digest(path, path.stat().st_size),
        content=content_digest(raw, raw.stat().st_size),
    )
    if raw != path:
        raw.unlink()
    record.write_text(json.dumps(asdict(payload)))
    return payload


def _spread(size: int, virtual: int) -> Iterator[tuple[int, int]]:
    """(offset on the disk, data placed before it) of extents spread evenly over the disk."""
    count = -(-size // _EXTENT)
    stride = virtual // count // MiB * MiB
    for index in range(count):
        yield index * stride, index * _EXTENT


def _write_raw(path: Path, extents: list[tuple[int, int]], size: int, *, hard: bool) -> None:
    """A file of *size* bytes with data in *extents*, the same on every machine.

    *hard* data cannot be compressed; other data compresses to two thirds, which is harder
    than most operating system images are.
    """
    source = random.Random(1)
    with path.open("wb") as file:
        file.truncate(size)
        for offset, length in extents:
            file.seek(offset)
            left = length
            while left:
                step = min(left, _BLOCK)
                file.write(source.randbytes(step) if hard else _soft(source, step))
                left -= step
        file.flush()
        os.fsync(file.fileno())


def _soft(source: random.Random, length: int) -> bytes:
    """Two thirds noise, one third a repeated word, mixed every 1536 bytes."""
    noise = source.randbytes(1024 * -(-length // 1536))
    filler = b"template" * 64
    parts = [noise[at : at + 1024] + filler for at in range(0, len(noise), 1024)]
    return b"".join(parts)[:length]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_digest(
    path: Path, size: int, *, holes_of: Path | None = None, direct: bool = False
) -> str:
    """SHA-256 over the non-zero MiB blocks of the first *size* bytes and their offsets.

    Two disks have the same digest exactly where they hold the same bytes, however they store
    zeros; holes cost no time. *holes_of* is a file that shows the holes of a loop device.
    *direct*: past the page cache, which is not to change between two runs, where that is possible.
    """
    digest = hashlib.sha256(size.to_bytes(8, "big"))
    zeros = bytes(_BLOCK)
    room = mmap.mmap(-1, _BLOCK)  # page-aligned, as direct reads want it
    data = _open_to_read(path, direct=direct)
    try:
        with (holes_of or path).open("rb", buffering=0) as map_:
            for begin, end in data_extents(map_.fileno(), size):
                first = begin // _BLOCK * _BLOCK
                for offset in range(first, end, _BLOCK):
                    block = room[: min(os.preadv(data, [room], offset), size - offset)]
                    if block != zeros[: len(block)]:
                        digest.update(offset.to_bytes(8, "big"))
                        digest.update(block)
    finally:
        os.close(data)
    return digest.hexdigest()


def _open_to_read(path: Path, *, direct: bool) -> int:
    if direct:
        with contextlib.suppress(OSError):  # some file systems in memory
            return os.open(path, os.O_RDONLY | os.O_DIRECT)
    return os.open(path, os.O_RDONLY)


def data_extents(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """(begin, end) of the extents of *fd* that may hold data, rounded out to whole blocks."""
    at = 0
    while at < size:
        try:
            begin = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:
            return
        end = os.lseek(fd, begin, os.SEEK_HOLE)
        end = min(size, -(-end // _BLOCK) * _BLOCK)
        begin = max(at, begin // _BLOCK * _BLOCK)
        if begin >= size:
            return
        yield begin, end
        at = end
