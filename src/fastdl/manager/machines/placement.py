# SPDX-License-Identifier: Apache-2.0
"""Which host and pool does a new virtual machine get? A pure decision."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from fastdl.manager.hosts.fleet import ConnectedHost
from fastdl.wire.messages import Kind


@dataclass(frozen=True, slots=True)
class PoolView:
    """A pool: the bytes left in it, whether a disk takes all of its size at once, and whether the
    template is there already."""

    id: str
    available: int
    thick: bool
    has_template: bool


@dataclass(frozen=True, slots=True)
class Place:
    """Where a machine goes, for good."""

    host: str
    pool: str


def choose(
    hosts: Iterable[ConnectedHost],
    pools: Mapping[str, PoolView],
    *,
    machines: Mapping[str, int],
    need: int,
    host: str | None = None,
    pool: str | None = None,
    without: Collection[str] = (),
) -> Place | None:
    """Return the best place, None if there is none.

    A pool that has the template comes first, then the host with the fewest *machines* (by host),
    then the pool with the most room. *need*: bytes of the disk; *host*, *pool*: the only one to be
    considered; *without*: hosts that are not.
    """
    found = [
        (not view.has_template, machines.get(one.id, 0), -view.available, one.id, view.id)
        for one in hosts
        if one.enabled and Kind.MACHINE in one.kinds and one.id not in without
        if host in {None, one.id}
        for id_ in one.machine_pools & one.pools
        if pool in {None, id_} and (view := pools.get(id_)) is not None
        if not view.thick or view.available >= need
    ]
    return Place(*min(found)[3:]) if found else None
