# SPDX-License-Identifier: Apache-2.0
"""The one check of an image, wherever its bytes are: ``inspect_image``.

``inspect``, ``probe``, ``get``, staging and the check after landing use it with different readers.
"""

from __future__ import annotations

from functools import partial

from fastdl.errors import FormatError
from fastdl.model.image import HEAD_BYTES, Format, ImageInfo, NotAtHand, Reader
from fastdl.model.image_inspect import inspect
from fastdl.sinks.base import read_back

_READ_MAX = 1 << 20
PEEK_MAX = 1 << 20
"""Input for the first decoded bytes: a bzip2 block of 900 kB, compressed as badly as can be,
shows its first byte at its end."""


def inspect_image(
    reader: Reader, *, declared: str = "auto", max_virtual_size: int | None = None
) -> ImageInfo:
    """Check the image behind *reader*, whose declared format is *declared*."""
    return inspect(
        reader,
        qcow2=partial(inspect_qcow2, max_virtual_size=max_virtual_size),
        peek=peek,
        declared=declared,
        max_virtual_size=max_virtual_size,
    )


class FdReader:
    """A file or device as an image reader."""

    distant = False

    def __init__(self, fd: int, size: int) -> None:
        self._fd = fd
        self.size = size

    def read_at(self, offset: int, length: int) -> bytes:
        """Up to *length* bytes; fewer only at the end."""
        parts = []
        left = max(0, min(length, self.size - offset))
        while left > 0 and (part := read_back(self._fd, left, offset)):
            parts.append(part)
            offset += len(part)
            left -= len(part)
        return b"".join(parts)


class EndsReader:
    """What is known of an image of *size* bytes that has landed: its beginning and its end."""

    distant = False

    def __init__(self, head: bytes, tail: bytes, size: int) -> None:
        self._head = head
        self._tail = tail
        self.size = size

    def read_at(self, offset: int, length: int) -> bytes:
        """Up to *length* bytes; fewer only at the end. NotAtHand for anything in between."""
        end = min(offset + length, self.size)
        if end <= len(self._head):
            return self._head[offset:end]
        behind = self.size - len(self._tail)
        if offset >= behind:
            return self._tail[offset - behind : end - behind]
        if offset == 0:
            return self._head
        raise NotAtHand


def inspect_qcow2(reader: Reader, *, max_virtual_size: int | None = None) -> ImageInfo:
    """Inspect header and tables of a qcow2 image; raises the refusal.

    If the tables are not at hand only the header is checked.
    """
    from fastdl.core.image import NeedMore, Qcow2  # most images are raw or packed

    head = reader.read_at(0, HEAD_BYTES)
    try:
        try:
            image = Qcow2(head, reader.size, max_virtual_size=max_virtual_size)
        except NeedMore as more:
            head = reader.read_at(0, more.length)
            image = Qcow2(head, reader.size, max_virtual_size=max_virtual_size)
    except NeedMore:
        raise FormatError("qcow2: the header is truncated", phase="decode") from None
    try:
        while (wanted := image.need()) is not None:
            offset, length = wanted
            # A part of a table is at most 512 KiB, so that each step makes progress.
            data = reader.read_at(offset, min(length, _READ_MAX))
            if len(data) < min(length, _READ_MAX):
                raise FormatError("qcow2: the file ends inside its tables", phase="decode")
            image.feed(offset, data)
    except NotAtHand:
        return ImageInfo(
            format=Format.QCOW2,
            virtual_size=image.virtual_size,
            details=image.info(),
            whole=False,
        )
    return ImageInfo(format=Format.QCOW2, virtual_size=image.virtual_size, details=image.info())


def peek(fmt: Format, reader: Reader, length: int = HEAD_BYTES) -> bytes:
    """The first *length* decoded bytes of a compressed image, from its first PEEK_MAX bytes.

    Fewer if it is shorter or no more can be decoded; raises FormatError, LimitError.
    """
    from fastdl.core.image import Inflate  # only for what is packed

    decoder = Inflate(str(fmt))
    out, offset, step = b"", 0, HEAD_BYTES
    while len(out) < length:
        data = reader.read_at(offset, min(step, PEEK_MAX - offset)) if offset < PEEK_MAX else b""
        used, more = decoder.feed(data, length - len(out))
        offset += used
        out += more
        if not used and not more:
            if not data and offset < PEEK_MAX and not reader.distant and reader.size is not None:
                decoder.finish()
            break
        step = min(2 * step, PEEK_MAX)
    return out
