# SPDX-License-Identifier: Apache-2.0
"""A TLS session between a host and a manager, carried by two subjects of NATS.

NATS is not trusted: whoever publishes on these subjects can end the session, and nothing else. A
message that is lost ends it, too. Each asks for a reply, so that the server says when nobody is
subscribed at the other end.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import Final

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from fastdl.wire.nats.client import Client, obeying
from fastdl.wire.nats.tunnel import Frame, Kind, Tunnel

_CHUNK: Final = 256 << 10
_SEND_S: Final = 20.0
_NOBODY: Final = "503"


class Session:
    """One end of a session: hears *into*, says to *out*. *waiting_max*: bytes that may wait to be
    read; more end it. *counts*: whether the other end may rely on this one; a ping that comes
    when it may not ends the session."""

    def __init__(
        self,
        client: Client,
        tunnel: Tunnel,
        *,
        into: str,
        out: str,
        waiting_max: int,
        counts: Callable[[], bool] = lambda: True,
    ) -> None:
        self._client = client
        self._tunnel = tunnel
        self._into, self._out = into, out
        self._waiting_max = waiting_max
        self._counts = counts
        self._waiting = 0
        self._chunks: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._frames: deque[Frame] = deque()
        self._sending = asyncio.Lock()
        self._subscription: Subscription | None = None
        self._over = False

    async def hear(self) -> None:
        """Subscribe."""
        self._subscription = await self._client.subscribe(self._into, cb=self._heard)

    def feed(self, data: bytes) -> None:
        """Take bytes of the other end that came in another way."""
        self._waiting += len(data)
        if self._waiting > self._waiting_max:
            self.end()
        else:
            self._chunks.put_nowait(data)

    def end(self) -> None:
        """Nothing comes any more: whoever reads sees it, after what came before."""
        self._chunks.put_nowait(None)

    async def establish(self, *, first: str | None = None) -> None:
        """Complete the handshake; *first*: where the first bytes go. ConnectionError if it ends
        before; ssl.SSLError (an OSError) if the other end is not who it has to be."""
        await self._flush(first or self._out)
        while not self._tunnel.established:
            if not await self._advance():
                raise ConnectionError("nobody answers, or the session was ended")

    async def read(self, *, within: float | None = None) -> Frame | None:
        """Return the next frame that is no ping, or None: it is over.

        TimeoutError if nothing comes for *within* seconds; ssl.SSLError or AgentRefusedError if
        what came is not the other end's, or nothing that it may send.
        """
        while not self._frames:
            if not await self._advance(within):
                return None
        return self._frames.popleft()

    async def write(self, kind: Kind, content: bytes) -> None:
        """Send a frame. ConnectionError if the session, or NATS, is gone."""
        if self._over:
            raise ConnectionResetError("the session has ended")
        self._tunnel.write(kind, content)
        await self._flush(self._out)

    async def close(self, reason: str) -> None:
        """Say that it ends, and why, and end it."""
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(5):
                await self.write(Kind.CLOSE, reason.encode()[:100])
        await self.forget()

    async def forget(self) -> None:
        """End it here."""
        self._over = True
        self.end()
        if self._subscription is not None:
            subscription, self._subscription = self._subscription, None
            with contextlib.suppress(NatsError, OSError):
                await obeying(subscription.unsubscribe)()

    async def _advance(self, within: float | None = None) -> bool:
        """Take what comes next; False = nothing will."""
        if self._over:
            return False
        async with asyncio.timeout(within):
            data = await self._chunks.get()
        if data is None:
            self._over = True
            return False
        self._waiting -= len(data)
        try:
            frames = self._tunnel.feed(data)
        finally:
            await self._flush(self._out)
        pings = [frame for frame in frames if frame.kind is Kind.PING]
        if pings and not self._counts():
            await self.close("cut off")
            return False
        if pings:  # the last one says it for all that came with it
            await self.write(Kind.PONG, pings[-1].content)
        for frame in frames:
            if frame.kind is Kind.PING:
                continue
            if frame.kind is Kind.CLOSE:
                self.end()
            else:
                self._frames.append(frame)
        return True

    async def _flush(self, subject: str) -> None:
        async with self._sending:  # in order, whoever sends
            data = self._tunnel.take()
            try:
                async with asyncio.timeout(_SEND_S):
                    for start in range(0, len(data), _CHUNK):
                        await self._client.publish(
                            subject, data[start : start + _CHUNK], reply=self._into
                        )
            except (NatsError, OSError) as exc:  # what is lost in between cannot be made good
                self._over = True
                self.end()
                raise ConnectionResetError(f"NATS: {exc}") from exc

    async def _heard(self, msg: Msg) -> None:
        if msg.headers and msg.headers.get("Status") == _NOBODY:
            self.end()
        else:
            self.feed(msg.data)
