# SPDX-License-Identifier: Apache-2.0
"""Is this image safe to hand to a host?

``inspect`` judges an image by the rules of its format. It reads through the small
``Reader`` protocol and opens nothing itself. The rules of qcow2 live in the C core: the
caller passes its judge in.
"""

from __future__ import annotations

from collections.abc import Callable

from fastdl.errors import FastdlError, FormatError, UnsafeImageError
from fastdl.model import image_vdi, image_vhd, image_vmdk
from fastdl.model.image import (
    ARCHIVES,
    COMPRESSED,
    HEAD_BYTES,
    TAIL_BYTES,
    Format,
    ImageInfo,
    Reader,
    detect,
    refused,
)

Judge = Callable[[Reader], ImageInfo]
Peek = Callable[[Format, Reader], bytes]


def inspect(reader: Reader, *, qcow2: Judge, peek: Peek | None = None) -> ImageInfo:
    """Judge the image behind *reader*; never raises for what the bytes say.

    *qcow2* judges a qcow2 image (``fastdl.core.image.inspect_qcow2``); *peek* returns the
    first decompressed bytes of a compressed one (``fastdl.core.image.peek``).
    """
    try:
        head = reader.read_at(0, HEAD_BYTES)
        tail = reader.read_at(max(0, reader.size - TAIL_BYTES), TAIL_BYTES)
        fmt = detect(head, tail, reader.size)
    except FastdlError as exc:
        return refused(Format.RAW, exc)
    try:
        return _inspect(fmt, reader, qcow2, peek)
    except FastdlError as exc:
        return refused(fmt, exc)


def _inspect(fmt: Format, reader: Reader, qcow2: Judge, peek: Peek | None) -> ImageInfo:
    if fmt is Format.RAW:
        return ImageInfo(format=fmt, virtual_size=reader.size)
    if fmt is Format.QCOW2:
        return qcow2(reader)
    if fmt in COMPRESSED:
        return _inspect_compressed(fmt, reader, peek)
    if fmt in (Format.VHD, Format.VHDX):
        return (
            image_vhd.inspect_vhd(reader) if fmt is Format.VHD else image_vhd.inspect_vhdx(reader)
        )
    if fmt is Format.VMDK:
        return image_vmdk.inspect_vmdk(reader)
    if fmt is Format.VDI:
        return image_vdi.inspect_vdi(reader)
    if fmt is Format.ISO:
        return _inspect_iso(reader)
    if fmt is Format.LUKS:
        raise UnsafeImageError("luks: encrypted images are refused", phase="decode")
    if fmt in ARCHIVES:
        raise FormatError(
            f"{fmt}: an archive is no image; unpack it (an OVA holds its disks as files)",
            phase="decode",
        )
    raise FormatError(f"{fmt}: this format is not supported", phase="decode")


def _inspect_compressed(fmt: Format, reader: Reader, peek: Peek | None) -> ImageInfo:
    if peek is None:
        return ImageInfo(format=fmt, virtual_size=None)
    inner = detect(peek(fmt, reader), None, None)
    if inner in COMPRESSED or inner in ARCHIVES:
        raise FormatError(
            f"{fmt}: the compressed image is itself {inner}; one layer only", phase="decode"
        )
    if inner is Format.LUKS:
        raise UnsafeImageError(f"{fmt}: holds an encrypted image", phase="decode")
    if inner not in (Format.RAW, Format.ISO, Format.QCOW2):
        raise FormatError(f"{fmt}: a compressed {inner} is not supported", phase="decode")
    return ImageInfo(format=fmt, virtual_size=None, details={"inner": str(inner)})


def _inspect_iso(reader: Reader) -> ImageInfo:
    """ECMA-119, 8.4: the primary volume descriptor says every number in both byte orders."""
    pvd = reader.read_at(32768, 2048)
    if len(pvd) < 2048 or pvd[0] != 1 or pvd[6] != 1:
        raise FormatError("iso: no primary volume descriptor", phase="decode")
    blocks, block = int.from_bytes(pvd[80:84], "little"), int.from_bytes(pvd[128:130], "little")
    if blocks != int.from_bytes(pvd[84:88], "big") or block != int.from_bytes(pvd[130:132], "big"):
        raise FormatError("iso: the volume descriptor contradicts itself", phase="decode")
    if block not in (512, 1024, 2048):
        raise FormatError("iso: impossible block size", phase="decode")
    if blocks * block > reader.size:
        raise FormatError("iso: the volume is larger than the file", phase="decode")
    hybrid = reader.read_at(510, 2) == b"\x55\xaa"
    return ImageInfo(
        format=Format.ISO,
        virtual_size=reader.size,
        details={"volume_size": blocks * block, "hybrid": hybrid},
    )
