# SPDX-License-Identifier: Apache-2.0
"""Messages waiting to be sent to each connected host; those of other managers' hosts go there.

Everything here may be lost at any moment: hosts and loops repeat their requests.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, Protocol

from fastdl.manager.fabric import SEND
from fastdl.manager.hosts.channel import Channel
from fastdl.manager.notices import Notices
from fastdl.wire import codec
from fastdl.wire import messages as m

OUTBOX_MAX: Final = 1024
"""Small messages that may queue for a slow host before its connection is closed."""


class Delivery(Protocol):
    """Sends to hosts, as far as they are connected, to whichever manager."""

    def post(self, host: str) -> None:
        """Send *host* its document soon (built from the ledger when it is sent)."""

    def send(self, host: str, message: m.Message) -> None:
        """Send *message* to *host* if it is connected."""

    def drop(self, host: str, reason: str, *, refusal: m.Refused | None = None) -> None:
        """Close this manager's connection to *host*, with *refusal* as the last word."""


class Connection:
    """One host's channel and the messages still to be sent on it."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.outbox: deque[m.Message] = deque()
        self.document_due = True
        self.revision = -1
        """Of the latest document that was sent."""
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

    def __init__(self, notices: Notices | None = None) -> None:
        """*notices*: reaches the other managers; None = there are none."""
        self.by_host: dict[str, Connection] = {}
        self._notices = notices or Notices()

    def _open(self, host: str) -> Connection | None:
        connection = self.by_host.get(host)
        return connection if connection is not None and connection.closing is None else None

    def post(self, host: str) -> None:
        """Send *host* its document soon."""
        if not self.post_here(host):
            self._notices.tell("post", host)

    def post_here(self, host: str) -> bool:
        """Send *host* its document soon; False = it is not connected to this manager."""
        connection = self._open(host)
        if connection is None:
            return False
        connection.document_due = True
        connection.wake.set()
        return True

    def post_later(self, host: str, revision: int) -> None:
        """Send *host* its document if the one that it has is older than *revision*."""
        connection = self._open(host)
        if connection is not None and connection.revision < revision:
            self.post_here(host)

    def send(self, host: str, message: m.Message) -> None:
        """Send *message* to *host* if it is connected."""
        if not self.send_here(host, message):
            self._notices.tell(SEND, host, codec.encode(message))

    def send_here(self, host: str, message: m.Message) -> bool:
        """Send *message* to *host*; False = it is not connected to this manager."""
        connection = self._open(host)
        if connection is None:
            return False
        if len(connection.outbox) >= OUTBOX_MAX:
            connection.close("too slow")
            return True
        connection.outbox.append(message)
        connection.wake.set()
        return True

    def drop(self, host: str, reason: str, *, refusal: m.Refused | None = None) -> None:
        """Close this manager's connection to *host*, with *refusal* as the last word."""
        if connection := self.by_host.get(host):
            connection.close(reason, refusal)
