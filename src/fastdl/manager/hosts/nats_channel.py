# SPDX-License-Identifier: Apache-2.0
"""One host over NATS: messages go through its session, the document into its mailbox."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import replace
from typing import Final

from nats.errors import Error as NatsError

from fastdl.wire import codec
from fastdl.wire import messages as m
from fastdl.wire.nats import sealed, subjects
from fastdl.wire.nats.client import Client
from fastdl.wire.nats.connection import REPLY_S, reason, store
from fastdl.wire.nats.sealed import Seal
from fastdl.wire.nats.session import Session
from fastdl.wire.nats.tunnel import Kind

log = logging.getLogger(__name__)

PING_S: Final = 10.0
"""A host that says nothing for so long is asked for a sign of life."""
SILENT_S: Final = 30.0
"""Without any for so long its connection is given up."""


class NatsChannel:
    """The ``Channel`` of *host* in the session *id_*. *key*: of what the host and managers seal."""

    def __init__(self, client: Client, session: Session, *, host: str, id_: str, key: bytes):
        self._client = client
        self._session = session
        self._host = host
        self._key = key
        self._seal = Seal(key)
        self._purpose = sealed.document(host, id_)
        self._keeps = True
        """Whether the last document was kept."""

    async def receive(self) -> str | None:
        """Return the next message; None = the end."""
        silent = 0.0
        while True:
            try:
                frame = await self._session.read(within=PING_S)
            except TimeoutError:
                if (silent := silent + PING_S) >= SILENT_S:
                    return None
                await self._session.write(Kind.PING, b"")
                continue
            except OSError:  # TLS: bytes were lost, or are not the host's
                return None
            if frame is None:
                return None
            silent = 0.0
            if frame.kind is Kind.TEXT:
                return frame.content.decode(errors="replace")

    async def send(self, message: m.Message) -> None:
        """Send *message*; a document is left in the mailbox, where the host hears and finds it."""
        if isinstance(message, m.Document):
            await self._post(message)
            return
        if isinstance(message, m.Welcome):
            message = replace(message, mailbox_key=self._key.hex())
        await self._session.write(Kind.TEXT, codec.encode(message).encode())

    async def close(self, reason: str, last_word: m.Message | None = None) -> None:
        """Send *last_word*, and close."""
        with contextlib.suppress(OSError, TimeoutError):
            if last_word is not None:
                await self._session.write(Kind.TEXT, codec.encode(last_word).encode())
        await self._session.close(reason)

    async def _post(self, document: m.Document) -> None:
        data = self._seal.close(self._purpose, codec.encode(document))
        try:
            await store(self._client, subjects.BOX, subjects.box(self._host), data, within=REPLY_S)
        except (NatsError, ConnectionError) as exc:
            # The host has heard it; what it cannot do is find it again.
            if self._keeps:  # said once, not for each of them
                why = reason(exc)
                log.warning("documents are not kept", extra={"host": self._host, "reason": why})
            self._keeps = False
        else:
            self._keeps = True
