# SPDX-License-Identifier: Apache-2.0
"""Parts of .xz files as their indexes should not be: whatever numbers, with right checksums."""

from __future__ import annotations

import zlib


def number(value: int) -> bytes:
    """A number as an index has it."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def stream(*blocks: tuple[int, int], count: int | None = None, body: int | None = None) -> bytes:
    """A stream with these (packed, unpacked) blocks, of zeros; its index says so many."""
    flags = b"\x00\x01"
    header = b"\xfd7zXZ\x00" + flags + zlib.crc32(flags).to_bytes(4, "little")
    told = number(len(blocks) if count is None else count)
    index = b"\x00" + told + b"".join(number(packed) + number(size) for packed, size in blocks)
    index += bytes(-len(index) % 4)
    index += zlib.crc32(index).to_bytes(4, "little")
    end = (len(index) // 4 - 1).to_bytes(4, "little") + flags
    footer = zlib.crc32(end).to_bytes(4, "little") + end + b"YZ"
    length = sum((packed + 3) & ~3 for packed, _ in blocks) if body is None else body
    return header + bytes(length) + index + footer


def relabelled(packed: bytes, size: int) -> bytes:
    """The .xz file *packed*, of one block, whose index now says that it unpacks to *size* bytes."""
    length = (int.from_bytes(packed[-8:-4], "little") + 1) * 4
    index, at = packed[-12 - length : -12], 2
    while index[at] & 0x80:
        at += 1
    told = index[: at + 1] + number(size)
    told += bytes(-len(told) % 4)
    told += zlib.crc32(told).to_bytes(4, "little")
    end = (len(told) // 4 - 1).to_bytes(4, "little") + packed[-4:-2]
    footer = zlib.crc32(end).to_bytes(4, "little") + end + b"YZ"
    return packed[: -12 - length] + told + footer
