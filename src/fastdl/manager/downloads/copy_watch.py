# SPDX-License-Identifier: Apache-2.0
"""Asking hosts periodically for the contents of their pools."""

from __future__ import annotations

import logging
import random
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.errors import AgentLostError, FastdlError
from fastdl.manager.chore import Chore
from fastdl.manager.clock import Clock
from fastdl.manager.downloads import reconcile
from fastdl.manager.events import Event, Events
from fastdl.manager.hosts.fleet import ConnectedHost, Fleet
from fastdl.manager.hosts.requests import HostRequests
from fastdl.manager.ledger import pools
from fastdl.manager.ledger.engine import Ledger
from fastdl.manager.settings import Settings
from fastdl.wire import messages as m

log = logging.getLogger(__name__)

INTERVAL: Final = "direct.download.copies.check.interval"
STEP_S: Final = 30.0
LEASE_S: Final = 600.0
"""A round that asks about many pools takes a while."""
PAGES_MAX: Final = 64
_OWN_MARKERS: Final = frozenset({m.PoolType.RBD, m.PoolType.ISCSI})
"""Pools that hosts share and whose markers each of them keeps for itself."""


class CopyWatch:
    """Checks each pool soon after a host has reported it, and again after an interval."""

    def __init__(
        self,
        requests: HostRequests,
        *,
        ledger: Ledger,
        clock: Clock,
        settings: Settings,
        fleet: Fleet,
        events: Events,
        name: str,
    ) -> None:
        """*name*: this manager's own, unique among those of one ledger."""
        self._chore = Chore("copies", name, ledger=ledger, clock=clock, ttl=LEASE_S)
        self._requests = requests
        self._ledger = ledger
        self._clock = clock
        self._settings = settings
        self._fleet = fleet
        self._events = events
        self._listed: dict[str, float] = {}

    async def run(self) -> None:
        """Check until cancelled."""
        while True:
            await self._clock.sleep(STEP_S)
            await self.round()

    async def round(self) -> int:
        """Check the pools that are due; return how many responded."""
        hours, now = self._settings.number(INTERVAL), self._clock.steady()
        if hours <= 0:
            return 0
        if not await self._chore.is_ours():
            return 0
        reached = {pool for host in self._fleet.hosts.values() for pool in host.pools}
        self._listed = {pool: at for pool, at in self._listed.items() if now - at < hours * 3600}
        listed = 0
        for pool in sorted(reached):
            if pool in self._listed:
                continue
            self._listed[pool] = now
            try:
                await self.list_copies(pool)
                listed += 1
            except FastdlError as exc:
                log.info("copies not listed", extra={"pool": pool, "why": exc.message})
        return listed

    async def list_copies(self, pool_id: str) -> None:
        """Ask a host for the pool's contents, and record them; AgentLostError if none responds."""
        able = self._able(pool_id)
        if not able:
            raise AgentLostError("no host that is Up can report what is in the pool")
        host, asked = random.choice(able), self._clock.time()  # noqa: S311 - spreading work
        found: list[m.CopyInfo] = []
        more = True
        for _ in range(PAGES_MAX):
            after = found[-1].volume if found else ""
            args = m.CopiesArgs(pool=pool_id, after=after)
            done = await self._requests.send(host, m.Kind.COPIES, args)
            assert isinstance(done, m.CopiesDone)
            found += done.copies
            more = done.more and bool(done.copies)
            if not more:
                break
        else:
            log.warning("more copies than are listed", extra={"pool": pool_id})

        async def work(tx: AsyncConnection) -> list[Event]:
            row = await pools.get(tx, pool_id)
            if row is None:
                return []
            whole = row.type not in _OWN_MARKERS and not more
            events = await reconcile.record(
                tx, row, found, asked=asked, now=self._clock.time(), whole=whole
            )
            await self._events.store(tx, *events)
            return events

        self._events.publish(*await self._ledger.write(work))

    def _able(self, pool_id: str) -> list[ConnectedHost]:
        return [
            host
            for host in self._fleet.hosts.values()
            if pool_id in host.pools and m.Kind.COPIES in host.kinds
        ]
