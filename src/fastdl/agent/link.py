# SPDX-License-Identifier: Apache-2.0
"""How does the agent stay in touch with its manager? One WebSocket, over and over.

Connects, greets, sends heartbeats, and reconnects after a growing, jittered pause, so that not all
hosts come back at the same moment after a manager's restart. Losing the link loses nothing: what
matters is in the journal and is sent again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import aiohttp

from fastdl.agent.identity import HostUnknownError, Identity, why_unreachable
from fastdl.agent.lease import Lease, now
from fastdl.errors import AgentLostError, AgentRefusedError, FastdlError, Reason
from fastdl.wire import codec
from fastdl.wire import messages as m

log = logging.getLogger(__name__)

FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 20.0
_REFUSED_PAUSE: Final = 60.0
_OUTBOX: Final = 1024
_HANDSHAKE: Final = 20.0
_PING_SECONDS: Final = 8.0
_SILENCE_SECONDS: Final = 20.0
"""Without a pong for so long the connection is given up."""
_CLOSED: Final = (
    aiohttp.WSMsgType.CLOSE,
    aiohttp.WSMsgType.CLOSING,
    aiohttp.WSMsgType.CLOSED,
)


class Link:
    """The connection to a manager, any one that responds.

    *hello* is called at each connection; *welcomed* is called when it is established; *received*
    gets every message of the manager, one after the other. With *spare* there is an unused token:
    HostUnknownError then ends ``run`` if only a token helps. *lease* is kept up to date.
    """

    def __init__(
        self,
        identity: Identity,
        managers: Sequence[str],
        *,
        hello: Callable[[], Awaitable[m.Hello]],
        welcomed: Callable[[m.Welcome], Awaitable[None]],
        received: Callable[[m.Message], Awaitable[None]],
        active: Callable[[], int],
        lease: Lease,
        spare: bool = False,
    ) -> None:
        self._identity = identity
        self._managers = list(managers)
        self._hello = hello
        self._welcomed = welcomed
        self._received = received
        self._active = active
        self._lease = lease
        self._heard = 0.0
        self._spare = spare
        self._again = False
        self._outbox: asyncio.Queue[m.Message] | None = None
        self.connected = False

    def send(self, message: m.Message) -> bool:
        """Queue *message*; False if there is no connection, or one that does not keep up."""
        if self._outbox is None:
            return False
        try:
            self._outbox.put_nowait(message)
        except asyncio.QueueFull:
            return False
        return True

    async def run(self) -> None:
        """Keep a connection until cancelled."""
        pause = FIRST_PAUSE
        turn = 0
        while True:
            manager = self._managers[turn % len(self._managers)]
            turn += 1
            stood = self._again = False
            began = now()
            try:
                await asyncio.to_thread(self._identity.require_valid)
                await self._converse(manager)
            except (HostUnknownError, aiohttp.ClientConnectorCertificateError) as exc:
                if isinstance(exc, aiohttp.ClientConnectorCertificateError):
                    exc = _other_authority(manager)
                else:
                    self._lease.end()
                if self._spare:
                    raise exc from None
                log.error("%s", exc, extra={"manager": manager})
                pause = _REFUSED_PAUSE
            except AgentRefusedError as exc:
                log.error("the manager refuses this host: %s", exc, extra={"manager": manager})
                pause = _REFUSED_PAUSE
            except (FastdlError, aiohttp.ClientError, OSError, TimeoutError) as exc:
                if _refuses(exc) and len(self._managers) == 1:
                    self._lease.absent(began)
                log.warning(
                    "no connection to the manager: %s",
                    why_unreachable(exc),
                    extra={"manager": manager},
                )
            finally:
                stood, self.connected, self._outbox = self.connected, False, None
            if self._again:
                continue
            if stood and pause != _REFUSED_PAUSE:
                pause = FIRST_PAUSE
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - not a secret
            pause = min(pause * 2, LONGEST_PAUSE)

    def reconnect(self) -> None:
        """Reconnect with the stored identity. Called from ``received``."""
        self._again = True

    async def goodbye(self, reason: str) -> None:
        """Notify the manager that the agent stops, if there is time."""
        if self._outbox is not None and self.send(m.Goodbye(reason=reason)):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2):
                    await self._outbox.join()

    async def _converse(self, manager: str) -> None:
        async with aiohttp.ClientSession() as session:
            async with asyncio.timeout(_HANDSHAKE):
                socket = await session.ws_connect(
                    f"{manager.rstrip('/')}/agent",
                    ssl=await asyncio.to_thread(self._identity.context),
                    server_hostname=m.MANAGER_NAME,
                    max_msg_size=m.TO_AGENT_MAX,
                    autoping=False,
                )
            async with socket:
                welcome = await self._greet(socket)
                await self._serve(socket, welcome)

    async def _greet(self, socket: aiohttp.ClientWebSocketResponse) -> m.Welcome:
        hello = await self._hello()
        self._heard = now()
        async with asyncio.timeout(_HANDSHAKE):
            await socket.send_str(codec.encode(hello))
            frame = await self._receive(socket)
        if frame.type is not aiohttp.WSMsgType.TEXT:
            raise AgentLostError("the manager closed the connection")
        answer = codec.decode(frame.data, limit=m.TO_AGENT_MAX)
        if isinstance(answer, m.Refused):
            raise _error(answer)
        if not isinstance(answer, m.Welcome) or answer.host_id != self._identity.host_id:
            raise AgentRefusedError("the manager's first message is not this host's Welcome")
        return answer

    async def _serve(self, socket: aiohttp.ClientWebSocketResponse, welcome: m.Welcome) -> None:
        self._outbox = asyncio.Queue(_OUTBOX)
        self.connected = True
        self._lease.granted(welcome.lease_s, sole=welcome.sole, heard=self._heard)
        log.info("connected", extra={"zone": welcome.zone_id})
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._write(socket, self._outbox)),
                    group.create_task(self._beat(welcome.beat_s)),
                    group.create_task(self._ping(socket, welcome.lease_s)),
                ]
                await self._welcomed(welcome)
                await self._read(socket)
                for task in tasks:
                    task.cancel()
        except ExceptionGroup as group:
            # No "except*": before 3.11.4 it wraps what is raised in it, as Debian 12 has it.
            ours = group.subgroup((FastdlError, aiohttp.ClientError, OSError, TimeoutError))
            if ours is not None:
                raise ours.exceptions[0] from None
            raise

    async def _read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        while (frame := await self._receive(socket)).type not in _CLOSED:
            if frame.type is not aiohttp.WSMsgType.TEXT:
                raise AgentRefusedError("the manager sent a frame that is not text")
            message = codec.decode(frame.data, limit=m.TO_AGENT_MAX)
            if isinstance(message, m.Refused):
                raise _error(message)
            if message is not None:
                await self._received(message)
            if self._again:
                await socket.close()
                return

    async def _receive(self, socket: aiohttp.ClientWebSocketResponse) -> aiohttp.WSMessage:
        """The next frame that is neither a ping nor a pong."""
        while True:
            frame = await socket.receive()
            if frame.type is aiohttp.WSMsgType.PING:
                await socket.pong(frame.data)
            elif frame.type is aiohttp.WSMsgType.PONG:
                self._ponged(bytes(frame.data))
            else:
                return frame

    async def _write(
        self, socket: aiohttp.ClientWebSocketResponse, outbox: asyncio.Queue[m.Message]
    ) -> None:
        while True:
            message = await outbox.get()
            async with asyncio.timeout(30):
                await socket.send_str(codec.encode(message))
            outbox.task_done()

    async def _ping(self, socket: aiohttp.ClientWebSocketResponse, lease_s: float) -> None:
        """Ask for signs of life, in time for the lease; give up a connection that shows none."""
        while True:
            await asyncio.sleep(min(_PING_SECONDS, max(0.1, lease_s / 3 or _PING_SECONDS)))
            if now() - self._heard > _SILENCE_SECONDS:
                raise TimeoutError("the manager is silent")
            async with asyncio.timeout(_SILENCE_SECONDS):
                await socket.ping(repr(now()).encode())

    def _ponged(self, sent: bytes) -> None:
        """The manager was there when it got the ping that this host sent at *sent*."""
        with contextlib.suppress(ValueError):
            at = float(sent)
            if self._heard <= at <= now():
                self._heard = at
                self._lease.heard(at)

    async def _beat(self, seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds * random.uniform(0.8, 1.2))  # noqa: S311 - not a secret
            self.send(m.Beat(clock=time.time(), active=self._active()))


def _refuses(exc: BaseException) -> bool:
    """Whether nobody listens at the manager's address."""
    if isinstance(exc, aiohttp.ClientConnectorError):
        return isinstance(exc.os_error, ConnectionRefusedError)
    return isinstance(exc, ConnectionRefusedError)


def _other_authority(manager: str) -> HostUnknownError:
    return HostUnknownError(
        f"{manager} presents a certificate of a CA that this host does not trust: it is another "
        f"manager, or its CA was replaced; a new token (--token) enrols this host there"
    )


def _error(refused: m.Refused) -> AgentRefusedError:
    if refused.reason == Reason.UNKNOWN_HOST:
        return HostUnknownError(refused.message)
    return AgentRefusedError(refused.message)
