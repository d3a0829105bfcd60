# SPDX-License-Identifier: Apache-2.0
"""The other carrier: NATS, to any manager that takes hosts there.

Messages go through a TLS session with that manager; documents come from this host's mailbox, and
results are stored until a manager has taken them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Final

from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from fastdl.agent.carrier import HANDSHAKE_S, Heard, NotAdmittedError, OtherAuthorityError
from fastdl.agent.identity import Identity
from fastdl.errors import AgentLostError, AgentRefusedError, FastdlError, UsageError
from fastdl.tasks import end, end_if_cancelled
from fastdl.wire import codec
from fastdl.wire import messages as m
from fastdl.wire.nats import sealed, subjects
from fastdl.wire.nats.client import Client
from fastdl.wire.nats.connection import (
    CONNECT_S,
    REPLY_S,
    Connector,
    UnknownUserError,
    Who,
    reason,
    store,
)
from fastdl.wire.nats.sealed import Seal
from fastdl.wire.nats.servers import Servers
from fastdl.wire.nats.session import Session
from fastdl.wire.nats.tunnel import Kind, Tunnel

log = logging.getLogger(__name__)

_REREAD_S: Final = 60.0
"""A document that was not heard is found in the mailbox after so long."""
_STORE_S: Final = 3.0
_WAITING_MAX: Final = 2 * m.TO_AGENT_MAX


class NatsCarrier:
    """Sessions with managers over the NATS servers of *servers*."""

    def __init__(self, identity: Identity, servers: Servers, *, tls: bool) -> None:
        """*tls*: TLS to the servers, too, with this host's certificate."""
        self._identity = identity
        order = random.sample(servers.addresses, len(servers.addresses))
        servers = replace(servers, addresses=tuple(order))  # hosts spread over them
        self._session: Session | None = None
        self._seal: Seal | None = None
        self._left: set[tuple[str, int]] = set()
        """Job and fence of results that were left since a manager was there."""
        who = Who(
            title="this host",
            name=f"fastdl agent {identity.host_id}",
            inbox=subjects.inbox(identity.host_id),
            patience_s=int(CONNECT_S),  # the server may have to ask a manager
        )
        context = identity.context if tls else None
        self._connector = Connector(servers, who, broken=self._broken, context=context)
        self._leaving = Connector(servers, who, broken=lambda _why: None, context=context)
        self.places = (str(servers),)

    @contextlib.asynccontextmanager
    async def connected(self, place: str, heard: Heard) -> AsyncIterator[NatsChannel]:
        """A session with whichever manager takes it."""
        host, id_ = self._identity.host_id, secrets.token_hex(16)
        context = await asyncio.to_thread(self._identity.context)
        async with contextlib.AsyncExitStack() as held:
            try:
                async with asyncio.timeout(HANDSHAKE_S):
                    client = await held.enter_async_context(self._connector.connected())
                    tunnel = Tunnel(context, name=m.MANAGER_NAME, limit=m.TO_AGENT_MAX)
                    session = Session(
                        client,
                        tunnel,
                        into=subjects.down(host, id_),
                        out=subjects.up(host, id_),
                        waiting_max=_WAITING_MAX,
                    )
                    held.push_async_callback(session.close, "the agent disconnects")
                    self._session = session
                    channel = NatsChannel(client, session, host, id_, heard, self._unlock)
                    await session.hear()
                    await client.subscribe(subjects.box(host), cb=channel.posted)
                    await session.establish(first=subjects.opening(host, id_))
            except ssl.SSLCertVerificationError:
                raise OtherAuthorityError(place) from None
            except UnknownUserError:
                raise NotAdmittedError(f"NATS at {place}") from None
            except (NatsError, UsageError, OSError, TimeoutError) as exc:
                raise AgentLostError(f"over NATS at {place}: {reason(exc)}") from exc
            tasks = [asyncio.create_task(channel.pump()), asyncio.create_task(channel.reread())]
            try:
                yield channel
            finally:
                await end(tasks)

    async def leave(self, results: Sequence[m.JobResult]) -> None:
        """Store *results*, with the key that the last manager gave."""
        seal, host = self._seal, self._identity.host_id
        fresh = [result for result in results if (result.job, result.fence) not in self._left]
        if seal is None or not fresh:
            return
        try:
            async with self._leaving.connected() as client:
                for result in fresh:
                    await _store(client, host, seal, result)
                    self._left.add((result.job, result.fence))
        except (NatsError, UsageError, OSError, TimeoutError) as exc:
            log.info("results are not left for the managers: %s", reason(exc))

    def _unlock(self, welcome: m.Welcome) -> Seal:
        try:
            self._seal = Seal(bytes.fromhex(welcome.mailbox_key))
        except ValueError:
            raise AgentRefusedError("the manager's Welcome has no key for the mailbox") from None
        self._left.clear()
        return self._seal

    def _broken(self, why: Exception | None) -> None:
        if why is None and self._session is not None:
            self._session.end()
        elif isinstance(why, NatsError):
            log.warning("NATS: %s", reason(why))


class NatsChannel:
    """One session, and the mailbox while it lasts."""

    def __init__(
        self,
        client: Client,
        session: Session,
        host: str,
        id_: str,
        heard: Heard,
        unlock: Callable[[m.Welcome], Seal],
    ) -> None:
        """*host* in the session *id_*; *unlock*: returns what opens documents."""
        self._unlock = unlock
        self._client = client
        self._session = session
        self._host = host
        self._purpose = sealed.document(host, id_)
        self._heard = heard
        self._seal: Seal | None = None
        self._stores = True
        """Whether the last result was stored."""
        self._early: bytes | None = None
        """What came into the mailbox before the Welcome that has the key."""
        self._welcomed = asyncio.Event()
        self._revision, self._latest = -1, b""
        self._inbox: asyncio.Queue[m.Message | Exception | None] = asyncio.Queue()

    async def receive(self) -> m.Message | None:
        """Return the next message, of the session or from the mailbox; None = the end."""
        item = await self._inbox.get()
        if isinstance(item, Exception):
            raise item
        return item

    async def send(self, message: m.Message) -> None:
        """Send *message*; a result is stored until a manager has taken it."""
        if not isinstance(message, m.JobResult) or not await self._stored(message):
            await self._session.write(Kind.TEXT, codec.encode(message).encode())

    async def ping(self, at: float) -> None:
        """Send a ping that comes back with *at*."""
        await self._session.write(Kind.PING, repr(at).encode())

    async def posted(self, msg: Msg) -> None:
        """A document was posted."""
        self._take(msg.data)

    async def pump(self) -> None:
        """Read the session until it is over."""
        try:
            while (frame := await self._session.read()) is not None:
                if frame.kind is Kind.PONG:
                    with contextlib.suppress(ValueError):
                        self._heard(float(frame.content))
                    continue
                message = codec.decode(frame.content, limit=m.TO_AGENT_MAX)
                if message is None:
                    continue
                self._inbox.put_nowait(message)
                if isinstance(message, m.Welcome):
                    self._begin(self._unlock(message))
            self._inbox.put_nowait(None)
        except (FastdlError, OSError, TimeoutError) as exc:
            self._inbox.put_nowait(exc)

    async def reread(self) -> None:
        """Read the mailbox now and then: what was posted may not have been heard."""
        await self._welcomed.wait()
        while True:
            with contextlib.suppress(NatsError, OSError, TimeoutError):
                found = await self._client.request(subjects.reading(self._host), timeout=REPLY_S)
                if not (found.headers or {}).get("Status"):
                    self._take(found.data)
            end_if_cancelled()
            await asyncio.sleep(_REREAD_S * random.uniform(0.8, 1.2))  # noqa: S311 - no secret

    def _begin(self, seal: Seal) -> None:
        self._seal = seal
        self._welcomed.set()
        if self._early is not None:
            self._take(self._early)

    def _take(self, data: bytes) -> None:
        """Pass a document on, if it is one of this session and newer than what is known.

        Anybody may have written it; what does not open is not the manager's.
        """
        if self._seal is None:
            self._early = data
            return
        if data == self._latest or (text := self._seal.open(self._purpose, data)) is None:
            return
        document = codec.decode(text, limit=m.TO_AGENT_MAX)
        if isinstance(document, m.Document) and document.rev >= self._revision:
            self._revision, self._latest = document.rev, data
            self._inbox.put_nowait(document)

    async def _stored(self, result: m.JobResult) -> bool:
        """Whether the result is stored, where any manager finds it."""
        if self._seal is None:
            return False
        try:
            await _store(self._client, self._host, self._seal, result)
        except (NatsError, OSError, TimeoutError) as exc:
            if self._stores:  # said once, not for each of them
                log.warning("results go to the manager directly: %s", reason(exc))
            self._stores = False
        else:
            self._stores = True
        return self._stores


async def _store(client: Client, host: str, seal: Seal, result: m.JobResult) -> None:
    data = seal.close(sealed.result(host), codec.encode(result))
    await store(client, subjects.RESULTS, subjects.results(host), data, within=_STORE_S)
