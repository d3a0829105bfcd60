# SPDX-License-Identifier: Apache-2.0
"""Which landing? Decided by the first bytes, the target, and what the caller asked for."""

from __future__ import annotations

from fastdl.core.net import Stream
from fastdl.engine.cancel import Cancel
from fastdl.engine.landing.base import Landing, NeedsStaging
from fastdl.engine.landing.head import READ_ON_BYTES, judge_head, read_on
from fastdl.engine.options import FetchOptions
from fastdl.engine.resolve import Resolved
from fastdl.errors import FastdlError, FormatError, LimitError, UnsafeImageError
from fastdl.model.image import (
    COMPRESSED,
    CONVERTIBLE,
    DISKS,
    HEAD_BYTES,
    TAIL_BYTES,
    Format,
    ImageInfo,
)
from fastdl.sinks.base import Sink


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
    raw = wants_raw(sink, options)
    if not resolved.head and options.source_format in ("auto", "raw") and not raw:
        return Landing(options, format="raw", target_size=resolved.size, resumable=False)
    info = judge_head(resolved, options)
    if is_an_image(info, options, raw=raw):
        info.require_safe()
    landing = _landing(resolved, sink, options, cancel, info)
    landing.warnings.extend(info.warnings if raw or options.source_format != "auto" else ())
    return landing


def is_an_image(info: ImageInfo, options: FetchOptions, *, raw: bool) -> bool:
    """Whether anybody takes the source for an image: a file that happens to be an archive or
    a web page, and stays what it is, is refused by nobody."""
    return (
        raw
        or options.source_format != "auto"
        or info.format in (Format.QCOW2, *CONVERTIBLE)
        or info.refusal in (UnsafeImageError, LimitError)
    )


def _landing(
    resolved: Resolved, sink: Sink, options: FetchOptions, cancel: Cancel, info: ImageInfo
) -> Landing:
    fmt = info.format
    if not wants_raw(sink, options):
        return _as_it_is(resolved, sink, options, info)
    if fmt in (Format.RAW, Format.ISO):
        return _as_disk(resolved, sink, options, cancel, info)
    if fmt is Format.QCOW2:
        from fastdl.engine.landing.qcow2 import plan_qcow2  # noqa: PLC0415

        return plan_qcow2(resolved, options, cancel)
    if fmt in COMPRESSED:
        from fastdl.engine.landing.stream import plan_stream  # noqa: PLC0415

        return plan_stream(resolved, sink, options, info)
    raise NeedsStaging(f"{fmt} is converted by qemu-img from a verified file", fmt=fmt)


def _as_it_is(resolved: Resolved, sink: Sink, options: FetchOptions, info: ImageInfo) -> Landing:
    """The file stays what it is: judged whole where somebody takes it for an image."""
    declared = options.source_format != "auto"
    whole = info.format in (Format.QCOW2, *CONVERTIBLE) or (declared and info.format in DISKS)
    return Landing(
        options,
        format=str(info.format),
        target_size=resolved.size,
        virtual_size=None if info.format in COMPRESSED else info.virtual_size,
        judge_whole=whole,
        resumable=sink.kind in ("file", "block"),
    )


def _as_disk(
    resolved: Resolved, sink: Sink, options: FetchOptions, cancel: Cancel, info: ImageInfo
) -> Landing:
    """The file is the disk, or the disk with the footer of a fixed VHD behind it."""
    size, room = resolved.size, sink.capacity
    tight = size is not None and room is not None and 0 < size - room <= TAIL_BYTES
    if options.source_format == Format.VHD or tight:
        info = judge_head(resolved, options, reach=cancel)
        info.require_safe()
    if tight and Format.VHD in (info.format, options.source_format):
        raise NeedsStaging("the footer behind the disk does not fit the target", fmt=Format.VHD)
    return Landing(
        options,
        format=str(Format.RAW if info.format is Format.VHD else info.format),
        target_size=size,
        virtual_size=info.virtual_size,
        resumable=sink.kind in ("file", "block"),
        disk_head=resolved.head[:HEAD_BYTES],
    )
