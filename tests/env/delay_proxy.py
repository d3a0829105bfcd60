# SPDX-License-Identifier: Apache-2.0
"""A TCP proxy that makes loopback a longer path: round trip, link rate and window.

One direction of one connection is a reader, a queue of (when due, bytes) and a writer, so delay
costs no throughput as such. All connections share one link in each direction; a connection has at
most ``window`` bytes on the way, as a TCP receive window would allow. The handshake's round trip
is charged to the first bytes of the client. Slow start and loss are not modelled.

    python tests/env/delay_proxy.py 127.0.0.1:0 127.0.0.1:8080 --rtt 0.05 --rate 100000000

prints its address as host:port and runs until it is terminated.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

WINDOW: Final = 4 << 20  # what Linux' default tcp_rmem allows a long-lived connection, about
_READ: Final = 128 << 10
_BACKLOG_S: Final = 0.02  # what a router queues before the sender has to wait


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """``rtt`` in seconds, ``rate`` in bytes/s in each direction (0: unlimited)."""

    rtt: float = 0.0
    rate: float = 0.0
    window: int = WINDOW


class _Link:
    """The shared wire of one direction: serialises what passes at its rate."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._free_at = 0.0

    def carry(self, size: int) -> float:
        """Put *size* bytes on the wire; returns when the last one has left it."""
        now = asyncio.get_running_loop().time()
        if not self._rate:
            return now
        self._free_at = max(now, self._free_at) + size / self._rate
        return self._free_at

    async def room(self) -> None:
        """Wait until the queue before the wire is short."""
        wait = self._free_at - asyncio.get_running_loop().time() - _BACKLOG_S
        if wait > 0:
            await asyncio.sleep(wait)


class _Pump:
    """One direction of one connection."""

    def __init__(self, link: _Link, path: Path, extra_delay: float) -> None:
        self._link = link
        self._delay = path.rtt / 2
        self._extra = extra_delay  # for the first bytes only
        self._window = path.window
        self._queue: deque[tuple[float, bytes]] = deque()
        self._on_way = 0
        self._changed = asyncio.Condition()

    async def run(self, source: socket.socket, sink: socket.socket) -> None:
        reader = asyncio.ensure_future(self._read(source))
        try:
            await self._write(sink)
        finally:
            reader.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await reader

    async def _read(self, source: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._link.room()
            try:
                data = await loop.sock_recv(source, _READ)
            except OSError:
                data = b""
            due = self._link.carry(len(data)) + self._delay + self._extra
            self._extra = 0.0
            async with self._changed:
                self._queue.append((due, data))
                self._on_way += len(data)
                self._changed.notify_all()
                if not data:
                    return
                await self._changed.wait_for(lambda: self._on_way < self._window)

    async def _write(self, sink: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: bool(self._queue))
                due, data = self._queue.popleft()
            wait = due - loop.time()
            if wait > 0:
                await asyncio.sleep(wait)
            if not data:
                with contextlib.suppress(OSError):
                    sink.shutdown(socket.SHUT_WR)
                return
            await loop.sock_sendall(sink, data)
            async with self._changed:
                self._on_way -= len(data)
                self._changed.notify_all()


async def _serve_one(
    client: socket.socket, upstream: tuple[str, int], path: Path, up: _Link, down: _Link
) -> None:
    loop = asyncio.get_running_loop()
    server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    server.setblocking(False)
    with client, server, contextlib.suppress(OSError):
        for side in (client, server):
            side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await loop.sock_connect(server, upstream)
        # The first pump to fail ends the connection; an end of one direction does not.
        there = asyncio.ensure_future(_Pump(up, path, path.rtt).run(client, server))
        back = asyncio.ensure_future(_Pump(down, path, 0.0).run(server, client))
        try:
            await back
        finally:
            for task in (there, back):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, OSError):
                    await task


@contextlib.asynccontextmanager
async def delay_proxy(
    listen: tuple[str, int], upstream: tuple[str, int], path: Path
) -> AsyncIterator[tuple[str, int]]:
    """Run the proxy; yields the address it listens on. Its connections end with it."""
    loop = asyncio.get_running_loop()
    up, down = _Link(path.rate), _Link(path.rate)
    tasks: set[asyncio.Task[None]] = set()
    with socket.create_server(listen, backlog=1024) as server:
        server.setblocking(False)

        async def accept() -> None:
            while True:
                client, _ = await loop.sock_accept(server)
                client.setblocking(False)
                task = loop.create_task(_serve_one(client, upstream, path, up, down))
                tasks.add(task)
                task.add_done_callback(tasks.discard)

        accepting = loop.create_task(accept())
        try:
            host, port = server.getsockname()
            yield host, port
        finally:
            for task in (accepting, *tasks):
                task.cancel()
            await asyncio.gather(accepting, *tasks, return_exceptions=True)


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


async def _main(args: argparse.Namespace) -> None:
    path = Path(rtt=args.rtt, rate=args.rate, window=args.window)
    async with delay_proxy(args.listen, args.upstream, path) as (host, port):
        print(f"{host}:{port}", flush=True)
        await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("listen", type=_address)
    parser.add_argument("upstream", type=_address)
    parser.add_argument("--rtt", type=float, default=0.0, help="seconds")
    parser.add_argument("--rate", type=float, default=0.0, help="bytes/s, 0 for no limit")
    parser.add_argument("--window", type=int, default=WINDOW, help="bytes a connection")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_main(parser.parse_args()))


if __name__ == "__main__":
    main()
