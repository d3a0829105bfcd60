# SPDX-License-Identifier: Apache-2.0
"""Messages to and from one host, whatever carries them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final, Protocol

from aiohttp import WSCloseCode, WSMsgType, web

from fastdl.errors import AgentRefusedError
from fastdl.wire import codec
from fastdl.wire import messages as m

SEND_S: Final = 30.0
CUT_OFF: Final = "this manager does not reach the ledger"
_CLOSE_S: Final = 5.0


class Channel(Protocol):
    """One connection of one host."""

    async def receive(self) -> str | None:
        """Return the host's next message, or None: the connection has ended.

        AgentRefusedError if what came is not text.
        """

    async def send(self, message: m.Message) -> None:
        """Send *message*. OSError, TimeoutError or RuntimeError if the host is gone."""

    async def close(self, reason: str, last_word: m.Message | None = None) -> None:
        """Send *last_word*, and close; raises nothing."""


class WebSocketChannel:
    """The default: a WebSocket to this manager's agent port. *counts*: whether the host may rely on
    this manager; its pings are answered only then."""

    def __init__(self, socket: web.WebSocketResponse, counts: Callable[[], bool]) -> None:
        self._socket = socket
        self._counts = counts

    async def receive(self) -> str | None:
        """Return the next message; None = the end."""
        while True:
            frame = await self._socket.receive()
            match frame.type:
                case WSMsgType.TEXT:
                    text: str = frame.data
                    return text
                case WSMsgType.PING if self._counts():
                    await self._socket.pong(frame.data)
                case WSMsgType.PING:
                    await self.close(CUT_OFF)
                    return None
                case WSMsgType.CLOSE | WSMsgType.CLOSING | WSMsgType.CLOSED:
                    return None
                case WSMsgType.PONG:
                    pass
                case _:
                    raise AgentRefusedError("only text frames are expected")

    async def send(self, message: m.Message) -> None:
        """Send *message*."""
        async with asyncio.timeout(SEND_S):
            await self._socket.send_str(codec.encode(message))

    async def close(self, reason: str, last_word: m.Message | None = None) -> None:
        """Send *last_word*, and close."""
        refused = isinstance(last_word, m.Refused)
        code = WSCloseCode.POLICY_VIOLATION if refused else WSCloseCode.GOING_AWAY
        with contextlib.suppress(ConnectionError, TimeoutError, RuntimeError):
            async with asyncio.timeout(_CLOSE_S):
                if last_word is not None:
                    await self._socket.send_str(codec.encode(last_word))
                await self._socket.close(code=code, message=reason.encode()[:100])
