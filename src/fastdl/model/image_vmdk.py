# SPDX-License-Identifier: Apache-2.0
"""Is a VMDK one file that names nothing outside itself?

monolithicSparse and streamOptimized only (VMware Virtual Disk Format 5.0). The embedded
descriptor is the dangerous part: a line of it can name any file of the host as the disk's
content. So every line is understood, or the image is refused.
"""

from __future__ import annotations

import re
import struct
from typing import Any

from fastdl.errors import FormatError, UnsafeImageError
from fastdl.model.image import Format, ImageInfo, Reader, known_size, plausible

_SECTOR = 512
_MAX_TABLES = 1 << 18
_ZEROED = 1  # grain table entries up to it name no place in the file
_MARKER = struct.Struct("<QI")
_MAX_DESCRIPTOR = 64 * 1024
_CID_DIGITS = 8
_AT_END = 0xFFFFFFFFFFFFFFFF
_FLAG_COMPRESSED = 1 << 16
_FLAG_MARKERS = 1 << 17
_CREATE_TYPES = {"monolithicSparse", "streamOptimized"}
_LINE_END = re.compile(r"\r\n|\n|\r")
_BACKSLASH = re.compile(r"(?<![\x81-\xfe])\\")
_EXTENT = re.compile(r'(RW|RDONLY) ([0-9]{1,16}) SPARSE "([^"\x00-\x1f]{1,255})"')
_SETTING = re.compile(
    r'([A-Za-z][A-Za-z0-9._]{0,63}) ?= ?(?:"([^"\x00-\x1f]{0,255})"|([0-9a-zA-Z.-]{1,64}))'
)
_KNOWN = {"version", "encoding", "cid", "parentcid", "isnativesnapshot", "createtype"}


def _bad(what: str) -> FormatError:
    return FormatError(what, phase="decode")


def _unsafe(what: str) -> UnsafeImageError:
    return UnsafeImageError(what, phase="decode")


def _header(block: bytes) -> dict[str, Any]:
    names = (
        "version",
        "flags",
        "capacity",
        "grain",
        "desc_at",
        "desc_len",
        "gtes",
        "rgd",
        "gd",
        "overhead",
        "unclean",
        "line_ends",
        "compression",
    )
    return dict(zip(names, struct.unpack_from("<IIQQQQIQQQB4sH", block, 4), strict=True))


def stated_size(head: bytes) -> int | None:
    """The disk's size as the header states it."""
    if len(head) < _SECTOR or not head.startswith(b"KDMV"):
        return None
    return plausible(int(_header(head)["capacity"]) * _SECTOR)


def inspect_vmdk(reader: Reader) -> ImageInfo:
    """Check a VMDK by its header, its footer and every line of its descriptor."""
    block = reader.read_at(0, _SECTOR)
    if not block.startswith(b"KDMV"):
        raise _unsafe("vmdk: a descriptor file or an old format: its data is in other files")
    if len(block) < _SECTOR:
        raise _bad("vmdk: header cut off")
    head = _header(block)
    if head["version"] not in (1, 2, 3):
        raise _bad("vmdk: unknown version")
    if head["line_ends"] != b"\n \r\n":
        raise _bad("vmdk: the file was damaged by a text transfer")
    if (
        head["gtes"] != 512
        or not 8 <= head["grain"] <= 2**20
        or head["grain"] & (head["grain"] - 1)
    ):
        raise _bad("vmdk: impossible grain size")
    size = head["capacity"] * _SECTOR
    if size == 0 or size > 2**63 - 1:
        raise _bad("vmdk: impossible virtual size")
    if bool(head["flags"] & _FLAG_COMPRESSED) != (head["compression"] == 1) or (
        head["compression"] > 1
    ):
        raise _bad("vmdk: unknown compression")
    # The dangerous part first: it is near the beginning, even if the tables are not.
    kind = _descriptor(reader, head)
    if head["gd"] == _AT_END:
        head = _footer(reader, block, head)
    _directory(reader, head)
    if (kind == "streamOptimized") != bool(head["flags"] & _FLAG_MARKERS):
        raise _bad("vmdk: descriptor and header disagree about the kind of file")
    return ImageInfo(format=Format.VMDK, virtual_size=size, details={"subformat": kind})


def _footer(reader: Reader, header: bytes, head: dict[str, Any]) -> dict[str, Any]:
    """The header's second copy, 1024 bytes before the end: only the directory may differ."""
    if known_size(reader) < 4 * _SECTOR:
        raise _bad("vmdk: no footer")
    footer = reader.read_at(known_size(reader) - 2 * _SECTOR, _SECTOR)
    if footer[:4] != b"KDMV" or footer[:56] != header[:56] or footer[72:79] != header[72:79]:
        raise _unsafe("vmdk: header and footer disagree")
    found = _header(footer)
    if found["gd"] == _AT_END:
        raise _bad("vmdk: no grain directory")
    return {**head, "gd": found["gd"]}


def _directory(reader: Reader, head: dict[str, Any]) -> None:
    """The grain directory and every grain table are inside the file."""
    span = head["grain"] * head["gtes"]
    tables = -(-head["capacity"] // span)
    at = head["gd"] * _SECTOR
    if at < _SECTOR or tables * 4 > 32 * 1024 * 1024 or at + tables * 4 > known_size(reader):
        raise _bad("vmdk: the grain directory is outside the file")
    entries = struct.unpack(f"<{tables}I", reader.read_at(at, tables * 4))
    if any(entry * _SECTOR + head["gtes"] * 4 > known_size(reader) for entry in entries):
        raise _bad("vmdk: a grain table is outside the file")
    _last_grain(reader, head, set(entries) - {0})


def _last_grain(reader: Reader, head: dict[str, Any], tables: set[int]) -> None:
    """What lies furthest back is there: writers append, so a cut file lacks it first.

    A compressed grain has its length before it. Of another one only the start is asked for:
    writers may leave the end of the last one out.
    """
    if len(tables) > _MAX_TABLES:
        raise _bad("vmdk: more grain tables than any image has")
    last = 0
    for table in sorted(tables):
        raw = reader.read_at(table * _SECTOR, head["gtes"] * 4)
        last = max(last, *struct.unpack(f"<{head['gtes']}I", raw))
    if last <= _ZEROED:
        return
    end = last * _SECTOR + 1
    if head["flags"] & _FLAG_COMPRESSED and end + _MARKER.size <= known_size(reader):
        _, length = _MARKER.unpack(reader.read_at(last * _SECTOR, _MARKER.size))
        end = last * _SECTOR + _MARKER.size + length
    if end > known_size(reader):
        raise _bad("vmdk: the file is cut off: its last grain is missing")


def _descriptor(reader: Reader, head: dict[str, Any]) -> str:
    """The createType of a descriptor whose every line is harmless."""
    at, length = head["desc_at"] * _SECTOR, head["desc_len"] * _SECTOR
    if at < _SECTOR or not 0 < length <= _MAX_DESCRIPTOR:
        raise _bad("vmdk: no embedded descriptor")
    block = reader.read_at(at, length)
    if len(block) < length:
        raise _bad("vmdk: no embedded descriptor")
    text, _, rest = block.partition(b"\0")
    # qemu-img numbers its image a second time: a number that is shorter by some digits leaves the
    # end of the longer text behind, once in 256 images.
    left = rest.rstrip(b"\0")
    if len(left) >= _CID_DIGITS or not text.endswith(left):
        raise _unsafe("vmdk: something is hidden behind the descriptor")
    # Writers use the code page of their machine, whatever `encoding` says. What counts is
    # ASCII in all of them; a byte beyond it stands for itself, and only between quotes.
    lines = _LINE_END.split(text.removeprefix(b"\xef\xbb\xbf").decode("latin-1"))
    settings: dict[str, str] = {}
    extents: list[re.Match[str]] = []
    for line in (raw.strip(" \t") for raw in lines):
        if not line or line.startswith("#"):
            continue
        extent = _EXTENT.fullmatch(line)
        if extent:
            extents.append(extent)
            continue
        _take_setting(line, settings)
    if len(extents) != 1:
        raise _unsafe("vmdk: not exactly one extent")
    _check_extent(extents[0], head)
    if settings.get("parentcid", "ffffffff").lower() != "ffffffff":
        raise _unsafe("vmdk: the descriptor names a parent")
    kind = settings.get("createtype", "")
    if kind not in _CREATE_TYPES:
        raise _unsafe("vmdk: only monolithicSparse and streamOptimized are accepted")
    return kind


def _check_extent(extent: re.Match[str], head: dict[str, Any]) -> None:
    if not _is_plain_name(extent[3]):
        raise _unsafe("vmdk: an extent names another file")
    if int(extent[2]) != head["capacity"]:
        raise _bad("vmdk: extent and header disagree about the size")


def _is_plain_name(name: str) -> bool:
    """Whether a file's name leads nowhere. A backslash may be the second byte of a character
    (Shift_JIS, GBK, Big5): behind a byte beyond ASCII it separates nothing."""
    return "/" not in name and not _BACKSLASH.search(name) and name not in (".", "..")


def _take_setting(line: str, settings: dict[str, str]) -> None:
    setting = _SETTING.fullmatch(line)
    if setting is None:
        raise _unsafe("vmdk: a line of the descriptor is not understood")
    key = setting[1].lower()
    if key not in _KNOWN and not key.startswith("ddb."):
        raise _unsafe("vmdk: a setting of the descriptor is not understood")
    if key in settings:
        raise _unsafe("vmdk: the descriptor says the same thing twice")
    settings[key] = setting[2] if setting[2] is not None else setting[3]
