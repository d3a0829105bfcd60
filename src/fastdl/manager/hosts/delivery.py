# SPDX-License-Identifier: Apache-2.0
"""Messages waiting to be sent to each connected host.

Everything here may be lost at any moment: hosts and loops repeat their requests.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, Protocol

from aiohttp import web

from fastdl.wire import messages as m

OUTBOX_MAX: Final = 1024
"""Small messages that may queue for a slow host before its connection is closed."""


class Delivery(Protocol):
    """Sends to hosts, as far as they are connected."""

    def post(self, host: str) -> None:
        """Send *host* its document soon (built from the ledger when it is sent)."""

    def send(self, host: str, message: m.Message) -> None:
        """Send *message* to *host* if it is connected."""

    def drop(self, host: str, reason: str, *, refusal: m.Refused | None = None) -> None:
        """Close the connection to *host*, with *refusal* as the last word."""


class Connection:
    """One host's WebSocket and the messages still to be sent on it."""

    def __init__(self, socket: web.WebSocketResponse) -> None:
        self.socket = socket
        self.outbox: deque[m.Message] = deque()
        self.document_due = True
        self.wake = asyncio.Event()
        self.closing: str | None = None
        """Set: further messages on this connection are ignored."""
        self.last_word: m.Refused | None = None

    def close(self, reason: str, last_word: m.Refused | None = None) -> None:
        """Close once the current write is complete; *last_word* is sent first."""
        self.closing, self.last_word = reason, last_word
        self.wake.set()


class Connections:
    """The connections of this manager by host: ``Delivery`` over them."""

    def __init__(self) -> None:
        self.by_host: dict[str, Connection] = {}

    def post(self, host: str) -> None:
        """Send *host* its document soon."""
        if connection := self.by_host.get(host):
            connection.document_due = True
            connection.wake.set()

    def send(self, host: str, message: m.Message) -> None:
        """Send *message* to *host* if it is connected."""
        if connection := self.by_host.get(host):
            if len(connection.outbox) >= OUTBOX_MAX:
                connection.close("too slow")
                return
            connection.outbox.append(message)
            connection.wake.set()

    def drop(self, host: str, reason: str, *, refusal: m.Refused | None = None) -> None:
        """Close the connection to *host*, with *refusal* as the last word."""
        if connection := self.by_host.get(host):
            connection.close(reason, refusal)
