# SPDX-License-Identifier: Apache-2.0
"""How does a manager look to an agent? The wire's other side, scripted by a test.

TLS, tokens and documents are real; what a manager would decide, the test says. It runs in
a thread of its own, may be stopped and started again on the same port, and keeps
everything an agent ever sent.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
import uuid
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import WSMsgType, web

from fastdl.errors import FastdlError
from fastdl.manager.hosts.ca import open_authority
from fastdl.wire import codec
from fastdl.wire import messages as m
from fastdl.wire.token import EnrolToken, new_token
from tests.env.wire_versions import Dialect

T = TypeVar("T")
Got = TypeVar("Got")


class WireManager:
    """One zone, any number of hosts. A context manager; safe to use from the test's thread."""

    def __init__(self, folder: Path) -> None:
        self._authority = open_authority(folder)
        self._tokens: dict[str, EnrolToken] = {}
        self._used: dict[str, tuple[str, str]] = {}
        self._documents: dict[str, m.Document] = {}
        self._sockets: dict[str, web.WebSocketResponse] = {}
        self._changed = threading.Condition()
        self._revision = itertools.count(1)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._runner: web.AppRunner | None = None
        self.port = 0
        self.received: list[tuple[str, m.Message]] = []
        self.acknowledges = True
        self.lease_s = 0.0
        self.dialect: Dialect = codec.encode
        self.refuses: m.Refused | None = None
        """What it says to every Hello instead of a Welcome."""
        self.connections = 0

    # -- the test's side -------------------------------------------------------------

    def __enter__(self) -> WireManager:
        self._thread.start()
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    @property
    def url(self) -> str:
        """Where agents connect to."""
        return f"https://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listen, on the same port as before."""
        self._call(self._start())

    def stop(self) -> None:
        """Stop listening and drop every connection without a word."""
        self._call(self._stop())

    def token(self) -> str:
        """A fresh enrolment token."""
        token = new_token(self._authority.sha256)
        self._tokens[token.id] = token
        return str(token)

    def want(self, host: str, *commands: m.Command, rev: int | None = None) -> None:
        """Make *commands* all that *host* should be doing, and send it if it is connected."""
        revision = next(self._revision) if rev is None else rev
        self._documents[host] = m.Document(rev=revision, commands=commands)
        self._call(self._post(host))

    def say(self, host: str, message: m.Message) -> None:
        """Send one message to *host*, which is connected."""
        self._call(self._sockets[host].send_str(self.dialect(message)))

    def host(self, *, timeout: float = 30) -> str:
        """The id of the first host that connected."""
        return self.wait(lambda: next(iter(self._sockets), None), timeout=timeout)

    def all(self, kind: type[Got]) -> list[Got]:
        """Every message of one class so far."""
        return [message for _, message in list(self.received) if isinstance(message, kind)]

    def result(self, job: str, *, fence: int | None = None, timeout: float = 60) -> m.JobResult:
        """The first result of *job* (under *fence*)."""
        return self.wait(
            lambda: next(
                (
                    r
                    for r in self.all(m.JobResult)
                    if r.job == job and (fence is None or r.fence == fence)
                ),
                None,
            ),
            timeout=timeout,
        )

    def wait(self, what: Callable[[], T | None], *, timeout: float = 30) -> T:
        """What *what* gives as soon as it gives something; it is asked after each message."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while (found := what()) is None or found is False:
                if not self._changed.wait(deadline - time.monotonic()):
                    raise TimeoutError(f"not within {timeout} s; received {self.received[-5:]}")
            return found

    # -- the server's side -----------------------------------------------------------

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def _tell(self) -> None:
        with self._changed:
            self._changed.notify_all()

    async def _start(self) -> None:
        app = web.Application()
        app.router.add_get("/ca", self._ca)
        app.router.add_post("/enrol", self._enrol)
        app.router.add_get("/agent", self._agent)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        context = self._authority.server_context()
        await web.TCPSite(
            self._runner, "127.0.0.1", self.port, ssl_context=context, reuse_address=True
        ).start()
        self.port = self._runner.addresses[0][1]

    async def _stop(self) -> None:
        for socket in list(self._sockets.values()):
            transport = socket._req.transport if socket._req else None
            if transport is not None:
                transport.abort()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _ca(self, _: web.Request) -> web.Response:
        return web.Response(text=self._authority.pem)

    async def _enrol(self, request: web.Request) -> web.Response:
        message = codec.decode(await request.read(), limit=m.ENROL_MAX)
        assert isinstance(message, m.EnrolRequest)
        known = next((t for t in self._tokens.values() if str(t) == message.token), None)
        host = str(uuid.uuid4())
        certificate, key = self._authority.sign_host(message.csr, host)
        if known is None or self._used.get(known.id, (key, ""))[0] != key:
            refusal = m.Refused(code=71, message="the token was used already")
            return web.Response(text=codec.encode(refusal), status=403)
        self._used[known.id] = (key, host)
        reply = m.EnrolReply(
            host_id=host, zone_id="zone", certificate=certificate, ca=self._authority.pem
        )
        return web.Response(text=codec.encode(reply))

    async def _agent(self, request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        der = request.transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
        host = self._authority.peer(der).host
        socket = web.WebSocketResponse(max_msg_size=m.TO_MANAGER_MAX)
        await socket.prepare(request)
        self.connections += 1
        try:
            async for frame in socket:
                if frame.type is WSMsgType.TEXT:
                    await self._take(host, socket, frame.data)
        except (FastdlError, ConnectionError):
            pass
        finally:
            if self._sockets.get(host) is socket:
                del self._sockets[host]
            self._tell()
        return socket

    async def _take(self, host: str, socket: web.WebSocketResponse, data: str) -> None:
        message = codec.decode(data, limit=m.TO_MANAGER_MAX)
        assert message is not None
        self.received.append((host, message))
        if isinstance(message, m.Hello) and self.refuses is not None:
            await socket.send_str(self.dialect(self.refuses))
            await socket.close()
        elif isinstance(message, m.Hello):
            assert message.host_id == host
            welcome = m.Welcome(
                wire=1,
                host_id=host,
                zone_id="zone",
                clock=time.time(),
                beat_s=0.5,
                lease_s=self.lease_s,
            )
            await socket.send_str(self.dialect(welcome))
            self._sockets[host] = socket
            await self._post(host)
        if isinstance(message, m.JobResult) and self.acknowledges:
            ack = m.ResultAck(job=message.job, fence=message.fence)
            await socket.send_str(self.dialect(ack))
        self._tell()

    async def _post(self, host: str) -> None:
        socket, document = self._sockets.get(host), self._documents.get(host)
        if socket is not None and document is not None:
            await socket.send_str(self.dialect(document))
