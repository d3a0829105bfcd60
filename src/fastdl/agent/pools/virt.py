# SPDX-License-Identifier: Apache-2.0
"""Which of libvirt's storage pools can hold templates?

Pools of files (dir, fs, netfs) are used as folders; libvirt only gets a refresh. Pools of block
devices are in ``blocks``.
"""

from __future__ import annotations

import contextlib
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from defusedxml.ElementTree import fromstring

from fastdl.agent.pools.base import Pool, Used, Volume
from fastdl.agent.pools.blocks import BLOCKS, BlockPool
from fastdl.agent.pools.directory import DirectoryPool
from fastdl.agent.pools.folder import Memory
from fastdl.agent.pools.hypervisor import Libvirt, library, libvirt_errors, still_defined
from fastdl.agent.pools.marker import Marker, MarkerFolder
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
        return FilePool(libvirt, pool, kind, memory=Memory(state))
    return BlockPool(libvirt, pool, kind, state)


@dataclass(frozen=True, slots=True)
class VolumeFacts:
    """What libvirt says of a volume; *capacity* in bytes. *resized*: it was grown just now."""

    path: str
    format: str
    capacity: int
    resized: bool


class VolumePools:
    """libvirt's pools as places for volumes on request. What is known of those is in *state*, and
    nothing of it in the pools, where libvirt would list it.
    """

    def __init__(self, uri: str, state: Path) -> None:
        self.libvirt = Libvirt(uri)
        self._state = state

    def find(self, name: str) -> VolumePool:
        """The active pool of that name or uuid; SinkRefusedError if there is none to use."""
        pool = self.libvirt.pool_named(name)
        with libvirt_errors(f"the pool {name}"):
            if not pool.isActive():
                raise SinkRefusedError(
                    f"the pool {name} is not active: start it (virsh pool-start {name})"
                )
            kind = _kind(pool)
        if kind not in _FILES | BLOCKS:
            raise SinkRefusedError(f"pools of the type {kind} are not supported")
        return self._wrap(pool, kind)

    def all(self) -> list[VolumePool]:
        """The active pools, whose images may refer to a volume."""
        found = []
        for pool in self.libvirt.pools():
            with still_defined():
                if (kind := _kind(pool)) in _FILES | BLOCKS and pool.isActive():
                    found.append(self._wrap(pool, kind))
        return found

    def describe(self, pool: VolumePool, name: str, *, capacity: int = 0) -> VolumeFacts:
        """What libvirt says of the volume *name*, once a file has at least *capacity* bytes."""
        resized = False
        with libvirt_errors(f"the volume {name}"):
            found = self._lookup(pool, name)
            if isinstance(pool, FilePool) and int(found.info()[1]) < capacity:
                found.resize(capacity)
                resized = True
            text = found.XMLDesc()
        plain = fromstring(text)
        kind = plain.find("target/format")
        stated = kind.get("type") if kind is not None and isinstance(pool, FilePool) else None
        return VolumeFacts(
            path=plain.findtext("target/path") or "",
            format=stated or "raw",  # of a partition libvirt states the type in its table
            capacity=int(plain.findtext("capacity") or 0),
            resized=resized,
        )

    def _lookup(self, pool: VolumePool, name: str) -> Any:
        """The volume; libvirt looks once more if it does not know it yet."""
        held = self.libvirt.pool(pool.id)
        try:
            return held.storageVolLookupByName(name)
        except library().libvirtError:
            held.refresh()
            return held.storageVolLookupByName(name)

    def _wrap(self, pool: Any, kind: str) -> VolumePool:
        if kind in _FILES:
            markers = MarkerFolder(self._state / "pools" / pool.UUIDString())
            return FilePool(self.libvirt, pool, kind, markers=markers)
        return BlockPool(self.libvirt, pool, kind, self._state, resumes=False)


class FilePool(DirectoryPool):
    """A dir, fs or netfs pool: its folder, with libvirt notified of new files."""

    def __init__(
        self,
        libvirt: Libvirt,
        pool: Any,
        kind: str,
        *,
        memory: Memory | None = None,
        markers: MarkerFolder | None = None,
    ) -> None:
        path = fromstring(pool.XMLDesc()).findtext("target/path") or ""
        super().__init__(
            Path(path),
            name=pool.name(),
            pool_id=pool.UUIDString(),
            kind=_FILES[kind],
            memory=memory,
            mounted=kind in _MOUNTED,
            markers=markers,
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


VolumePool = FilePool | BlockPool


def _kind(pool: Any) -> str:
    return fromstring(pool.XMLDesc()).get("type") or ""
