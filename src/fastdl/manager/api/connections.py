# SPDX-License-Identifier: Apache-2.0
"""Which connections to the API port are closed: those that keep it waiting.

A client that connects and sends nothing, sends its header a byte a minute or does not read its
response costs a descriptor and some memory for as long as it likes; aiohttp ends only connections
that are idle after a request. Here, a connection on which no request is being handled has
``IDLE_S`` to send one, or to read its response.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

log = logging.getLogger(__name__)

IDLE_S: Final = 30.0
ROUND_S: Final = 2.0


class Connections:
    """Watches the connections of one server. *middleware* goes into its application."""

    def __init__(self, *, idle_s: float = IDLE_S) -> None:
        self._idle_s = idle_s
        self._busy: set[web.RequestHandler] = set()
        self._since: dict[web.RequestHandler, float] = {}

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Remember that a request is being handled."""
        connection = request.protocol
        self._busy.add(connection)
        self._since.pop(connection, None)
        try:
            return await handler(request)
        finally:
            self._busy.discard(connection)

    def cut(self, server: web.Server, now: float) -> int:
        """Close connections that have been idle for too long; return how many."""
        waiting = [c for c in server.connections if c not in self._busy]
        self._since = {c: self._since.get(c, now) for c in waiting}
        late = [c for c, since in self._since.items() if now - since > self._idle_s]
        for connection in late:
            if connection.transport is not None:
                connection.transport.abort()
        return len(late)

    async def run(self, server: web.Server) -> None:
        """Check the connections of *server* periodically, until cancelled."""
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(ROUND_S)
            if cut := self.cut(server, clock()):
                log.info("idle connections closed", extra={"connections": cut})
