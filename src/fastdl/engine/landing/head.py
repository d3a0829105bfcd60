# SPDX-License-Identifier: Apache-2.0
"""Which format is the source, and is it safe? A check of its first bytes.

Nothing is written before the first bytes have been inspected; an image that is stored unchanged is
inspected completely, tables included, before it is published.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

from fastdl.core.net import Stream
from fastdl.engine.inspection import PEEK_MAX, FdReader, inspect_image
from fastdl.engine.options import FetchOptions
from fastdl.engine.source.first_response import READ_ON_BYTES
from fastdl.errors import Cancelled, FastdlError, FormatError, UsageError
from fastdl.model.image import (
    COMPRESSED,
    DISKS,
    HEAD_BYTES,
    TAIL_BYTES,
    Format,
    ImageInfo,
    NotAtHand,
)
from fastdl.model.image_magic import detect

if TYPE_CHECKING:
    from fastdl.engine.context import TransferContext
    from fastdl.engine.source.facts import SourceFacts
    from fastdl.engine.source.first_response import FirstResponse

FORMATS = ("auto", *(str(f) for f in (*DISKS, *COMPRESSED)))
REACH_REQUESTS = 16
REACH_BYTES = 4 << 20
"""The most that a probe fetches beyond the beginning: an end, tables, metadata."""


class HeadReader:
    """The beginning of a source as an image reader. ``size``: bytes of the source.

    *reach*: other ranges are requested, within limits. Everything else is NotAtHand.
    """

    distant = True

    def __init__(
        self, facts: SourceFacts, response: FirstResponse, *, reach: TransferContext | None = None
    ) -> None:
        self.size = facts.size
        self._response = response
        fmt = Format.RAW
        with contextlib.suppress(FastdlError):
            fmt = detect(response.head, None, facts.size)
        # A decoder may need a whole block of input before it produces output.
        self._packed = fmt in COMPRESSED
        self._upto = PEEK_MAX if self._packed else HEAD_BYTES
        # A qcow2's tables are large, and read by who lands it. Of the compressed formats, only xz
        # states its unpacked size at its end.
        far = fmt is Format.XZ or (not self._packed and fmt is not Format.QCOW2)
        self._reach = reach if far and response.mirror.ranges else None
        self._requests = REACH_REQUESTS
        self._bytes = REACH_BYTES
        self._elsewhere = (0, b"")

    def read_at(self, offset: int, length: int) -> bytes:
        """Up to *length* bytes; fewer at the end, or if the beginning is cut off."""
        end = offset + length
        if self.size is not None:
            end = min(end, self.size)
        if self._packed and self._reach is None and offset > len(self._response.head):
            raise NotAtHand  # who unpacks reads on; what lies behind is not waited for
        if len(self._response.head) < end <= self._upto:
            self._response.extend(end)
        head = self._response.head
        if end <= len(head) or offset == 0 or (self._packed and end <= self._upto):
            return head[offset:end]
        start, data = self._elsewhere
        if not start <= offset <= end <= start + len(data):
            self._fetch(offset, end)
            start, data = self._elsewhere
        return data[offset - start : end - start]

    def _fetch(self, offset: int, end: int) -> None:
        """Put bytes from *offset* at least to *end* into ``_elsewhere``; NotAtHand."""
        length = end - offset
        if self._reach is None or self.size is None or not self._requests:
            raise NotAtHand
        length = min(max(length, READ_ON_BYTES), self.size - offset)
        if length > self._bytes:
            raise NotAtHand
        self._requests -= 1
        self._bytes -= length
        stream = Stream(self._reach.net, self._response.mirror, self._reach.cancel.wakeup)
        parts: list[bytes] = []
        try:
            stream.begin(offset, length)
            while length > 0 and (data := stream.read(length)):
                parts.append(data)
                length -= len(data)
        except Cancelled:
            raise
        except FastdlError:
            raise NotAtHand from None
        finally:
            stream.close()
        data = b"".join(parts)
        if offset + len(data) < end:
            raise NotAtHand
        self._elsewhere = (offset, data)


def inspect_head(
    facts: SourceFacts, response: FirstResponse, ctx: TransferContext, *, reach: bool = False
) -> ImageInfo:
    """Check the source's first bytes. UsageError for an unknown format.

    *reach*: other ranges may be requested (a probe).
    """
    options = ctx.options
    if options.source_format not in FORMATS:
        raise UsageError(f"there is no source format {options.source_format!r}")
    return inspect_image(
        HeadReader(facts, response, reach=ctx if reach else None),
        declared=options.source_format,
        max_virtual_size=options.max_virtual_size,
    )


def inspect_fd(fd: int, size: int, options: FetchOptions) -> ImageInfo:
    """Check an image of *size* bytes in *fd*."""
    return inspect_image(
        FdReader(fd, size),
        declared=options.source_format,
        max_virtual_size=options.max_virtual_size,
    )


def detect_fd(fd: int) -> str:
    """The format of an existing file; raw if it cannot be determined."""
    try:
        size = os.fstat(fd).st_size
        reader = FdReader(fd, size)
        tail = reader.read_at(max(0, size - TAIL_BYTES), TAIL_BYTES)
        return str(detect(reader.read_at(0, HEAD_BYTES), tail, size))
    except FastdlError:
        return "raw"


def qcow2_header(facts: SourceFacts, response: FirstResponse, options: FetchOptions) -> Any:
    """The C core's map of a qcow2 source, its header checked. Raises the refusal."""
    from fastdl.core.image import NeedMore, Qcow2

    try:
        return Qcow2(response.head, facts.size, max_virtual_size=options.max_virtual_size)
    except NeedMore:
        raise FormatError(
            "the qcow2 header is larger than the whole source or 64 KiB", phase="decode"
        ) from None
