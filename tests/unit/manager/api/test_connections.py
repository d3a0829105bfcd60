# SPDX-License-Identifier: Apache-2.0
"""Connections that keep the API waiting are cut; those that are waited for are not."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from aiohttp import web

from fastdl.manager.api.connections import Connections


@dataclass
class Server:
    """A server whose answers wait for *may_answer*."""

    connections: Connections
    server: web.Server
    port: int
    may_answer: asyncio.Event
    asked: asyncio.Event

    def cut(self, now: float) -> int:
        """One look at the connections, at the time *now*."""
        return self.connections.cut(self.server, now)

    async def open(self, sent: bytes = b"") -> asyncio.StreamReader:
        """A connection on which *sent* was sent and is known to have been accepted."""
        before = len(self.server.connections)
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(sent)
        self.writers.append(writer)
        while len(self.server.connections) == before:
            await asyncio.sleep(0)
        return reader

    def __post_init__(self) -> None:
        self.writers: list[asyncio.StreamWriter] = []


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """A running server with a limit of ten seconds (of the test's own clock)."""
    connections = Connections(idle_s=10)
    may_answer, asked = asyncio.Event(), asyncio.Event()

    async def answer(_request: web.Request) -> web.Response:
        asked.set()
        await may_answer.wait()
        return web.Response(text="ok")

    app = web.Application(middlewares=[connections.middleware])
    app.router.add_get("/", answer)
    runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    assert runner.server is not None
    made = Server(connections, runner.server, runner.addresses[0][1], may_answer, asked)
    yield made
    for writer in made.writers:
        writer.close()
    await runner.cleanup()


async def ends(reader: asyncio.StreamReader) -> bytes:
    """What comes until the connection ends, however it ends."""
    with contextlib.suppress(ConnectionError):
        return await asyncio.wait_for(reader.read(), 10)
    return b""


@pytest.mark.parametrize(
    "sent", [b"", b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: 1"], ids=["silent", "half a header"]
)
async def test_who_brings_no_request_is_cut(server: Server, sent: bytes) -> None:
    """One byte a minute must not hold a descriptor for days (A09)."""
    reader = await server.open(sent)
    assert server.cut(0) == 0
    assert server.cut(10) == 0
    assert server.cut(10.1) == 1
    assert await ends(reader) == b""


async def test_who_waits_for_an_answer_is_not_cut(server: Server) -> None:
    """However long the answer takes: it is the server that is late."""
    reader = await server.open(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    await server.asked.wait()
    assert server.cut(0) == server.cut(1000) == 0
    server.may_answer.set()
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    assert server.cut(1001) == 0
    assert server.cut(1012) == 1


async def test_each_request_starts_the_wait_again(server: Server) -> None:
    """A client that asks every few seconds keeps its connection."""
    server.may_answer.set()
    reader = await server.open()
    for moment in (0, 8, 16, 24):
        assert server.cut(moment) == 0
        server.writers[0].write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"ok" in await reader.readuntil(b"ok")
