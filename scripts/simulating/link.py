# SPDX-License-Identifier: Apache-2.0
"""Connections between simulated hosts and the real ``HostServer``: ordered, slow, breakable."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from random import Random
from typing import Final

from fastdl.wire import codec
from fastdl.wire import messages as m

LATENCY_S: Final = 0.05
"""The most that a message takes, while nothing is cut."""
HEARTBEAT_S: Final = 30.0
"""A WebSocket whose peer does not answer pings is closed after so long."""


class Pipe:
    """One direction: messages arrive in order; *passes* false holds them up."""

    def __init__(self, rng: Random, passes: Callable[[], bool]) -> None:
        self._rng = rng
        self._passes = passes
        self._last = 0.0
        self._held: list[str | None] = []
        self.inbox: asyncio.Queue[str | None] = asyncio.Queue()
        self.closed = False

    def put(self, text: str | None) -> None:
        """Send *text*; None = the end."""
        loop = asyncio.get_running_loop()
        arrives = loop.time() + self._rng.uniform(0.001, LATENCY_S)
        self._last = max(self._last + 1e-6, arrives)
        loop.call_at(self._last, self._arrive, text)

    def flush(self) -> None:
        """Deliver what was held up, if it can pass now."""
        held, self._held = self._held, []
        for text in held:
            self._arrive(text)

    def close(self) -> None:
        """Nothing arrives any more; the reader sees the end."""
        if not self.closed:
            self.closed = True
            self.inbox.put_nowait(None)

    def _arrive(self, text: str | None) -> None:
        if self.closed:
            return
        if self._held or not self._passes():
            self._held.append(text)
        elif text is None:
            self.close()
        else:
            self.inbox.put_nowait(text)


class Link:
    """One connection of a host; ``HostServer`` sees its ``ManagerEnd``."""

    def __init__(self, rng: Random, passes: Callable[[], bool]) -> None:
        self.to_manager = Pipe(rng, passes)
        self.to_host = Pipe(rng, passes)

    def send(self, text: str) -> None:
        """Send to the manager."""
        self.to_manager.put(text)

    async def read(self) -> str | None:
        """Return the manager's next message, or None: the connection has ended."""
        return await self.to_host.inbox.get()

    def hang_up(self) -> None:
        """The host closes: what it sent before still arrives."""
        self.to_host.close()
        self.to_manager.put(None)

    def reset(self) -> None:
        """The connection breaks: what is under way is lost."""
        self.to_host.close()
        self.to_manager.close()

    def flush(self) -> None:
        """The network, or the host, works again."""
        self.to_host.flush()
        self.to_manager.flush()


class ManagerEnd:
    """The manager's side of a link: a ``fastdl.manager.hosts.channel.Channel``."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def receive(self) -> str | None:
        """Return the host's next message; None = the end."""
        return await self._link.to_manager.inbox.get()

    async def send(self, message: m.Message) -> None:
        """Send to the host."""
        if self._link.to_host.closed or self._link.to_manager.closed:
            raise ConnectionResetError("the host is gone")
        self._link.to_host.put(codec.encode(message))

    async def close(self, reason: str, last_word: m.Message | None = None) -> None:
        """Close: what was sent before still arrives."""
        del reason
        if last_word is not None:
            with contextlib.suppress(ConnectionError):
                await self.send(last_word)
        self._link.to_manager.close()
        if not self._link.to_host.closed:
            self._link.to_host.put(None)
