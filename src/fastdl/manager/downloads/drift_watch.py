# SPDX-License-Identifier: Apache-2.0
"""Probing origins periodically: has a template's file changed since registration?"""

from __future__ import annotations

import logging
from typing import Any, Final

from sqlalchemy import Row

from fastdl.errors import FastdlError
from fastdl.manager.chore import Chore
from fastdl.manager.clock import Clock
from fastdl.manager.downloads.dispatch import Dispatcher
from fastdl.manager.downloads.probing import HostRefusal, Probing
from fastdl.manager.downloads.transfers import for_sources, sources_of
from fastdl.manager.ledger import templates
from fastdl.manager.ledger.engine import Ledger
from fastdl.manager.settings import Settings
from fastdl.wire import messages as m

log = logging.getLogger(__name__)

INTERVAL: Final = "direct.download.drift.check.interval"
STEP_S: Final = 60.0
LEASE_S: Final = 600.0


class DriftWatch:
    """Probes one template at a time, all of them once an interval."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        probing: Probing,
        *,
        ledger: Ledger,
        clock: Clock,
        settings: Settings,
        name: str,
    ) -> None:
        """*name*: this manager's own, unique among those of one ledger."""
        self._chore = Chore("drift", name, ledger=ledger, clock=clock, ttl=LEASE_S)
        self._dispatcher = dispatcher
        self._probing = probing
        self._ledger = ledger
        self._clock = clock
        self._settings = settings

    async def run(self) -> None:
        """Probe until cancelled."""
        since = self._clock.steady()
        while True:
            await self._clock.sleep(STEP_S)
            hours, now = self._settings.number(INTERVAL), self._clock.steady()
            if not await self._chore.is_ours():
                since = now  # another manager did it
            if hours > 0 and now - since >= hours * 3600:
                since = now
                await self.round()

    async def round(self) -> int:
        """Probe every template once; return how many were probed."""
        async with self._ledger.read() as tx:
            rows = await templates.all_live(tx)
        probed = 0
        for row in rows:
            try:
                probed += await self._probe(row)
            except (FastdlError, HostRefusal) as exc:
                # An unreachable origin says nothing about its content.
                log.info("drift not checked", extra={"template": row.id, "why": str(exc)})
        return probed

    async def _probe(self, row: Row[Any]) -> bool:
        async with self._ledger.read() as tx:
            zones = await templates.zones_of(tx, row.id)
        sources, headers, _ = sources_of(row)
        args = m.ProbeArgs(
            transfer=for_sources(self._settings, sources, headers=headers), format=row.format
        )
        done = await self._probing.probe(zones, args, account="system")
        if done is None:
            return False
        await self._dispatcher.note_drift(row, done.validators, digests=dict(done.digests))
        return True
