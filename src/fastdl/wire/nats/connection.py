# SPDX-License-Identifier: Apache-2.0
"""One connection to one NATS server: checked, and never made anew behind our back.

The client library could reconnect by itself; then nobody would check the version, TLS and what is
stored there again. So whoever uses a connection that ended makes another one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from nats.errors import ConnectionClosedError, NoServersError, StaleConnectionError
from nats.errors import Error as NatsError
from nats.js.errors import APIError

from fastdl.errors import UsageError
from fastdl.wire.nats.client import Client
from fastdl.wire.nats.servers import Servers

FLOOR: Final = (2, 10, 23)
"""Older servers could lose a whole stream when they were killed, or cannot be told to flush."""
CONNECT_S: Final = 5.0
REPLY_S: Final = 5.0
WATCH_S: Final = 0.25
_NO_JETSTREAM: Final = (None, 10039, 10076)
"""Error codes: nobody answers, not enabled for the account, not enabled at all. Others may pass."""
_LOST: Final = (TimeoutError, StaleConnectionError, ConnectionClosedError)
"""What the client raises when the connection ended, not for what the server refuses."""

_UNKNOWN: Final = "authorization violation"
"""The server's words; where it asks managers, it says nothing if it hears none of them."""

logging.getLogger("asyncio").addFilter(lambda line: "eof_received" not in line.getMessage())
"""The client begins TLS in a way that asyncio remarks on whenever such a connection ends."""


class UnknownUserError(UsageError):
    """A server knows the certificate's CA, but not whom it names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Who:
    """Who connects. *title*: in messages; *name*: what the server is told; *inbox*: the prefix of
    the subjects of responses; *patience_s*: how long each step of connecting may take."""

    title: str
    name: str
    inbox: str = "_INBOX"
    patience_s: int = 2


class Connector:
    """Connects to one of *servers*: the next one after a failure, whether to connect or of what a
    connection was used for. One that is cut off from the others accepts connections all the same.
    """

    def __init__(
        self,
        servers: Servers,
        who: Who,
        *,
        broken: Callable[[Exception | None], None],
        context: Callable[[], ssl.SSLContext] | None = None,
        check: Callable[[Client, str], Awaitable[None]] | None = None,
    ) -> None:
        """*broken* is called when the server complains of a connection that was made, and with None
        when it ends; *context* makes the TLS context of each connection, instead of that of
        *servers*; *check*, with a connection and its address, raises what ``connected`` does."""
        self._context = context
        self._servers = servers
        self._check = check
        self._who = who
        self._broken = broken
        self._order = list(servers.addresses)

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[Client]:
        """A connection until the context ends.

        UsageError if the server can never be used; NatsError, OSError or TimeoutError if it cannot
        be reached.
        """
        address, client = await self._first()
        watching = asyncio.create_task(self._watch(client))
        try:
            yield client
        except Exception:
            self._avoid(address)
            raise
        finally:
            watching.cancel()
            await _close(client)

    async def _first(self) -> tuple[str, Client]:
        """The first server that can be used: its address, and a connection."""
        failure: Exception = ConnectionError("no server answers")
        for address in tuple(self._order):
            try:
                return address, await self._connect(address)
            except (UsageError, OSError, TimeoutError, NatsError) as exc:
                self._avoid(address)
                if not isinstance(failure, UsageError):
                    failure = exc
        raise failure

    def _avoid(self, address: str) -> None:
        """Try *address* after all others."""
        self._order.remove(address)
        self._order.append(address)

    async def _watch(self, client: Client) -> None:
        """Notice the end: the client cancels its own task, and with it its callback, if it is the
        one to notice."""
        while not client.is_closed:  # noqa: ASYNC110 - the client has no event for it
            await asyncio.sleep(WATCH_S)
        self._broken(None)

    async def _connect(self, address: str) -> Client:
        servers, client, why, made = self._servers, Client(), list[Exception](), False
        tls = self._context() if self._context is not None else servers.tls

        def check_tls() -> None:
            if tls is not None and not client._server_info.get("tls_required"):
                raise UsageError(f"the NATS server {address} does not offer TLS")

        async def failed(exc: Exception) -> None:
            why.append(exc)
            if made:  # else it is raised here
                self._broken(exc)

        def secret(value: str | None) -> Callable[[], str] | None:
            # The client speaks TLS if the server asks for it; whoever sits between could leave
            # that out. So no secret is given away before it is certain.
            def give() -> str:
                check_tls()
                return value or ""

            return None if value is None else give

        token = servers.password is None
        try:
            async with asyncio.timeout(CONNECT_S):
                await client.connect(
                    [f"{'tls' if tls else 'nats'}://{address}"],
                    name=self._who.name,
                    error_cb=failed,
                    allow_reconnect=False,
                    max_reconnect_attempts=1,
                    reconnect_time_wait=0,
                    connect_timeout=self._who.patience_s,
                    ping_interval=5,
                    tls=tls,
                    tls_hostname=servers.tls_name,
                    token=secret(servers.user) if token else None,
                    user=None if token else secret(servers.user),
                    password=secret(servers.password),
                    inbox_prefix=self._who.inbox,
                )
            check_tls()
            if not client.is_connected:  # the client takes the end of the stream for a welcome
                raise ConnectionError(
                    f"the NATS server {address} closed the connection without letting "
                    f"{self._who.title} in"
                )
            _check_version(client, address)
            if self._check is not None:
                await self._check(client, address)
            made = True
        except NoServersError as exc:  # the client's words for any fault of the connection
            raise (why[-1] if why else exc) from exc
        except ssl.SSLError as exc:
            raise UsageError(f"TLS with the NATS server {address} fails: {exc.reason}") from exc
        except NatsError as exc:
            if isinstance(exc, _LOST):
                raise
            unknown = _UNKNOWN in str(exc).lower()
            kind = UnknownUserError if unknown else UsageError
            raise kind(f"the NATS server {address} refuses {self._who.title}: {exc}") from exc
        finally:
            if not made:
                _abort(client)  # it would wait for a TLS that never began
                await _close(client)
        return client


def _check_version(client: Client, address: str) -> None:
    version = client.connected_server_version
    if (version.major, version.minor, version.patch) < FLOOR:
        found, floor = f"{version.major}.{version.minor}.{version.patch}", _dotted(FLOOR)
        raise UsageError(
            f"the NATS server {address} has version {found}, {floor} or newer is needed: "
            "before, a server that was killed could lose what it had confirmed"
        )


async def store(client: Client, stream: str, subject: str, data: bytes, *, within: float) -> None:
    """Have *stream* keep *data*. NatsError, OSError or TimeoutError if it is not known that it
    does: where nobody restricts subjects, anybody may answer."""
    try:
        await client.jetstream(timeout=within).publish(subject, data, stream=stream)
    except (AttributeError, LookupError, TypeError, ValueError) as exc:
        raise ConnectionError("what answers is not JetStream") from exc


async def check_jetstream(client: Client, address: str) -> None:
    """UsageError if the server stores nothing for this manager; ConnectionError if that may
    pass."""
    try:
        await client.jetstream(timeout=REPLY_S).account_info()
    except APIError as exc:
        if exc.err_code not in _NO_JETSTREAM:
            raise ConnectionError(f"JetStream at {address}: {exc.description}") from exc
        raise UsageError(
            f"the NATS server {address} offers no JetStream to this manager: enable it there "
            "for the manager's account"
        ) from exc


def reason(exc: BaseException) -> str:
    """The first fault, in the client's words, which hold no secret."""
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    if isinstance(exc, APIError):
        return f"JetStream: {exc.description or 'it does not answer'}"
    return str(exc) or type(exc).__name__


async def _close(client: Client) -> None:
    with contextlib.suppress(NatsError, OSError, TimeoutError):
        async with asyncio.timeout(REPLY_S):
            await client.close()
    # A server that stands still takes nothing: the client would wait for it, with the socket.
    _abort(client)


def _abort(client: Client) -> None:
    """Give up what was not sent, and the socket."""
    writer = getattr(client._transport, "_io_writer", None)
    if writer is not None:
        writer.transport.abort()


def _dotted(version: Sequence[int]) -> str:
    return ".".join(map(str, version))
