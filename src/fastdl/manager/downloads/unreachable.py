# SPDX-License-Identifier: Apache-2.0
"""What happens to jobs whose pool is deleted, or no longer reachable?"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.errors import AgentLostError, FastdlError
from fastdl.manager.clock import Clock
from fastdl.manager.downloads.dispatch import Dispatcher
from fastdl.manager.downloads.results import complete_api_jobs
from fastdl.manager.events import Event, Events
from fastdl.manager.ledger import hosts, job_list, jobs, pools, templates
from fastdl.manager.ledger.engine import Ledger
from fastdl.manager.ledger.text import dumps
from fastdl.manager.settings import Settings
from fastdl.wire import codec
from fastdl.wire import messages as m

log = logging.getLogger(__name__)

WAIT: Final = "direct.download.unreachable.wait"
ROUND_S: Final = 30.0


def why_unreached(pool: Row[Any], links: Sequence[Row[Any]]) -> str | None:
    """Return why no host that is Up can use *pool*, None where one can; *links*:
    ``ledger.pools.claims`` of it."""
    # If no host could use the pool yet, the failing hosts give the reason.
    links = [link for link in links if link.accepted or (pool.owner is None and link.error)]
    if not links:
        return "no host reports it"
    up = [link for link in links if link.state == hosts.UP]
    if any(link.error is None for link in up):
        return None
    if up:
        return f"host {up[0].name}: {up[0].error}"
    more = f" (and {len(links) - 1} more)" if len(links) > 1 else ""
    return f"host {links[0].name} is {links[0].state}{more}"


async def forget_pool(tx: AsyncConnection, id_: str, *, now: float) -> list[str]:
    """Delete a pool, and end the jobs that wait for it; return those."""
    error = AgentLostError("the storage pool was deleted")
    ended = await _give_up(tx, await job_list.waiting_on(tx, [id_]), error, now=now)
    await pools.remove(tx, id_)
    return ended


async def _give_up(
    tx: AsyncConnection, rows: Sequence[Row[Any]], error: FastdlError, *, now: float
) -> list[str]:
    failure = dumps(codec.to_plain(codec.failure_of(error)))
    ended = [row.id for row in rows if await jobs.give_up(tx, row, failure=failure, now=now)]
    await complete_api_jobs(tx, ended, now=now)
    return ended


class Unreached:
    """Ends jobs whose pool has been unreachable for as long as the setting says.

    The seconds are counted here: the wall clock's time when a job began to wait proves nothing.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        *,
        ledger: Ledger,
        clock: Clock,
        settings: Settings,
        events: Events,
    ) -> None:
        self._dispatcher = dispatcher
        self._ledger = ledger
        self._clock = clock
        self._settings = settings
        self._events = events
        self._since: dict[str, float] = {}

    async def run(self) -> None:
        """Check periodically, until cancelled."""
        while True:
            try:
                await self.round()
            except FastdlError as exc:
                log.error("checking waiting jobs failed", extra={"error": str(exc)})
            await self._clock.sleep(ROUND_S)

    async def round(self) -> int:
        """End jobs that have waited long enough; return how many."""
        most = self._settings.whole(WAIT)
        now = self._clock.steady()
        async with self._ledger.read() as tx:
            unreached = await self._unreached(tx)
            waiting = await job_list.waiting_on(tx, unreached) if unreached and most else []
        self._since = {row.id: self._since.get(row.id, now) for row in waiting}
        late = [row for row in waiting if now - self._since[row.id] >= most]
        for row in late:
            why = f"nobody reached the storage pool for {most} s: {unreached[row.pool]}"
            await self._end(row, AgentLostError(why, retryable=False))
        return len(late)

    async def _unreached(self, tx: AsyncConnection) -> dict[str, str]:
        """Pool → why no host that is Up can use it."""
        links = defaultdict(list)
        for link in await pools.claims(tx):
            links[link.pool].append(link)
        found = {row.id: why_unreached(row, links[row.id]) for row in await pools.of_zone(tx)}
        return {id_: why for id_, why in found.items() if why is not None}

    async def _end(self, row: Row[Any], error: FastdlError) -> None:
        now = self._clock.time()

        async def work(tx: AsyncConnection) -> list[Event]:
            if not await _give_up(tx, [row], error, now=now):
                return []
            template = await templates.get(tx, row.template)
            if template is None or row.kind != m.Kind.DOWNLOAD:
                return []
            kind = "ISO" if template.iso else "TEMPLATE"
            event = Event(
                type=f"{kind}.DIRECT.DOWNLOAD.FAILURE",
                description=f"{template.name} could not be downloaded to pool {row.pool}: "
                f"{error.message}",
                level="ERROR",
                resource=row.template,
            )
            await self._events.store(tx, event)
            return [event]

        self._events.publish(*await self._ledger.write(work))
        self._dispatcher.taken_back([row.id])
