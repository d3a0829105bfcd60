# SPDX-License-Identifier: Apache-2.0
"""How does the agent stay in touch with its manager? One connection, over and over.

Connects, greets, sends heartbeats, and reconnects after a growing, jittered pause, so that not all
hosts come back at the same moment after a manager's restart. Losing the link loses nothing: what
matters is in the journal and is sent again. What carries it is up to a ``Carrier``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from fastdl.agent.carrier import (
    HANDSHAKE_S,
    AbsentError,
    Carrier,
    Channel,
    HearsayError,
)
from fastdl.agent.identity import HostUnknownError, Identity
from fastdl.agent.lease import Lease, now
from fastdl.errors import AgentLostError, AgentRefusedError, FastdlError, Reason
from fastdl.tasks import attempt
from fastdl.wire import messages as m

log = logging.getLogger(__name__)

FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 20.0
_REFUSED_PAUSE: Final = 60.0
_OUTBOX: Final = 1024
_PING_SECONDS: Final = 8.0
_SILENCE_SECONDS: Final = 20.0
"""Without a pong for so long the connection is given up."""


class Link:
    """The connection to a manager, any one that *carrier* finds.

    *hello* is called at each connection; *welcomed* is called when it is established; *received*
    gets every message of the manager, one after the other. With *spare* there is an unused token:
    HostUnknownError then ends ``run`` if only a token helps. *lease* is kept up to date.
    """

    def __init__(
        self,
        identity: Identity,
        carrier: Carrier,
        *,
        hello: Callable[[], Awaitable[m.Hello]],
        welcomed: Callable[[m.Welcome], Awaitable[None]],
        received: Callable[[m.Message], Awaitable[None]],
        active: Callable[[], int],
        lease: Lease,
        spare: bool = False,
    ) -> None:
        self._identity = identity
        self._carrier = carrier
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

    async def leave(self, results: Sequence[m.JobResult]) -> None:
        """Leave *results* for managers that are away, if the carrier can."""
        await self._carrier.leave(results)

    async def run(self) -> None:
        """Keep a connection until cancelled."""
        pause = FIRST_PAUSE
        turn, places = 0, self._carrier.places
        while True:
            manager = places[turn % len(places)]
            turn += 1
            stood = self._again = False
            began = now()
            try:
                await asyncio.to_thread(self._identity.require_valid)
                await attempt(self._converse(manager))
            except HostUnknownError as exc:
                if not isinstance(exc, HearsayError):
                    self._lease.end()
                if self._spare:
                    raise exc from None
                log.error("%s", exc, extra={"manager": manager})
                pause = _REFUSED_PAUSE
            except AgentRefusedError as exc:
                log.error("the manager refuses this host: %s", exc, extra={"manager": manager})
                pause = _REFUSED_PAUSE
            except (FastdlError, OSError, TimeoutError) as exc:
                if isinstance(exc, AbsentError) and len(places) == 1:
                    self._lease.absent(began)
                why = str(exc) or type(exc).__name__
                log.warning("no connection to the manager: %s", why, extra={"manager": manager})
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
        async with self._carrier.connected(manager, self._ponged) as channel:
            welcome = await self._greet(channel)
            await self._serve(channel, welcome)

    async def _greet(self, channel: Channel) -> m.Welcome:
        hello = await self._hello()
        self._heard = now()
        async with asyncio.timeout(HANDSHAKE_S):
            await channel.send(hello)
            answer = await channel.receive()
        if answer is None:
            raise AgentLostError("the manager closed the connection")
        if isinstance(answer, m.Refused):
            raise _error(answer)
        if not isinstance(answer, m.Welcome) or answer.host_id != self._identity.host_id:
            raise AgentRefusedError("the manager's first message is not this host's Welcome")
        return answer

    async def _serve(self, channel: Channel, welcome: m.Welcome) -> None:
        self._outbox = asyncio.Queue(_OUTBOX)
        self.connected = True
        self._lease.granted(welcome.lease_s, sole=welcome.sole, heard=self._heard)
        log.info("connected", extra={"zone": welcome.zone_id})
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._write(channel, self._outbox)),
                    group.create_task(self._beat(welcome.beat_s)),
                    group.create_task(self._ping(channel, welcome.lease_s)),
                ]
                await self._welcomed(welcome)
                await self._read(channel)
                for task in tasks:
                    task.cancel()
        except ExceptionGroup as group:
            # No "except*": before 3.11.4 it wraps what is raised in it, as Debian 12 has it.
            ours = group.subgroup((FastdlError, OSError, TimeoutError))
            if ours is not None:
                raise ours.exceptions[0] from None
            raise

    async def _read(self, channel: Channel) -> None:
        while (message := await channel.receive()) is not None:
            if isinstance(message, m.Refused):
                raise _error(message)
            await self._received(message)
            if self._again:
                return

    async def _write(self, channel: Channel, outbox: asyncio.Queue[m.Message]) -> None:
        while True:
            message = await outbox.get()
            await channel.send(message)
            outbox.task_done()

    async def _ping(self, channel: Channel, lease_s: float) -> None:
        """Ask for signs of life, in time for the lease; give up a connection that shows none."""
        while True:
            await asyncio.sleep(min(_PING_SECONDS, max(0.1, lease_s / 3 or _PING_SECONDS)))
            if now() - self._heard > _SILENCE_SECONDS:
                raise TimeoutError("the manager is silent")
            if not self._lease.left:  # what has been held goes on with the next document
                raise TimeoutError("the manager was silent for longer than it counts downloads")
            await channel.ping(now())

    def _ponged(self, at: float) -> None:
        """The manager was there when it got the ping that this host sent at *at*. Too late for a
        lease that has ended: only a new connection gives another one."""
        if self._heard <= at <= now() and self._lease.left:
            self._heard = at
            self._lease.heard(at)

    async def _beat(self, seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds * random.uniform(0.8, 1.2))  # noqa: S311 - not a secret
            self.send(m.Beat(clock=time.time(), active=self._active()))


def _error(refused: m.Refused) -> AgentRefusedError:
    if refused.reason == Reason.UNKNOWN_HOST:
        return HostUnknownError(refused.message)
    return AgentRefusedError(refused.message)
