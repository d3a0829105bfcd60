# SPDX-License-Identifier: Apache-2.0
"""Which pools and certificates does this host have? The inventory, and lookups in it."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from fastdl.agent.config import HostConfig
from fastdl.agent.machines import guests
from fastdl.agent.machines.orders import Orders
from fastdl.agent.pools import Pool, Usage, configured
from fastdl.errors import FastdlError, SinkRefusedError
from fastdl.trust.keystore import Item, Known, is_reserved
from fastdl.wire import messages as m

log = logging.getLogger(__name__)

LIBVIRT = "qemu:///system"

T = TypeVar("T")


@dataclass(slots=True)
class Host:
    """One host's resources. Methods block; call them in threads.

    ``specs`` are the ``--pool`` options; without any, libvirt's active pools are offered.
    ``starts``: how often the agent has started, so that the keystore's revisions keep increasing.
    """

    host_id: str
    config_dir: Path
    state: Path
    specs: Sequence[str] = ()
    libvirt: str = LIBVIRT
    starts: int = 0
    zone_id: str = ""
    _revisions: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _reading: threading.Lock = field(default_factory=threading.Lock)
    _pools: dict[str, Pool] = field(default_factory=dict)
    _unusable: dict[str, str] = field(default_factory=dict)
    _known: Known = field(default_factory=Known)

    @property
    def config(self) -> HostConfig:
        """The current configuration: CloudStack's own scripts may rewrite it."""
        return HostConfig.load(self.config_dir, known=self._known)

    def pools(self) -> list[Pool]:
        """The current pools. A libvirt that does not respond has none for now."""
        if self.specs:
            found = configured(self.specs, host_id=self.host_id, state=self.state)
        else:
            found = self._discovered()
        self._pools = {pool.id: pool for pool in found if _usable_id(pool)}
        return found

    def pool(self, pool_id: str) -> Pool:
        """The pool of that id; SinkRefusedError when it is not one of this host's."""
        if pool_id not in self._pools:
            self.pools()
        if pool_id not in self._pools:
            raise SinkRefusedError(f"this host has no pool {pool_id}")
        return self._pools[pool_id]

    def availability(self) -> frozenset[object]:
        """What is to be reported as soon as it changes: why pools cannot be used, and machines."""
        infos = [pool.info() for pool in self.pools()]
        for info in infos:
            self._log_change(info)
        machine_pools, machines = self._machines(infos)
        return frozenset([*((info.id, info.error) for info in infos), *machine_pools, *machines])

    def _log_change(self, info: m.PoolInfo) -> None:
        """Who starts the agent with a wrong folder reads it here, not only at the manager."""
        if info.error == self._unusable.get(info.id):
            return
        if info.error is None:
            log.info("a pool can be used again", extra={"pool": info.name})
            del self._unusable[info.id]
        else:
            log.warning("a pool cannot be used: %s", info.error, extra={"pool": info.name})
            self._unusable[info.id] = info.error

    def machine_orders(self) -> Orders:
        """Who carries out orders for virtual machines here."""
        return Orders(self.libvirt, self.state, self.config.kvm)

    def _machines(
        self, infos: Sequence[m.PoolInfo]
    ) -> tuple[tuple[str, ...], tuple[m.MachineInfo, ...]]:
        """The pools that machines can have their disks in, and the machines; no pools where
        libvirt cannot be used."""
        if not guests.usable(self.libvirt):
            return (), ()
        usable = {info.id for info in infos if info.error is None}
        pools = {id_: pool for id_, pool in self._pools.items() if pool.holds_disks}
        try:
            found = Orders(self.libvirt, self.state).known(pools)
        except FastdlError as exc:
            log.warning("virtual machines are not reported: %s", exc)
            found = []
        return tuple(sorted(usable & pools.keys())), tuple(found)

    @property
    def usage(self) -> Usage:
        """Who uses the copies in this host's pools."""
        return Usage(lambda: tuple(self._pools.values()) or self.pools(), libvirt=self.libvirt)

    def inventory(self) -> m.Inventory:
        """The current pools and certificates."""
        (items, problem), revision = self.read_keystore(self._found)
        infos = tuple(pool.info() for pool in self.pools())[:256]
        machine_pools, machines = self._machines(infos)
        return m.Inventory(
            pools=infos,
            machine_pools=machine_pools,
            machines=machines,
            certificates=certificate_infos(items),
            keystore_error=problem,
            keystore_revision=revision,
        )

    def read_keystore(self, read: Callable[[], T]) -> tuple[T, int]:
        """Return the result of *read* and the keystore's revision; one reader at a time."""
        with self._reading:
            return read(), (self.starts << 32) + next(self._revisions)

    def _found(self) -> tuple[list[Item], str | None]:
        try:
            return self.config.items(), None
        except FastdlError as exc:
            return [], str(exc)

    def anchors(self) -> dict[str, str]:
        """Alias → PEM of what downloads trust; TrustError when the keystore cannot be read."""
        return self.config.named_anchors()

    def _discovered(self) -> list[Pool]:
        from fastdl.agent.pools import virt  # an optional library

        try:
            return virt.discover(self.libvirt, state=self.state)
        except FastdlError as exc:
            log.warning("no pools: %s", exc)
            return []


def certificate_infos(items: Sequence[Item]) -> tuple[m.CertificateInfo, ...]:
    """The trusted certificates that the manager may manage, as the wire has them."""
    return tuple(
        m.CertificateInfo(
            alias=item.alias[:255],
            sha256=item.certificate.sha256,
            subject=item.certificate.subject[:4096],
            issuer=item.certificate.issuer[:4096],
            not_before=item.certificate.not_before.isoformat(),
            not_after=item.certificate.not_after.isoformat(),
        )
        for item in items
        if item.kind == "trusted" and item.certificate and not is_reserved(item.alias)
    )[:4096]


def _usable_id(pool: Pool) -> bool:
    try:
        return bool(pool.id)
    except FastdlError:
        return False
