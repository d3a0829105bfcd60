# SPDX-License-Identifier: Apache-2.0
"""Is a VDI (VirtualBox, version 1.1) whole, and free of parents?"""

from __future__ import annotations

import struct

from fastdl.errors import FormatError, UnsafeImageError
from fastdl.model.image import MAX_TABLE, Format, ImageInfo, Reader, known_size, plausible, words

_UNUSED = 0xFFFFFFFE  # this and the next: not allocated, or all zeros
_KINDS = {1: "dynamic", 2: "fixed"}


def _bad(what: str) -> FormatError:
    return FormatError(what, phase="decode")


def stated_size(head: bytes) -> int | None:
    """The disk's size as the header states it, in whole sectors: VBoxManage makes odd ones."""
    if len(head) < 376:
        return None
    (size,) = struct.unpack_from("<Q", head, 368)
    return plausible(-(-int(size) // 512) * 512)


def inspect_vdi(reader: Reader) -> ImageInfo:
    """Check a VDI by its header and block map: dynamic and fixed disks only."""
    header = reader.read_at(0, 512)
    if len(header) < 512:
        raise _bad("vdi: header cut off")
    version, _size, kind = struct.unpack_from("<III", header, 68)
    table, data = struct.unpack_from("<II", header, 340)
    (sector,) = struct.unpack_from("<I", header, 360)
    (size,) = struct.unpack_from("<Q", header, 368)
    block, extra, blocks, allocated = struct.unpack_from("<IIII", header, 376)
    if version != 0x00010001:
        raise _bad("vdi: unknown version")
    if kind not in _KINDS:
        raise UnsafeImageError(
            "vdi: a differencing or undo disk refers to a parent", phase="decode"
        )
    if any(header[424:456]):
        raise UnsafeImageError("vdi: the header names a parent", phase="decode")
    if sector != 512 or block != 1024 * 1024 or extra:
        raise _bad("vdi: impossible sector or block size")
    if size == 0 or size > 2**63 - 1 or blocks * block < size or blocks * 4 > MAX_TABLE:
        raise _bad("vdi: the block map does not fit the disk")
    file_size = known_size(reader)
    if table < 512 or data % 512 or table + blocks * 4 > data or data > file_size:
        raise _bad("vdi: block map or data outside the file")
    entries = words(reader.read_at(table, blocks * 4), "little")
    used = [entry for entry in entries if entry < _UNUSED]
    if len(set(used)) != len(used):
        raise _bad("vdi: a block is used twice")
    if len(used) != allocated:
        raise _bad("vdi: the number of allocated blocks is wrong")
    if used and data + max(used) * block >= file_size:
        raise _bad("vdi: a block is outside the file")
    return ImageInfo(
        format=Format.VDI,
        virtual_size=stated_size(header),
        details={"subformat": _KINDS[kind], "block_size": block},
    )
