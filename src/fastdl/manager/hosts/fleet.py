# SPDX-License-Identifier: Apache-2.0
"""The hosts that are connected now, to this manager or another: an in-memory view for decisions,
never the truth. This manager's own are as their connections are; ``Peers`` reads the others.

What is asked for each job is about one host or one pool, and costs nothing because of others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, overload

from fastdl.manager.ledger.hosts import DISABLED, ENABLED


@dataclass(slots=True, kw_only=True)
class ConnectedHost:
    """One host in state Up. *pools*, those it can use now, change only through the fleet."""

    id: str
    zone: str
    name: str
    kinds: frozenset[str]
    pools: frozenset[str]
    most: int
    machine_pools: frozenset[str] = frozenset()
    """Those that virtual machines of this host can have their disks in."""
    resource_state: str = ENABLED
    gateway: str = ""
    """The other manager that it is connected to."""

    @property
    def here(self) -> bool:
        """Whether it is connected to this manager."""
        return not self.gateway

    @property
    def enabled(self) -> bool:
        """Whether it may be given downloads and requests."""
        return self.resource_state == ENABLED

    @property
    def takes_jobs(self) -> bool:
        """Whether it may be given anything that is queued: where it is disabled, removals only."""
        known = "download" in self.kinds and self.most > 0
        return known and self.resource_state in {ENABLED, DISABLED}


class Fleet:
    """Hosts by id and by pool."""

    def __init__(self) -> None:
        self._hosts: dict[str, ConnectedHost] = {}
        self._by_pool: dict[str, _Members] = {}
        self.hosts: Final[Mapping[str, ConnectedHost]] = MappingProxyType(self._hosts)

    def join(self, host: ConnectedHost) -> None:
        """Add *host*, in place of what was known of it."""
        self.leave(host.id)
        self._hosts[host.id] = host
        for pool in sorted(host.pools):
            self._by_pool.setdefault(pool, _Members()).add(host)

    def is_here(self, host: str) -> bool:
        """Whether *host* is connected to this manager."""
        found = self._hosts.get(host)
        return found is not None and found.here

    def leave(self, host_id: str) -> None:
        """Forget a host, if it is known."""
        host = self._hosts.pop(host_id, None)
        for pool in host.pools if host is not None else ():
            members = self._by_pool[pool]
            members.discard(host_id)
            if not members:
                del self._by_pool[pool]

    def reaches(self, host_id: str, pools: frozenset[str], machine_pools: frozenset[str]) -> None:
        """Note which pools a host reaches now, if it is known."""
        host = self._hosts.get(host_id)
        if host is None:
            return
        if host.pools != pools:
            self.leave(host_id)
            host.pools = pools
            self.join(host)
        host.machine_pools = machine_pools

    def of_pool(self, pool: str) -> Sequence[ConnectedHost]:
        """Return the connected hosts that reach *pool*, as they are while nothing is awaited."""
        return self._by_pool.get(pool, ())

    def reaching(self, pool: str) -> Iterator[str]:
        """Yield the connected hosts that may be given downloads to *pool*."""
        return (host.id for host in self.of_pool(pool) if host.enabled)

    def of_zone(self, zone: str, kind: str) -> list[ConnectedHost]:
        """Return the connected hosts of *zone* that may be given work of *kind*."""
        found = (h for h in self.hosts.values() if h.zone == zone and kind in h.kinds)
        return [host for host in found if host.enabled]


class _Members(Sequence[ConnectedHost]):
    """Hosts in no order, each found, added and removed in the same time, however many."""

    def __init__(self) -> None:
        self._hosts: list[ConnectedHost] = []
        self._at: dict[str, int] = {}

    def add(self, host: ConnectedHost) -> None:
        self._at[host.id] = len(self._hosts)
        self._hosts.append(host)

    def discard(self, host_id: str) -> None:
        at, last = self._at.pop(host_id), self._hosts.pop()
        if last.id != host_id:  # the last one takes its place
            self._hosts[at] = last
            self._at[last.id] = at

    @overload
    def __getitem__(self, at: int) -> ConnectedHost: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[ConnectedHost]: ...
    def __getitem__(self, at: Any) -> Any:
        return self._hosts[at]

    def __len__(self) -> int:
        return len(self._hosts)
