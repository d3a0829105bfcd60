# SPDX-License-Identifier: Apache-2.0
"""How does a worker's process come about? Executed, or forked from one that has its code already.

``executed`` is for a process that does one job (``fastdl exec``). An agent has a ``ForkServer``.
Workers of one server share its address layout, so that each server makes a limited number of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

MESSAGE_MAX: Final = 256
"""Bytes of a message between an agent and its fork server."""
LINE_MAX: Final = 4 << 20
JOBS_MAX: Final = 16
"""Workers of one server: an address that one of them gives away helps to attack no more."""
IDLE_S: Final = 60.0
"""A server without a worker for so long ends."""


_KEPT_VARIABLES = frozenset({
    "PATH", "HOME", "LANG", "TZ", "TMPDIR", "SSL_CERT_FILE", "LD_LIBRARY_PATH", "XDG_STATE_HOME",
    "LOCALDOMAIN", "RES_OPTIONS",
})  # fmt: skip
_KEPT_PREFIXES = ("LC_", "PYTHON", "COVERAGE", "ASAN_", "UBSAN_", "LSAN_")


class Worker(Protocol):
    """A worker's process, as ``asyncio.subprocess.Process`` has it."""

    @property
    def stdin(self) -> asyncio.StreamWriter | None: ...
    @property
    def stdout(self) -> asyncio.StreamReader | None: ...
    async def wait(self) -> int: ...
    def kill(self) -> None: ...


Maker = Callable[[], Awaitable[Worker]]


def environment() -> dict[str, str]:
    """Without the agent's own variables, which may hold a token."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT_VARIABLES or name.startswith(_KEPT_PREFIXES)
    }
    # The resolver sends two concurrent queries by a system call that no confined process has.
    kept["RES_OPTIONS"] = f"{kept.get('RES_OPTIONS', '')} single-request".strip()
    return kept


async def executed() -> Worker:
    """A worker that starts from nothing."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-P", "-m", "fastdl.agent.worker"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=environment(),
        start_new_session=True,
        limit=LINE_MAX,
    )


class Forked:
    """A worker of a server. ``ended`` has its exit status."""

    def __init__(
        self,
        stdin: asyncio.StreamWriter,
        stdout: asyncio.StreamReader,
        ended: asyncio.Future[int],
        kill: Callable[[], None],
    ) -> None:
        self.stdin = stdin
        self.stdout = stdout
        self.kill = kill
        self._ended = ended

    async def wait(self) -> int:
        """Its exit status, as ``subprocess`` has it."""
        return await asyncio.shield(self._ended)


class ForkServer:
    """Makes workers, by servers that it starts when one is wanted. Used from one event loop."""

    def __init__(self) -> None:
        self._servers: list[_Server] = []
        self._starting = asyncio.Lock()

    async def worker(self) -> Worker:
        """A new worker; OSError if no server can be started."""
        async with self._starting:
            self._servers = [server for server in self._servers if not server.retired]
            if self._servers and self._servers[-1].usable:
                with contextlib.suppress(OSError):  # it has died just now
                    return await self._servers[-1].worker()
            self._servers.append(await _Server.launched())
            return await self._servers[-1].worker()

    async def close(self) -> None:
        """End the servers; their workers have ended."""
        await asyncio.gather(*(server.close() for server in self._servers))


class _Server:
    def __init__(self, process: asyncio.subprocess.Process, channel: socket.socket) -> None:
        self._process = process
        self._channel = channel
        self._numbers = itertools.count()
        self._made = 0
        self._running: dict[int, asyncio.Future[int]] = {}
        self._idle: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(channel, self._receive)

    @classmethod
    async def launched(cls) -> _Server:
        """A server whose process has been started."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    *("-P", "-m", "fastdl.agent.fork_server"),
                    stdin=theirs.fileno(),
                    stdout=asyncio.subprocess.DEVNULL,
                    env=environment(),
                    start_new_session=True,
                )
            ours.setblocking(False)  # noqa: FBT003 - its only parameter
            return cls(process, ours)
        except BaseException:
            ours.close()
            raise

    @property
    def retired(self) -> bool:
        """Whether it has ended, or will without another worker."""
        return self._channel.fileno() < 0

    @property
    def usable(self) -> bool:
        """Whether it may make another worker."""
        return self._made < JOBS_MAX and not self.retired

    async def worker(self) -> Worker:
        """A new worker."""
        number, ended = next(self._numbers), self._loop.create_future()
        their_in, our_in = os.pipe()
        our_out, their_out = os.pipe()
        try:
            socket.send_fds(self._channel, [_line(start=number)], [their_in, their_out])
        except OSError:
            os.close(our_in)
            os.close(our_out)
            raise
        finally:
            os.close(their_in)
            os.close(their_out)
        self._made += 1
        self._running[number] = ended
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        stdout = asyncio.StreamReader(limit=LINE_MAX)
        await self._loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(stdout), os.fdopen(our_out, "rb", buffering=0)
        )
        transport, protocol = await self._loop.connect_write_pipe(
            asyncio.streams.FlowControlMixin, os.fdopen(our_in, "wb", buffering=0)
        )
        stdin = asyncio.StreamWriter(transport, protocol, None, self._loop)
        return Forked(stdin, stdout, ended, lambda: self._kill(number))

    def _kill(self, number: int) -> None:
        with contextlib.suppress(OSError):
            self._channel.send(_line(kill=number))

    def _receive(self) -> None:
        try:
            data = self._channel.recv(MESSAGE_MAX)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._gone()
            return
        message = json.loads(data)
        _end(self._running.pop(message["ended"]), message["status"])
        if not self._running:
            self._idle = self._loop.call_later(IDLE_S if self.usable else 0, self._retire)

    def _gone(self) -> None:
        """Its process has ended, and its workers with it."""
        self._retire()
        for ended in self._running.values():
            _end(ended, -signal.SIGKILL)
        self._running.clear()

    def _retire(self) -> None:
        """Let it end: nobody asks it for another worker."""
        if not self.retired:
            self._loop.remove_reader(self._channel)
            self._channel.close()

    async def close(self) -> None:
        """End it, and what it has made."""
        self._retire()
        await self._process.wait()


def _end(ended: asyncio.Future[int], status: int) -> None:
    if not ended.done():
        ended.set_result(status)


def _line(**message: int) -> bytes:
    return json.dumps(message).encode()
