# SPDX-License-Identifier: Apache-2.0
"""What already lives on a device, recognised by its first and last bytes.

Pure functions over buffers. The names are those that blkid(8) prints. Places and magic
numbers: the on-disk format documents of each file system, UEFI 2.10 section 5 (GPT),
ECMA-119 (iso9660).
"""

from __future__ import annotations

import struct
from collections.abc import Callable

HEAD_BYTES = 512 << 10
"""How much of the device's start `probe` wants."""
TAIL_BYTES = 512 << 10
"""How much of the device's end `probe` wants."""

_ZFS_UBERBLOCK = 0x00BAB10C
_ZFS_LABEL = 256 << 10
_MD_MAGIC = 0xA92B4EFC


def probe(head: bytes, tail: bytes, size: int) -> list[str]:
    """The signatures found, without duplicates, the outermost first; empty for a blank device.

    *head*: the first HEAD_BYTES of the device, *tail*: its last TAIL_BYTES (shorter on a
    device that is), *size*: the device in bytes. A backup GPT alone does not count where the
    head is zero: that is what wiping tools and our own killed jobs leave.
    """
    found = [name for name, test in _HEAD_TESTS if test(head)]
    found += [name for name, test in _TAIL_TESTS if test(tail, size)]
    if "gpt" in found:
        found = [name for name in found if name != "dos"]  # the protective MBR
    elif _has_gpt(tail, (-512, -4096)) and head.strip(b"\0"):
        found.append("gpt")
    return list(dict.fromkeys(found))


def _at(data: bytes, offset: int, magic: bytes) -> bool:
    return data[offset : offset + len(magic)] == magic


def _u32(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 4], "little")


def _ext(head: bytes) -> str | None:
    """ext2, ext3 or ext4 by the feature words of the superblock at 1024."""
    if not _at(head, 1024 + 0x38, b"\x53\xef"):
        return None
    compatible, incompatible, read_only = struct.unpack_from("<III", head, 1024 + 0x5C)
    if incompatible & 0x08:
        return "jbd"
    if incompatible & ~0x16 or read_only & ~0x07:
        return "ext4"
    return "ext3" if compatible & 0x04 else "ext2"


def _is_ext(name: str) -> Callable[[bytes], bool]:
    return lambda head: _ext(head) == name


def _is_swap(head: bytes) -> bool:
    return any(
        head[page - 10 : page] in {b"SWAPSPACE2", b"SWAP-SPACE"}
        for page in (4096, 8192, 16384, 65536)
    )


def _is_lvm(head: bytes) -> bool:
    """The label lies in one of the first four sectors of 512 bytes."""
    return any(
        _at(head, at, b"LABELONE") and _at(head, at + 24, b"LVM2 001") for at in range(0, 2048, 512)
    )


def _is_vfat(head: bytes) -> bool:
    if not _has_boot_mark(head):
        return False
    if _at(head, 54, b"FAT12   ") or _at(head, 54, b"FAT16   ") or _at(head, 82, b"FAT32   "):
        return True
    return _at(head, 54, b"FAT     ") or _at(head, 82, b"FAT     ")


def _has_boot_mark(head: bytes) -> bool:
    return _at(head, 510, b"\x55\xaa")


def _is_dos(head: bytes) -> bool:
    """An MBR with at least one partition, none of them impossible."""
    if not _has_boot_mark(head) or _is_vfat(head) or _at(head, 3, b"NTFS    "):
        return False
    entries = [head[at : at + 16] for at in range(446, 510, 16)]
    if any(entry[0] not in {0x00, 0x80} for entry in entries):
        return False
    return any(entry[4] and _u32(entry, 12) for entry in entries)


def _has_gpt(data: bytes, places: tuple[int, ...]) -> bool:
    return any((at >= 0 or -at <= len(data)) and data[at:][:8] == b"EFI PART" for at in places)


def _is_gpt(head: bytes) -> bool:
    """The header lies in the second sector, of 512 or of 4096 bytes."""
    return _has_gpt(head, (512, 4096))


def _is_md_head(head: bytes) -> bool:
    """Versions 1.1 (at 0) and 1.2 (at 4096)."""
    return any(_u32(head, at) == _MD_MAGIC and _u32(head, at + 4) == 1 for at in (0, 4096))


def _is_md_tail(tail: bytes, size: int) -> bool:
    """Version 1.0: 8 to 12 KiB before the end; 0.90: the last whole 64 KiB but one."""
    start = size - len(tail)
    newer = ((size // 512 - 16) & ~7) * 512 - start
    older = (size & ~0xFFFF) - 0x10000 - start
    return (newer >= 0 and _u32(tail, newer) == _MD_MAGIC) or (
        older >= 0 and _MD_MAGIC in (_u32(tail, older), _u32_big(tail, older))
    )


def _u32_big(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 4], "big")


def _has_zfs(data: bytes, label: int) -> bool:
    """At least one uberblock in the upper half of the label at *label*; either byte order."""
    return label >= 0 and any(
        _ZFS_UBERBLOCK in (_u32(data, at), _u32_big(data, at + 4))
        for at in range(label + _ZFS_LABEL // 2, label + _ZFS_LABEL, 1024)
    )


def _is_zfs_head(head: bytes) -> bool:
    return _has_zfs(head, 0) or _has_zfs(head, _ZFS_LABEL)


def _is_zfs_tail(tail: bytes, size: int) -> bool:
    end = size // _ZFS_LABEL * _ZFS_LABEL - (size - len(tail))
    return any(_has_zfs(tail, end - n * _ZFS_LABEL) for n in (1, 2))


_HEAD_TESTS: tuple[tuple[str, Callable[[bytes], bool]], ...] = (
    ("gpt", _is_gpt),
    ("dos", _is_dos),
    (
        "crypto_LUKS",
        lambda head: _at(head, 0, b"LUKS\xba\xbe") or _at(head, 16384, b"SKUL\xba\xbe"),
    ),
    ("LVM2_member", _is_lvm),
    ("linux_raid_member", _is_md_head),
    ("zfs_member", _is_zfs_head),
    ("ext4", _is_ext("ext4")),
    ("ext3", _is_ext("ext3")),
    ("ext2", _is_ext("ext2")),
    ("jbd", _is_ext("jbd")),
    ("xfs", lambda head: _at(head, 0, b"XFSB")),
    ("btrfs", lambda head: _at(head, 65536 + 64, b"_BHRfS_M")),
    ("swap", _is_swap),
    ("vfat", _is_vfat),
    ("ntfs", lambda head: _at(head, 3, b"NTFS    ") and _has_boot_mark(head)),
    ("iso9660", lambda head: _at(head, 32768 + 1, b"CD001")),
)

_TAIL_TESTS: tuple[tuple[str, Callable[[bytes, int], bool]], ...] = (
    ("linux_raid_member", _is_md_tail),
    ("zfs_member", _is_zfs_tail),
)
