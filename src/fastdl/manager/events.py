# SPDX-License-Identifier: Apache-2.0
"""Events for people: stored with the change that they report, then logged and published."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.manager.clock import Clock
from fastdl.manager.ledger import records
from fastdl.manager.ledger.engine import Ledger
from fastdl.manager.notices import Notices

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """An event for people. *type*: as CloudStack spells them; *level*: INFO, WARN, ERROR;
    *username* and *address*: the user who requested it and from where, if any."""

    type: str
    description: str
    level: str = "INFO"
    account: str = "system"
    resource: str | None = None
    username: str | None = None
    address: str | None = None


class Events:
    """Stores and publishes events."""

    def __init__(self, ledger: Ledger, clock: Clock, notices: Notices) -> None:
        self._ledger = ledger
        self._clock = clock
        self._notices = notices

    async def record(
        self,
        type_: str,
        description: str,
        *,
        level: str = "INFO",
        account: str = "system",
        resource: str | None = None,
        username: str | None = None,
        address: str | None = None,
    ) -> None:
        """Store an event that belongs to no other change, log and publish it."""
        event = Event(
            type=type_,
            description=description,
            level=level,
            account=account,
            resource=resource,
            username=username,
            address=address,
        )
        await self._ledger.write(lambda tx: self.store(tx, event))
        self.publish(event)

    async def store(self, tx: AsyncConnection, *events: Event) -> None:
        """Store *events* in the transaction of the change; ``publish`` them once it is durable."""
        rows = [dataclasses.asdict(event) for event in events]
        await records.add_events(tx, rows, now=self._clock.time())

    def publish(self, *events: Event) -> None:
        """Log *events*, which are stored, and show them to the pages."""
        for event in events:
            log.log(
                {"WARN": logging.WARNING, "ERROR": logging.ERROR}.get(event.level, logging.INFO),
                "event",
                extra={
                    "event": event.type,
                    "description": event.description,
                    "account": event.account,
                    "username": event.username,
                    "address": event.address,
                },
            )
            self._notices.publish(
                "event",
                type=event.type,
                level=event.level,
                description=event.description,
                account=event.account,
            )
