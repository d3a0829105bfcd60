# SPDX-License-Identifier: Apache-2.0
"""What the connections of hosts (``handler``) and their messages (``inbox``) both act on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from fastdl.manager.clock import Clock
from fastdl.manager.events import Events
from fastdl.manager.hosts.delivery import Delivery
from fastdl.manager.hosts.enrolment import Enrolment
from fastdl.manager.hosts.fleet import Fleet
from fastdl.manager.hosts.host_events import HostEvents
from fastdl.manager.ledger.engine import Ledger
from fastdl.manager.notices import Notices
from fastdl.manager.settings import Settings
from fastdl.wire import messages as m


class Downloads(Protocol):
    """Receives outcomes of downloads and removals (``downloads.dispatch``)."""

    def wake(self) -> None: ...
    async def ended(self, host: str, result: m.JobResult) -> bool: ...
    async def host_lost(self, host: str, *, gateway: str | None = None) -> None: ...


class Certificates(Protocol):
    """Receives outcomes of keystores (``certificates.sync``)."""

    def mark(self, *hosts: str) -> None: ...
    async def ended(self, host: str, result: m.JobResult) -> bool: ...


class Machines(Protocol):
    """Receives outcomes of orders for virtual machines, and their states (``machines.service``)."""

    async def ended(self, host: str, result: m.JobResult) -> bool: ...
    async def reported(self, host: str, found: Sequence[m.MachineInfo]) -> None: ...


class Pieces(Protocol):
    """Keeps lists of templates' pieces (``downloads.piece_lists``)."""

    async def known(self, host: str, asked: m.PiecesWanted) -> m.PiecesKnown: ...
    async def found(self, host: str, found: m.PiecesFound) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class HostParts:
    """The parts of the manager that a host's connection or message may change."""

    ledger: Ledger
    clock: Clock
    settings: Settings
    fleet: Fleet
    delivery: Delivery
    events: Events
    host_events: HostEvents
    notices: Notices
    enrolment: Enrolment
    downloads: Downloads
    certificates: Certificates
    machines: Machines
    pieces: Pieces
