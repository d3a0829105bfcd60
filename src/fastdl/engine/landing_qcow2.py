# SPDX-License-Identifier: Apache-2.0
"""qcow2 onto raw storage while it arrives: tables first, then data in file order.

The tables' bytes are fetched once: they go into the transfer as known extents, so that the
digest of the whole file still covers them.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from dataclasses import dataclass, field

from fastdl.core.image import Qcow2
from fastdl.core.net import Stream
from fastdl.core.sink import Sink as CoreSink
from fastdl.engine.cancel import Cancel
from fastdl.engine.landing import Landing, NeedsStaging, decode_threads, qcow2_header, read_on
from fastdl.engine.options import FetchOptions, ProgressCallback
from fastdl.engine.resolve import Resolved
from fastdl.engine.transfer import Checkpoint, Outcome, run_job, start_job
from fastdl.errors import FastdlError, FormatError, NetError
from fastdl.model.image import Format
from fastdl.sinks.base import Sink

READ_BYTES = 1 << 20
IN_ORDER_MAX = 32 << 20
"""How far tables may lie behind data where the server gives no ranges."""
TABLE_THREADS = 4

Known = tuple[int, bytes, int]


@dataclass(slots=True)
class Qcow2Landing(Landing):
    """The guest's disk lands; the source's bytes are hashed on the way."""

    image: Qcow2 | None = None
    known: list[Known] = field(default_factory=list)
    data_bytes: int = 0

    def check_room(self, sink: Sink) -> None:
        """A device needs the virtual size, a sparse file the data alone."""
        assert self.virtual_size is not None
        sink.check_size(self.virtual_size if sink.capacity is not None else self.data_bytes)

    def run(
        self,
        resolved: Resolved,
        sink: Sink,
        core_sink: CoreSink,
        checkpoint: Checkpoint,
        progress: ProgressCallback | None,
        cancel: Cancel,
    ) -> Outcome:
        """Transfer and map."""
        from fastdl.core.job import block_for  # noqa: PLC0415
        from fastdl.core.lander import Qcow2Lander  # noqa: PLC0415

        assert self.image is not None
        block = block_for(resolved.pieces.length if resolved.pieces else None)
        skip = [] if resolved.provable else unneeded_blocks(self.image, resolved.size, block)
        lander = Qcow2Lander(
            self.image,
            core_sink,
            threads=decode_threads(),
            detect_zeros=self.detects_zeros(sink),
        )
        job = start_job(
            resolved,
            sink,
            core_sink,
            self.options,
            checkpoint,
            lander=lander,
            known=self.known,
            skip=skip,
        )
        return run_job(job, core_sink, checkpoint, cancel, progress)

    def final_size(self, outcome: Outcome) -> int:
        """The virtual size."""
        assert self.virtual_size is not None
        return self.virtual_size


def unneeded_blocks(image: Qcow2, size: int | None, block: int) -> list[int]:
    """Blocks of the source that no guest byte needs: without a digest nobody needs them."""
    if size is None:
        return []
    needed: set[int] = set()
    for offset, length in image.extents():
        needed.update(range(offset // block, (offset + length - 1) // block + 1))
    return [number for number in range((size + block - 1) // block) if number not in needed]


def plan_qcow2(
    resolved: Resolved, sink: Sink, options: FetchOptions, cancel: Cancel
) -> Qcow2Landing:
    """Judge header and tables; on return it is known where every byte belongs.

    Raises the image's refusal, NeedsStaging where the tables come too late on a server
    without ranges, or what fetching the tables raised.
    """
    image = qcow2_header(resolved, options)
    known: list[Known] = []
    if resolved.head:
        known.append((0, resolved.head, resolved.first))
        image.feed(0, resolved.head)
    if not image.ready:
        _read_tables_ahead(resolved, image, known)
    if not image.ready:
        if resolved.mirrors[resolved.first].ranges or resolved.size is None:
            _fetch_tables(resolved, image, known, options, cancel)
        if not image.ready:
            _read_tables_in_order(resolved, image, known, options, cancel)
    info = image.info()
    return Qcow2Landing(
        options=options,
        format=str(Format.QCOW2),
        target_size=image.virtual_size,
        kind="qcow2-to-raw",
        virtual_size=image.virtual_size,
        sparse=True,
        resumable=False,
        image=image,
        known=known,
        data_bytes=info["data_bytes"] + info["compressed_bytes"],
    )


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


def _fetch_tables(
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
    """All of *wanted*, from whichever usable mirror answers."""
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
    lock = threading.Lock()

    def work() -> None:
        streams: dict[int, Stream] = {}
        try:
            while not errors:
                try:
                    offset, length = todo.get_nowait()
                except queue.Empty:
                    return
                data, index = _read_one(resolved, streams, indices, offset, length, options, cancel)
                with lock:
                    got.append((offset, data, index))
        except FastdlError as exc:
            errors.append(exc)
        finally:
            for stream in streams.values():
                stream.close()

    threads = [
        threading.Thread(target=work, name="tables")
        for _ in range(min(TABLE_THREADS, len(wanted)) - 1)
    ]
    for thread in threads:
        thread.start()
    work()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return got


def _read_one(
    resolved: Resolved,
    streams: dict[int, Stream],
    indices: list[int],
    offset: int,
    length: int,
    options: FetchOptions,
    cancel: Cancel,
) -> tuple[bytes, int]:
    failure: FastdlError | None = None
    for attempt in range(options.retry + 1):
        index = indices[attempt % len(indices)]
        cancel.check()
        try:
            if index not in streams:
                streams[index] = Stream(resolved.net, resolved.mirrors[index], cancel.wake)
            return _read_exactly(streams[index], offset, length), index
        except FastdlError as exc:
            exc.origin = exc.origin or resolved.urls[index].display()
            failure = exc
            cancel.check()
    raise failure or NetError("no mirror is left", phase="decode")


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


def _read_tables_ahead(resolved: Resolved, image: Qcow2, known: list[Known]) -> None:
    """Tables within the open answer to the first range cost no request of their own."""
    while not image.ready and resolved.stream is not None and (need := image.need()):
        end, stop = need[0] + need[1], resolved.stream.end
        if resolved.stream.whole or stop is None or end > stop:
            return
        if not read_on(resolved, end):
            return
        image.feed(0, resolved.head)
        known[:] = [(0, resolved.head, resolved.first)]


def _read_tables_in_order(
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
