# SPDX-License-Identifier: Apache-2.0
"""libvirt's pools of block devices (disk, logical, iscsi, rbd): a volume of the right size,
written as raw; rbd is written through a local NBD export."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from defusedxml.ElementTree import fromstring

from fastdl.agent.pools.base import (
    Found,
    Image,
    Placement,
    State,
    Used,
    Volume,
    require_space,
    unchanged,
)
from fastdl.agent.pools.device import blank_edges, compare_device, device_size, edges
from fastdl.agent.pools.hypervisor import Libvirt, library, libvirt_errors
from fastdl.agent.pools.marker import Marker, MarkerFolder
from fastdl.agent.pools.nbd import RbdImage, exported
from fastdl.agent.pools.usage import Target
from fastdl.errors import FastdlError, SinkRefusedError, SinkSpaceError
from fastdl.wire.messages import PoolInfo, PoolType

_MIB = 1 << 20
_ROUNDED = 16 * _MIB
"""By how much a partition's size may differ from the requested one: its ends are aligned."""
BLOCKS = {
    "disk": PoolType.BLOCK,
    "logical": PoolType.LOGICAL,
    "iscsi": PoolType.ISCSI,
    "rbd": PoolType.RBD,
}
_SHARED = frozenset({"iscsi", "rbd"})
_MADE_HERE = frozenset({"disk", "logical"})
"""Pools whose volumes are created by libvirt and are devices of this host."""


class BlockPool:
    """A disk, logical, iscsi or rbd pool. *resumes*: a volume whose job failed for the moment is
    kept for the next one.
    """

    raw_disks = True

    def __init__(
        self, libvirt: Libvirt, pool: Any, kind: str, state: Path, *, resumes: bool = True
    ) -> None:
        self.id: str = pool.UUIDString()
        self.name: str = pool.name()
        self.kind = kind
        self.holds_disks = kind in _MADE_HERE
        self.markers = MarkerFolder(state / "pools" / self.id)
        self._libvirt = libvirt
        self._resumes = resumes

    def info(self) -> PoolInfo:
        """The pool as reported in the inventory."""
        kind = BLOCKS[self.kind]
        shared = self.kind in _SHARED
        try:
            with libvirt_errors(f"the pool {self.name}"):
                pool = self._libvirt.pool(self.id)
                _, capacity, _, available = pool.info()
                path = fromstring(pool.XMLDesc()).findtext("target/path") or ""
                active = pool.isActive()
        except FastdlError as exc:
            return PoolInfo(id=self.id, name=self.name, type=kind, shared=shared, error=str(exc))
        return PoolInfo(
            id=self.id,
            name=self.name,
            type=kind,
            shared=shared,
            path=path,
            capacity=int(capacity),
            available=int(available),
            error=None if active else "libvirt has not started the pool",
        )

    def images(self) -> Iterable[Path]:
        """The devices of all volumes; Ceph images have none here."""
        if self.kind == "rbd":
            return []
        with libvirt_errors(f"the pool {self.name}"):
            pool = self._libvirt.pool(self.id)
            return [Path(volume.path()) for volume in pool.listAllVolumes()]

    def target(self, volume: Volume, marker: Marker | None) -> Target:
        """The volume's device, and its names in libvirt and in Ceph."""
        handle = (marker.handle if marker else "") or volume.name
        names = {f"volume:{self.name}/{handle}"}
        found = self._lookup(handle)
        if self.kind == "rbd":
            with libvirt_errors(f"the pool {self.name}"):
                names.add(f"rbd:{_rbd_image(self._libvirt, self.id, handle).pool}/{handle}")
            return Target(None, frozenset(names))
        return Target(Path(found.path()) if found is not None else None, frozenset(names))

    def inspect(self, volume: Volume, marker: Marker | None) -> Found:
        """Compare the volume's size, and its first and last MiB, with the marker."""
        marker = self._recovered(marker)
        found = self._lookup((marker.handle if marker else "") or volume.name)
        if found is None:
            return Found(State.ABSENT)
        if marker is None or not (marker.handle or marker.complete):
            if self.kind == "iscsi":  # created on the storage system, for us to fill
                return Found(State.ABSENT)
            why = f"{volume.name} in the pool {self.name} was not made by this agent"
            shared = self.kind in _SHARED
            return Found(State.FOREIGN, why, ours=False, elsewhere=shared)
        if not marker.complete:
            return Found(State.ABSENT)
        if self.kind != "rbd":
            # Partitions and units are numbers that may have been reused; names are ours.
            return compare_device(Path(found.path()), marker, ours=self.kind == "logical")
        with libvirt_errors(f"the volume {volume.name}"):
            enough = int(found.info()[1]) >= marker.size
        why = f"{volume.name} has less than the {marker.size} bytes that were published"
        return unchanged(marker) if enough else Found(State.CHANGED, why)

    @contextlib.contextmanager
    def place(self, volume: Volume, image: Image) -> Iterator[Placement]:
        """The volume that an earlier attempt created, or a new one of the disk's size."""
        need = image.disk_size
        if need is None:
            raise SinkRefusedError(
                f"a volume for {volume.name} cannot be created: the origin does not report "
                "the size of the disk in its compressed file"
            )
        found, made = self._claim(volume, need)
        try:
            with self._opened(found) as placement:
                yield placement
        except BaseException as exc:
            for_good = isinstance(exc, FastdlError) and not exc.retryable
            if made and (for_good or not self._resumes):
                self._delete(found)
                self.markers.delete(volume.name)
            raise

    def void(self, volume: Volume, marker: Marker) -> bool:
        """Blank the edges: the data between them no longer belongs to any volume."""
        path = self.target(volume, marker).path
        if path is not None:
            blank_edges(path)
        return True

    def landed(self, volume: Volume) -> Path:
        """Never called: what lands on a device already has its name."""
        raise NotImplementedError(volume.name)

    def seal(self, volume: Volume, marker: Marker) -> Marker:
        """*marker* with the digest of the volume's edges."""
        path = self.target(volume, marker).path
        return marker if path is None else replace(marker, edges=edges(path, marker.size))

    def publish(self, volume: Volume, marker: Marker, *, replace: bool) -> str:
        """Nothing to do: the volume existed before its bytes."""
        del replace
        return self.install_path(volume, marker)

    def install_path(self, volume: Volume, marker: Marker) -> str:
        """The volume's name in libvirt."""
        return marker.handle or volume.name

    def remove(self, volume: Volume, marker: Marker, *, used: Used | None) -> tuple[str, ...]:
        """Delete the volume; for a unit of a storage system, only zero its first and last MiB."""
        target = self.target(volume, marker)
        if used is not None and (users := used(target)):
            return users
        if self.kind == "iscsi" and target.path is not None:
            blank_edges(target.path)
        elif (found := self._lookup(marker.handle or volume.name)) is not None:
            self._delete(found)
        return ()

    def discard(self, volume: Volume) -> None:
        """Delete the volume that an unfinished job created."""
        marker = self._recovered(self.markers.read(volume.name))
        if marker is None or marker.complete:
            return
        found = self._lookup(marker.handle or volume.name)
        if found is not None and self.kind != "iscsi":
            self._delete(found)

    def _claim(self, volume: Volume, need: int) -> tuple[Any, bool]:
        """(libvirt's volume, whether we may delete it again)."""
        known = self.markers.read(volume.name)
        marker = self._recovered(known)
        if marker is not None and marker is not known:
            self.markers.write(marker)
        found = self._lookup((marker.handle if marker else "") or volume.name)
        if found is None:
            return self._create(volume, need), True
        if (marker is None or not marker.handle) and self.kind != "iscsi":
            raise SinkRefusedError(
                f"the pool {self.name} has a volume {volume.name} that this agent did not create"
            )
        with libvirt_errors(f"the volume {volume.name}"):
            capacity = int(found.info()[1])
        if capacity < need and marker is not None and not self._resumes:
            self._delete(found)
            return self._create(volume, need), True
        if capacity < need:
            raise SinkSpaceError(
                f"the volume {volume.name} has {capacity} bytes, the disk needs {need}"
            )
        return found, marker is not None

    def _create(self, volume: Volume, need: int) -> Any:
        if self.kind == "iscsi":
            raise SinkRefusedError(
                f"the target of the pool {self.name} has no unit {volume.name}: "
                "create iSCSI volumes on the storage system"
            )
        size = -(-need // _MIB) * _MIB
        with libvirt_errors(f"the pool {self.name}"):
            pool = self._libvirt.pool(self.id)
            pool.refresh()
            require_space(f"the pool {self.name}", need=size, available=int(pool.info()[3]))
            name = _next_partition(pool) if self.kind == "disk" else volume.name
            self.markers.write(Marker(volume=volume.name, creating=f"{name}/{size}"))
            try:
                found = self._create_where_room_is(pool, volume.name, size)
            except Exception:
                self.markers.delete(volume.name)
                raise
            self.markers.write(Marker(volume=volume.name, handle=found.name()))
            if self.kind != "rbd":
                path = Path(found.path())
                if device_size(path) < need:
                    self._delete(found)
                    raise SinkSpaceError(f"{path} was created smaller than {need} bytes")
                blank_edges(path)  # remains of a former owner must not look like a signature
        return found

    def _create_where_room_is(self, pool: Any, name: str, size: int) -> Any:
        """A new volume; SinkSpaceError if the space was taken in the meantime."""
        try:
            return self._create_named(pool, name, size)
        except library().libvirtError:
            pool.refresh()
            require_space(f"the pool {self.name}", need=size, available=int(pool.info()[3]))
            raise

    def _create_named(self, pool: Any, name: str, size: int) -> Any:
        """A new volume; in disk pools a partition, whose name we cannot choose."""
        if self.kind != "disk":
            return pool.createXML(_volume_xml(name, size))
        before = set(pool.listVolumes())
        try:
            return pool.createXML(_volume_xml(_next_partition(pool), size))
        except library().libvirtError as exc:
            if exc.get_error_code() != library().VIR_ERR_INVALID_ARG:
                raise
            # libvirt checks the name after creating the partition, and leaves it behind.
            pool.refresh()
            made = set(pool.listVolumes()) - before
            if len(made) != 1:
                raise
            found = pool.storageVolLookupByName(made.pop())
            if abs(int(found.info()[1]) - size) > _ROUNDED:
                raise  # not what was requested: somebody else's
            return found

    def _recovered(self, marker: Marker | None) -> Marker | None:
        """*marker* with the handle of a volume that was created just before a kill.

        There was none of that name before, so that it is ours if its size is the requested one.
        """
        if marker is None or marker.handle or not marker.creating:
            return marker
        name, _, size = marker.creating.rpartition("/")
        found = self._lookup(name)
        if found is None or not size.isdecimal():
            return marker
        with libvirt_errors(f"the volume {name}"):
            same = abs(int(found.info()[1]) - int(size)) <= _ROUNDED
        return replace(marker, handle=name) if same else marker

    def _lookup(self, name: str) -> Any:
        libvirt = library()
        with libvirt_errors(f"the pool {self.name}"):
            pool = self._libvirt.pool(self.id)
            try:
                return pool.storageVolLookupByName(name)
            except libvirt.libvirtError as exc:
                if exc.get_error_code() == libvirt.VIR_ERR_NO_STORAGE_VOL:
                    return None
                raise

    @contextlib.contextmanager
    def _opened(self, found: Any) -> Iterator[Placement]:
        if self.kind != "rbd":
            yield Placement(target=str(found.path()), target_format="raw")
            return
        with libvirt_errors(f"the pool {self.name}"):
            image = _rbd_image(self._libvirt, self.id, found.name())
        with exported(image) as uri:
            yield Placement(target=uri, target_format="raw")

    def _delete(self, found: Any) -> None:
        with libvirt_errors(f"the pool {self.name}"):
            pool = self._libvirt.pool(self.id)
            try:
                found.delete()
            except library().libvirtError:
                # libvirt takes "p1" as the number of loop0p1 or nvme0n1p1, and parted refuses it.
                if self.kind != "disk" or not _delete_partition(pool, found.name()):
                    raise
                pool.refresh()


def _rbd_image(libvirt: Libvirt, pool_id: str, name: str) -> RbdImage:
    """The image's location, from the pool's own description; the key from libvirt's secrets."""
    pool = libvirt.pool(pool_id)
    source = fromstring(pool.XMLDesc()).find("source")
    if source is None:
        raise SinkRefusedError(f"the pool {pool_id} has no source")
    hosts = tuple(
        (host.get("name") or "", int(host.get("port") or 6789)) for host in source.iter("host")
    )
    auth = source.find("auth")
    user, key = "", ""
    if auth is not None:
        user = auth.get("username") or ""
        secret = auth.find("secret")
        if secret is not None and secret.get("uuid"):
            found = pool.connect().secretLookupByUUIDString(secret.get("uuid"))
            key = found.value().hex()
    return RbdImage(
        pool=source.findtext("name") or "", image=name, hosts=hosts, user=user, key_hex=key
    )


def _next_partition(pool: Any) -> str:
    """The name of the partition that parted creates next: the lowest free number."""
    _, base = _partitions(pool)
    taken = set(pool.listVolumes())
    return next(f"{base}{n}" for n in itertools.count(1) if f"{base}{n}" not in taken)


def _delete_partition(pool: Any, name: str) -> bool:
    """Let parted remove the partition called *name*; False if it could not."""
    device, base = _partitions(pool)
    number = name.removeprefix(base)
    if not name.startswith(base) or not number.isdecimal():
        return False
    done = subprocess.run(
        ["parted", "--script", device, "rm", number],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )
    return done.returncode == 0


def _partitions(pool: Any) -> tuple[str, str]:
    """(the disk pool's device, what its partitions' names begin with)."""
    source = fromstring(pool.XMLDesc()).find("source/device")
    device = os.path.realpath(source.get("path") or "") if source is not None else ""
    base = device.rpartition("/")[2]
    return device, base + ("p" if base[-1:].isdigit() else "")


def _volume_xml(name: str, size: int) -> str:
    return (
        f"<volume><name>{escape(name)}</name>"
        f"<capacity unit='bytes'>{size}</capacity>"
        f"<allocation unit='bytes'>{size}</allocation>"
        "<target><format type='none'/></target></volume>"
    )
