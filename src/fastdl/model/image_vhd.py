# SPDX-License-Identifier: Apache-2.0
"""Are a VHD (Microsoft VHD 1.0) and a VHDX ([MS-VHDX]) whole, and free of parents?

Fixed and dynamic disks only. Every table is read once, inside the file, and no block may
be used twice. A log that was not replayed is refused: replaying is writing.
"""

from __future__ import annotations

import struct
import uuid

from fastdl.errors import FormatError, UnsafeImageError
from fastdl.model.image import MAX_TABLE, Format, ImageInfo, Reader, known_size, plausible, words

_SECTOR = 512
_UNUSED = 0xFFFFFFFF


def _bad(what: str) -> FormatError:
    return FormatError(what, phase="decode")


# --- VHD --------------------------------------------------------------------------------


def _vhd_sum(block: bytes, at: int) -> int:
    """One's complement of the sum of all bytes, the checksum's own four left out."""
    return ~(sum(block) - sum(block[at : at + 4])) & 0xFFFFFFFF


def stated_size(head: bytes) -> int | None:
    """The disk's size as the footer, or its copy at the beginning of *head*, states it."""
    if len(head) < 56 or not head.startswith(b"conectix"):
        return None
    return plausible(int.from_bytes(head[48:56], "big"))


def inspect_vhd(reader: Reader) -> ImageInfo:
    """Check a VHD by its footer, and a dynamic one by its header and block table."""
    file_size = known_size(reader)
    if file_size % _SECTOR or file_size < 2 * _SECTOR:
        raise _bad("vhd: the file does not end with a 512-byte footer")
    footer = reader.read_at(file_size - _SECTOR, _SECTOR)
    if not footer.startswith(b"conectix"):
        raise _bad("vhd: no footer at the end")
    if _vhd_sum(footer, 64) != int.from_bytes(footer[64:68], "big"):
        raise _bad("vhd: the footer's checksum is wrong")
    version, data_offset = struct.unpack_from(">IQ", footer, 12)
    (size,) = struct.unpack_from(">Q", footer, 48)
    (kind,) = struct.unpack_from(">I", footer, 60)
    if version >> 16 != 1:
        raise _bad("vhd: unknown version")
    if size == 0 or size % _SECTOR or size > 2**63 - 1:
        raise _bad("vhd: impossible virtual size")
    if kind == 4:
        raise UnsafeImageError("vhd: a differencing disk refers to a parent", phase="decode")
    if kind not in (2, 3):
        raise _bad("vhd: neither fixed nor dynamic")
    if kind == 2:
        if size != file_size - _SECTOR:
            raise _bad("vhd: the size of the fixed disk does not match the file")
        if reader.read_at(0, 8) == b"conectix":
            # qemu looks there first, and takes what it finds for a dynamic disk of any size.
            raise UnsafeImageError("vhd: a fixed disk that begins as a dynamic one", phase="decode")
        return ImageInfo(format=Format.VHD, virtual_size=size, details={"subformat": "fixed"})
    if reader.read_at(0, _SECTOR) != footer:
        raise _bad("vhd: the copy of the footer at the beginning differs")
    _vhd_dynamic(reader, data_offset, size, file_size - _SECTOR)
    return ImageInfo(format=Format.VHD, virtual_size=size, details={"subformat": "dynamic"})


def _vhd_dynamic(reader: Reader, at: int, size: int, end: int) -> None:
    header = reader.read_at(at, 1024)
    if at < _SECTOR or len(header) < 1024 or not header.startswith(b"cxsparse"):
        raise _bad("vhd: no dynamic header")
    if _vhd_sum(header, 36) != int.from_bytes(header[36:40], "big"):
        raise _bad("vhd: the dynamic header's checksum is wrong")
    (table,) = struct.unpack_from(">Q", header, 16)
    entries, block = struct.unpack_from(">II", header, 28)
    if any(header[40:56]) or any(header[576 : 576 + 8 * 24]):
        raise UnsafeImageError("vhd: the header names a parent", phase="decode")
    if block < _SECTOR or block & (block - 1) or block > 2**28:
        raise _bad("vhd: impossible block size")
    if entries * 4 > MAX_TABLE or entries * block < size:
        raise _bad("vhd: the block table does not fit the disk")
    if table < _SECTOR or table + entries * 4 > end:
        raise _bad("vhd: the block table is outside the file")
    bitmap = -(-(block // _SECTOR // 8) // _SECTOR) * _SECTOR
    blocks = words(reader.read_at(table, entries * 4), "big")
    starts = sorted(entry * _SECTOR for entry in blocks if entry != _UNUSED)
    _check_blocks("vhd", starts, bitmap + block, end, (table, table + entries * 4), (at, at + 1024))


def _check_blocks(
    name: str, starts: list[int], length: int, end: int, *tables: tuple[int, int]
) -> None:
    """No block outside the file, none used twice, none on a table. *starts* is sorted."""
    before = 0
    for start in starts:
        if start < before:
            raise _bad(f"{name}: a block is used twice or overlaps the header")
        before = start + length
        if start + length > end:
            raise _bad(f"{name}: a block is outside the file")
        if any(start < stop and first < start + length for first, stop in tables):
            raise _bad(f"{name}: a block overlaps the tables")


# --- VHDX -------------------------------------------------------------------------------

_BAT = uuid.UUID("2dc27766-f623-4200-9d64-115e9bfd4a08")
_METADATA = uuid.UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e")
_FILE_PARAMETERS = uuid.UUID("caa16737-fa36-4d43-b3b6-33f0aa44e76b")
_DISK_SIZE = uuid.UUID("2fa54224-cd1b-4876-b211-5dbed83bf4b8")
_LOGICAL_SECTOR = uuid.UUID("8141bf1d-a96f-4709-ba47-f233a8faab5f")
_PHYSICAL_SECTOR = uuid.UUID("cda348c7-445d-4471-9cc9-e9885251c556")
_PAGE83 = uuid.UUID("beca12ab-b2e6-4523-93ef-c309e000c746")
_PARENT_LOCATOR = uuid.UUID("a8d35f2d-b30b-454d-abf7-d3d84834ab0c")
_KNOWN_ITEMS = {_FILE_PARAMETERS, _DISK_SIZE, _LOGICAL_SECTOR, _PHYSICAL_SECTOR, _PAGE83}
_MAX_ENTRIES = 2047
_MIB = 1024 * 1024


def _crc32c_table() -> list[int]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return table


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli), as [MS-VHDX] 2.1 wants it; meant for a few 64 KiB blocks."""
    table = _crc32c_table()
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def _sealed(block: bytes) -> bool:
    """Whether the checksum at bytes 4 to 8 is that of *block* with zeros there."""
    return crc32c(block[:4] + bytes(4) + block[8:]) == int.from_bytes(block[4:8], "little")


def _vhdx_header(reader: Reader) -> bytes:
    """The valid header with the higher sequence number."""
    valid = []
    for at in (64 * 1024, 128 * 1024):
        header = reader.read_at(at, 4096)
        if len(header) == 4096 and header.startswith(b"head") and _sealed(header):
            valid.append((int.from_bytes(header[8:16], "little"), header))
    if not valid:
        raise _bad("vhdx: no valid header")
    return max(valid, key=lambda pair: pair[0])[1]


def _vhdx_regions(reader: Reader) -> dict[uuid.UUID, tuple[int, int]]:
    for at in (192 * 1024, 256 * 1024):
        table = reader.read_at(at, 64 * 1024)
        if len(table) < 64 * 1024 or not table.startswith(b"regi") or not _sealed(table):
            continue
        (count,) = struct.unpack_from("<I", table, 8)
        if count > _MAX_ENTRIES:
            raise _bad("vhdx: more than 2047 regions")
        regions: dict[uuid.UUID, tuple[int, int]] = {}
        for i in range(count):
            guid, offset, length, required = struct.unpack_from("<16sQII", table, 16 + 32 * i)
            name = uuid.UUID(bytes_le=guid)
            if name not in (_BAT, _METADATA):
                if required & 1:
                    raise _bad("vhdx: unknown required region")
                continue
            if name in regions or offset < _MIB or offset % _MIB or length % _MIB or not length:
                raise _bad("vhdx: impossible region")
            if offset + length > known_size(reader):
                raise _bad("vhdx: a region is outside the file")
            regions[name] = (offset, length)
        if len(regions) != 2:
            raise _bad("vhdx: block table or metadata is missing")
        return regions
    raise _bad("vhdx: no valid region table")


def _vhdx_metadata(reader: Reader, offset: int, length: int) -> dict[uuid.UUID, bytes]:
    table = reader.read_at(offset, 64 * 1024)
    if len(table) < 64 * 1024 or not table.startswith(b"metadata"):
        raise _bad("vhdx: no metadata table")
    (count,) = struct.unpack_from("<H", table, 10)
    if count > _MAX_ENTRIES:
        raise _bad("vhdx: more than 2047 metadata entries")
    items: dict[uuid.UUID, bytes] = {}
    for i in range(count):
        guid, at, size, flags = struct.unpack_from("<16sIII", table, 32 + 32 * i)
        name = uuid.UUID(bytes_le=guid)
        if name == _PARENT_LOCATOR:
            raise UnsafeImageError("vhdx: a parent locator refers to a parent", phase="decode")
        if name not in _KNOWN_ITEMS:
            if flags & 4:
                raise _bad("vhdx: unknown required metadata")
            continue
        if name in items or at < 64 * 1024 or size > 64 or at + size > length:
            raise _bad("vhdx: impossible metadata entry")
        items[name] = reader.read_at(offset + at, size)
    return items


def inspect_vhdx(reader: Reader) -> ImageInfo:
    """Check a VHDX by headers, region tables, metadata and block table."""
    header = _vhdx_header(reader)
    (version,) = struct.unpack_from("<H", header, 66)
    if version != 1:
        raise _bad("vhdx: unknown version")
    if any(header[48:64]):
        raise _bad("vhdx: the log was not replayed (the image was not closed cleanly)")
    regions = _vhdx_regions(reader)
    items = _vhdx_metadata(reader, *regions[_METADATA])
    try:
        block, flags = struct.unpack("<II", items[_FILE_PARAMETERS])
        (size,) = struct.unpack("<Q", items[_DISK_SIZE])
        (sector,) = struct.unpack("<I", items[_LOGICAL_SECTOR])
    except (KeyError, struct.error):
        raise _bad("vhdx: metadata is missing or cut off") from None
    if flags & 2:
        raise UnsafeImageError("vhdx: a differencing disk refers to a parent", phase="decode")
    if sector not in (512, 4096) or not _MIB <= block <= 256 * _MIB or block & (block - 1):
        raise _bad("vhdx: impossible block or sector size")
    if size == 0 or size % sector or size > 64 * 2**40:
        raise _bad("vhdx: impossible virtual size")
    _vhdx_blocks(reader, regions, block, sector, size)
    return ImageInfo(
        format=Format.VHDX, virtual_size=size, details={"block_size": block, "sector_size": sector}
    )


def _vhdx_blocks(
    reader: Reader, regions: dict[uuid.UUID, tuple[int, int]], block: int, sector: int, size: int
) -> None:
    """[MS-VHDX] 2.5: after every `ratio` data entries lies one of a sector bitmap."""
    offset, length = regions[_BAT]
    ratio = 2**23 * sector // block
    data = -(-size // block)
    entries = data + (data - 1) // ratio
    if entries * 8 > length or entries * 8 > MAX_TABLE:
        raise _bad("vhdx: the block table does not fit the disk")
    starts = []
    for i, entry in enumerate(struct.unpack(f"<{entries}Q", reader.read_at(offset, entries * 8))):
        state, at = entry & 7, entry >> 20 << 20
        if i % (ratio + 1) == ratio:
            continue  # a bitmap's: of meaning for differencing disks alone
        if state == 7:
            raise UnsafeImageError("vhdx: a block is partly in a parent", phase="decode")
        if state in (4, 5):
            raise _bad("vhdx: unknown block state")
        if state == 6:
            starts.append(at)
    tables = [(at, at + size_) for at, size_ in regions.values()]
    _check_blocks("vhdx", sorted(starts), block, known_size(reader), (0, _MIB), *tables)
