# SPDX-License-Identifier: Apache-2.0
"""The smallest guest: a boot sector that writes one line to the first serial port, then halts.

It needs no compiler, no kernel and no package, and an emulated machine reaches it in a second.
"""

from __future__ import annotations

import struct
from typing import Final

SECTOR: Final = 512
_BLOCK: Final = 2048
_LOADED_AT: Final = 0x7C00
_LINE_MAX: Final = 256
_START: Final = bytes.fromhex(
    "31c0 8ed8 8ed0 bc007c fc"  # ax, ds, ss = 0; sp = 0x7c00; strings go up
    "bafb03b080ee baf803b001ee baf903b000ee bafb03b003ee"  # COM1: 115200 baud, 8 bits
)
_LOOP: Final = bytes.fromhex(
    "ac 84c0 7412"  # next character; the end at NUL
    "88c3 bafd03 ec a820 74fb"  # wait until the port takes one
    "baf803 88d8 ee ebe9"  # send it, and again
    "fa f4 ebfd"  # halt
)


def sector(line: str) -> bytes:
    """Return the boot sector that writes *line* (ASCII, at most 256 characters) and a line end."""
    text = line.encode("ascii") + b"\r\n\0"
    if len(text) > _LINE_MAX:
        raise ValueError(line)
    code_length = len(_START) + 3 + len(_LOOP)
    code = _START + b"\xbe" + struct.pack("<H", _LOADED_AT + code_length) + _LOOP + text
    return code.ljust(SECTOR - 2, b"\0") + b"\x55\xaa"


def disk(line: str, size: int = 1 << 20) -> bytes:
    """Return a raw disk of *size* bytes that boots and writes *line*."""
    return sector(line).ljust(size, b"\0")


def iso(line: str) -> bytes:
    """Return an ISO 9660 image that boots (El Torito, no emulation) and writes *line*."""
    catalog, image, root, blocks = 19, 20, 21, 22
    # A directory record of the root: extent, size, date, a folder, volume 1, its name.
    entry = b"\x22\0" + _both32(root) + _both32(_BLOCK) + b"\x78\1\1\0\0\0\0" + b"\2\0\0"
    entry += _both16(1) + b"\1\0"
    primary = bytearray(_BLOCK)
    primary[0:7] = b"\x01CD001\x01"
    primary[8:40] = b" " * 32
    primary[40:72] = b"GUEST".ljust(32)
    primary[80:88] = _both32(blocks)
    for at, value in ((120, 1), (124, 1), (128, _BLOCK)):
        primary[at : at + 4] = _both16(value)
    primary[156:190] = entry
    primary[881] = 1
    record = bytearray(_BLOCK)
    record[0:7] = b"\x00CD001\x01"
    record[7:39] = b"EL TORITO SPECIFICATION".ljust(32, b"\0")
    record[71:75] = struct.pack("<I", catalog)
    end = b"\xffCD001\x01".ljust(_BLOCK, b"\0")
    check = bytearray(struct.pack("<BBH24sHBB", 1, 0, 0, b"guest", 0, 0x55, 0xAA))
    total = sum(struct.unpack("<16H", check)) & 0xFFFF
    check[28:30] = struct.pack("<H", -total & 0xFFFF)
    boot = struct.pack("<BBHBBHI20x", 0x88, 0, 0, 0, 0, 4, image)
    folder = (entry + entry[:33] + b"\1").ljust(_BLOCK, b"\0")
    parts = [
        bytes(16 * _BLOCK),
        bytes(primary),
        bytes(record),
        end,
        (bytes(check) + boot).ljust(_BLOCK, b"\0"),
        sector(line).ljust(_BLOCK, b"\0"),
        folder,
    ]
    return b"".join(parts)


def _both16(value: int) -> bytes:
    return struct.pack("<H", value) + struct.pack(">H", value)


def _both32(value: int) -> bytes:
    return struct.pack("<I", value) + struct.pack(">I", value)
