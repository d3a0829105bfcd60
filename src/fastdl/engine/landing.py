# SPDX-License-Identifier: Apache-2.0
"""How a source becomes bytes on the target: as it is, decoded while it arrives, or staged.

The first bytes are judged before anything is written; an image that lands as it is gets
judged whole, tables included, before it is published.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fastdl.core.net import Stream
from fastdl.core.sink import Sink as CoreSink
from fastdl.engine.cancel import Cancel
from fastdl.engine.options import FetchOptions, ProgressCallback
from fastdl.engine.resolve import Resolved
from fastdl.engine.transfer import Checkpoint, Outcome, run_job, start_job
from fastdl.errors import (
    Cancelled,
    FastdlError,
    FormatError,
    LimitError,
    UnsafeImageError,
    UsageError,
)
from fastdl.model.image import (
    ARCHIVES,
    COMPRESSED,
    CONVERTIBLE,
    HEAD_BYTES,
    TAIL_BYTES,
    Format,
    ImageInfo,
    agree,
    detect,
)
from fastdl.sinks.base import Sink

if TYPE_CHECKING:
    from fastdl.core.lander import StreamLander

FORMATS = ("auto", *(str(f) for f in Format))
READ_ON_BYTES = 256 << 10
PEEK_MAX = 1 << 20
"""A bzip2 block of 900 kB, compressed as badly as can be, shows its first byte at its end."""
NEEDS_STAGING = "the image's tables come too late to land it while it arrives"


class NeedsStaging(Exception):
    """Not an error: this source has to be staged, verified and converted.

    *decode*  the staged file is what comes out of the decompressor
    """

    def __init__(self, why: str, *, fmt: Format, decode: bool = False) -> None:
        super().__init__(why)
        self.why = why
        self.format = fmt
        self.decode = decode


class BytesReader:
    """The first bytes of a source as an image reader."""

    def __init__(self, head: bytes, size: int) -> None:
        self._head = head
        self.size = size

    def read_at(self, offset: int, length: int) -> bytes:
        """What is known of the range."""
        return self._head[offset : offset + length]


class FdReader:
    """A file or device as an image reader."""

    def __init__(self, fd: int, size: int) -> None:
        self._fd = fd
        self.size = size

    def read_at(self, offset: int, length: int) -> bytes:
        """Up to *length* bytes; fewer only at the end."""
        length = max(0, min(length, self.size - offset))
        return os.pread(self._fd, length, offset)


@dataclass(slots=True)
class Landing:
    """The source lands as it is: every block at its own offset."""

    options: FetchOptions
    format: str
    target_size: int | None
    kind: str = "same"
    virtual_size: int | None = None
    sparse: bool = False
    resumable: bool = True
    judge_whole: bool = False
    warnings: list[str] = field(default_factory=list)

    def check_room(self, sink: Sink) -> None:
        """Refuse what cannot fit before the first write."""
        if self.target_size is not None:
            sink.check_size(self.target_size)

    def run(
        self,
        resolved: Resolved,
        sink: Sink,
        core_sink: CoreSink,
        checkpoint: Checkpoint,
        progress: ProgressCallback | None,
        cancel: Cancel,
    ) -> Outcome:
        """Transfer everything; the bytes are flushed on return, nothing is published."""
        job = start_job(
            resolved,
            sink,
            core_sink,
            self.options,
            checkpoint,
            detect_zeros=self.detects_zeros(sink),
        )
        return run_job(job, core_sink, checkpoint, cancel, progress)

    def detects_zeros(self, sink: Sink) -> bool:
        """Zeroing beats writing zeros on devices and where holes are wanted."""
        if self.options.detect_zeros is not None:
            return self.options.detect_zeros
        return sink.kind in ("block", "nbd") or self.sparse

    def finish(self, sink: Sink, outcome: Outcome) -> None:
        """Judge the whole image, tables included, before it is published."""
        if self.judge_whole and sink.buffered_fd >= 0:
            info = inspect_fd(sink.buffered_fd, outcome.total, self.options)
            info.require_safe()
            self.virtual_size = info.virtual_size

    def final_size(self, outcome: Outcome) -> int:
        """Bytes of the image on the target."""
        return outcome.total


def inspect_fd(fd: int, size: int, options: FetchOptions) -> ImageInfo:
    """The verdict on an image that lies in *fd*."""
    from fastdl.core.image import inspect_qcow2, peek  # noqa: PLC0415 - only for images
    from fastdl.model.image_inspect import inspect  # noqa: PLC0415

    def judge(reader: Any) -> ImageInfo:
        verdict: ImageInfo = inspect_qcow2(reader, max_virtual_size=options.max_virtual_size)
        return verdict

    return inspect(FdReader(fd, size), qcow2=judge, peek=peek)


def detect_file(path: str) -> str:
    """The format of a file that is there already; raw where nobody can tell."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        reader = FdReader(fd, size)
        tail = reader.read_at(max(0, size - TAIL_BYTES), TAIL_BYTES)
        return str(detect(reader.read_at(0, HEAD_BYTES), tail, size))
    except FastdlError:
        return "raw"
    finally:
        os.close(fd)


# ---- the head ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Verdict:
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
            size = _inner_virtual_size(resolved, fmt, options) if inner is Format.QCOW2 else None
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

    An answer that breaks off is dropped: the transfer opens its own.
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


def _inner_virtual_size(resolved: Resolved, fmt: Format, options: FetchOptions) -> int | None:
    from fastdl.core.image import NeedMore, Qcow2  # noqa: PLC0415

    try:
        image = Qcow2(_peek_head(resolved, fmt), None, max_virtual_size=options.max_virtual_size)
    except NeedMore:
        return None
    return int(image.virtual_size)


# ---- the plan ------------------------------------------------------------------


def wants_raw(sink: Sink, options: FetchOptions) -> bool:
    """Whether the target is to hold the guest's disk instead of the file."""
    if options.target_format == "auto":
        return sink.kind in ("block", "nbd")
    return options.target_format == "raw"


def plan_landing(resolved: Resolved, sink: Sink, options: FetchOptions, cancel: Cancel) -> Landing:
    """Judge the first bytes and decide how the source lands.

    Raises the image's refusal before anything is written, or NeedsStaging. What one mirror
    says is not the last word where others can be asked and the whole will be verified.
    """
    try:
        return _plan(resolved, sink, options, cancel)
    except (FormatError, UnsafeImageError, LimitError):
        if not _ask_next_mirror(resolved, options, cancel):
            raise
    return plan_landing(resolved, sink, options, cancel)


def _ask_next_mirror(resolved: Resolved, options: FetchOptions, cancel: Cancel) -> bool:
    """Strike the mirror whose first bytes are no good image; False where none is left to ask."""
    if not resolved.provable:
        return False
    resolved.close()
    left = [i for i, m in enumerate(resolved.mirrors) if m.state == "ok" and i != resolved.first]
    for index in left:
        cancel.check()
        stream = Stream(resolved.net, resolved.mirrors[index], cancel.wake)
        try:
            stream.begin(0, max(HEAD_BYTES, min(READ_ON_BYTES, resolved.size or READ_ON_BYTES)))
        except FastdlError:
            stream.close()
            continue
        resolved.mirrors[resolved.first].strike("its first bytes are no usable image")
        resolved.stream, resolved.head, resolved.first = stream, b"", index
        read_on(resolved, min(HEAD_BYTES, resolved.size or HEAD_BYTES))
        return True
    return False


def _plan(resolved: Resolved, sink: Sink, options: FetchOptions, cancel: Cancel) -> Landing:
    fmt = format_of(resolved, options)
    if fmt is Format.LUKS:
        raise UnsafeImageError("the image is encrypted (LUKS)", phase="decode")
    if not wants_raw(sink, options) or fmt in (Format.RAW, Format.ISO):
        return _plan_same(resolved, sink, options, fmt)
    if fmt is Format.QCOW2:
        from fastdl.engine.landing_qcow2 import plan_qcow2  # noqa: PLC0415

        return plan_qcow2(resolved, sink, options, cancel)
    if fmt in COMPRESSED:
        return _plan_stream(resolved, sink, options, fmt)
    if fmt in CONVERTIBLE:
        raise NeedsStaging(f"{fmt} is converted by qemu-img from a verified file", fmt=fmt)
    if fmt in ARCHIVES:
        raise FormatError(f"{fmt} is an archive, no image: unpack it first", phase="decode")
    raise FormatError(f"{fmt} images cannot be converted to raw", phase="decode")


def _plan_same(resolved: Resolved, sink: Sink, options: FetchOptions, fmt: Format) -> Landing:
    virtual: int | None = None
    if fmt is Format.QCOW2:
        virtual = int(qcow2_header(resolved, options).virtual_size)
    elif fmt in (Format.RAW, Format.ISO):
        virtual = resolved.size
        limit = options.max_virtual_size
        if limit is not None and virtual is not None and virtual > limit:
            raise LimitError(f"the image has {virtual} bytes, {limit} are allowed", phase="decode")
    declared = options.source_format != "auto"
    return Landing(
        options=options,
        format=str(fmt),
        target_size=resolved.size,
        virtual_size=virtual,
        # A plain file that happens to be an archive is nobody's image.
        judge_whole=fmt is Format.QCOW2 or fmt in CONVERTIBLE or (declared and fmt is Format.ISO),
        resumable=sink.kind in ("file", "block"),
    )


def decode_threads() -> int:
    """Two for each processor: while one waits for its direct write another decodes.

    Measured on two processors, 64 KiB clusters: four took a quarter off the time of two, six
    gave nothing more.
    """
    return min(8, max(4, 2 * len(os.sched_getaffinity(0))))


# ---- compressed sources ----------------------------------------------------------


@dataclass(slots=True)
class StreamLanding(Landing):
    """A compressed source: decoded in order while it arrives."""

    inner: Format = Format.RAW
    lander: StreamLander | None = None

    def run(
        self,
        resolved: Resolved,
        sink: Sink,
        core_sink: CoreSink,
        checkpoint: Checkpoint,
        progress: ProgressCallback | None,
        cancel: Cancel,
    ) -> Outcome:
        """Transfer and decode."""
        from fastdl.core.lander import StreamLander  # noqa: PLC0415

        lander = StreamLander(
            self.format,
            core_sink,
            threads=decode_threads(),
            qcow2=self.inner is Format.QCOW2,
            max_output=self.options.max_virtual_size,
            sink_size=sink.capacity,
            max_virtual_size=self.options.max_virtual_size,
            detect_zeros=self.detects_zeros(sink),
        )
        self.lander = lander
        job = start_job(resolved, sink, core_sink, self.options, checkpoint, lander=lander)
        try:
            outcome = run_job(job, core_sink, checkpoint, cancel, progress)
        except FormatError as exc:
            if NEEDS_STAGING in exc.message:
                raise NeedsStaging(exc.message, fmt=Format(self.format), decode=True) from None
            raise
        self.virtual_size = lander.virtual_size or lander.decoded
        return outcome

    def final_size(self, outcome: Outcome) -> int:
        """Bytes of the decoded image."""
        assert self.virtual_size is not None
        return self.virtual_size


def _plan_stream(resolved: Resolved, sink: Sink, options: FetchOptions, fmt: Format) -> Landing:
    inner = inner_format(resolved, fmt)
    if inner in COMPRESSED or inner in ARCHIVES:
        raise FormatError(
            f"under {fmt} lies {inner}: one layer of compression is decoded", phase="decode"
        )
    if inner is Format.LUKS:
        raise UnsafeImageError("the compressed image is encrypted (LUKS)", phase="decode")
    if options.staging:
        inner = Format.RAW  # whatever it is, the decoded file is what is wanted
    if inner not in (Format.RAW, Format.ISO, Format.QCOW2):
        raise NeedsStaging(f"{inner} under {fmt} is unpacked first", fmt=fmt, decode=True)
    target: int | None = None
    if inner is Format.QCOW2:
        target = _inner_virtual_size(resolved, fmt, options)
    landing = StreamLanding(
        options=options,
        format=str(fmt),
        target_size=target,
        kind=f"{fmt}-to-raw" if inner is not Format.QCOW2 else f"qcow2.{fmt}-to-raw",
        sparse=True,
        resumable=False,
        inner=inner,
    )
    if sink.capacity is not None and target is not None:
        sink.check_size(target)
    return landing
