# SPDX-License-Identifier: Apache-2.0
"""Which format is this?

``detect`` names exactly one format from an image's first and last bytes; ``agree``
compares that with what the caller said. The rules of each format are in ``image_inspect``.

An image may be told apart by one magic only. Bytes that match two formats mean different
things to different readers, so they are refused whatever the formats are.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from fastdl.errors import FastdlError, FormatError, UnsafeImageError

HEAD_BYTES = 64 * 1024
"""How many first bytes ``detect`` wants (an ISO shows itself at 32 KiB)."""

TAIL_BYTES = 512
"""How many last bytes ``detect`` wants (a fixed VHD has its mark there alone)."""

MAX_TABLE = 32 * 1024 * 1024
"""The largest block table that is read, in bytes."""


class Format(StrEnum):
    """Every format that is told apart; most are refused, none is guessed."""

    RAW = "raw"
    ISO = "iso"
    QCOW2 = "qcow2"
    VHD = "vhd"
    VHDX = "vhdx"
    VMDK = "vmdk"
    VDI = "vdi"
    GZ = "gz"
    BZ2 = "bz2"
    XZ = "xz"
    ZST = "zst"
    ZIP = "zip"
    LUKS = "luks"
    QED = "qed"
    QCOW = "qcow"
    PARALLELS = "parallels"
    BOCHS = "bochs"
    CLOOP = "cloop"
    DMG = "dmg"
    TAR = "tar"
    LZ4 = "lz4"
    SEVENZIP = "7z"
    RAR = "rar"


COMPRESSED = frozenset({Format.GZ, Format.BZ2, Format.XZ, Format.ZST, Format.ZIP})
"""One layer of these is decoded on the way."""

CONVERTIBLE = frozenset({Format.VHD, Format.VHDX, Format.VMDK, Format.VDI})
"""Converted to raw from a verified staged file."""

ARCHIVES = frozenset({Format.TAR, Format.SEVENZIP, Format.RAR, Format.LZ4})


class Reader(Protocol):
    """What an inspector may do with an image."""

    @property
    def size(self) -> int:
        """Bytes of the image's file."""

    def read_at(self, offset: int, length: int) -> bytes:
        """Up to *length* bytes at *offset*; fewer only at the end."""


class ImageInfo(NamedTuple):
    """The verdict on one image.

    ``virtual_size`` is the size of the guest's disk in bytes, None where it cannot be told
    before decompression. ``reasons`` are sentences, the first of them the refusal;
    ``refusal`` is its class, None for a safe image.
    """

    format: Format
    virtual_size: int | None
    reasons: tuple[str, ...] = ()
    refusal: type[FastdlError] | None = None
    details: Mapping[str, Any] = MappingProxyType({})

    @property
    def safe(self) -> bool:
        """Whether the image may land."""
        return self.refusal is None

    def require_safe(self) -> None:
        """Raise the refusal, if there is one."""
        if self.refusal is not None:
            raise self.refusal(self.reasons[0], phase="decode")

    def to_dict(self) -> dict[str, Any]:
        """The object that ``fastdl inspect --json`` prints."""
        return {
            "format": str(self.format),
            "virtual_size": self.virtual_size,
            "safe": self.safe,
            "error": None if self.refusal is None else self.refusal.code_name,
            "exit_code": 0 if self.refusal is None else self.refusal.exit_code,
            "reasons": list(self.reasons),
            "details": dict(self.details),
        }


def words(table: bytes, byteorder: str) -> array[int]:
    """The unsigned 32-bit numbers of *table*, compactly: tables may have millions."""
    numbers = array("I", table)
    if sys.byteorder != byteorder:
        numbers.byteswap()
    return numbers


def refused(
    fmt: Format, error: FastdlError, *, virtual_size: int | None = None, **details: Any
) -> ImageInfo:
    """The verdict that *error* stands for."""
    return ImageInfo(
        format=fmt,
        virtual_size=virtual_size,
        reasons=(str(error),),
        refusal=type(error),
        details=details,
    )


# --- detection --------------------------------------------------------------------------

_MAGICS: tuple[tuple[int, bytes, Format], ...] = (
    (0, b"QFI\xfb\x00\x00\x00\x01", Format.QCOW),
    (0, b"KDMV", Format.VMDK),
    (0, b"COWD", Format.VMDK),
    (0, b"vhdxfile", Format.VHDX),
    (0, b"conectix", Format.VHD),
    (64, b"\x7f\x10\xda\xbe", Format.VDI),
    (0, b"LUKS\xba\xbe", Format.LUKS),
    (0, b"QED\x00", Format.QED),
    (0, b"WithoutFreeSpace", Format.PARALLELS),
    (0, b"WithouFreSpacExt", Format.PARALLELS),
    (0, b"Bochs Virtual HD Image", Format.BOCHS),
    (0, b"#!/bin/sh\n#V2.0 Format", Format.CLOOP),
    (0, b"\x1f\x8b\x08", Format.GZ),
    (0, b"\xfd7zXZ\x00", Format.XZ),
    (0, b"\x28\xb5\x2f\xfd", Format.ZST),
    (0, b"PK\x03\x04", Format.ZIP),
    (0, b"PK\x05\x06", Format.ZIP),
    (257, b"ustar", Format.TAR),
    (0, b"7z\xbc\xaf\x27\x1c", Format.SEVENZIP),
    (0, b"Rar!\x1a\x07", Format.RAR),
    (0, b"\x04\x22\x4d\x18", Format.LZ4),
    (32769, b"CD001", Format.ISO),
)
_BZ2_BLOCKS = (b"1AY&SY", b"\x17rE8P\x90")
_DESCRIPTOR = b"# disk descriptorfile"


def _matches(head: bytes, tail: bytes | None) -> set[Format]:
    found = {fmt for at, magic, fmt in _MAGICS if head.startswith(magic, at)}
    if head.startswith(b"QFI\xfb") and Format.QCOW not in found:
        found.add(Format.QCOW2)
    # A partition table in front does not make a qcow2 header into somebody's boot code.
    if head.startswith(b"QFI\xfb", 512) and head.startswith(b"\x55\xaa", 510):
        found.add(Format.QCOW2)
    if head[:3] == b"BZh" and head[3:4] in b"123456789" and head[4:10] in _BZ2_BLOCKS:
        found.add(Format.BZ2)
    if len(head) >= 4 and head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50:
        found.add(Format.ZST)
    if head[:512].lstrip(b" \t\r\n").lower().startswith(_DESCRIPTOR):
        found.add(Format.VMDK)
    if tail is not None and len(tail) >= TAIL_BYTES:
        footer = tail[-TAIL_BYTES:]
        if footer.startswith(b"conectix") or footer.startswith(b"conectix", 1):
            found.add(Format.VHD)
        if footer.startswith(b"koly"):
            found.add(Format.DMG)
    return found


def detect(head: bytes, tail: bytes | None, size: int | None) -> Format:
    """Return the one format of an image of *size* bytes.

    *head* is its first HEAD_BYTES bytes (all where it is shorter), *tail* its last
    TAIL_BYTES or None where they are not at hand. What matches nothing is raw. Raises
    FormatError for an empty image, UnsafeImageError where two formats match (a polyglot).
    """
    if size == 0 or not head:
        raise FormatError("the image is empty", phase="decode")
    found = _matches(head, tail)
    if len(found) > 1:
        names = " and ".join(sorted(str(f) for f in found))
        raise UnsafeImageError(
            f"the image is {names} at the same time: readers would disagree about it",
            phase="decode",
        )
    return found.pop() if found else Format.RAW


def agree(declared: str, found: Format) -> Format:
    """Return the format to use where the caller *declared* one and the bytes show *found*.

    ``auto`` takes what was found. An ISO may be declared raw: both are the same bytes.
    Raises UnsafeImageError where the declaration hides another format.
    """
    if declared in ("auto", str(found)):
        return found
    if {declared, str(found)} == {"raw", "iso"} and found is Format.ISO:
        return found
    raise UnsafeImageError(
        f"the image is declared {declared}, but its bytes are {found}", phase="decode"
    )
