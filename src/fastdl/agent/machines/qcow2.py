# SPDX-License-Identifier: Apache-2.0
"""An empty qcow2 image, alone or on top of another file, as bytes: docs/interop/qcow2.txt of QEMU.

Written here and not by qemu-img, which would read the other file: a tenant's image is opened by
its own virtual machine and by nothing else on the host.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from fastdl.errors import LimitError, SinkRefusedError

_CLUSTER_BITS: Final = 16
_CLUSTER: Final = 1 << _CLUSTER_BITS
_HEADER: Final = 104
_BACKING_FORMAT: Final = 0xE2792ACA
_NAME_MAX: Final = 1023
_TABLE_MAX: Final = 32 << 20
"""Bytes of a level 1 table that qemu reads: a disk of 2 EiB."""
_SECTOR: Final = 512


@dataclass(frozen=True, slots=True)
class Backing:
    """The file below: its absolute *path*, and its *format* as qemu calls it."""

    path: str
    format: str


@dataclass(frozen=True, slots=True)
class Empty:
    """The beginning of the image, *head*, and the whole file's length; the rest is zeros."""

    head: bytes
    length: int


def empty(size: int, backing: Backing | None = None) -> Empty:
    """Return a disk of *size* bytes, rounded up to sectors, in which nothing is written yet.

    LimitError for a size that no image can have, SinkRefusedError for a name that none can hold.
    """
    size = -(-size // _SECTOR) * _SECTOR
    entries = max(1, -(-size // (_CLUSTER * (_CLUSTER // 8))))
    if size < 0 or entries * 8 > _TABLE_MAX:
        raise LimitError(f"a disk cannot have {size} bytes")
    table = -(-entries * 8 // _CLUSTER)
    clusters = 3 + table
    extensions, name = b"", b""
    if backing is not None:
        name = backing.path.encode()
        if not backing.path.startswith("/") or len(name) > _NAME_MAX:
            raise SinkRefusedError(
                f"{backing.path[:80]!a} cannot be below a disk: its path is long"
            )
        kind = backing.format.encode()
        padded = kind + bytes(-len(kind) % 8)
        extensions = struct.pack(">II", _BACKING_FORMAT, len(kind)) + padded
    extensions += bytes(8)
    at = _HEADER + len(extensions)
    header = struct.pack(
        ">4sIQIIQIIQQIIQQQQII",
        b"QFI\xfb",
        3,
        at if name else 0,
        len(name),
        _CLUSTER_BITS,
        size,
        0,  # not encrypted
        entries,
        3 * _CLUSTER,
        _CLUSTER,
        1,
        0,  # no snapshots
        0,
        0,
        0,
        0,
        4,  # reference counts of 16 bits
        _HEADER,
    )
    counts = struct.pack(f">{clusters}H", *([1] * clusters))
    head = (header + extensions + name).ljust(_CLUSTER, b"\0")
    head += struct.pack(">Q", 2 * _CLUSTER).ljust(_CLUSTER, b"\0") + counts
    return Empty(head, clusters * _CLUSTER)
