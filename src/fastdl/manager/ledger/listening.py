# SPDX-License-Identifier: Apache-2.0
"""Managers that share a PostgreSQL ledger wake each other through it: LISTEN and NOTIFY."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from fastdl.manager.fabric import RESYNC, Message, Receive
from fastdl.manager.fabric.outbox import Outbox
from fastdl.manager.ledger.engine import KEEPALIVE, LEDGER_NUMBER, driver_url

log = logging.getLogger(__name__)

PAYLOAD_MAX: Final = 7900
"""PostgreSQL refuses payloads of 8000 bytes."""
SPACING_S: Final = 0.01
CHECK_S: Final = 5.0
AGAIN_S: Final = 0.5
STUCK_S: Final = 15.0


class PostgresqlFabric:
    """Managers that wake each other by LISTEN and NOTIFY, on a connection of its own.

    The server delivers to every listener; a lost connection loses messages, so its renewal is
    followed by ``RESYNC``. Messages that cannot be sent wait, and too many become one ``RESYNC``.
    """

    def __init__(self, url: str, name: str) -> None:
        """*name*: this manager's own, unique among those of one ledger."""
        self._name = name
        self._engine = create_async_engine(
            driver_url(url),
            hide_parameters=True,
            poolclass=NullPool,
            isolation_level="AUTOCOMMIT",
            connect_args={"server_settings": KEEPALIVE},
        )
        self._outbox = Outbox()
        self.receive: Receive = lambda _message: None
        """Called with each message of another manager, and with ``RESYNC``."""
        self.hears = False
        """Whether messages can arrive now."""

    def notify(self, topic: str, *words: str) -> None:
        """Tell every other manager soon; one that waits to be sent is not sent twice."""
        self._outbox.add((topic, *words))

    async def check(self) -> None:
        """The ledger, which is open, is all that it needs."""

    async def run(self) -> None:
        """Send and receive until cancelled."""
        while True:
            try:
                async with self._engine.connect() as connection:
                    await self._serve(connection)
            except Exception as exc:  # noqa: BLE001 - SQLAlchemy's, the driver's and the system's
                log.warning("other managers are not heard: %s", type(exc).__name__)
            finally:
                self.hears = False
            await asyncio.sleep(AGAIN_S)

    async def close(self) -> None:
        """Close what ``run`` left."""
        await self._engine.dispose()

    async def _serve(self, connection: AsyncConnection) -> None:
        number = int(await connection.scalar(LEDGER_NUMBER) or 0)
        channel = f"fastdl_{number & (1 << 64) - 1:x}"
        driver: Any = (await connection.get_raw_connection()).driver_connection
        async with asyncio.timeout(STUCK_S):
            await driver.add_listener(channel, self._received)
        self.hears = True
        self.receive((RESYNC,))
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CHECK_S):
                    await self._outbox.wake.wait()
            self._outbox.wake.clear()
            async with asyncio.timeout(STUCK_S):
                if not self._outbox:
                    await connection.execute(text("SELECT 1"))  # does the connection live?
                while self._outbox:
                    await self._send(connection, channel)
            await asyncio.sleep(SPACING_S)

    async def _send(self, connection: AsyncConnection, channel: str) -> None:
        """Send as many of the waiting messages as one notification holds."""
        sent: list[Message] = []
        payload = json.dumps([self._name])
        for message in self._outbox:
            longer = f"{payload[:-1]}, {json.dumps(message)}]"
            if len(longer) > PAYLOAD_MAX:
                break
            sent.append(message)
            payload = longer
        if not sent:  # the first alone is too long: what it is about is in the ledger
            self._outbox.remove([next(iter(self._outbox))])
            return
        self._outbox.remove(sent)
        values = {"channel": channel, "payload": payload}
        try:
            await connection.execute(text("SELECT pg_notify(:channel, :payload)"), values)
        except BaseException:
            self._outbox.put_back(sent)
            raise

    def _received(self, _connection: Any, _pid: int, _channel: str, payload: str) -> None:
        for message in messages_of(payload, but=self._name):
            self.receive(message)


def messages_of(payload: str, *, but: str) -> Sequence[Message]:
    """Return the messages in a notification's *payload*; none of the manager *but*, and none of
    what is no payload of ours."""
    try:
        sender, *messages = json.loads(payload)
    except (ValueError, TypeError):
        return []
    if sender == but:
        return []
    return [
        tuple(message)
        for message in messages
        if isinstance(message, list) and message and all(isinstance(word, str) for word in message)
    ]
