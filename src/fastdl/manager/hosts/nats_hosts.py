# SPDX-License-Identifier: Apache-2.0
"""Serves agents that connect over NATS, beside those on WebSockets.

A host's session is taken by any one of the managers, and is from then on a connection like any
other (``HostServer.talk``).
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, Final

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from nats.js import JetStreamContext

from fastdl.errors import AgentRefusedError, UsageError
from fastdl.manager.hosts.ca import Authority, Peer
from fastdl.manager.hosts.nats_callout import SUBJECT, Callout
from fastdl.manager.hosts.nats_channel import NatsChannel
from fastdl.manager.hosts.nats_results import ResultForwarder
from fastdl.manager.hosts.nats_streams import ensure
from fastdl.manager.hosts.pace import Allowance
from fastdl.manager.hosts.server import CONNECTIONS_MAX, HELLO_S, HostServer
from fastdl.tasks import attempt
from fastdl.wire import messages as m
from fastdl.wire.nats import sealed, subjects
from fastdl.wire.nats.client import Client, obeying
from fastdl.wire.nats.connection import REPLY_S, Connector, Who, check_jetstream, reason
from fastdl.wire.nats.servers import NATS_NAME, PAYLOAD_MAX, Servers
from fastdl.wire.nats.session import Session
from fastdl.wire.nats.tunnel import Tunnel

log = logging.getLogger(__name__)

AGAIN_S: Final = 0.5
ENSURE_S: Final = 10.0
COUNTS_S: Final = 1.0
"""How often it is checked whether hosts may rely on this manager."""
PER_HOST: Final = 4
"""Sessions that one host may have at a time: one that is replaced takes a moment to end."""
OPEN_BURST: Final = 32
OPEN_PER_S: Final = 0.5
"""Sessions that one host may begin: a handshake costs milliseconds."""
WAITING_MAX: Final = 4 << 20
"""Bytes of one host that may wait here: two of the largest messages."""
STOP_S: Final = 5.0


class NatsHosts:
    """The hosts on the NATS servers of *servers*; *tls*: with certificates of *authority*."""

    def __init__(
        self,
        servers: Servers,
        server: HostServer,
        forwarder: ResultForwarder,
        *,
        tls: bool,
        authority: Authority,
        derive: Callable[[str], bytes],
        callout: Callout | None,
    ) -> None:
        """*derive*: what ``sealed.key_of`` needs; *callout*: tells the servers who connects."""
        self._servers = replace(servers, tls_name=NATS_NAME) if tls else servers
        self._server = server
        self._forwarder = forwarder
        self._authority = authority
        self._derive = derive
        self._callout = callout
        self._connector = Connector(
            self._servers,
            Who(title="this manager", name="fastdl manager, for hosts"),
            broken=self._broken,
            context=authority.nats_context if tls else None,
            check=_check,
        )
        self._ended = asyncio.Event()
        self._sessions: dict[asyncio.Task[None], Session] = {}
        self._of_host: Counter[str] = Counter()
        self._openings = Allowance(OPEN_BURST, OPEN_PER_S)
        self._said = ""

    async def check(self) -> None:
        """UsageError if a server answers and can never be used. Servers that are away do not keep a
        manager from its work."""
        try:
            async with self._connector.connected() as client:
                # Later it is not asked for: sessions go on where nothing is stored for a while.
                await check_jetstream(client, str(self._servers))
        except (NatsError, OSError, TimeoutError) as exc:
            log.error("NATS at %s is not reached yet: %s", self._servers, reason(exc))

    async def run(self) -> None:
        """Serve hosts until cancelled."""
        while True:
            try:
                self._ended.clear()
                await attempt(self._session())
            except Exception as exc:  # noqa: BLE001 - the client's, the system's, and groups of them
                if (why := reason(exc)) != self._said:
                    log.warning("hosts on NATS are not heard: %s", why)
                self._said = why
            await asyncio.sleep(AGAIN_S)

    async def _session(self) -> None:
        async with self._connector.connected() as client:
            await self._serve(client)

    async def stop(self) -> None:
        """Wait for connections that ``HostServer.stop`` closed."""
        if self._sessions:
            await asyncio.wait(set(self._sessions), timeout=STOP_S)

    def _broken(self, why: Exception | None) -> None:
        if why is None:
            self._ended.set()
        elif isinstance(why, NatsError):  # of one host's session, mostly: it ends by itself
            log.warning("NATS: %s", reason(why))

    async def _serve(self, client: Client) -> None:
        js, made = client.jetstream(timeout=REPLY_S), asyncio.Event()

        async def keep(js: JetStreamContext) -> None:
            await ensure(js)
            made.set()

        async def forward(js: JetStreamContext) -> None:
            await made.wait()
            await self._forwarder.run(js)

        async def until_lost() -> None:
            await self._ended.wait()
            raise ConnectionError("connection lost")

        try:
            async with asyncio.TaskGroup() as group:
                for loop in (until_lost(), self._accept(client), _again(ENSURE_S, keep, js)):
                    group.create_task(loop)
                group.create_task(_again(AGAIN_S, forward, js))
                if self._callout is not None:
                    group.create_task(self._callout.run())
        finally:
            for session in self._sessions.values():
                session.end()
            await self.stop()
            for task in list(self._sessions):
                task.cancel()

    async def _accept(self, client: Client) -> None:
        """Be one of those who admit hosts and take sessions, while hosts may rely on this
        manager."""
        heard = list[Subscription]()

        async def opened(msg: Msg) -> None:
            self._open(client, msg)

        wanted = {subjects.ANY_OPEN: opened}
        if self._callout is not None:
            wanted[SUBJECT] = self._callout.asked
        while True:
            if self._server.counts and not heard:
                for subject, cb in wanted.items():
                    heard.append(await client.subscribe(subject, queue=subjects.CONSUMER, cb=cb))
                log.info("hosts on NATS are heard", extra={"nats": str(self._servers)})
                self._said = ""
            elif heard and not self._server.counts:
                while heard:
                    await obeying(heard.pop().unsubscribe)()
                log.warning(
                    "hosts on NATS go to other managers: this one does not reach the ledger"
                )
            await asyncio.sleep(COUNTS_S)

    # --- sessions ------------------------------------------------------------------------------

    def _open(self, client: Client, msg: Msg) -> None:
        """Take the session that begins with *msg*."""
        found = subjects.opened(msg.subject)
        if found is None or len(self._sessions) >= CONNECTIONS_MAX:
            return
        host, id_ = found
        now = asyncio.get_running_loop().time()
        if self._of_host[host] >= PER_HOST or not self._openings.take(host, now=now):
            return
        context = self._server.context
        tunnel = Tunnel(context, name=None, limit=m.TO_MANAGER_MAX)
        session = Session(
            client,
            tunnel,
            into=subjects.up(host, id_),
            out=subjects.down(host, id_),
            waiting_max=WAITING_MAX,
            counts=lambda: self._server.counts,
        )
        session.feed(msg.data)
        task = asyncio.create_task(self._talk(client, session, tunnel, host, id_))
        self._sessions[task] = session
        self._of_host[host] += 1

        def over(task: asyncio.Task[None]) -> None:
            del self._sessions[task]
            self._of_host[host] -= 1
            if not self._of_host[host]:
                del self._of_host[host]
            if not task.cancelled() and (exc := task.exception()) is not None:
                log.error("a session of a host failed", exc_info=exc)

        task.add_done_callback(over)

    async def _talk(
        self, client: Client, session: Session, tunnel: Tunnel, host: str, id_: str
    ) -> None:
        address = f"{host} on NATS"
        try:
            async with asyncio.timeout(HELLO_S):
                await session.hear()
                await session.establish()
            peer = self._peer(tunnel, host)
            key = sealed.key_of(self._derive, host, peer.key_hash)
            channel = NatsChannel(client, session, host=host, id_=id_, key=key)
            await self._server.talk(lambda: peer, channel, address=address)
        except (AgentRefusedError, NatsError, OSError, TimeoutError) as exc:
            log.warning("host refused", extra={"peer": address, "reason": reason(exc)})
        finally:
            await session.close("the manager ends it")

    def _peer(self, tunnel: Tunnel, host: str) -> Peer:
        """Who is at the other end, by its certificate; AgentRefusedError unless it is *host*."""
        der = tunnel.peer
        if not der:
            raise AgentRefusedError("a client certificate is required")
        peer = self._authority.peer(der)
        if peer.host != host:
            raise AgentRefusedError(f"the client certificate belongs to {peer.host}")
        return peer


async def _again(
    pause_s: float,
    work: Callable[[JetStreamContext], Coroutine[Any, Any, None]],
    js: JetStreamContext,
) -> None:
    """Do *work* again and again: sessions go on where nothing is stored, and hosts repeat what was
    lost."""
    said = ""
    while True:
        try:
            await attempt(work(js))
            said = ""
        except (NatsError, OSError, TimeoutError) as exc:
            if (why := reason(exc)) != said:
                log.warning("what NATS stores for hosts is not reached: %s", why)
            said = why
        await asyncio.sleep(pause_s)


async def _check(client: Client, address: str) -> None:
    if client.max_payload < PAYLOAD_MAX:
        raise UsageError(
            f"the NATS server {address} accepts messages of {client.max_payload} bytes, "
            f"{PAYLOAD_MAX} are needed for hosts: set max_payload (--write-nats-config does)"
        )
