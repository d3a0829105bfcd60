# SPDX-License-Identifier: Apache-2.0
"""The response to the first request: it provides everything, so that nothing is requested twice.

It has one owner at a time: the resolve stage opens it, the plan reads on in it, the transfer takes
it over.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Self

from fastdl.core.net import Mirror, Stream
from fastdl.errors import Cancelled, FastdlError, HttpStatusError, NetError
from fastdl.model.url import Url

if TYPE_CHECKING:
    from fastdl.engine.cancel import Cancel
    from fastdl.engine.context import TransferContext
    from fastdl.engine.source.facts import SourceFacts

HEAD_BYTES = 64 << 10
"""Read before the transfer starts: enough for every format's magic except an ISO's."""
FIRST_RANGE = 1 << 20
READ_ON_BYTES = 256 << 10
RETRY_AFTER_MAX_S = 600


class FirstResponse:
    """``head``: the source's first bytes; ``stream``: open after them, or None.

    ``index``: the number of its mirror. ``only``: no other response can continue this one.
    """

    def __init__(self, ctx: TransferContext, mirror: Mirror, index: int) -> None:
        self._ctx = ctx
        self.mirror = mirror
        self.index = index
        self.stream: Stream | None = None
        self.head = b""
        self.content_type: str | None = None
        self.disposition: str | None = None
        self.last_modified: str | None = None
        self.only = False

    @classmethod
    def opened(
        cls, ctx: TransferContext, mirror: Mirror, index: int, stream: Stream, head: bytes
    ) -> Self:
        """The response on *stream*, of which *head* was read."""
        made = cls(ctx, mirror, index)
        made.stream, made.head = stream, head
        fields = dict(stream.head()[1])
        made.content_type = fields.get("content-type")
        made.disposition = fields.get("content-disposition")
        made.last_modified = fields.get("last-modified")
        return made

    def extend(self, upto: int) -> bool:
        """Lengthen the head to *upto* bytes; False if the response has no more. An interrupted one
        is closed: the transfer opens its own, if that can continue it.
        """
        parts, have = [self.head], len(self.head)
        try:
            while self.stream is not None and have < upto and self.stream.offset == have:
                data = self.stream.read(min(READ_ON_BYTES, upto - have))
                if not data:
                    break
                parts.append(data)
                have += len(data)
        except Cancelled:
            raise
        except FastdlError:
            self.close()
            if self.only:
                raise
        self.head = b"".join(parts)
        return have >= upto

    def reopen(self, size: int | None) -> None:
        """Request the data after the head from the same mirror; a failure shows when it is read."""
        self.close()
        self.stream = Stream(self._ctx.net, self.mirror, self._ctx.cancel.wakeup)
        with contextlib.suppress(FastdlError):
            rest = None if size is None else size - len(self.head)
            self.stream.begin(len(self.head), rest)

    def next_mirror(self, facts: SourceFacts, *, reason: str) -> bool:
        """Continue with another mirror's first bytes; False if none is left.

        This one's mirror is disqualified for *reason*. Only if a digest finally decides may one
        mirror's data be replaced by another's.
        """
        if not facts.provable:
            return False
        self.close()
        for index, mirror in enumerate(facts.mirrors):
            if mirror.state != "ok" or index == self.index:
                continue
            self._ctx.cancel.check()
            stream = Stream(self._ctx.net, mirror, self._ctx.cancel.wakeup)
            try:
                wanted = min(READ_ON_BYTES, facts.size or READ_ON_BYTES)
                stream.begin(0, max(HEAD_BYTES, wanted))
            except FastdlError:
                stream.close()
                continue
            self.mirror.disqualify(reason)
            self.stream, self.head, self.index, self.mirror = stream, b"", index, mirror
            self.extend(min(HEAD_BYTES, facts.size or HEAD_BYTES))
            return True
        return False

    def take(self) -> Stream | None:
        """The open stream; the caller now owns it."""
        stream, self.stream = self.stream, None
        return stream

    def close(self) -> None:
        """Close the stream unless it was taken. The head stays."""
        if self.stream is not None:
            self.stream.close()
            self.stream = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_stream(
    ctx: TransferContext,
    mirror: Mirror,
    url: Url,
    cancel: Cancel,
    *,
    give_up: Callable[[Stream], bool] = lambda _: False,
) -> tuple[Stream, bytes]:
    """A stream at offset 0 with its first bytes; temporary failures are retried.

    *give_up*: called after each failure: whether not to retry.
    """
    stream = Stream(ctx.net, mirror, cancel.wakeup)
    host = url.netloc if url.host else ""
    began = time.monotonic()
    for attempt in range(ctx.options.retry + 1):
        try:
            ctx.events.wait(host, "a response")
            ctx.events.note(f"> GET {url.display()}, bytes 0-{FIRST_RANGE - 1}")
            stream.begin(0, FIRST_RANGE)
            head = _read_head(stream)
            if ctx.events.log is not None:
                _log_response(stream, ctx)
            return stream, head
        except FastdlError as exc:
            ctx.events.note(f"! {exc.code_name}: {exc}")
            exc.add_context(phase="resolve", origin=url.display())
            passes = isinstance(exc, NetError) or (
                isinstance(exc, HttpStatusError) and exc.retryable
            )
            mirror.note_error()
            cancel.check()
            too_long = (exc.retry_after_s or 0) > RETRY_AFTER_MAX_S or is_late(ctx, began)
            if give_up(stream) or attempt == ctx.options.retry or not passes or too_long:
                stream.close()
                raise
            seconds = backoff(attempt, exc.retry_after_s, ctx)
            ctx.events.wait(host, f"the next try, in {seconds:.1f}s ({exc.message})")
            pause(seconds, cancel)
    raise AssertionError("unreachable")


def _log_response(stream: Stream, ctx: TransferContext) -> None:
    """Where redirects led, and what came."""
    for to, _, _ in stream.redirects():
        ctx.events.note(f"< redirected by {displayed(to)}")
    mirror = stream.mirror
    if mirror.final_url:
        ctx.events.note(f"< from {displayed(mirror.final_url)}")
    status, _ = stream.head()
    size = "unknown size" if mirror.total is None else f"{mirror.total} bytes"
    validator = f", etag {mirror.etag}" if mirror.etag else ""
    ctx.events.note(f"< {status or 'open'}, {size}{validator}")


def displayed(text: str) -> str:
    """A URL that a server sent, as it may be shown."""
    try:
        return Url.parse_sent(text).display()
    except FastdlError:
        return "an odd URL"


def _read_head(stream: Stream) -> bytes:
    parts, have = [], 0
    while have < HEAD_BYTES:
        data = stream.read(HEAD_BYTES - have)
        if not data:
            break
        parts.append(data)
        have += len(data)
    return b"".join(parts)


def backoff(attempt: int, retry_after_s: float | None, ctx: TransferContext) -> float:
    """Seconds to wait after the failure number *attempt* (from 0), or what the server asks for."""
    own = ctx.options.retry_delay
    if own is None:
        own = min(0.2 * 2.0 ** min(attempt, 8), 8.0)
    return max(own, retry_after_s or 0.0)


def is_late(ctx: TransferContext, began: float) -> bool:
    """Whether what failed since *began* has had its time; see ``FetchOptions.retry_time``."""
    limit = ctx.options.retry_time
    return limit is not None and time.monotonic() - began >= limit


def pause(seconds: float, cancel: Cancel) -> None:
    """Sleep; raises Cancelled on cancellation."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        cancel.check()
        time.sleep(min(left, 0.1))
