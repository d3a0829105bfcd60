# SPDX-License-Identifier: Apache-2.0
"""Which landing? Decided by the first bytes, the target, and what the caller asked for."""

from __future__ import annotations

from fastdl.core.net import Stream
from fastdl.engine.cancel import Cancel
from fastdl.engine.landing.base import Landing, NeedsStaging
from fastdl.engine.landing.head import READ_ON_BYTES, format_of, qcow2_header, read_on
from fastdl.engine.options import FetchOptions
from fastdl.engine.resolve import Resolved
from fastdl.errors import FastdlError, FormatError, LimitError, UnsafeImageError
from fastdl.model.image import ARCHIVES, COMPRESSED, CONVERTIBLE, HEAD_BYTES, Format
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
    fmt = format_of(resolved, options)
    if fmt is Format.LUKS:
        raise UnsafeImageError("the image is encrypted (LUKS)", phase="decode")
    if not wants_raw(sink, options) or fmt in (Format.RAW, Format.ISO):
        return _plan_same(resolved, sink, options, fmt)
    if fmt is Format.QCOW2:
        from fastdl.engine.landing.qcow2 import plan_qcow2  # noqa: PLC0415

        return plan_qcow2(resolved, options, cancel)
    if fmt in COMPRESSED:
        from fastdl.engine.landing.stream import plan_stream  # noqa: PLC0415

        return plan_stream(resolved, sink, options, fmt)
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
        options,
        format=str(fmt),
        target_size=resolved.size,
        virtual_size=virtual,
        # A plain file that happens to be an archive is nobody's image.
        judge_whole=fmt is Format.QCOW2 or fmt in CONVERTIBLE or (declared and fmt is Format.ISO),
        resumable=sink.kind in ("file", "block"),
    )
