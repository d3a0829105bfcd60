# SPDX-License-Identifier: Apache-2.0
"""Serves agents: on mutual-TLS WebSockets, and on whatever else carries a ``Channel``.

Per connection one task reads, and one writes the newest document and small replies. A slow or
silent host delays nobody else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Awaitable, Callable
from typing import Final
from weakref import WeakValueDictionary

from aiohttp import web

from fastdl.errors import AgentRefusedError, FastdlError, InternalError
from fastdl.manager.batch import Batch
from fastdl.manager.hosts.ca import Authority, Peer
from fastdl.manager.hosts.channel import CUT_OFF, Channel, WebSocketChannel
from fastdl.manager.hosts.delivery import Connection, Connections
from fastdl.manager.hosts.handler import HostHandler
from fastdl.manager.hosts.pace import MESSAGES_BURST, MESSAGES_PER_S, PER_MESSAGE, Allowance
from fastdl.manager.hosts.progress import ProgressBoard
from fastdl.manager.hosts.refusal import refused
from fastdl.manager.ledger import jobs
from fastdl.manager.ledger.engine import Ledger
from fastdl.wire import codec
from fastdl.wire import messages as m

log = logging.getLogger(__name__)

HELLO_S: Final = 15.0
CONNECTIONS_MAX: Final = 20_000
AGAIN_S: Final = 5.0
"""After a failure of the ledger a document is tried again."""


class HostServer:
    """Admits hosts, reads their messages and sends them theirs."""

    def __init__(
        self,
        handler: HostHandler,
        connections: Connections,
        *,
        ledger: Ledger,
        progress: ProgressBoard,
        authority: Authority,
        complete: Callable[[m.Document], Awaitable[m.Document]],
    ) -> None:
        """*complete* adds to a document what is not in the ledger."""
        self._ledger = ledger
        self._authority = authority
        self._progress = progress
        self._complete = complete
        self._handler = handler
        self.connections = connections
        self._documents = Batch(self._read_documents)
        self._pace = Allowance(MESSAGES_BURST, MESSAGES_PER_S)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._runner: web.AppRunner | None = None
        self.address: tuple[str, int] = ("", 0)
        self.context: ssl.SSLContext
        """From ``start`` on: this manager's end of TLS with hosts."""

    @property
    def counts(self) -> bool:
        """Whether hosts may rely on this manager (``HostHandler.counts``)."""
        return self._handler.counts

    @property
    def connected(self) -> int:
        """How many hosts are connected."""
        return len(self.connections.by_host)

    async def start(self, host: str, port: int) -> None:
        """Listen for agents, at ``address`` from then on. OSError if that is not possible."""

        async def ca(_request: web.Request) -> web.Response:
            return web.Response(text=self._authority.pem, content_type="application/x-pem-file")

        app = web.Application(client_max_size=m.ENROL_MAX)
        app.router.add_get("/ca", ca)
        app.router.add_post("/enrol", self._enrol)
        app.router.add_get("/agent", self._agent)
        self._runner = web.AppRunner(
            app, access_log=None, handle_signals=False, shutdown_timeout=5.0, keepalive_timeout=30.0
        )
        await self._runner.setup()
        self.context = self._authority.server_context()
        await web.TCPSite(self._runner, host, port, ssl_context=self.context, backlog=4096).start()
        self.address = self._runner.addresses[0][:2]

    async def stop(self) -> None:
        """Close every connection and stop listening; hosts continue their work and reconnect."""
        for connection in self.connections.by_host.values():
            connection.close("the manager stops")
        if self._runner is not None:
            await self._runner.cleanup()

    async def _enrol(self, request: web.Request) -> web.Response:
        try:
            async with asyncio.timeout(HELLO_S):
                body = await request.read()
        except TimeoutError:
            return web.Response(status=408, headers={"Connection": "close"})
        try:
            message = codec.decode(body, limit=m.ENROL_MAX)
            if not isinstance(message, m.EnrolRequest):
                raise AgentRefusedError("only an EnrolRequest is expected here")
            reply: m.Message = await self._handler.enrol(message)
            status = 200
        except FastdlError as exc:
            log.warning("enrolment refused", extra={"peer": request.remote, "reason": str(exc)})
            reply, status = refused(exc), 403
        return web.Response(
            text=codec.encode(reply), status=status, content_type="application/json"
        )

    async def _agent(self, request: web.Request) -> web.StreamResponse:
        tls = request.transport.get_extra_info("ssl_object") if request.transport else None
        der = tls.getpeercert(binary_form=True) if tls else None
        if not der:
            refusal = m.Refused(code=71, message="a client certificate is required: enrol first")
            return web.Response(text=codec.encode(refusal), status=403)
        if len(self.connections.by_host) >= CONNECTIONS_MAX:
            return web.Response(text="too many hosts", status=503)
        socket = web.WebSocketResponse(
            max_msg_size=m.TO_MANAGER_MAX,
            heartbeat=20.0,
            compress=False,
            timeout=5.0,
            autoping=False,
        )
        with contextlib.suppress(ConnectionError):  # it ended before, or while a ping was answered
            await socket.prepare(request)
            channel = WebSocketChannel(socket, lambda: self.counts)
            await self.talk(lambda: self._authority.peer(der), channel, address=request.remote)
        return socket

    async def talk(
        self, peer: Callable[[], Peer], channel: Channel, *, address: str | None
    ) -> None:
        """Admit the *peer* that *channel* belongs to and exchange messages until it ends."""
        if not self.counts:
            await channel.close(CUT_OFF)
            return
        try:
            who = peer()
            hello = await self._hello(channel, who.host)
            async with self._turn(who.host):
                welcome = await self._handler.admit(who, hello)
                connection = self._replace(who.host, channel, welcome)
        except InternalError as exc:  # the ledger failed, not the host: another manager may do
            log.error("host not admitted", extra={"peer": address, "error": str(exc)})
            await channel.close("the ledger cannot be used, try again")
            return
        except FastdlError as exc:
            log.warning("host refused", extra={"peer": address, "reason": str(exc)})
            await channel.close("refused", refused(exc))
            return
        await self._serve(who.host, connection)

    async def _hello(self, channel: Channel, host: str) -> m.Hello:
        try:
            async with asyncio.timeout(HELLO_S):
                text = await channel.receive()
        except TimeoutError:
            raise AgentRefusedError("no Hello arrived in time") from None
        if text is None:
            raise AgentRefusedError("the connection ended before a Hello")
        await self._wait(host, text)
        message = codec.decode(text, limit=m.TO_MANAGER_MAX)
        if not isinstance(message, m.Hello):
            raise AgentRefusedError("the first message is not a Hello")
        return message

    async def _wait(self, host: str, text: str) -> None:
        """Make a host that sends more than its share wait."""
        now = asyncio.get_running_loop().time()
        if delay := self._pace.delay(host, len(text) + PER_MESSAGE, now=now):
            await asyncio.sleep(delay)

    def _turn(self, host: str) -> asyncio.Lock:
        """Who holds it admits *host* or processes one of its messages: what an earlier connection
        brought is in the ledger before the next Hello is, or is not processed at all."""
        return self._turns.setdefault(host, asyncio.Lock())

    def _replace(self, host: str, channel: Channel, welcome: m.Welcome) -> Connection:
        """The new connection of *host*; an earlier one ends."""
        connection = Connection(channel)
        connection.outbox.append(welcome)
        by_host = self.connections.by_host
        old, by_host[host] = by_host.get(host), connection
        if old is not None:
            old.close("the host connected again")
        connection.wake.set()
        return connection

    async def _serve(self, host: str, connection: Connection) -> None:
        by_host = self.connections.by_host
        writer = asyncio.create_task(self._write(host, connection), name=f"to-{host}")
        reason = "connection lost"
        try:
            reason = await self._read(host, connection)
        except FastdlError as exc:
            log.warning("host refused", extra={"host": host, "reason": str(exc)})
            await connection.channel.close("refused", refused(exc))
            reason = exc.message
        finally:
            writer.cancel()
            try:
                with contextlib.suppress(asyncio.CancelledError):
                    await writer
            finally:  # whatever ended the writer, the host is not connected any more
                if by_host.get(host) is connection:
                    del by_host[host]
                    await self._gone(host, reason)

    async def _gone(self, host: str, reason: str) -> None:
        try:
            await asyncio.shield(self._handler.gone(host, reason=reason))
        except FastdlError as exc:  # the ledger; whoever looks after lost hosts finds it later
            log.error("departure not stored", extra={"host": host, "error": str(exc)})

    async def _read(self, host: str, connection: Connection) -> str:
        while (text := await connection.channel.receive()) is not None:
            await self._wait(host, text)
            message = codec.decode(text, limit=m.TO_MANAGER_MAX)
            if message is None:
                continue
            if isinstance(message, m.Goodbye):
                return f"goodbye: {message.reason}"
            try:
                async with self._turn(host):
                    if connection.closing is not None:
                        return connection.closing
                    reply = await self._handler.receive(host, message)
            except AgentRefusedError:
                raise
            except FastdlError as exc:
                # The ledger failed, not the host: without a reply the host repeats its message.
                log.error("message not processed", extra={"host": host, "error": str(exc)})
                continue
            if reply is not None:
                self.connections.send_here(host, reply)
        return "connection lost"

    async def _write(self, host: str, connection: Connection) -> None:
        try:
            while connection.closing is None:
                await connection.wake.wait()
                connection.wake.clear()
                while connection.outbox:
                    await connection.channel.send(connection.outbox.popleft())
                if connection.document_due:
                    connection.document_due = False
                    if (document := await self._document_or_later(host, connection)) is None:
                        continue
                    if document.rev < connection.revision:
                        # The ledger lost what it had: the host would ignore this document, and
                        # takes any after a new connection.
                        connection.close("the ledger was restored, please connect again")
                        break
                    connection.revision = document.rev
                    await connection.channel.send(document)
        except (OSError, TimeoutError, RuntimeError) as exc:
            log.info("host unreachable", extra={"host": host, "reason": type(exc).__name__})
        except Exception:
            # A bug. Whoever reads would go on, with a host that is never sent anything again.
            log.exception("nothing can be sent to a host", extra={"host": host})
        await connection.channel.close(connection.closing or "try again", connection.last_word)

    async def _document_or_later(self, host: str, connection: Connection) -> m.Document | None:
        """The document of *host*; None while the ledger fails: it is due again soon."""
        try:
            return await self._document(host)
        except FastdlError as exc:
            log.error("cannot build a document", extra={"host": host, "error": str(exc)})
        connection.document_due = True
        asyncio.get_running_loop().call_later(AGAIN_S, connection.wake.set)
        return None

    async def _document(self, host: str) -> m.Document:
        document = await self._complete(await self._documents(host))
        downloads = [c.job for c in document.commands if c.kind == m.Kind.DOWNLOAD]
        self._progress.given(host, downloads)
        return document

    async def _read_documents(self, hosts: list[str]) -> list[m.Document]:
        async with self._ledger.read() as tx:
            return await jobs.documents(tx, hosts)
