# SPDX-License-Identifier: Apache-2.0
"""CloudStack's background task: are the keystores of all hosts still in the desired state?"""

from __future__ import annotations

import logging
from typing import Final

from fastdl.errors import FastdlError
from fastdl.manager.certificates.sync import CertificateSync
from fastdl.manager.clock import Clock
from fastdl.manager.hosts.delivery import Delivery
from fastdl.manager.hosts.fleet import Fleet
from fastdl.manager.ledger import zones
from fastdl.manager.ledger.engine import Ledger
from fastdl.manager.settings import Settings
from fastdl.wire import messages as m

log = logging.getLogger(__name__)

INTERVAL: Final = "direct.download.certificate.background.task.interval"
FIRST_ROUND_MAX_H: Final = 1.0


class BackgroundTask:
    """Makes every host that is connected to this manager report its keystore and plans it again,
    once per interval."""

    def __init__(
        self,
        sync: CertificateSync,
        *,
        ledger: Ledger,
        clock: Clock,
        settings: Settings,
        fleet: Fleet,
        delivery: Delivery,
    ) -> None:
        self._sync = sync
        self._ledger = ledger
        self._clock = clock
        self._settings = settings
        self._fleet = fleet
        self._delivery = delivery

    async def run(self) -> None:
        """CloudStack's background task: every interval, all connected hosts of enabled zones."""
        since, first = self._clock.steady(), True
        while True:
            hours = self._settings.number(INTERVAL)
            now = self._clock.steady()
            if hours <= 0:
                since = now
            # The first round is within an hour, as in CloudStack.
            left = since + 3600 * (min(hours, FIRST_ROUND_MAX_H) if first else hours) - now
            if hours <= 0 or left > 0:
                await self._clock.sleep(min(left, 1.0) if hours > 0 else 1.0)
                continue
            since, first = now, False
            try:
                await self.round()
            except FastdlError as exc:
                log.error("certificate background task failed", extra={"error": str(exc)})

    async def round(self) -> int:
        """Check every host of every enabled zone that is connected here; return how many."""
        async with self._ledger.read() as tx:
            enabled = {zone.id for zone in await zones.all_zones(tx) if zone.enabled}
        hosts = [h.id for h in self._fleet.hosts.values() if h.here and h.zone in enabled]
        for host in hosts:
            self._delivery.send(host, m.InventoryWanted())
        self._sync.mark(*hosts)
        log.info("certificate background task", extra={"hosts": len(hosts)})
        return len(hosts)
