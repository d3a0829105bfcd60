# SPDX-License-Identifier: Apache-2.0
"""Is every format told apart, and every image that reaches outside itself refused?"""

from __future__ import annotations

import random
import re
import struct
import tarfile
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from fastdl.errors import FormatError, LimitError, UnsafeImageError
from fastdl.model.image import (
    HEAD_BYTES,
    TAIL_BYTES,
    Format,
    ImageInfo,
    declared_format,
    refused,
)
from fastdl.model.image_inspect import inspect
from fastdl.model.image_magic import agree, detect, looks_like_text
from fastdl.model.image_vhd import crc32c
from tests.env.images import HAVE_QEMU, NEED_QEMU, fill_raw, run


class Bytes:
    """An image in memory, as the inspectors want it."""

    distant = False

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data)

    def read_at(self, offset: int, length: int) -> bytes:
        return self.data[offset : offset + length]


def no_qcow2(reader: object) -> ImageInfo:
    raise AssertionError("not a qcow2")


def no_peek(fmt: Format, reader: object) -> bytes:
    raise AssertionError("not compressed")


def checked(data: bytes, declared: str = "auto") -> ImageInfo:
    return inspect(Bytes(data), qcow2=no_qcow2, peek=no_peek, declared=declared)


def found(data: bytes) -> Format:
    return detect(data[:HEAD_BYTES], data[-TAIL_BYTES:], len(data))


MAGICS = {
    Format.QCOW2: b"QFI\xfb\0\0\0\3",
    Format.QCOW: b"QFI\xfb\0\0\0\1",
    Format.VMDK: b"KDMV",
    Format.VHDX: b"vhdxfile",
    Format.VDI: bytes(64) + b"\x7f\x10\xda\xbe",
    Format.LUKS: b"LUKS\xba\xbe",
    Format.QED: b"QED\0",
    Format.GZ: b"\x1f\x8b\x08",
    Format.BZ2: b"BZh91AY&SY",
    Format.XZ: b"\xfd7zXZ\0",
    Format.ZST: b"\x28\xb5\x2f\xfd",
    Format.ZIP: b"PK\3\4",
    Format.TAR: bytes(257) + b"ustar",
    Format.ISO: bytes(32769) + b"CD001",
    Format.SEVENZIP: b"7z\xbc\xaf\x27\x1c",
    Format.VMA: b"VMA\0\0\0\0\1",
    Format.LZIP: b"LZIP\1\x0c",
    Format.LZOP: b"\x89LZO\0\r\n\x1a\n",
    Format.COMPRESS: b"\x1f\x9d\x90",
    Format.LZMA: b"\x5d\0\0\x80\0" + b"\xff" * 8 + b"\0",
    Format.SIMG: b"\x3a\xff\x26\xed",
    Format.HTML: b"\xef\xbb\xbf\r\n<!DOCTYPE html>",
    Format.XML: b'<?xml version="1.0"?>',
}


@pytest.mark.parametrize("fmt", MAGICS)
def test_each_magic_names_its_format(fmt: Format) -> None:
    """The table of magics is what everything else rests on."""
    assert found(MAGICS[fmt].ljust(40000, b"\0")) is fmt


@pytest.mark.parametrize("data", [b"x", bytes(511), b"BZh9 no bzip2", bytes(33000)])
def test_what_matches_nothing_is_raw(data: bytes) -> None:
    """Raw has no magic: it is what remains (I19)."""
    assert found(data) is Format.RAW


def test_an_empty_image_is_refused() -> None:
    """No bytes are no image (I19)."""
    with pytest.raises(FormatError):
        detect(b"", b"", 0)
    assert checked(b"").refusal is FormatError


@pytest.mark.parametrize(
    "data",
    [
        b"QFI\xfb\0\0\0\3".ljust(32769, b"\0") + b"CD001" + bytes(2048),
        b"QFI\xfb\0\0\0\3".ljust(4096, b"\0") + b"conectix".ljust(512, b"\0"),
        b"\x1f\x8b\x08".ljust(32769, b"\0") + b"CD001" + bytes(99),
    ],
)
def test_a_polyglot_is_refused(data: bytes) -> None:
    """Two readers would see two different disks (I12)."""
    assert checked(data).refusal is UnsafeImageError


def test_a_qcow2_header_behind_a_boot_sector_is_seen() -> None:
    """A partition table in front must not hide it (I12)."""
    data = (bytes(510) + b"\x55\xaa" + b"QFI\xfb\0\0\0\3").ljust(40000, b"\0")
    assert found(data) is Format.QCOW2


def test_a_vmdk_descriptor_is_no_raw_image() -> None:
    """A text file that names the host's files must not pass as a disk (I12)."""
    info = checked(b'\n # Disk DescriptorFile\nRW 1 FLAT "/etc/shadow" 0\n'.ljust(512))
    assert (info.format, info.refusal) == (Format.VMDK, UnsafeImageError)


@pytest.mark.parametrize(
    ("declared", "fmt", "good"),
    [
        ("auto", Format.QCOW2, True),
        ("qcow2", Format.QCOW2, True),
        ("raw", Format.RAW, True),
        ("raw", Format.ISO, True),
        ("raw", Format.QCOW2, False),
        ("raw", Format.VMDK, False),
        ("iso", Format.RAW, False),
        ("qcow2", Format.RAW, False),
    ],
)
def test_a_declaration_must_agree_with_the_bytes(declared: str, fmt: Format, good: bool) -> None:
    """A qcow2 declared as raw would be probed again by the next reader (I12)."""
    if good:
        assert agree(declared, fmt) is fmt
    else:
        with pytest.raises(UnsafeImageError):
            agree(declared, fmt)


@pytest.mark.parametrize(
    ("fmt", "refusal"),
    [
        (Format.LUKS, UnsafeImageError),
        (Format.QED, FormatError),
        (Format.QCOW, FormatError),
        (Format.TAR, FormatError),
        (Format.SEVENZIP, FormatError),
        (Format.VMA, FormatError),
        (Format.LZIP, FormatError),
        (Format.HTML, FormatError),
    ],
)
def test_unsupported_formats_are_refused_with_their_class(
    fmt: Format, refusal: type[Exception]
) -> None:
    """Encrypted is unsafe, the rest is not supported (I11)."""
    assert checked(MAGICS[fmt].ljust(40000, b"\0")).refusal is refusal


def test_a_verdict_raises_its_refusal() -> None:
    """Callers that want an exception get the class of the verdict."""
    with pytest.raises(LimitError, match="too large"):
        refused(Format.RAW, LimitError("too large")).require_safe()
    checked(b"raw").require_safe()


def iso(blocks: int = 20, *, size: int = 20 * 2048) -> bytes:
    data = bytearray(size)
    data[32768:32775] = b"\1CD001\1"
    struct.pack_into("<I", data, 32768 + 80, blocks)
    struct.pack_into(">I", data, 32768 + 84, blocks)
    struct.pack_into("<H", data, 32768 + 128, 2048)
    struct.pack_into(">H", data, 32768 + 130, 2048)
    return bytes(data)


def test_an_iso_must_fit_its_file() -> None:
    """A volume larger than the file was cut off; numbers that differ are a lie."""
    assert checked(iso()).safe
    assert checked(iso(21)).refusal is FormatError
    torn = bytearray(iso())
    torn[32768 + 87] ^= 1
    assert checked(bytes(torn)).refusal is FormatError


def udf(*names: bytes, size: int = 1 << 20) -> bytes:
    data = bytearray(size)
    for n, name in enumerate(names):
        data[32768 + 2048 * n : 32768 + 2048 * n + 7] = b"\0" + name + b"\1"
    return bytes(data)


@pytest.mark.parametrize("names", [(b"BEA01", b"NSR02", b"TEA01"), (b"BEA01", b"NSR03", b"TEA01")])
def test_a_disc_with_udf_alone_is_an_iso(names: tuple[bytes, ...]) -> None:
    """Windows media and data discs: no ISO 9660 volume, but what every system mounts."""
    info = checked(udf(*names), "iso")
    assert (info.format, info.safe, info.details["udf"]) == (Format.ISO, True, True)
    assert checked(udf(*names), "raw").safe
    assert checked(udf(*names), "qcow2").refusal is UnsafeImageError


def test_half_a_recognition_sequence_is_no_disc() -> None:
    """NSR counts behind BEA, and nothing of it elsewhere."""
    for names in ((b"NSR02", b"TEA01"), (b"BEA01", b"TEA01"), (b"BEA01", b"xxxxx", b"NSR02")):
        assert found(udf(*names)) is Format.RAW


def test_a_bridge_disc_is_held_to_both() -> None:
    """ISO 9660 and UDF on one disc: its volume still has to lie in the file."""
    data = bytearray(iso(200, size=200 * 2048))
    data[34816:34823] = b"\0BEA01\1"
    data[36864:36871] = b"\0NSR02\1"
    assert checked(bytes(data)).details["udf"]
    assert checked(bytes(data[:-2048])).refusal is FormatError


def test_a_tar_without_a_magic_is_known_by_its_sum() -> None:
    """Written before POSIX, or by a tool from then: refused, not landed as a disk."""
    head = bytearray(tarfile.TarInfo("disk.raw").tobuf(tarfile.GNU_FORMAT))
    head[257:265] = bytes(8)
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    assert detect(bytes(head), None, None) is Format.TAR
    head[300] ^= 1
    assert detect(bytes(head), None, None) is Format.RAW


@pytest.mark.parametrize("name", ["OVA", "TAR", "ZIP", "DIR", "BAREMETAL", "ova", "nonsense"])
def test_a_format_that_is_no_disk_cannot_be_declared(name: str) -> None:
    """CloudStack knows it and we do not: whatever the bytes are, they are not that."""
    with pytest.raises(FormatError, match=name):
        declared_format(name)


def test_disks_are_declared_in_either_case() -> None:
    """CloudStack's names are in capitals; an old agent's command has none."""
    for name in ("QCOW2", "raw", "ISO", "VMDK", "VHD", "VHDX", "vdi"):
        assert declared_format(name) == name.lower()
    assert {declared_format(None), declared_format(""), declared_format("auto")} == {"auto"}


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"404 page not found\n", True),
        (b'{"error": "no such key"}', True),
        (("ü" * 400).encode(), True),
        (b"x" + ("ü" * 400).encode(), True),
        (b"version https://git-lfs.github.com/spec/v1\n" * 20, True),
        (b" \n", False),
        (b"\xeb\x63\x90" + bytes(600), False),
        (b"text at first\0" + b"text" * 200, False),
        (b"M\xfcll" * 200, False),
    ],
)
def test_a_message_in_place_of_an_image_is_warned_of(data: bytes, text: bool) -> None:
    """No disk begins with half a KiB of text; a small one might: it is said, not refused."""
    assert looks_like_text(data[:HEAD_BYTES]) is text
    info = checked(data)
    assert (info.safe, bool(info.warnings)) == (True, text)


def test_a_compressed_image_may_hold_one_layer_only() -> None:
    """Nested compression is refused by what the first decoded bytes are (I16)."""
    outer = Bytes(MAGICS[Format.GZ].ljust(100, b"\0"))
    for inner, refusal in [
        (b"disk", None),
        (MAGICS[Format.GZ], FormatError),
        (MAGICS[Format.TAR], FormatError),
        (MAGICS[Format.VMDK], FormatError),
        (MAGICS[Format.VMA], FormatError),
        (MAGICS[Format.LUKS], UnsafeImageError),
        (b"", FormatError),
    ]:
        info = inspect(outer, qcow2=no_qcow2, peek=lambda _fmt, _reader, head=inner: head)
        assert info.refusal is refusal, inner


def test_crc32c_is_castagnolis() -> None:
    """The check value of RFC 3720, appendix B.4."""
    assert crc32c(b"123456789") == 0xE3069283


# --- real images, and lies in them ------------------------------------------------------

needs_qemu = pytest.mark.skipif(not HAVE_QEMU, reason=NEED_QEMU)
KINDS = {
    "vhd-dynamic": ("vpc", "subformat=dynamic,force_size=on"),
    "vhd-fixed": ("vpc", "subformat=fixed,force_size=on"),
    "vhdx": ("vhdx", "subformat=dynamic"),
    "vmdk": ("vmdk", "subformat=monolithicSparse"),
    "vmdk-stream": ("vmdk", "subformat=streamOptimized"),
    "vdi": ("vdi", "static=off"),
}
SIZE = 3 * 1024 * 1024


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], bytes]:
    """The bytes of a real image of a kind, made once by qemu-img."""
    folder = tmp_path_factory.mktemp("real")
    raw = folder / "raw"
    fill_raw(raw, SIZE, random.Random(1))
    made: dict[str, bytes] = {}

    def make(kind: str) -> bytes:
        if kind not in made:
            fmt, option = KINDS[kind]
            path: Path = folder / kind
            run("qemu-img", "convert", "-f", "raw", "-O", fmt, "-o", option, raw, path)
            made[kind] = path.read_bytes()
        return made[kind]

    return make


@needs_qemu
@pytest.mark.parametrize("kind", KINDS)
def test_a_real_image_is_safe(real: Callable[[str], bytes], kind: str) -> None:
    """What qemu-img writes is what people have."""
    info = checked(real(kind))
    assert (info.safe, info.virtual_size) == (True, SIZE), info.reasons
    assert str(info.format) == kind.partition("-")[0]


def bent(data: bytes, at: int, fmt: str, value: int) -> bytes:
    out = bytearray(data)
    struct.pack_into(fmt, out, at, value)
    return bytes(out)


def vhd(data: bytes, at: int, fmt: str, value: int) -> bytes:
    """A dynamic VHD with one number of its footer changed and both copies sealed again."""
    footer = bytearray(bent(data[-512:], at, fmt, value))
    struct.pack_into(">I", footer, 64, ~(sum(footer) - sum(footer[64:68])) & 0xFFFFFFFF)
    return bytes(footer) + data[512:-512] + bytes(footer)


@needs_qemu
def test_a_vhd_that_lies_is_refused(real: Callable[[str], bytes]) -> None:
    """Differencing disks name a parent; checksums, copies and tables must hold (I14)."""
    data = real("vhd-dynamic")
    assert checked(vhd(data, 60, ">I", 3)).safe
    assert checked(vhd(data, 60, ">I", 4)).refusal is UnsafeImageError
    assert checked(vhd(data, 60, ">I", 9)).refusal is FormatError
    assert checked(vhd(data, 48, ">Q", 2**62)).refusal is FormatError
    assert checked(bent(data, len(data) - 512 + 20, ">I", 7)).refusal is FormatError
    assert checked(bent(data, 20, ">I", 7)).refusal is FormatError
    (table,) = struct.unpack_from(">Q", data, 512 + 16)
    for entry in (0, 1, 2**31):
        assert checked(bent(data, table, ">I", entry)).refusal is FormatError
    (second,) = struct.unpack_from(">I", data, table)
    assert checked(bent(data, table + 4, ">I", second)).refusal is FormatError


@needs_qemu
def test_a_fixed_vhd_that_begins_as_a_dynamic_one_is_refused(real: Callable[[str], bytes]) -> None:
    """qemu reads the beginning first: a disk of any size, where the end tells of a small one."""
    data = real("vhd-dynamic")
    footer = bytearray(data[-512:])
    struct.pack_into(">QQQ", footer, 40, len(data) - 512, len(data) - 512, 0)
    struct.pack_into(">II", footer, 60, 2, 0)
    struct.pack_into(">I", footer, 64, ~sum(footer) & 0xFFFFFFFF)
    assert checked(bytes(512) + data[512:-512] + bytes(footer)).safe
    assert checked(data[:-512] + bytes(footer)).refusal is UnsafeImageError


def vhdx(data: bytes, at: int, value: bytes, seal_at: int, seal_len: int) -> bytes:
    """A VHDX with bytes changed and the structure at *seal_at* sealed again."""
    out = bytearray(data)
    out[at : at + len(value)] = value
    block = bytearray(out[seal_at : seal_at + seal_len])
    block[4:8] = bytes(4)
    struct.pack_into("<I", out, seal_at + 4, crc32c(bytes(block)))
    return bytes(out)


@needs_qemu
def test_a_vhdx_that_lies_is_refused(real: Callable[[str], bytes]) -> None:
    """A dirty log needs writing, a parent is another file, counts have limits (I14)."""
    data = real("vhdx")
    at = max(65536, 131072, key=lambda o: struct.unpack_from("<Q", data, o + 8))
    dirty = vhdx(data, at + 48, uuid.uuid4().bytes, at, 4096)
    assert checked(dirty).refusal is FormatError
    assert checked(bent(bent(data, 65536 + 4, "<I", 1), 131072 + 4, "<I", 1)).refusal is FormatError
    regions = vhdx(data, 196608 + 8, struct.pack("<I", 3000), 196608, 65536)
    assert checked(regions).refusal is FormatError
    meta = data.index(b"metadata", 1024 * 1024)
    assert checked(bent(data, meta + 10, "<H", 3000)).refusal is FormatError
    parent = uuid.UUID("a8d35f2d-b30b-454d-abf7-d3d84834ab0c").bytes_le
    out = bytearray(data)
    out[meta + 32 : meta + 48] = parent
    assert checked(bytes(out)).refusal is UnsafeImageError


def with_descriptor(data: bytes, old: bytes, new: bytes) -> bytes:
    """A VMDK whose embedded descriptor says *new* where it said *old*."""
    at, length = (512 * n for n in struct.unpack_from("<QQ", data, 28))
    text = data[at : at + length].rstrip(b"\0")
    assert old in text
    text = text.replace(old, new)
    return data[:at] + text.ljust(length, b"\0") + data[at + length :]


@needs_qemu
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"SPARSE", b"FLAT"),
        (b'createType="monolithicSparse"', b'createType="monolithicFlat"'),
        (b'createType="monolithicSparse"', b'createType="vmfs"'),
        (b"parentCID=ffffffff", b"parentCID=12345678"),
        (b"version=1", b'version=1\nparentFileNameHint="/etc/shadow"'),
        (b"version=1", b'version=1\nRW 1 SPARSE "other.vmdk"'),
        (b"version=1", b'version=1\nRW 1 FLAT "/etc/shadow" 0'),
        (b"version=1", b"version=1\nwhat is this"),
        (b"version=1", b'version=1\nchangeTrackPath="x"'),
        (b"version=1", b"version=1\nversion=1"),
    ],
)
def test_a_vmdk_descriptor_line_that_is_not_harmless_is_refused(
    real: Callable[[str], bytes], old: bytes, new: bytes
) -> None:
    """An extent is a path on the host: CVE-2022-47951 (I13)."""
    assert checked(with_descriptor(real("vmdk"), old, new)).refusal is UnsafeImageError


@needs_qemu
@pytest.mark.parametrize(
    ("encoding", "name"),
    [
        ("windows-1252", "Größe…"),
        ("windows-1251", "Диск"),
        ("Shift_JIS", "表テスト"),  # its first character ends with a backslash
        ("GBK", "磁盘"),
        ("Big5", "功能"),  # so does this one
        ("UTF-8", "磁盘"),
        ("ISO-8859-1", "\x85x"),
    ],
)
def test_a_vmdk_descriptor_may_be_in_any_code_page(
    real: Callable[[str], bytes], encoding: str, name: str
) -> None:
    """VMware writes that of the machine: names and comments beyond ASCII are no structure."""
    data = real("vmdk")
    at, length = (n * 512 for n in struct.unpack_from("<QQ", data, 28))
    text = data[at : at + length].rstrip(b"\0").decode()
    quoted = text[text.index('SPARSE "') + 8 :].partition('"')[0]
    text = f'encoding="{encoding}"\n# {name}\n' + text.replace(quoted, f"{name}.vmdk")
    block = text.encode(encoding).ljust(length, b"\0")
    info = checked(data[:at] + block + data[at + length :])
    assert (info.safe, info.reasons) == (True, ())


@pytest.mark.parametrize("name", [b"..", b"a/b", b"\\x", b"\x80\\x", b"/\x95\\", b"a\tb"])
def test_a_code_page_hides_no_path(real: Callable[[str], bytes], name: bytes) -> None:
    """What separates folders does so in every code page."""
    data = real("vmdk")
    at, length = (n * 512 for n in struct.unpack_from("<QQ", data, 28))
    block = data[at : at + length].rstrip(b"\0")
    quoted = block[block.index(b'SPARSE "') + 8 :].partition(b'"')[0]
    bad = block.replace(quoted, name).ljust(length, b"\0")
    assert checked(data[:at] + bad + data[at + length :]).refusal is UnsafeImageError


@needs_qemu
def test_what_qemu_img_leaves_behind_a_vmdk_descriptor_is_harmless(
    real: Callable[[str], bytes],
) -> None:
    """It writes a new number over the old one; a shorter one leaves the old text's end."""
    data = real("vmdk")
    at, length = (n * 512 for n in struct.unpack_from("<QQ", data, 28))
    old = re.sub(rb"\nCID=\w+", b"\nCID=deadbeef", data[at : at + length].rstrip(b"\0"))
    for digits in range(1, 9):
        new = old.replace(b"deadbeef", b"deadbeef"[:digits])
        left = b"\0" + old[len(new) + 1 :] if digits < 8 else b""
        for tail, safe in ((b"", True), (b"x", False), (b"\0x", False)):
            block = (new + left + tail if tail != b"x" else new + b"\0" + tail).ljust(length, b"\0")
            assert checked(data[:at] + block + data[at + length :]).safe == safe, (digits, tail)


def test_a_vmdk_extent_may_not_be_a_path(real: Callable[[str], bytes]) -> None:
    """Even of the right kind, it must be this very file (I13)."""
    data = real("vmdk")
    assert checked(with_descriptor(data, b'SPARSE "', b'SPARSE "/etc/')).refusal is UnsafeImageError
    assert checked(with_descriptor(data, b'SPARSE "', b'SPARSE "..\\')).refusal is UnsafeImageError


@needs_qemu
def test_a_stream_optimized_footer_must_repeat_the_header(
    real: Callable[[str], bytes],
) -> None:
    """Header and footer that differ are two images in one (I13)."""
    data = real("vmdk-stream")
    header = bent(data[:512], 56, "<Q", 2**64 - 1)
    at_end = header + data[512:] + bytes(512) + data[:512] + bytes(512)
    assert checked(at_end).safe
    footer = len(at_end) - 1024
    assert checked(bent(at_end, footer + 12, "<Q", 1)).refusal is UnsafeImageError
    assert checked(bent(at_end, footer + 28, "<Q", 9)).refusal is UnsafeImageError
    assert checked(bent(at_end, footer + 56, "<Q", 2**64 - 1)).refusal is FormatError
    assert checked(bent(at_end, footer + 56, "<Q", 2**40)).refusal is FormatError


@needs_qemu
@pytest.mark.parametrize("kind", ["vmdk", "vmdk-stream"])
def test_a_cut_vmdk_is_noticed(real: Callable[[str], bytes], kind: str) -> None:
    """Kept as it is, without a digest, nobody else would notice."""
    data = real(kind)
    for lost in (70_000, 200_000, len(data) // 2):
        info = checked(data[: len(data) - lost])
        assert info.refusal is FormatError, (lost, info)
        assert "cut off" in info.reasons[0] or "outside the file" in info.reasons[0]


@needs_qemu
def test_grains_of_a_vmdk_that_lie_nowhere_are_refused(real: Callable[[str], bytes]) -> None:
    """A length in front of the last grain is a claim of the file's."""
    data = real("vmdk-stream")
    directory = struct.unpack_from("<Q", data, 56)[0] * 512
    table = struct.unpack_from("<I", data, directory)[0] * 512
    last = max(struct.unpack_from("<512I", data, table)) * 512
    assert checked(bent(data, last + 8, "<I", 0xFFFFFFFF)).refusal is FormatError
    assert checked(bent(data, table, "<I", 0xFFFFFFFF)).refusal is FormatError


@needs_qemu
def test_a_vdi_that_lies_is_refused(real: Callable[[str], bytes]) -> None:
    """Parents, foreign kinds, shared and missing blocks."""
    data = real("vdi")
    (table,) = struct.unpack_from("<I", data, 340)
    assert checked(bent(data, 76, "<I", 4)).refusal is UnsafeImageError
    assert checked(bent(data, 440, "<Q", 1)).refusal is UnsafeImageError
    assert checked(bent(data, 368, "<Q", 2**50)).refusal is FormatError
    (first,) = struct.unpack_from("<I", data, table)
    assert checked(bent(data, table + 4, "<I", first)).refusal is FormatError
    assert checked(bent(data, table, "<I", 1000)).refusal is FormatError


@needs_qemu
@pytest.mark.parametrize("kind", KINDS)
def test_no_flipped_byte_and_no_cut_breaks_an_inspector(
    real: Callable[[str], bytes], kind: str
) -> None:
    """Whatever the bytes say, there is a verdict and never another exception."""
    data, rng = real(kind), random.Random(3)
    for _ in range(60):
        out = bytearray(data)
        for _ in range(rng.randrange(1, 4)):
            out[rng.choice([rng.randrange(1024), rng.randrange(len(out))])] = rng.randrange(256)
        if rng.random() < 0.3:
            del out[rng.randrange(len(out)) :]
        info = inspect(
            Bytes(bytes(out)),
            qcow2=lambda _r: ImageInfo(format=Format.QCOW2, virtual_size=1),
            peek=lambda _fmt, _r: b"disk",
        )
        assert info.safe or info.reasons
