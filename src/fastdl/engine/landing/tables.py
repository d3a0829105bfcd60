# SPDX-License-Identifier: Apache-2.0
"""A qcow2 image's tables, fetched before its data: L1 first, then every L2 table at once.

Their bytes are fetched once: they go into the transfer as known extents, so that the digest
of the whole file still covers them.
"""

from __future__ import annotations

import contextlib
import queue
import threading

from fastdl.core.image import Qcow2
from fastdl.core.net import Stream
from fastdl.engine.cancel import Cancel
from fastdl.engine.landing.base import NeedsStaging
from fastdl.engine.landing.head import read_on
from fastdl.engine.options import FetchOptions
from fastdl.engine.resolve import Resolved, backoff, pause
from fastdl.errors import FastdlError, FormatError, NetError
from fastdl.model.image import Format

READ_BYTES = 1 << 20
IN_ORDER_MAX = 32 << 20
"""How far tables may lie behind data where the server gives no ranges."""
TABLE_THREADS = 4

Known = tuple[int, bytes, int]
"""(offset, bytes, number of the mirror that they came from)"""


def read_tables(
    resolved: Resolved, image: Qcow2, options: FetchOptions, cancel: Cancel
) -> list[Known]:
    """Feed *image* until its map is complete; return what was read for it.

    Raises the image's refusal, NeedsStaging where the tables come too late on a server
    without ranges, or what fetching the tables raised.
    """
    known: list[Known] = []
    if resolved.head:
        known.append((0, resolved.head, resolved.first))
        image.feed(0, resolved.head)
    if not image.ready:
        _read_ahead(resolved, image, known)
    ranges = resolved.mirrors[resolved.first].ranges or resolved.size is None
    if not image.ready and ranges and not resolved.one_response:
        _fetch(resolved, image, known, options, cancel)
    if not image.ready:
        _read_in_order(resolved, image, known, options, cancel)
    return known


def _missing(known: list[Known], offset: int, length: int) -> list[tuple[int, int]]:
    """The parts of a range that no known extent covers."""
    out: list[tuple[int, int]] = []
    at, end = offset, offset + length
    for start, data, _ in sorted(known):
        if start >= end:
            break
        if start + len(data) <= at:
            continue
        if start > at:
            out.append((at, start - at))
        at = max(at, start + len(data))
    if at < end:
        out.append((at, end - at))
    return out


def _wanted(image: Qcow2, known: list[Known]) -> list[tuple[int, int]]:
    """Every range of tables that is known to be needed now, cut into reads."""
    out: list[tuple[int, int]] = []
    start = 0
    while (need := image.need(start)) is not None:
        offset, length = need
        for at, n in _missing(known, offset, length):
            out.extend(
                (part, min(READ_BYTES, at + n - part)) for part in range(at, at + n, READ_BYTES)
            )
        start = offset + length
    return out


def _fetch(
    resolved: Resolved, image: Qcow2, known: list[Known], options: FetchOptions, cancel: Cancel
) -> None:
    """L1 first, then all L2 tables at once, over a few streams of their own."""
    rounds = 0
    while not image.ready:
        wanted = _wanted(image, known)
        rounds += 1
        if not wanted or rounds > 8:
            # The parts are all known: they lie across extents that were fed apart.
            _feed_joined(image, known)
            if not image.ready and rounds > 8:
                raise FormatError("the image's tables cannot be read", phase="decode")
            continue
        for offset, data, index in _read_ranges(resolved, wanted, options, cancel):
            known.append((offset, data, index))
        known.sort()
        _feed_joined(image, known)


def _feed_joined(image: Qcow2, known: list[Known]) -> None:
    """Feed adjacent extents as one: a table may lie across them."""
    joined: list[tuple[int, bytearray]] = []
    for offset, data, _ in sorted(known):
        if joined and joined[-1][0] + len(joined[-1][1]) == offset:
            joined[-1][1].extend(data)
        else:
            joined.append((offset, bytearray(data)))
    for offset, part in joined:
        image.feed(offset, bytes(part))


def _read_ranges(
    resolved: Resolved, wanted: list[tuple[int, int]], options: FetchOptions, cancel: Cancel
) -> list[Known]:
    """All of *wanted*, from whichever usable mirror answers.

    A mirror that serves fewer connections than are tried keeps those that it serves; where it
    serves none, the open first answer makes room.
    """
    todo: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
    for item in wanted:
        todo.put(item)
    got: list[Known] = []
    errors: list[FastdlError] = []
    indices = [resolved.first] + [
        i
        for i, mirror in enumerate(resolved.mirrors)
        if i != resolved.first and mirror.state == "ok" and resolved.provable
    ]

    def work(retries: int) -> None:
        streams: dict[int, Stream] = {}
        try:
            while not errors:
                offset, length = item = todo.get_nowait()
                try:
                    data, index = _read_one(
                        resolved, streams, indices, offset, length, retries, cancel
                    )
                except FastdlError:
                    todo.put(item)
                    if retries > 0:
                        raise
                    return
                got.append((offset, data, index))
        except queue.Empty:
            return
        except FastdlError as exc:
            errors.append(exc)
        finally:
            for stream in streams.values():
                stream.close()

    threads = [
        threading.Thread(target=work, args=(0,), name="tables")
        for _ in range(min(TABLE_THREADS, len(wanted)) - 1)
    ]
    for thread in threads:
        thread.start()
    work(0)
    for thread in threads:
        thread.join()
    if not errors and not todo.empty():
        resolved.close()
        work(max(1, options.retry))
    if errors:
        raise errors[0]
    return got


def _read_one(
    resolved: Resolved,
    streams: dict[int, Stream],
    indices: list[int],
    offset: int,
    length: int,
    retries: int,
    cancel: Cancel,
) -> tuple[bytes, int]:
    """The bytes and the number of the mirror that gave them; each mirror is asked in turn."""
    for attempt in range(retries + 1):
        index = indices[attempt % len(indices)]
        cancel.check()
        try:
            if index not in streams:
                streams[index] = Stream(resolved.net, resolved.mirrors[index], cancel.wake)
            return _read_exactly(streams[index], offset, length), index
        except FastdlError as exc:
            exc.add_context(origin=resolved.urls[index].display())
            cancel.check()
            if attempt == retries:
                raise
            if index == indices[-1]:
                pause(backoff(attempt, exc.retry_after_s), cancel)
    raise NetError("no mirror is left", phase="decode")


def _read_exactly(stream: Stream, offset: int, length: int) -> bytes:
    parts: list[bytes] = []
    at, end = offset, offset + length
    while at < end:
        if stream.offset != at or stream.end is None or stream.end <= at or not parts:
            stream.begin(at, end - at)
        data = stream.read(end - at)
        if not data:
            if not parts:
                raise NetError("the tables' range came back empty", phase="decode", offset=at)
            stream.begin(at, end - at)
            continue
        parts.append(data)
        at += len(data)
    return b"".join(parts)


def _read_ahead(resolved: Resolved, image: Qcow2, known: list[Known]) -> None:
    """Tables within the open answer to the first range cost no request of their own."""
    while not image.ready and resolved.stream is not None and (need := image.need()):
        end, stop = need[0] + need[1], resolved.stream.end
        if resolved.stream.whole or stop is None or end > stop:
            return
        if not read_on(resolved, end):
            return
        image.feed(0, resolved.head)
        known[:] = [(0, resolved.head, resolved.first)]


def _read_in_order(
    resolved: Resolved, image: Qcow2, known: list[Known], options: FetchOptions, cancel: Cancel
) -> None:
    """A server without ranges: read on until the tables are complete, but not for ever."""
    retries = options.retry
    while not image.ready:
        need = image.need()
        end = need[0] + need[1] if need else len(resolved.head) + READ_BYTES
        if resolved.size is not None:
            end = min(end, resolved.size)
        if end > IN_ORDER_MAX:
            raise NeedsStaging(
                "the server gives no ranges and the image's tables come after its data",
                fmt=Format.QCOW2,
            )
        if read_on(resolved, end):
            image.feed(0, resolved.head)
            continue
        cancel.check()
        if resolved.stream is not None and resolved.size is None:
            raise FormatError("the source ends inside its tables", phase="decode")
        if retries == 0:
            raise NetError("the answer breaks off inside the image's tables", phase="decode")
        retries -= 1
        _open_again(resolved, cancel)
    known[:] = [(0, resolved.head, resolved.first)]


def _open_again(resolved: Resolved, cancel: Cancel) -> None:
    """A new answer that goes on where the head ends; a failure shows when it is read."""
    resolved.close()
    resolved.stream = Stream(resolved.net, resolved.mirrors[resolved.first], cancel.wake)
    with contextlib.suppress(FastdlError):
        rest = None if resolved.size is None else resolved.size - len(resolved.head)
        resolved.stream.begin(len(resolved.head), rest)
