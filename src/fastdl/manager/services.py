# SPDX-License-Identifier: Apache-2.0
"""What every part of the manager shares, in one value: no part looks for globals."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.manager.clock import Clock
from fastdl.manager.downloads.progress import ProgressBoard
from fastdl.manager.downloads.scheduler import Limits
from fastdl.manager.hosts.fleet import Fleet
from fastdl.manager.ledger import records
from fastdl.manager.ledger.engine import Ledger
from fastdl.manager.metrics import Metrics
from fastdl.manager.notices import Notices
from fastdl.manager.settings import Settings
from fastdl.manager.vault import Vault
from fastdl.wire import messages as m

log = logging.getLogger(__name__)


class Fabric(Protocol):
    """Delivery to hosts. Everything here may be lost; hosts and loops ask again."""

    def post(self, host: str) -> None:
        """Send *host* its document soon (built from the ledger when it is sent)."""

    def send(self, host: str, message: m.Message) -> None:
        """Send *message* to *host* if it is connected."""

    def drop(self, host: str, reason: str, *, refusal: m.Refused | None = None) -> None:
        """Close the connection to *host*, with *refusal* as the last word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What happened, for people. *type*: as CloudStack spells them; *level*: INFO, WARN, ERROR;
    *username* and *address*: who asked for it and from where, where somebody did."""

    type: str
    description: str
    level: str = "INFO"
    account: str = "system"
    resource: str | None = None
    username: str | None = None
    address: str | None = None


@dataclass(slots=True, kw_only=True)
class Services:
    """Shared by the API, the loops and the fabric."""

    ledger: Ledger
    settings: Settings
    vault: Vault
    clock: Clock
    fabric: Fabric
    name: str
    """This manager's own name, unique among managers of one ledger."""
    fleet: Fleet = field(default_factory=Fleet)
    notices: Notices = field(default_factory=Notices)
    progress: ProgressBoard = field(default_factory=ProgressBoard)
    metrics: Metrics = field(default_factory=Metrics)

    def limits(self, caps: dict[tuple[str, str], int]) -> Limits:
        """Return the limits in force."""
        return Limits(
            origin=self.settings.whole("direct.download.origin.max.active"),
            host=self.settings.whole("direct.download.host.max.active"),
            pool=self.settings.whole("direct.download.pool.max.active"),
            caps=caps,
        )

    async def event(
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
        """Store an event that goes with no other change, log it and tell the pages."""
        event = Event(
            type=type_, description=description, level=level, account=account, resource=resource,
            username=username, address=address,
        )  # fmt: skip
        await self.ledger.write(lambda tx: self.store(tx, event))
        self.tell(event)

    async def store(self, tx: AsyncConnection, *events: Event) -> None:
        """Store *events* in the transaction of what they tell; ``tell`` them once it is durable."""
        now = self.clock.time()
        for event in events:
            await records.add_event(
                tx, event.type, event.description, now=now, level=event.level,
                account=event.account, resource=event.resource, username=event.username,
                address=event.address,
            )  # fmt: skip

    def tell(self, *events: Event) -> None:
        """Log *events*, which are stored, and tell the pages."""
        for event in events:
            log.log(
                {"WARN": logging.WARNING, "ERROR": logging.ERROR}.get(event.level, logging.INFO),
                "event",
                extra={
                    "event": event.type, "description": event.description, "account": event.account,
                    "username": event.username, "address": event.address,
                },
            )  # fmt: skip
            self.notices.publish(
                "event", type=event.type, level=event.level, description=event.description,
                account=event.account,
            )  # fmt: skip
