# SPDX-License-Identifier: Apache-2.0
"""A request to one connected host, and its response (probes, checks, what is in a pool)."""

from __future__ import annotations

from typing import Final

from fastdl.errors import AgentLostError
from fastdl.manager.clock import Clock
from fastdl.manager.hosts.delivery import Delivery
from fastdl.manager.hosts.fleet import ConnectedHost
from fastdl.manager.ledger import jobs
from fastdl.manager.ledger.engine import Ledger
from fastdl.manager.ledger.jobs import LIVE, NewJob
from fastdl.manager.ledger.text import loads
from fastdl.manager.notices import Notices
from fastdl.wire import codec
from fastdl.wire import messages as m

RESPONSE_S: Final = 60.0


class HostRequests:
    """Sends requests to hosts: jobs of the ledger that a caller waits for."""

    def __init__(
        self, *, ledger: Ledger, clock: Clock, delivery: Delivery, notices: Notices
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._delivery = delivery
        self._notices = notices

    async def send(
        self, host: ConnectedHost, kind: m.Kind, args: m.Args, *, timeout_s: float = RESPONSE_S
    ) -> m.Done:
        """Return *host*'s response.

        Raises the error that the host reports, or AgentLostError when it does not respond in
        *timeout_s* seconds.
        """
        now = self._clock.time()
        new = NewJob(kind=kind, zone=host.zone, host=host.id, args=args, rank=0)
        (job,) = await self._ledger.write(lambda tx: jobs.submit(tx, [new], now=now))
        self._delivery.post(host.id)

        async def check() -> tuple[str | None, str | None] | None:
            async with self._ledger.read() as tx:
                row = await jobs.get(tx, job)
            return None if row is None or row.state in LIVE else (row.result, row.failure)

        response = await self._notices.until(f"job:{job}", check, timeout_s=timeout_s)
        if response is None:
            ended = self._clock.time()
            await self._ledger.write(lambda tx: jobs.cancel(tx, job, now=ended))
            self._delivery.post(host.id)
            raise AgentLostError(f"host {host.name} did not respond within {timeout_s:g} s")
        result, failure = response
        if result is not None:
            return codec.done_from_json(kind, result)
        failed = loads(failure) if failure else {"code": 130, "message": "it was cancelled"}
        raise codec.error_of(codec.from_plain(m.Failure, failed))
