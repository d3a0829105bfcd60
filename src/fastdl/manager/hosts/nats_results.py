# SPDX-License-Identifier: Apache-2.0
"""Forwards the results that hosts stored in NATS to the ledger.

Any manager does, whichever the host is connected to. NATS is told that a result was taken after the
ledger has it; one that is taken twice is stale the second time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from nats.aio.msg import Msg
from nats.js import JetStreamContext

from fastdl.errors import AgentRefusedError, FastdlError
from fastdl.manager.hosts.delivery import Delivery
from fastdl.manager.hosts.handler import HostHandler
from fastdl.manager.hosts.nats_streams import TOGETHER
from fastdl.manager.hosts.pace import Allowance
from fastdl.manager.ledger import hosts
from fastdl.manager.ledger.engine import Ledger
from fastdl.tasks import end_if_cancelled
from fastdl.wire import codec
from fastdl.wire import messages as m
from fastdl.wire.nats import sealed, subjects
from fastdl.wire.nats.client import obeying
from fastdl.wire.nats.sealed import Seal

log = logging.getLogger(__name__)

FETCH_S: Final = 3.0
AGAIN_S: Final = 2.0
BURST: Final = 256
"""Results that one host may have stored at once: as many as a document has jobs."""
PER_S: Final = 32.0


class ResultForwarder:
    """Takes results from the stream. *derive*: what ``sealed.key_of`` needs."""

    def __init__(
        self,
        handler: HostHandler,
        *,
        ledger: Ledger,
        delivery: Delivery,
        derive: Callable[[str], bytes],
    ) -> None:
        self._handler = handler
        self._ledger = ledger
        self._delivery = delivery
        self._derive = derive
        self._pace = Allowance(BURST, PER_S)

    async def run(self, js: JetStreamContext) -> None:
        """Forward until cancelled, or until the stream or its consumer is gone (NatsError)."""
        consumer = await js.pull_subscribe_bind(subjects.CONSUMER, stream=subjects.RESULTS)
        fetch = obeying(consumer.fetch)
        while True:
            end_if_cancelled()
            if not self._handler.counts:  # others reach the ledger
                await asyncio.sleep(FETCH_S)
                continue
            try:
                batch = await fetch(TOGETHER, timeout=FETCH_S)
            except TimeoutError:
                continue
            await asyncio.gather(*(self._forward(msg) for msg in batch))

    async def _forward(self, msg: Msg) -> None:
        if not self._pace.take(msg.subject, now=asyncio.get_running_loop().time()):
            await msg.nak(delay=AGAIN_S)
            return
        try:
            await self._take(msg.subject, msg.data)
        except AgentRefusedError as exc:
            log.warning("a stored result is refused", extra={"from": msg.subject, "why": str(exc)})
        except FastdlError as exc:
            # The ledger failed, not the host: it is taken again, here or at another manager.
            log.error("a stored result waits", extra={"from": msg.subject, "why": str(exc)})
            await msg.nak(delay=AGAIN_S)
            return
        except Exception:
            # A bug, which must not keep other hosts' results: it is taken again in a while.
            log.exception("a stored result cannot be processed", extra={"from": msg.subject})
            return
        await msg.ack()

    async def _take(self, subject: str, data: bytes) -> None:
        """Store one result. AgentRefusedError if it is not one of the host it says."""
        host = subjects.reporter(subject)
        if host is None:
            raise AgentRefusedError("not a subject of a host's results")
        async with self._ledger.read() as tx:
            row = await hosts.get(tx, host)
        if row is None:
            raise AgentRefusedError("no such host")
        seal = Seal(sealed.key_of(self._derive, host, row.key_hash))
        text = seal.open(sealed.result(host), data)
        if text is None:
            raise AgentRefusedError("it was not made with that host's key")
        message = codec.decode(text, limit=m.TO_MANAGER_MAX)
        if not isinstance(message, m.JobResult):
            raise AgentRefusedError("it is no result")
        reply = await self._handler.stored(host, message)
        if reply is not None:
            self._delivery.send(host, reply)
