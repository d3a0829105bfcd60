# SPDX-License-Identifier: Apache-2.0
"""The hosts that are connected now: an in-memory view for decisions, never the truth."""

from __future__ import annotations

from dataclasses import dataclass, field

from fastdl.manager.ledger.hosts import ENABLED


@dataclass(slots=True, kw_only=True)
class ConnectedHost:
    """One host in state Up."""

    id: str
    zone: str
    name: str
    kinds: frozenset[str]
    pools: frozenset[str]
    most: int
    machine_pools: frozenset[str] = frozenset()
    """Those that virtual machines of this host can have their disks in."""
    resource_state: str = ENABLED

    @property
    def enabled(self) -> bool:
        """Whether it may be given downloads and requests."""
        return self.resource_state == ENABLED


@dataclass(slots=True)
class Fleet:
    """Hosts by id."""

    hosts: dict[str, ConnectedHost] = field(default_factory=dict)

    def reaching(self, pool: str) -> list[str]:
        """Return the connected hosts that may be given downloads to *pool*."""
        return [host.id for host in self.hosts.values() if host.enabled and pool in host.pools]

    def able(self) -> set[str]:
        """Return the connected hosts that may be given downloads."""
        return {host.id for host in self.hosts.values() if host.enabled}

    def of_zone(self, zone: str, kind: str) -> list[ConnectedHost]:
        """Return the connected hosts of *zone* that may be given work of *kind*."""
        found = (h for h in self.hosts.values() if h.zone == zone and kind in h.kinds)
        return [host for host in found if host.enabled]
