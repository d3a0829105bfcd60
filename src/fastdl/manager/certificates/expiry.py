# SPDX-License-Identifier: Apache-2.0
"""Warning operators of certificates that are about to expire."""

from __future__ import annotations

import logging

from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.errors import FastdlError
from fastdl.manager.certificates.plan import expiry_warning
from fastdl.manager.clock import Clock
from fastdl.manager.events import Event, Events
from fastdl.manager.ledger import certs
from fastdl.manager.ledger.engine import Ledger

log = logging.getLogger(__name__)


class ExpiryWatch:
    """Reports each threshold that a live certificate has crossed, once."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        clock: Clock,
        events: Events,
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._events = events

    async def run(self) -> None:
        """Warn of certificates about to expire, once per threshold, until cancelled."""
        while True:
            try:
                await self.round()
            except FastdlError as exc:
                log.error("expiry check failed", extra={"error": str(exc)})
            await self._clock.sleep(3600.0)

    async def round(self) -> None:
        """Store an event for each live certificate that has crossed a threshold."""
        now = self._clock.time()
        async with self._ledger.read() as tx:
            rows = await certs.live(tx)
        for row in rows:
            days = expiry_warning(row.not_after, now=now, warned=row.warned)
            if days is None:
                continue
            text = "has expired" if days == 0 else f"expires in less than {days} day(s)"
            event = Event(
                type="CERTIFICATE.EXPIRY",
                description=f"the direct download certificate {row.alias} {text}: upload its "
                f"successor with updateTemplateDirectDownloadCertificate",
                level="WARN" if days else "ERROR",
                resource=row.id,
            )
            await self._warn(row.id, days, event)

    async def _warn(self, cert: str, days: int, event: Event) -> None:
        async def work(tx: AsyncConnection) -> bool:
            first = await certs.note_warning(tx, cert, days)
            if first:
                await self._events.store(tx, event)
            return first

        if await self._ledger.write(work):
            self._events.publish(event)
