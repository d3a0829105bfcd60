# SPDX-License-Identifier: Apache-2.0
"""Images that a device is known by: each carries a signature that fastdl refuses to overwrite.

Made by hand, by the field's documents: what tools would write costs seconds and is not everywhere.
"""

from __future__ import annotations

import struct

from tests.env.origin import pseudo_random

SECTOR = 512


def _mbr(kind: int) -> bytes:
    entry = struct.pack("<B3sB3sII", 0, b"\0\2\0", kind, b"\xff\xff\xff", 1, 2048)
    return bytes(446) + entry + bytes(48) + b"\x55\xaa"


def _gpt(body: bytearray) -> None:
    body[:SECTOR] = _mbr(0xEE)
    for at in (SECTOR, len(body) - SECTOR):
        body[at : at + SECTOR] = b"EFI PART\0\0\1\0" + bytes(SECTOR - 12)


def _dos(body: bytearray) -> None:
    body[:SECTOR] = _mbr(0x83)


def _ext4(body: bytearray) -> None:
    body[: 4 * SECTOR] = bytes(4 * SECTOR)
    body[1024 + 0x38 : 1024 + 0x3A] = b"\x53\xef"
    struct.pack_into("<III", body, 1024 + 0x5C, 0x3C, 0x2C2, 0x6B)


def _lvm(body: bytearray) -> None:
    body[: 4 * SECTOR] = bytes(4 * SECTOR)
    body[SECTOR : SECTOR + 32] = b"LABELONE" + bytes(16) + b"LVM2 001"


def _iso(body: bytearray) -> None:
    body[: 76 * SECTOR] = bytes(76 * SECTOR)
    body[32768 : 32768 + 7] = b"\x01CD001\x01"
    blocks = len(body) // 2048
    body[32768 + 80 : 32768 + 88] = struct.pack("<I", blocks) + struct.pack(">I", blocks)
    body[32768 + 128 : 32768 + 132] = struct.pack("<H", 2048) + struct.pack(">H", 2048)
    body[34816 : 34816 + 7] = b"\xffCD001\x01"


def _md(body: bytearray) -> None:
    """The superblock at the end, and a head that nothing knows."""
    at = (len(body) // SECTOR - 16 & ~7) * SECTOR
    struct.pack_into("<II", body, at, 0xA92B4EFC, 1)


MAKERS = {"gpt": _gpt, "dos": _dos, "ext4": _ext4, "LVM2_member": _lvm, "iso9660": _iso}
TAILED = {"linux_raid_member": _md}
"""Signatures at the end alone, which nothing holds back while the size is not known."""


def signed(kind: str, size: int) -> bytes:
    """*size* bytes that blkid calls *kind*."""
    body = bytearray(pseudo_random(17, size))
    body[510:512] = bytes(2)
    {**MAKERS, **TAILED}[kind](body)
    return bytes(body)
