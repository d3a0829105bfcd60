# SPDX-License-Identifier: Apache-2.0
"""The default carrier: a WebSocket to the manager's agent port."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Final

import aiohttp

from fastdl.agent.carrier import HANDSHAKE_S, AbsentError, Heard, OtherAuthorityError
from fastdl.agent.identity import Identity, why_unreachable
from fastdl.errors import AgentLostError, AgentRefusedError
from fastdl.wire import codec
from fastdl.wire import messages as m

_SEND_S: Final = 30.0
_CLOSED: Final = (
    aiohttp.WSMsgType.CLOSE,
    aiohttp.WSMsgType.CLOSING,
    aiohttp.WSMsgType.CLOSED,
)


class WebSocketCarrier:
    """WebSockets to the agent ports of *managers* (``https://HOST:PORT``)."""

    def __init__(self, identity: Identity, managers: Sequence[str]) -> None:
        self._identity = identity
        self.places = tuple(managers)

    @contextlib.asynccontextmanager
    async def connected(self, place: str, heard: Heard) -> AsyncIterator[WebSocketChannel]:
        """A WebSocket to the manager at *place*."""
        async with aiohttp.ClientSession() as session:
            try:
                async with asyncio.timeout(HANDSHAKE_S):
                    socket = await session.ws_connect(
                        f"{place.rstrip('/')}/agent",
                        ssl=await asyncio.to_thread(self._identity.context),
                        server_hostname=m.MANAGER_NAME,
                        max_msg_size=m.TO_AGENT_MAX,
                        autoping=False,
                    )
            except aiohttp.ClientConnectorCertificateError:
                raise OtherAuthorityError(place) from None
            except (aiohttp.ClientError, OSError, TimeoutError) as exc:
                kind = AbsentError if _refuses(exc) else AgentLostError
                raise kind(why_unreachable(exc)) from exc
            async with socket:
                yield WebSocketChannel(socket, heard)

    async def leave(self, results: Sequence[m.JobResult]) -> None:
        """There is no such place."""


class WebSocketChannel:
    """One WebSocket."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, heard: Heard) -> None:
        self._socket = socket
        self._heard = heard

    async def receive(self) -> m.Message | None:
        """Return the next message; None = the end."""
        while (frame := await self._socket.receive()).type not in _CLOSED:
            if frame.type is aiohttp.WSMsgType.PING:
                await self._socket.pong(frame.data)
            elif frame.type is aiohttp.WSMsgType.PONG:
                with contextlib.suppress(ValueError):
                    self._heard(float(bytes(frame.data)))
            elif frame.type is not aiohttp.WSMsgType.TEXT:
                raise AgentRefusedError("the manager sent a frame that is not text")
            else:
                message = codec.decode(frame.data, limit=m.TO_AGENT_MAX)
                if message is not None:
                    return message
        return None

    async def send(self, message: m.Message) -> None:
        """Send *message*."""
        async with asyncio.timeout(_SEND_S):
            await self._socket.send_str(codec.encode(message))

    async def ping(self, at: float) -> None:
        """Send a ping that comes back with *at*."""
        async with asyncio.timeout(_SEND_S):
            await self._socket.ping(repr(at).encode())


def _refuses(exc: BaseException) -> bool:
    """Whether nobody listens at the manager's address."""
    if isinstance(exc, aiohttp.ClientConnectorError):
        return isinstance(exc.os_error, ConnectionRefusedError)
    return isinstance(exc, ConnectionRefusedError)
