# SPDX-License-Identifier: Apache-2.0
"""Signatures are told as blkid tells them, and rubbish is none."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastdl.sinks import signature

SIZE = 4 << 20


def probe(data: bytes) -> list[str]:
    """The signatures of a whole device held in memory."""
    return signature.probe(data[: signature.HEAD_BYTES], data[-signature.TAIL_BYTES :], len(data))


def probe_file(path: Path) -> list[str]:
    """The signatures of a device image in a file, read as the block sink reads."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(signature.HEAD_BYTES)
        file.seek(max(0, size - signature.TAIL_BYTES))
        return signature.probe(head, file.read(), size)


def device(*parts: tuple[int, bytes], size: int = SIZE) -> bytes:
    """A device of zeros with *parts* at their offsets (negative: from the end)."""
    data = bytearray(size)
    for at, what in parts:
        start = at % size
        data[start : start + len(what)] = what
    return bytes(data)


MBR_ENTRY = struct.pack("<B3sB3sII", 0x80, b"\0\2\0", 0x83, b"\0\0\0", 2048, 4096)
BOOT = b"\x55\xaa"
MD = struct.pack("<I", 0xA92B4EFC)
UBERBLOCK = struct.pack("<QQ", 0x00BAB10C, 5000)

KNOWN = [
    ("gpt", [(510, BOOT), (446, MBR_ENTRY), (512, b"EFI PART")]),
    ("gpt", [(4096, b"EFI PART")]),
    ("gpt", [(3, b"x"), (-512, b"EFI PART")]),
    ("gpt", [(3, b"x"), (-4096, b"EFI PART")]),
    ("dos", [(510, BOOT), (446, MBR_ENTRY)]),
    ("vfat", [(510, BOOT), (82, b"FAT32   ")]),
    ("vfat", [(510, BOOT), (54, b"FAT16   ")]),
    ("ntfs", [(510, BOOT), (3, b"NTFS    ")]),
    ("crypto_LUKS", [(0, b"LUKS\xba\xbe\0\2")]),
    ("crypto_LUKS", [(16384, b"SKUL\xba\xbe")]),
    ("LVM2_member", [(512, b"LABELONE"), (536, b"LVM2 001")]),
    ("LVM2_member", [(1536, b"LABELONE"), (1560, b"LVM2 001")]),
    ("linux_raid_member", [(0, MD + b"\1\0\0\0")]),
    ("linux_raid_member", [(4096, MD + b"\1\0\0\0")]),
    ("linux_raid_member", [(-8192, MD + b"\1\0\0\0")]),
    ("linux_raid_member", [(-65536, MD)]),
    ("linux_raid_member", [(-65536, MD[::-1])]),
    ("zfs_member", [(128 << 10, UBERBLOCK)]),
    ("zfs_member", [((256 + 200) << 10, UBERBLOCK)]),
    ("zfs_member", [(-(128 << 10), UBERBLOCK)]),
    ("zfs_member", [(-(384 << 10) + 4096, struct.pack(">QQ", 0x00BAB10C, 5000))]),
    ("xfs", [(0, b"XFSB")]),
    ("btrfs", [(65536 + 64, b"_BHRfS_M")]),
    ("swap", [(4086, b"SWAPSPACE2")]),
    ("swap", [(65526, b"SWAPSPACE2")]),
    ("iso9660", [(32769, b"CD001")]),
]


@pytest.mark.parametrize(("name", "parts"), KNOWN)
def test_a_known_signature_is_found_alone(name: str, parts: list[tuple[int, bytes]]) -> None:
    """Each kind at each of its places."""
    assert probe(device(*parts)) == [name]


def test_a_blank_device_and_a_qcow2_image_are_none() -> None:
    """A failed job leaves zeros; a qcow2 header on a device is nobody's file system."""
    assert probe(bytes(SIZE)) == []
    assert probe(device((0, b"QFI\xfb\0\0\0\3"))) == []
    assert probe(device((510, BOOT))) == []


def test_a_backup_gpt_under_a_wiped_head_does_not_count() -> None:
    """A job killed between tail and head leaves this, and must be able to resume."""
    assert probe(device((-512, b"EFI PART"))) == []


def test_several_signatures_are_all_named() -> None:
    """A hybrid ISO: whoever overwrites it must know both."""
    data = device((510, BOOT), (446, MBR_ENTRY), (32769, b"CD001"))
    assert probe(data) == ["dos", "iso9660"]


@given(st.binary(max_size=4096), st.integers(0, 1 << 24))
@settings(max_examples=200, deadline=None)
def test_any_device_is_checked_without_an_error(data: bytes, size: int) -> None:
    """Tiny, odd and lying sizes included."""
    signature.probe(data, data, max(size, len(data)))


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("ext2", ["mkfs.ext4", "-q", "-t", "ext2"]),
        ("ext3", ["mkfs.ext4", "-q", "-t", "ext3"]),
        ("ext4", ["mkfs.ext4", "-q"]),
        ("ext4", ["mkfs.ext4", "-q", "-b", "4096", "-O", "^has_journal"]),
        ("xfs", ["mkfs.xfs", "-q"]),
        ("swap", ["mkswap"]),
        ("gpt", ["parted", "-s", "mklabel gpt mkpart p 1MiB 9MiB"]),
        ("dos", ["parted", "-s", "mklabel msdos mkpart primary 1MiB 9MiB"]),
        ("vfat", ["mkfs.vfat"]),
        ("btrfs", ["mkfs.btrfs", "-q"]),
    ],
)
def test_real_file_systems_are_named_as_blkid_names_them(
    tmp_path: Path, name: str, command: list[str]
) -> None:
    """The word for --overwrite is the one that an operator reads in blkid's output."""
    path = tmp_path / "device"
    path.touch()
    os.truncate(path, 320 << 20)
    env = {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"}
    if not shutil.which(command[0], path=env["PATH"]):
        pytest.skip(f"no {command[0]} here")
    words = (
        [*command, str(path)]
        if command[0] != "parted"
        else [*command[:2], str(path), *command[2].split()]
    )
    subprocess.run(words, check=True, capture_output=True, env=env, timeout=60)
    assert probe_file(path) == [name]
    if shutil.which("blkid", path=env["PATH"]):
        out = subprocess.run(
            ["blkid", "-p", "-o", "export", str(path)],
            check=True,
            capture_output=True,
            text=True,
            env=env,
            timeout=30,
        ).stdout
        assert f"TYPE={name}" in out
