# SPDX-License-Identifier: Apache-2.0
"""A qcow2 image's tables, fetched before its data: L1 first, then every L2 table at once.

Their bytes are fetched once: they go into the transfer as known extents, so that the digest
of the whole file still covers them.
"""

from __future__ import annotations

import queue
import threading
import time
from typing import TYPE_CHECKING

from fastdl.core.image import Qcow2
from fastdl.core.net import Stream
from fastdl.engine.source.first_response import FirstResponse, backoff, is_late, pause
from fastdl.errors import FastdlError, FormatError, NetError, Reason

if TYPE_CHECKING:
    from fastdl.engine.context import TransferContext
    from fastdl.engine.source.facts import SourceFacts

READ_BYTES = 1 << 20
IN_ORDER_MAX = 32 << 20
"""How far after data tables may come if the server does not support ranges."""
TABLE_THREADS = 4

Known = tuple[int, bytes, int]
"""(offset, bytes, number of the mirror that they came from)"""


def read_tables(
    facts: SourceFacts, response: FirstResponse, image: Qcow2, ctx: TransferContext
) -> list[Known]:
    """Feed *image* until its map is complete; return the data read for it.

    Raises the image's refusal, FormatError with NEEDS_STAGING if the tables come too late on
    a server without ranges, or what fetching the tables raised.
    """
    known: list[Known] = []
    if response.head:
        known.append((0, response.head, response.index))
        image.feed(0, response.head)
    if not image.ready:
        _read_ahead(response, image, known)
    ranges = response.mirror.ranges or facts.size is None
    if not image.ready and ranges and not facts.one_response:
        _fetch(facts, response, image, known, ctx)
    if not image.ready:
        _read_in_order(facts, response, image, known, ctx)
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
    """Every range of tables currently known to be needed, split into reads."""
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
    facts: SourceFacts,
    response: FirstResponse,
    image: Qcow2,
    known: list[Known],
    ctx: TransferContext,
) -> None:
    """L1 first, then all L2 tables at once, over a few separate streams."""
    rounds = 0
    while not image.ready:
        wanted = _wanted(image, known)
        rounds += 1
        if not wanted or rounds > 8:
            # All parts are known: they span extents that were fed separately.
            _feed_joined(image, known)
            if not image.ready and rounds > 8:
                raise FormatError("the image's tables cannot be read", phase="decode")
            continue
        for offset, data, index in _read_ranges(facts, response, wanted, ctx):
            known.append((offset, data, index))
        known.sort()
        _feed_joined(image, known)


def _feed_joined(image: Qcow2, known: list[Known]) -> None:
    """Feed adjacent extents as one: a table may span them."""
    joined: list[tuple[int, bytearray]] = []
    for offset, data, _ in sorted(known):
        if joined and joined[-1][0] + len(joined[-1][1]) == offset:
            joined[-1][1].extend(data)
        else:
            joined.append((offset, bytearray(data)))
    for offset, part in joined:
        image.feed(offset, bytes(part))


def _read_ranges(
    facts: SourceFacts,
    response: FirstResponse,
    wanted: list[tuple[int, int]],
    ctx: TransferContext,
) -> list[Known]:
    """All of *wanted*, from whichever usable mirror responds.

    If a mirror serves fewer connections than tried, those are used; if it serves none, the open
    first response is closed to make room.
    """
    todo: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
    for item in wanted:
        todo.put(item)
    got: list[Known] = []
    errors: list[FastdlError] = []
    indices = [response.index] + [
        i
        for i, mirror in enumerate(facts.mirrors)
        if i != response.index and mirror.state == "ok" and facts.provable
    ]

    def work(retries: int) -> None:
        streams: dict[int, Stream] = {}
        try:
            while not errors:
                item = todo.get_nowait()
                try:
                    data, index = _read_one(facts, streams, indices, item, retries, ctx)
                except FastdlError:
                    todo.put(item)
                    if retries > 0:
                        raise
                    return
                got.append((item[0], data, index))
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
        response.close()
        work(max(1, ctx.options.retry))
    if errors:
        raise errors[0]
    return got


def _read_one(
    facts: SourceFacts,
    streams: dict[int, Stream],
    indices: list[int],
    wanted: tuple[int, int],
    retries: int,
    ctx: TransferContext,
) -> tuple[bytes, int]:
    """The *wanted* bytes and the number of their mirror; each mirror is tried in turn."""
    began = time.monotonic()
    for attempt in range(retries + 1):
        index = indices[attempt % len(indices)]
        ctx.cancel.check()
        try:
            if index not in streams:
                streams[index] = Stream(ctx.net, facts.mirrors[index], ctx.cancel.wakeup)
            return _read_exactly(streams[index], *wanted), index
        except FastdlError as exc:
            exc.add_context(origin=facts.urls[index].display())
            ctx.cancel.check()
            if attempt == retries or is_late(ctx, began):
                raise
            if index == indices[-1]:
                pause(backoff(attempt, exc.retry_after_s, ctx), ctx.cancel)
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
                raise NetError(
                    "the response for the tables' range is empty", phase="decode", offset=at
                )
            stream.begin(at, end - at)
            continue
        parts.append(data)
        at += len(data)
    return b"".join(parts)


def _read_ahead(response: FirstResponse, image: Qcow2, known: list[Known]) -> None:
    """Tables within the open response to the first range cost no request of their own."""
    while not image.ready and response.stream is not None and (need := image.need()):
        end, stop = need[0] + need[1], response.stream.end
        if response.stream.whole or stop is None or end > stop:
            return
        if not response.extend(end):
            return
        image.feed(0, response.head)
        known[:] = [(0, response.head, response.index)]


def _read_in_order(
    facts: SourceFacts,
    response: FirstResponse,
    image: Qcow2,
    known: list[Known],
    ctx: TransferContext,
) -> None:
    """A server without ranges: keep reading until the tables are complete, up to a limit."""
    began, attempt = time.monotonic(), 0
    while not image.ready:
        need = image.need()
        end = need[0] + need[1] if need else len(response.head) + READ_BYTES
        if facts.size is not None:
            end = min(end, facts.size)
        if end > IN_ORDER_MAX:
            raise FormatError(
                "the server does not support ranges and the image's tables come after its data",
                phase="decode",
                reason=Reason.NEEDS_STAGING,
            )
        if response.extend(end):
            image.feed(0, response.head)
            continue
        ctx.cancel.check()
        if response.stream is not None and facts.size is None:
            raise FormatError("the source ends inside its tables", phase="decode")
        if attempt == ctx.options.retry or is_late(ctx, began):
            raise NetError("the response ends inside the image's tables", phase="decode")
        if attempt > 0:  # what only ended early is continued at once
            pause(backoff(attempt - 1, None, ctx), ctx.cancel)
        attempt += 1
        response.reopen(facts.size)
    known[:] = [(0, response.head, response.index)]
