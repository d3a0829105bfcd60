# SPDX-License-Identifier: Apache-2.0
"""What is it? The verdict on a source's first bytes, and on an image that lies in a file.

Nothing is written before the first bytes have been judged; an image that lands as it is gets
judged whole, tables included, before it is published.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from fastdl.engine.options import FetchOptions
from fastdl.engine.resolve import Resolved
from fastdl.errors import Cancelled, FastdlError, FormatError, UsageError
from fastdl.model.image import (
    COMPRESSED,
    HEAD_BYTES,
    TAIL_BYTES,
    Format,
    ImageInfo,
    agree,
    detect,
)

FORMATS = ("auto", *(str(f) for f in Format))
READ_ON_BYTES = 256 << 10
PEEK_MAX = 1 << 20
"""A bzip2 block of 900 kB, compressed as badly as can be, shows its first byte at its end."""


class FdReader:
    """A file or device as an image reader."""

    def __init__(self, fd: int, size: int) -> None:
        self._fd = fd
        self.size = size

    def read_at(self, offset: int, length: int) -> bytes:
        """Up to *length* bytes; fewer only at the end."""
        length = max(0, min(length, self.size - offset))
        return os.pread(self._fd, length, offset)


def inspect_fd(fd: int, size: int, options: FetchOptions) -> ImageInfo:
    """The verdict on an image that lies in *fd*."""
    from fastdl.core.image import inspect_qcow2, peek  # noqa: PLC0415 - only for images
    from fastdl.model.image_inspect import inspect  # noqa: PLC0415

    def judge(reader: Any) -> ImageInfo:
        verdict: ImageInfo = inspect_qcow2(reader, max_virtual_size=options.max_virtual_size)
        return verdict

    return inspect(FdReader(fd, size), qcow2=judge, peek=peek)


def detect_file(path: str) -> str:
    """As ``detect_fd`` for the file at *path*."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return detect_fd(fd)
    finally:
        os.close(fd)


def detect_fd(fd: int) -> str:
    """The format of a file that is there already; raw where nobody can tell."""
    try:
        size = os.fstat(fd).st_size
        reader = FdReader(fd, size)
        tail = reader.read_at(max(0, size - TAIL_BYTES), TAIL_BYTES)
        return str(detect(reader.read_at(0, HEAD_BYTES), tail, size))
    except FastdlError:
        return "raw"


class Verdict(NamedTuple):
    """What the first bytes say: *safe* is None where only the whole can tell."""

    format: str
    virtual_size: int | None
    safe: bool | None
    reasons: tuple[str, ...] = ()


def format_of(resolved: Resolved, options: FetchOptions) -> Format:
    """The format that the source declares or shows. UnsafeImageError, FormatError."""
    if options.source_format not in FORMATS:
        raise UsageError(f"there is no source format {options.source_format!r}")
    if not resolved.head:
        if options.source_format not in ("auto", "raw"):
            raise FormatError(
                f"an empty source is no {options.source_format} image", phase="decode"
            )
        return Format.RAW
    found = detect(resolved.head, None, resolved.size)
    if options.source_format == "auto":
        return found
    declared = options.source_format
    if found is Format.RAW and declared != "raw":
        if declared == Format.ISO and len(resolved.head) >= HEAD_BYTES:
            raise FormatError(
                "the source is declared iso, but carries no volume descriptor", phase="decode"
            )
        if declared in (Format.VHD, Format.ISO):  # a fixed VHD shows itself at its end
            return Format(declared)
        raise FormatError(
            f"the source is declared {declared}, but its bytes are not", phase="decode"
        )
    if declared == Format.QCOW2 and found in COMPRESSED:
        return found  # a compressed qcow2 is declared by what it holds
    if declared == "raw" and found in COMPRESSED and options.target_format != "same":
        return found
    return agree(declared, found)


def qcow2_header(resolved: Resolved, options: FetchOptions) -> Any:
    """The C core's map of a qcow2 source, its header judged. Raises the refusal."""
    from fastdl.core.image import NeedMore, Qcow2  # noqa: PLC0415

    try:
        return Qcow2(resolved.head, resolved.size, max_virtual_size=options.max_virtual_size)
    except NeedMore:
        raise FormatError(
            "the qcow2 header is larger than the whole source or 64 KiB", phase="decode"
        ) from None


def judge_head(resolved: Resolved, options: FetchOptions) -> Verdict:
    """What ``probe`` tells about the image; a refusal is part of the answer."""
    try:
        fmt = format_of(resolved, options)
    except FastdlError as exc:
        return Verdict("raw", None, safe=False, reasons=(exc.message,))
    try:
        if fmt is Format.QCOW2:
            header = qcow2_header(resolved, options)
            return Verdict(str(fmt), header.virtual_size, safe=None)
        if fmt in COMPRESSED:
            inner = inner_format(resolved, fmt)
            size = inner_virtual_size(resolved, fmt, options) if inner is Format.QCOW2 else None
            return Verdict(f"{inner}.{fmt}", size, safe=None)
        if fmt is Format.LUKS:
            return Verdict(str(fmt), None, safe=False, reasons=("the image is encrypted",))
    except FastdlError as exc:
        return Verdict(str(fmt), None, safe=False, reasons=(exc.message,))
    virtual = resolved.size if fmt in (Format.RAW, Format.ISO) else None
    return Verdict(str(fmt), virtual, safe=True if fmt in (Format.RAW, Format.ISO) else None)


def inner_format(resolved: Resolved, fmt: Format) -> Format:
    """What lies under one layer of compression. FormatError where nobody can say."""
    return detect(_peek_head(resolved, fmt), None, None)


def read_on(resolved: Resolved, upto: int) -> bool:
    """Lengthen the head from the open answer to *upto* bytes; False where it gives no more.

    An answer that breaks off is dropped: the transfer opens its own, where that can continue it.
    """
    stream = resolved.stream
    parts, have = [resolved.head], len(resolved.head)
    try:
        while stream is not None and have < upto:
            data = stream.read(min(READ_ON_BYTES, upto - have)) if stream.offset == have else b""
            if not data:
                break
            parts.append(data)
            have += len(data)
    except Cancelled:
        raise
    except FastdlError:
        resolved.close()
        if resolved.one_response:
            raise
    resolved.head = b"".join(parts)
    return have >= upto


def _peek_head(resolved: Resolved, fmt: Format) -> bytes:
    """The first decoded bytes: a decoder may want a whole block of input before any output."""
    from fastdl.core.image import Inflate  # noqa: PLC0415

    decoder = Inflate(str(fmt))
    out, offset = b"", 0
    while len(out) < HEAD_BYTES:
        used, more = decoder.feed(resolved.head[offset:], HEAD_BYTES - len(out))
        offset += used
        out += more
        if used or more:
            continue
        if out or len(resolved.head) >= PEEK_MAX:
            break
        before = len(resolved.head)
        if not read_on(resolved, min(2 * before, PEEK_MAX)) and len(resolved.head) == before:
            break
    return out


def inner_virtual_size(resolved: Resolved, fmt: Format, options: FetchOptions) -> int | None:
    """The disk of a qcow2 under one layer of compression; None where its head does not say."""
    from fastdl.core.image import NeedMore, Qcow2  # noqa: PLC0415

    try:
        image = Qcow2(_peek_head(resolved, fmt), None, max_virtual_size=options.max_virtual_size)
    except NeedMore:
        return None
    return int(image.virtual_size)
