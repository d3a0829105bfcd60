# SPDX-License-Identifier: Apache-2.0
"""Which format do an image's first and last bytes show?

An image may have one magic only. Bytes that match two formats mean different
things to different readers, so they are refused whatever the formats are.
"""

from __future__ import annotations

from fastdl.errors import FormatError, UnsafeImageError
from fastdl.model.image import TAIL_BYTES, Format

_MAGICS: tuple[tuple[int, bytes, Format], ...] = (
    (0, b"QFI\xfb\x00\x00\x00\x01", Format.QCOW),
    (0, b"KDMV", Format.VMDK),
    (0, b"COWD", Format.VMDK),
    (0, b"\xbe\xba\xfe\xca\x00\x00\x00\x00", Format.SESPARSE),
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
    (0, b"070701", Format.CPIO),
    (0, b"070702", Format.CPIO),
    (0, b"070707", Format.CPIO),
    (0, b"!<arch>\n", Format.AR),
    (0, b"\xed\xab\xee\xdb", Format.RPM),
    (0, b"MSCF\x00\x00\x00\x00", Format.CAB),
    (0, b"xar!\x00", Format.XAR),
    (0, b"\x04\x22\x4d\x18", Format.LZ4),
    (0, b"\x02\x21\x4c\x18", Format.LZ4),
    (0, b"LZIP\x01", Format.LZIP),
    (0, b"\x89LZO\x00\r\n\x1a\n", Format.LZOP),
    (0, b"LRZI\x00", Format.LRZIP),
    (0, b"\xff\x06\x00\x00sNaPpY", Format.SNAPPY),
    (0, b"VMA\x00\x00\x00\x00\x01", Format.VMA),
    (0, b"\x3a\xff\x26\xed", Format.SIMG),
    (0, b"MSWIM\x00\x00\x00", Format.WIM),
    (0, b"CISO\x00", Format.CISO),
    (0, b"CISO\x18\x00\x00\x00", Format.CISO),
    (0, b"IsZ!", Format.CISO),
    (0, b"MComprHD", Format.CHD),
    (0, b"EVF\x09\x0d\x0a\xff\x00", Format.EWF),
    (0, b"EVF2\x0d\x0a\x81\x00", Format.EWF),
    (0, b"partclone-image", Format.PARTCLONE),
    (0, b"rbd image v", Format.RBD),
    (0, b"rbd diff v", Format.RBD),
    (0, b"btrfs-stream\x00", Format.BTRFS_SEND),
    (0, b"QEVM\x00\x00\x00\x03", Format.QEMU_STATE),
    (0, b"-----BEGIN PGP ", Format.PGP),
    (0, b"Salted__", Format.OPENSSL),
    (0, b"age-encryption.org/v1", Format.AGE),
    (0, b"%PDF-", Format.PDF),
    (32769, b"CD001", Format.ISO),
)
_BZ2_BLOCKS = (b"1AY&SY", b"\x17rE8P\x90")
_DESCRIPTOR = b"# disk descriptorfile"
_HTML = (b"<!doctype html", b"<html", b"<head", b"<body", b"<!--")
_TEXT_BYTES = 512
_UDF_AT, _UDF_STEP = 32768, 2048


def _compressed(head: bytes) -> set[Format]:
    """Streams whose magic is a few bits here and there."""
    found = set()
    if head[:3] == b"BZh" and head[3:4] in b"123456789" and head[4:10] in _BZ2_BLOCKS:
        found.add(Format.BZ2)
    if len(head) >= 4 and head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50:
        found.add(Format.ZST)
    # compress(1): how many bits a code has (9 to 16), and two bits that are always zero.
    if head[:2] == b"\x1f\x9d" and len(head) > 2 and not head[2] & 0x60 and 9 <= head[2] & 31 <= 16:
        found.add(Format.COMPRESS)
    # .lzma has no magic: the usual properties, a dictionary of 2^n or 2^n + 2^(n-1) bytes, and
    # a size that is not known or below 256 GiB.
    if head[:1] == b"\x5d" and len(head) >= 14 and head[13] == 0:
        dictionary = int.from_bytes(head[1:5], "little")
        size = int.from_bytes(head[5:13], "little")
        one_or_two_bits = dictionary & dictionary - 1 in (0, dictionary // 3)
        if dictionary >= 4096 and one_or_two_bits and (size == 2**64 - 1 or 0 < size < 2**38):
            found.add(Format.LZMA)
    return found


def _documents(head: bytes) -> set[Format]:
    """What a server sends in place of an image, with status 200."""
    start = head[:_TEXT_BYTES].removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n").lower()
    if start.startswith(_DESCRIPTOR):
        return {Format.VMDK}
    if start.startswith(_HTML):
        return {Format.HTML}
    return {Format.XML} if start.startswith(b"<?xml") else set()


def _is_old_tar(head: bytes) -> bool:
    """A tar header from before POSIX, as some tools still write them: no magic, but a sum."""
    digits = head[148:156].strip(b" \x00")
    if len(head) < 512 or not head[0] or not digits or digits.strip(b"01234567"):
        return False
    return int(digits, 8) == sum(head[:148]) + 8 * 32 + sum(head[156:512])


def _is_udf(head: bytes) -> bool:
    """ECMA-167 2/8: a volume recognition sequence that names NSR, with or without ISO 9660."""
    begun = False
    for at in range(_UDF_AT, len(head) - 6, _UDF_STEP):
        name = head[at + 1 : at + 6]
        if begun and name in (b"NSR02", b"NSR03"):
            return True
        begun = begun or name == b"BEA01"
        if name not in (b"BEA01", b"CD001", b"BOOT2", b"CDW02"):
            return False
    return False


def _matches(head: bytes, tail: bytes | None) -> set[Format]:
    found = {fmt for at, magic, fmt in _MAGICS if head.startswith(magic, at)}
    if head.startswith(b"QFI\xfb") and Format.QCOW not in found:
        found.add(Format.QCOW2)
    # A partition table in front does not make a qcow2 header into somebody's boot code.
    if head.startswith(b"QFI\xfb", 512) and head.startswith(b"\x55\xaa", 510):
        found.add(Format.QCOW2)
    found |= _compressed(head) | _documents(head)
    if _is_udf(head):
        found.add(Format.ISO)
    if _is_old_tar(head):
        found.add(Format.TAR)
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
            f"the image is {names} at the same time: readers would disagree",
            phase="decode",
        )
    return found.pop() if found else Format.RAW


def looks_like_text(head: bytes) -> bool:
    """Whether an image begins as no disk does: as a message, a checksum file, a pointer."""
    start = head[:_TEXT_BYTES]
    try:
        text = start.decode("utf-8")
    except UnicodeDecodeError as exc:
        if exc.start < _TEXT_BYTES - 3:
            return False
        text = start[: exc.start].decode("utf-8")  # the last character is cut
    return bool(text.strip()) and all(c.isprintable() or c in "\t\r\n" for c in text)


def agree(declared: str, found: Format, *, hidden: frozenset[Format] = frozenset()) -> Format:
    """Return the format to use where the caller *declared* one and the bytes show *found*.

    ``auto`` takes what was found. An ISO may be declared raw: both are the same bytes.
    *hidden*: formats that may yet show themselves in bytes that were not seen.
    Raises UnsafeImageError where the declaration hides another format.
    """
    if declared in ("auto", str(found)):
        return found
    if declared == Format.RAW and found is Format.ISO:
        return found
    if found is Format.RAW and declared in hidden:
        return Format(declared)
    raise UnsafeImageError(
        f"the image is declared {declared}, but its bytes are {found}", phase="decode"
    )
