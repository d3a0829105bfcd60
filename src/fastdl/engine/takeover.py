# SPDX-License-Identifier: Apache-2.0
"""What another program left half done at the target: its bytes are copied and proven in the end.

curl and wget leave a shorter file, aria2 one of full length with holes and a control file
next to it that says which pieces are there. Blocks of zeros are fetched: they may be holes.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

import xxhash

from fastdl.sinks.base import sink_error

if TYPE_CHECKING:
    from fastdl.engine.cancel import Cancel
    from fastdl.engine.workspace import Existing
    from fastdl.sinks.base import Sink

MAX_CONTROL = 16 << 20
_HEAD = struct.Struct(">HII")
_SIZES = struct.Struct(">IQQI")

Present = list[tuple[int, int]]
"""[start, end) of bytes that are there, ascending."""


def parse_control(data: bytes, size: int) -> Present | None:
    """The complete pieces of a file of *size* bytes by aria2's control file; None: not one of it.

    Version 1 as it is documented (network byte order): what is being fetched does not count.
    """
    if len(data) < _HEAD.size:
        return None
    version, _, info_length = _HEAD.unpack_from(data)
    at = _HEAD.size + info_length
    if version != 1 or len(data) < at + _SIZES.size:
        return None
    piece, total, _, length = _SIZES.unpack_from(data, at)
    bits = data[at + _SIZES.size : at + _SIZES.size + length]
    count = -(-total // piece) if piece else 0
    if total != size or not piece or length != -(-count // 8) or len(bits) < length:
        return None
    out: Present = []
    for index in range(count):
        if not bits[index // 8] & (0x80 >> index % 8):
            continue
        start, end = index * piece, min((index + 1) * piece, total)
        if out and out[-1][1] == start:
            out[-1] = (out[-1][0], end)
        else:
            out.append((start, end))
    return out


def take_up(
    found: Existing, sink: Sink, size: int, block: int, cancel: Cancel
) -> list[tuple[int, int, int]]:
    """Copy the whole blocks of *found* into *sink*: [(offset, length, XXH3)] of what it has now.

    *size*: of the source. Raises as the sink's writes do.
    """
    length = min(os.fstat(found.fd).st_size, size)
    present = _control_of(found.path, size)
    if present is None:
        present = [(0, length)]
    out = []
    try:
        for start, end in present:
            at = -(-start // block) * block
            while at < min(end, length):
                step = min(block, size - at)
                if at + step > min(end, length):
                    break
                cancel.check()
                data = _read(found.fd, at, step)
                if len(data) == step and data.count(0) < step:
                    _write(sink.buffered_fd, data, at)
                    out.append((at, step, xxhash.xxh3_64_intdigest(data)))
                at += step
        os.fsync(sink.buffered_fd)
    except OSError as error:
        raise sink_error(error, f"{sink.path}: copying the existing data") from None
    return out


def _control_of(path: str, size: int) -> Present | None:
    try:
        with open(f"{path}.aria2", "rb") as file:  # noqa: PTH123
            return parse_control(file.read(MAX_CONTROL), size)
    except OSError:
        return None


def _read(fd: int, at: int, size: int) -> bytes:
    parts = []
    while size and (data := os.pread(fd, size, at)):
        parts.append(data)
        at += len(data)
        size -= len(data)
    return b"".join(parts)


def _write(fd: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        n = os.pwrite(fd, view, at)
        at += n
        view = view[n:]
