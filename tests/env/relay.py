# SPDX-License-Identifier: Apache-2.0
"""A wire between two sides that a test can cut: a partition of the network."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator


class Relay:
    """Passes bytes on to *target* (host:port) from ``address``, unless it is cut or silent."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.address = ""
        self._cut = False
        self._open: set[asyncio.StreamWriter] = set()
        self._flows = asyncio.Event()
        self._flows.set()

    def cut(self) -> None:
        """Break what is connected, and let nobody through."""
        self._cut = True
        for writer in self._open:
            writer.transport.abort()

    def silence(self) -> None:
        """Pass nothing on, and let nobody know: packets are dropped somewhere."""
        self._flows.clear()

    def mend(self) -> None:
        """Let everybody through again, and what was held up."""
        self._cut = False
        self._flows.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._cut:
            writer.transport.abort()
            return
        host, _, port = self.target.rpartition(":")
        try:
            far_reader, far_writer = await asyncio.open_connection(host, int(port))
        except OSError:
            writer.transport.abort()
            return
        self._open |= {writer, far_writer}
        try:
            await asyncio.gather(self._pass(reader, far_writer), self._pass(far_reader, writer))
        finally:
            self._open -= {writer, far_writer}
            for one in (writer, far_writer):
                one.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                await self._flows.wait()
                writer.write(data)
                await writer.drain()
        with contextlib.suppress(OSError):
            writer.close()


@contextlib.asynccontextmanager
async def relay(target: str) -> AsyncIterator[Relay]:
    """A relay to *target* while the block runs."""
    made = Relay(target)
    server = await asyncio.start_server(made._serve, "127.0.0.1", 0)
    made.address = "{}:{}".format(*server.sockets[0].getsockname()[:2])
    try:
        yield made
    finally:
        made.mend()
        made.cut()
        server.close()
