# SPDX-License-Identifier: Apache-2.0
"""Which of libvirt's storage pools can hold templates?

Pools of files (dir, fs, netfs) are used as folders; libvirt only gets a refresh. Pools of block
devices are in ``blocks``.
"""

from __future__ import annotations

import contextlib
import uuid
from pathlib import Path
from typing import Any

from defusedxml.ElementTree import fromstring

from fastdl.agent.pools.base import Pool, Used, Volume
from fastdl.agent.pools.blocks import BLOCKS, BlockPool
from fastdl.agent.pools.directory import DirectoryPool
from fastdl.agent.pools.folder import Memory
from fastdl.agent.pools.hypervisor import Libvirt, libvirt_errors, still_defined
from fastdl.agent.pools.marker import Marker
from fastdl.errors import FastdlError, SinkRefusedError, UsageError
from fastdl.wire.messages import PoolInfo, PoolType

_FILES = {
    "dir": PoolType.FILESYSTEM,
    "fs": PoolType.FILESYSTEM,
    "netfs": PoolType.NETWORK_FILESYSTEM,
}
_MOUNTED = frozenset({"fs", "netfs"})


def discover(uri: str, *, state: Path) -> list[Pool]:
    """The pools that can hold templates. Markers of block volumes are in *state*."""
    libvirt, found = Libvirt(uri), []
    for pool in libvirt.pools():
        with still_defined():
            if _kind(pool) in _FILES | BLOCKS:
                found.append(_wrap(libvirt, pool, state))
    return found


def find(pool_id: str, *, uri: str, state: Path) -> Pool:
    """The pool with libvirt's uuid *pool_id*; SinkRefusedError if there is none to use."""
    try:
        uuid.UUID(pool_id)
    except ValueError:
        raise UsageError(f"{pool_id[:64]!a} is not the uuid of a pool") from None
    libvirt = Libvirt(uri)
    pool = libvirt.pool(pool_id)
    if _kind(pool) not in _FILES | BLOCKS:
        raise SinkRefusedError(f"pools of the type {_kind(pool)} are not supported")
    return _wrap(libvirt, pool, state)


def _wrap(libvirt: Libvirt, pool: Any, state: Path) -> Pool:
    kind = _kind(pool)
    if kind in _FILES:
        return FilePool(libvirt, pool, kind, Memory(state))
    return BlockPool(libvirt, pool, kind, state)


class FilePool(DirectoryPool):
    """A dir, fs or netfs pool: its folder, with libvirt notified of new files."""

    def __init__(self, libvirt: Libvirt, pool: Any, kind: str, memory: Memory) -> None:
        path = fromstring(pool.XMLDesc()).findtext("target/path") or ""
        super().__init__(
            Path(path),
            name=pool.name(),
            pool_id=pool.UUIDString(),
            kind=_FILES[kind],
            memory=memory,
            mounted=kind in _MOUNTED,
        )
        self._libvirt = libvirt

    def info(self) -> PoolInfo:
        """Like a folder's, but a pool that is stopped in libvirt cannot be used."""
        try:
            active = bool(self._libvirt.pool(self.id).isActive())
            error = None if active else "libvirt has not started the pool"
        except FastdlError as exc:
            error = str(exc)
        found = super().info()
        if error is None:
            return found
        return PoolInfo(id=found.id, name=found.name, type=found.type, path=found.path, error=error)

    def publish(self, volume: Volume, marker: Marker, *, replace: bool) -> str:
        """Make libvirt list the new file; the file is good even if libvirt fails."""
        path = super().publish(volume, marker, replace=replace)
        self._refresh()
        return path

    def remove(self, volume: Volume, marker: Marker, *, used: Used | None) -> tuple[str, ...]:
        """Unlink the file and make libvirt forget it."""
        users = super().remove(volume, marker, used=used)
        self._refresh()
        return users

    def _refresh(self) -> None:
        with contextlib.suppress(FastdlError), libvirt_errors(f"the pool {self.name}"):
            self._libvirt.pool(self.id).refresh()


def _kind(pool: Any) -> str:
    return fromstring(pool.XMLDesc()).get("type") or ""
