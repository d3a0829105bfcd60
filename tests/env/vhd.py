# SPDX-License-Identifier: Apache-2.0
"""VHDs as VirtualBox, Virtual PC, Hyper-V and Azure write them (Microsoft VHD 1.0).

qemu-img makes disks whose size is that of their geometry. Others state a size in whole MiB
and a geometry that holds a little less: what is behind it is lost on who believes that.
"""

from __future__ import annotations

import struct
import uuid

SECTOR = 512
BLOCK = 2 << 20
CREATORS = (b"win ", b"vbox", b"vpc ", b"wa\0\0", b"d2v ", b"qemu")


def geometry(sectors: int) -> tuple[int, int, int]:
    """Cylinders, heads and sectors of a track, as the appendix of the standard has them."""
    track, heads = 17, max(4, (sectors // 17 + 1023) // 1024)
    if sectors // track >= heads * 1024 or heads > 16:
        track, heads = 31, 16
    if sectors // track >= heads * 1024:
        track, heads = 63, 16
    return sectors // track // heads, heads, track


def footer(size: int, creator: bytes, *, fixed: bool) -> bytes:
    """The last 512 bytes of a VHD with a disk of *size* bytes."""
    kind, offset = (2, 2**64 - 1) if fixed else (3, SECTOR)
    out = bytearray(SECTOR)
    struct.pack_into(
        ">8sIIQI4sI4sQQHBBI",
        out,
        0,
        b"conectix",
        2,
        0x10000,
        offset,
        0x2A000000,
        creator,
        0x50000,
        b"Wi2k",
        size,
        size,
        *geometry(size // SECTOR),
        kind,
    )
    out[68:84] = uuid.UUID(int=size).bytes
    return _sealed(out, 64)


def fixed(disk: bytes, creator: bytes = b"win ") -> bytes:
    """*disk* as a fixed VHD."""
    return disk + footer(len(disk), creator, fixed=True)


def dynamic(disk: bytes, creator: bytes = b"win ") -> bytes:
    """*disk* as a dynamic VHD with every block allocated."""
    count = -(-len(disk) // BLOCK)
    header = bytearray(1024)
    struct.pack_into(">8sQQIII", header, 0, b"cxsparse", 2**64 - 1, 1536, 0x10000, count, BLOCK)
    first = 1536 + -(-count * 4 // SECTOR) * SECTOR
    step = SECTOR + BLOCK
    table = b"".join(struct.pack(">I", (first + i * step) // SECTOR) for i in range(count))
    blocks = b"".join(
        b"\xff" * SECTOR + disk[i * BLOCK : (i + 1) * BLOCK].ljust(BLOCK, b"\0")
        for i in range(count)
    )
    end = footer(len(disk), creator, fixed=False)
    return end + _sealed(header, 36) + table.ljust(first - 1536, b"\xff") + blocks + end


def _sealed(block: bytearray, at: int) -> bytes:
    block[at : at + 4] = bytes(4)
    struct.pack_into(">I", block, at, ~sum(block) & 0xFFFFFFFF)
    return bytes(block)
