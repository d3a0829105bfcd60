# SPDX-License-Identifier: Apache-2.0
"""Tells NATS servers who connects: hosts that are enrolled, with the permissions of hosts.

Servers whose configuration has no list of hosts ask for each connection (NATS' auth callout), any
one of the managers. What they are told holds for an hour at most: then the server ends the
connection, and asks again when the host is back.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import importlib.util
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from fastdl.errors import AgentRefusedError, FastdlError
from fastdl.manager.hosts import nats_request
from fastdl.manager.hosts.ca import Authority, Peer
from fastdl.manager.hosts.nats_claims import issuer
from fastdl.manager.hosts.nats_request import Request
from fastdl.manager.hosts.pace import Allowance
from fastdl.manager.hosts.refusal import UnknownHostError
from fastdl.manager.ledger import hosts
from fastdl.manager.ledger.engine import Ledger
from fastdl.wire.nats import subjects

if TYPE_CHECKING:
    from fastdl.manager.hosts.nats_curve import Curve

log = logging.getLogger(__name__)

SUBJECT: Final = "$SYS.REQ.USER.AUTH"
LIFETIME_S: Final = 3600.0
"""How long a connection lasts at most. A host that was deleted can use its own subjects, where
nobody listens to it any more, for so long."""
SPREAD: Final = 0.25
"""By how much of it connections end earlier, so that hosts do not come back together."""
BURST: Final = 32
PER_S: Final = 0.5
"""Connections that one certificate may ask for: each costs a millisecond."""
WAITING_MAX: Final = 2048
"""Requests that may wait: the servers have given up on further ones before it is their turn."""
TOGETHER: Final = 32
"""Requests that share a query."""
_CURVE_HEADER: Final = "Nats-Server-Xkey"


@dataclass(frozen=True, slots=True)
class _Open:
    """A request that can be responded to; *peer*: who its certificate names."""

    msg: Msg
    request: Request
    peer: Peer


class Callout:
    """Responds to NATS servers. *derive*: what managers of one ledger derive keys with."""

    def __init__(
        self, authority: Authority, *, ledger: Ledger, derive: Callable[[str], bytes]
    ) -> None:
        self._authority = authority
        self._ledger = ledger
        self._issuer = issuer(derive)
        self._derive = derive
        self._pace = Allowance(BURST, PER_S)
        self._waiting: asyncio.Queue[Msg] = asyncio.Queue(WAITING_MAX)

    async def asked(self, msg: Msg) -> None:
        """Take a request. One too many gets no response: its server refuses that connection after
        a while, and the host tries again."""
        if not self._waiting.full():
            self._waiting.put_nowait(msg)

    async def run(self) -> None:
        """Respond until cancelled."""
        while not self._waiting.empty():  # of a connection that has ended
            self._waiting.get_nowait()
        while True:
            msgs = [await self._waiting.get()]
            while len(msgs) < TOGETHER and not self._waiting.empty():
                msgs.append(self._waiting.get_nowait())
            found = list[_Open]()
            for msg in msgs:
                if (one := await self._checked(msg)) is not None:
                    found.append(one)
                await asyncio.sleep(0)  # whatever else waits has its turn
            if found:
                await self._decide(found)

    async def _checked(self, msg: Msg) -> _Open | None:
        """Check what is asked, and the certificate; None = it is refused already."""
        request: Request | None = None
        try:
            request = self._read(msg)
            return _Open(msg, request, self._peer(request))
        except AgentRefusedError as exc:
            await self._refuse(msg, request, exc)
        except Exception:
            # A bug, which must not keep other hosts out.
            log.exception("a request of a NATS server cannot be processed")
        return None

    def _read(self, msg: Msg) -> Request:
        data, header = msg.data, (msg.headers or {}).get(_CURVE_HEADER, "")
        if header:
            data = self._curve.open(data, header)
        request = nats_request.read(data, self._issuer.public)
        if request.curve != header:
            raise AgentRefusedError("encrypted with a key that is not the server's")
        return request

    def _peer(self, request: Request) -> Peer:
        certificate, loop = request.certificate, asyncio.get_running_loop()
        if not certificate:
            raise AgentRefusedError("a client certificate is required")
        known_as = hashlib.sha256(certificate.encode()).hexdigest()
        if not self._pace.take(known_as, now=loop.time()):
            raise AgentRefusedError("too many connections with this certificate")
        return self._authority.client(certificate, now=time.time())

    async def _decide(self, found: list[_Open]) -> None:
        """Respond by what the ledger says of the hosts."""
        try:
            async with self._ledger.read() as tx:
                keys = await hosts.keys(tx, {one.peer.host for one in found})
        except FastdlError as exc:  # the ledger failed, not the hosts
            log.error("hosts are not admitted to NATS", extra={"error": str(exc)})
            for one in found:
                await self._refuse(one.msg, one.request, None)
            return
        for one in found:
            if keys.get(one.peer.host) != one.peer.key_hash or not subjects.is_host(one.peer.host):
                await self._refuse(one.msg, one.request, UnknownHostError())
            else:
                await self._grant(one)
            await asyncio.sleep(0)

    async def _grant(self, one: _Open) -> None:
        now = time.time()
        until = now + LIFETIME_S * random.uniform(1 - SPREAD, 1)  # noqa: S311 - no secret
        until = min(until, one.peer.until or now)
        token = nats_request.granted(one.request, self._issuer, one.peer.host, now=now, until=until)
        await self._respond(one.msg, one.request, token)

    async def _refuse(self, msg: Msg, request: Request | None, why: FastdlError | None) -> None:
        """Refuse a connection; *request*: None = whose it is cannot be known. *why*: None = for no
        fault of the host."""
        if why is not None:
            peer = f"{request.address} on NATS" if request is not None else "a NATS server"
            log.warning("host refused", extra={"peer": peer, "reason": str(why)})
        if request is not None:
            reason = str(why) if why is not None else "the ledger cannot be used, try again"
            token = nats_request.refused(request, self._issuer, reason, now=time.time())
            await self._respond(msg, request, token)

    async def _respond(self, msg: Msg, request: Request, token: str) -> None:
        data = token.encode()
        if request.curve:
            data = self._curve.close(data, request.curve)
        try:
            await msg.respond(data)
        except NatsError as exc:  # the connection ended, or nobody wants a response
            log.info("a NATS server got no response: %s", exc)

    @functools.cached_property
    def _curve(self) -> Curve:
        if importlib.util.find_spec("nacl") is None:
            raise AgentRefusedError(
                "the NATS servers encrypt their requests, for which the manager needs the Python "
                "package PyNaCl: pip install '.[scale]' in fastdl's source folder"
            )
        from fastdl.manager.hosts.nats_curve import curve  # noqa: PLC0415 - an extra's package

        return curve(self._derive)
