# SPDX-License-Identifier: Apache-2.0
"""Events that hosts cause by their messages: limited per host, or one could fill the table."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row

from fastdl.manager.clock import Clock
from fastdl.manager.events import Event, Events
from fastdl.manager.hosts.pace import EVENTS_BURST, EVENTS_PER_S, Allowance
from fastdl.manager.ledger import pools


class HostEvents:
    """The events of hosts, within each host's share; further ones are dropped."""

    def __init__(self, events: Events, clock: Clock) -> None:
        self._events = events
        self._clock = clock
        self._share = Allowance(EVENTS_BURST, EVENTS_PER_S)

    async def record(self, type_: str, text: str, *, level: str, host: str) -> None:
        """Store an event about *host* that belongs to no other change, log and publish it."""
        if self._allows(host):
            await self._events.record(type_, text, level=level, resource=host)

    def pool_refusals(self, row: Row[Any], outcome: pools.Outcome) -> list[Event]:
        """Return the events of claims of the host *row* that were not accepted."""
        return [
            Event(
                type="HOST.POOL.REFUSED",
                description=f"host {row.name} claims to reach the storage pool {id_}, which is not "
                f"accepted: {why}. If it does, let it join (updateStoragePool id={id_} open=true)",
                level="WARN",
                resource=row.id,
            )
            for id_, why in sorted(outcome.refused.items())
            if self._allows(row.id)
        ]

    def _allows(self, host: str) -> bool:
        return self._share.take(host, now=self._clock.steady())
