# SPDX-License-Identifier: Apache-2.0
"""Does this image have the declared format, and is it safe to hand to a host?

``inspect`` is the one check for a file, a staged or written image, and the first bytes of a
source. It reads through the small ``Reader`` protocol and opens nothing itself. The rules of qcow2
and the decoders are in the C core: the caller passes them in.
"""

from __future__ import annotations

from collections.abc import Callable

from fastdl.errors import FastdlError, FormatError, LimitError
from fastdl.model.image import (
    ARCHIVES,
    COMPRESSED,
    DISKS,
    HEAD_BYTES,
    TAIL_BYTES,
    Format,
    ImageInfo,
    NotAtHand,
    Reader,
    not_supported,
    refused,
)
from fastdl.model.image_magic import agree, detect, looks_like_text

Inspector = Callable[[Reader], ImageInfo]
Peek = Callable[[Format, Reader], bytes]

Stated = Callable[[bytes], int | None]
"""The disk's size from the first bytes, if the rest is not at hand."""

_TEXT = "the first bytes are text: this may be a message in place of an image"


class _Part:
    """The first bytes of an image of unknown size."""

    size = None
    distant = False

    def __init__(self, head: bytes) -> None:
        self._head = head

    def read_at(self, offset: int, length: int) -> bytes:
        if offset == 0:
            return self._head[:length]  # who wants less or more than there is will see
        if offset + length > len(self._head):
            raise NotAtHand
        return self._head[offset : offset + length]


def inspect(
    reader: Reader,
    *,
    qcow2: Inspector,
    peek: Peek,
    declared: str = "auto",
    max_virtual_size: int | None = None,
) -> ImageInfo:
    """Check the image behind *reader*; never raises because of its bytes.

    *declared*: the format that it is said to have (of a compressed image: what it is, or
    holds), ``auto`` for none. *qcow2* checks a qcow2 image; *peek* returns the first
    decompressed bytes of a compressed one (both from ``fastdl.engine.inspection``).
    """
    try:
        head = reader.read_at(0, HEAD_BYTES)
        fmt = detect(head, None, reader.size)
        # What is far away is asked for its end only where the beginning shows nothing.
        tail = _tail(reader) if fmt is Format.RAW or not reader.distant else None
        fmt = detect(head, tail, reader.size)
    except FastdlError as exc:
        return refused(Format.RAW, exc)
    try:
        if fmt in COMPRESSED:
            info = _under(fmt, peek(fmt, reader), qcow2, declared)
            if fmt is Format.XZ and info.inner in {Format.RAW, Format.ISO}:
                info = info._replace(virtual_size=_unpacked_size(reader))
        else:
            agree(declared, fmt, hidden=_hidden(head, tail))
            info = _inspect(fmt, reader, head, qcow2)
    except FastdlError as exc:
        return refused(fmt, exc)
    if fmt is Format.RAW:
        warnings = (_TEXT,) if looks_like_text(head) else ()
        info = info._replace(whole=tail is not None, warnings=warnings)
    size, limit = info.virtual_size, max_virtual_size
    if limit is not None and size is not None and size > limit:
        error = LimitError(
            f"the image has {size} bytes, at most {limit} are allowed", phase="decode"
        )
        return info._replace(reasons=(str(error),), refusal=LimitError)
    return info


def _rules(fmt: Format) -> tuple[Inspector, Stated | None]:
    """How images in *fmt* are checked. Loaded when needed: most are raw or qcow2."""
    if fmt is Format.ISO:
        from fastdl.model.image_iso import inspect_iso

        return inspect_iso, None
    if fmt is Format.VMDK:
        from fastdl.model import image_vmdk

        return image_vmdk.inspect_vmdk, image_vmdk.stated_size
    if fmt is Format.VDI:
        from fastdl.model import image_vdi

        return image_vdi.inspect_vdi, image_vdi.stated_size
    from fastdl.model import image_vhd

    if fmt is Format.VHD:
        return image_vhd.inspect_vhd, image_vhd.stated_size
    return image_vhd.inspect_vhdx, None


def _tail(reader: Reader) -> bytes | None:
    if reader.size is None:
        return None
    try:
        return reader.read_at(max(0, reader.size - TAIL_BYTES), TAIL_BYTES)
    except NotAtHand:
        return None


def _inspect(fmt: Format, reader: Reader, head: bytes, qcow2: Inspector) -> ImageInfo:
    if fmt not in DISKS:
        raise not_supported(fmt)
    if fmt is Format.RAW:
        return ImageInfo(format=fmt, virtual_size=reader.size)
    if fmt is Format.QCOW2:
        return qcow2(reader)
    inspector, stated = _rules(fmt)
    try:
        return inspector(reader)
    except NotAtHand:
        return ImageInfo(
            format=fmt, virtual_size=None if stated is None else stated(head), whole=False
        )


def _under(outer: Format, head: bytes, qcow2: Inspector, declared: str) -> ImageInfo:
    """Check what begins with *head* under one layer of compression."""
    fmt = detect(head, None, None)
    if fmt in COMPRESSED or fmt in ARCHIVES:
        raise FormatError(
            f"{outer}: the compressed image is itself {fmt}; one layer only", phase="decode"
        )
    if declared != outer:
        agree(declared, fmt, hidden=_hidden(head, None))
    info = _inspect(fmt, _Part(head), head, qcow2)
    text = fmt is Format.RAW and looks_like_text(head)
    return info._replace(format=outer, inner=fmt, whole=False, warnings=(_TEXT,) if text else ())


def _unpacked_size(reader: Reader) -> int | None:
    """The sizes stated at the end of an .xz file. Loaded when needed."""
    from fastdl.model.image_xz import unpacked_size

    return unpacked_size(reader)


def _hidden(head: bytes, tail: bytes | None) -> frozenset[Format]:
    """What may yet come to light: a fixed VHD at its end, an ISO behind a short beginning."""
    hidden = set() if tail is not None else {Format.VHD}
    if tail is None and len(head) < HEAD_BYTES:
        hidden.add(Format.ISO)
    return frozenset(hidden)
