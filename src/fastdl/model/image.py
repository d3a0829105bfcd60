# SPDX-License-Identifier: Apache-2.0
"""Which format is this?

``detect`` names exactly one format from an image's first and last bytes; ``agree``
compares that with the declared format. The magics are in ``image_magic``, the rules of
each format in ``image_inspect``.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Protocol

from fastdl.errors import FastdlError, FormatError, UnsafeImageError
from fastdl.named_tuple import NamedTuple

HEAD_BYTES = 64 * 1024
"""How many first bytes ``detect`` needs (an ISO shows itself at 32 KiB)."""

TAIL_BYTES = 512
"""How many last bytes ``detect`` needs (a fixed VHD has its mark only there)."""

MAX_TABLE = 32 * 1024 * 1024
"""The largest block table that is read, in bytes."""


class Format(StrEnum):
    """Every recognised format; most are refused, none is guessed."""

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
    SEVENZIP = "7z"
    RAR = "rar"
    CPIO = "cpio"
    AR = "ar"
    RPM = "rpm"
    CAB = "cab"
    XAR = "xar"
    LZ4 = "lz4"
    LZIP = "lzip"
    LZOP = "lzop"
    LZMA = "lzma"
    LRZIP = "lrzip"
    COMPRESS = "Z"
    SNAPPY = "snappy"
    VMA = "vma"
    SESPARSE = "sesparse"
    SIMG = "simg"
    WIM = "wim"
    CISO = "ciso"
    CHD = "chd"
    EWF = "ewf"
    PARTCLONE = "partclone"
    RBD = "rbd"
    BTRFS_SEND = "btrfs-stream"
    QEMU_STATE = "qemu-state"
    PGP = "pgp"
    OPENSSL = "openssl"
    AGE = "age"
    HTML = "html"
    XML = "xml"
    PDF = "pdf"


COMPRESSED = frozenset({Format.GZ, Format.BZ2, Format.XZ, Format.ZST, Format.ZIP})
"""One layer of these is decoded on the way."""

CONVERTIBLE = frozenset({Format.VHD, Format.VHDX, Format.VMDK, Format.VDI})
"""Converted to raw from a verified staged file."""

DISKS = frozenset({Format.RAW, Format.ISO, Format.QCOW2, *CONVERTIBLE})
"""What a guest's disk can be in: the formats that a template may be declared to have."""

ARCHIVES = frozenset(
    {Format.TAR, Format.SEVENZIP, Format.RAR, Format.CPIO, Format.AR, Format.RPM, Format.CAB,
     Format.XAR}
)  # fmt: skip
PACKINGS = frozenset(
    {
        Format.LZ4,
        Format.LZIP,
        Format.LZOP,
        Format.LZMA,
        Format.LRZIP,
        Format.COMPRESS,
        Format.SNAPPY,
    }
)
"""Compressed in a way that is not decoded here."""
ENCRYPTED = frozenset({Format.PGP, Format.OPENSSL, Format.AGE})
DOCUMENTS = frozenset({Format.HTML, Format.XML, Format.PDF})

NAMES = {
    Format.VMA: "a Proxmox backup",
    Format.SESPARSE: "a snapshot of VMware's",
    Format.SIMG: "a sparse image of Android's",
    Format.WIM: "a Windows imaging archive",
    Format.CISO: "a compressed ISO",
    Format.CHD: "a compressed image of MAME's",
    Format.EWF: "a forensic image (EWF)",
    Format.PARTCLONE: "a backup of partclone's",
    Format.RBD: "an export of Ceph's RBD",
    Format.BTRFS_SEND: "a stream of btrfs send",
    Format.QEMU_STATE: "a saved state of QEMU's",
}
"""Formats with disks in them that need another program."""


def not_supported(fmt: Format) -> FastdlError:
    """Why an image in a format outside of DISKS and COMPRESSED is refused, in one sentence."""
    if fmt is Format.LUKS:
        return UnsafeImageError("luks: encrypted images are refused", phase="decode")
    if fmt in ENCRYPTED:
        what = f"{fmt}: this is encrypted; decrypt it first"
    elif fmt in ARCHIVES:
        what = f"{fmt}: an archive is no image; unpack it (an OVA holds its disks as files)"
    elif fmt in PACKINGS:
        what = f"{fmt}: this compression is not decoded (gz, bz2, xz, zst and zip are)"
    elif fmt in DOCUMENTS:
        what = f"{fmt}: this is a document, perhaps an error or login page, and no image"
    elif fmt in NAMES:
        what = f"{fmt}: this is {NAMES[fmt]}; extract or convert the disk first"
    else:
        what = f"{fmt}: this format is not supported"
    return FormatError(what, phase="decode")


def declared_format(name: str | None) -> str:
    """The declaration that a template's *name* of a format stands for, in any case.

    Nothing is ``auto``. FormatError for a format that is known elsewhere and no disk here
    (OVA, TAR, DIR, …): a caller that declares it must not get whatever the bytes are.
    """
    lower = (name or "auto").lower()
    if lower != "auto" and lower not in DISKS:
        raise FormatError(f"the format {name} cannot be used by a host: {_DISK_NAMES} can")
    return lower


_DISK_NAMES = ", ".join(sorted(fmt.upper() for fmt in DISKS))


class Reader(Protocol):
    """What an inspector may do with an image. *distant*: each read costs a request."""

    @property
    def distant(self) -> bool: ...

    @property
    def size(self) -> int | None:
        """Bytes of the image's file; None while they are not known."""

    def read_at(self, offset: int, length: int) -> bytes:
        """Up to *length* bytes at *offset*; fewer only at the end. NotAtHand."""


class NotAtHand(Exception):
    """Not an error: these bytes of an image have not arrived yet, and are not requested."""


class ImageInfo(NamedTuple):
    """The result of checking one image.

    ``virtual_size`` is the size of the guest's disk in bytes, None if unknown before decompression.
    ``reasons`` are sentences, the first of them the refusal;
    ``refusal`` is its class, None if the image is acceptable. ``whole``: all that
    decides was at hand, nothing can come to light any more. ``inner``: what lies under one
    layer of compression.
    """

    format: Format
    virtual_size: int | None
    reasons: tuple[str, ...] = ()
    refusal: type[FastdlError] | None = None
    details: Mapping[str, Any] = MappingProxyType({})
    inner: Format | None = None
    whole: bool = True
    warnings: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The format with what lies under it: ``qcow2``, ``raw.xz``."""
        return str(self.format) if self.inner is None else f"{self.inner}.{self.format}"

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
            "warnings": list(self.warnings),
            "details": dict(self.details) | ({"inner": str(self.inner)} if self.inner else {}),
        }


def known_size(reader: Reader) -> int:
    """Bytes of the image's file; NotAtHand if unknown."""
    if reader.size is None:
        raise NotAtHand
    return reader.size


def plausible(size: int) -> int | None:
    """*size* where a disk can have it: for what a header says before it is checked."""
    return size if 0 < size < 2**63 else None


def words(table: bytes, byteorder: str) -> array[int]:
    """The unsigned 32-bit numbers of *table*, compactly: tables may have millions."""
    numbers = array("I", table)
    if sys.byteorder != byteorder:
        numbers.byteswap()
    return numbers


def refused(
    fmt: Format, error: FastdlError, *, virtual_size: int | None = None, **details: Any
) -> ImageInfo:
    """The result for *error*."""
    return ImageInfo(
        format=fmt,
        virtual_size=virtual_size,
        reasons=(str(error),),
        refusal=type(error),
        details=details,
    )
