# SPDX-License-Identifier: Apache-2.0
"""Which of libvirt's storage pools can hold templates, and how is a volume made in each?

Pools of files (dir, fs, netfs) are their folders; libvirt is only told to look again.
Pools of block devices (disk, logical, iscsi) get a volume of the right size, written as
raw; rbd is written through a local NBD export. The library is optional and imported here
alone.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from defusedxml.ElementTree import fromstring

from fastdl.agent.pools.base import Image, Placement, Pool, Volume, require_space
from fastdl.agent.pools.device import blank_edges, device_size
from fastdl.agent.pools.directory import DirectoryPool
from fastdl.agent.pools.marker import Marker, MarkerFolder
from fastdl.agent.pools.nbd import RbdImage, exported
from fastdl.errors import (
    FastdlError,
    SinkIOError,
    SinkRefusedError,
    SinkSpaceError,
    UsageError,
)
from fastdl.wire.messages import PoolInfo, PoolType

_MIB = 1 << 20
_FILES = {
    "dir": PoolType.FILESYSTEM,
    "fs": PoolType.FILESYSTEM,
    "netfs": PoolType.NETWORK_FILESYSTEM,
}
_BLOCKS = {
    "disk": PoolType.BLOCK,
    "logical": PoolType.LOGICAL,
    "iscsi": PoolType.ISCSI,
    "rbd": PoolType.RBD,
}
_EXPECTED_NAME = re.compile(r"expected '([^']+)'")


class Libvirt:
    """A connection to libvirt that is opened when needed and opened again when it broke."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._connection: Any = None

    def pool(self, pool_id: str) -> Any:
        """libvirt's pool of that uuid; SinkRefusedError where there is none."""
        with told(f"the pool {pool_id}"):
            return self._open().storagePoolLookupByUUIDString(pool_id)

    def pools(self) -> Sequence[Any]:
        """The active pools."""
        with told(f"libvirt at {self.uri}"):
            return [pool for pool in self._open().listAllStoragePools() if pool.isActive()]

    def _open(self) -> Any:
        if self._connection is None or not self._connection.isAlive():
            self._connection = _library().open(self.uri)
        return self._connection


def discover(uri: str, *, state: Path) -> list[Pool]:
    """The active pools that can hold templates. Markers of block volumes lie in *state*."""
    libvirt = Libvirt(uri)
    kinds = _FILES | _BLOCKS
    return [_wrap(libvirt, pool, state) for pool in libvirt.pools() if _kind(pool) in kinds]


def find(pool_id: str, *, uri: str, state: Path) -> Pool:
    """The pool with libvirt's uuid *pool_id*; SinkRefusedError where there is none to use."""
    try:
        uuid.UUID(pool_id)
    except ValueError:
        raise UsageError(f"{pool_id[:64]!a} is not the uuid of a pool") from None
    libvirt = Libvirt(uri)
    pool = libvirt.pool(pool_id)
    if _kind(pool) not in _FILES | _BLOCKS:
        raise SinkRefusedError(f"pools of the type {_kind(pool)} are not supported")
    return _wrap(libvirt, pool, state)


def _wrap(libvirt: Libvirt, pool: Any, state: Path) -> Pool:
    kind = _kind(pool)
    if kind in _FILES:
        return FilePool(libvirt, pool, _FILES[kind])
    return BlockPool(libvirt, pool, kind, state)


class FilePool(DirectoryPool):
    """A dir, fs or netfs pool: its folder, and libvirt told about new files."""

    def __init__(self, libvirt: Libvirt, pool: Any, kind: PoolType) -> None:
        path = fromstring(pool.XMLDesc()).findtext("target/path") or ""
        super().__init__(Path(path), name=pool.name(), pool_id=pool.UUIDString(), kind=kind)
        self._libvirt = libvirt

    def info(self) -> PoolInfo:
        """As a folder's, but a pool that libvirt stopped cannot be used."""
        try:
            active = bool(self._libvirt.pool(self.id).isActive())
            error = None if active else "libvirt has not started the pool"
        except FastdlError as exc:
            error = str(exc)
        found = super().info()
        if error is None:
            return found
        return PoolInfo(id=found.id, name=found.name, type=found.type, path=found.path, error=error)

    def published(self, volume: Volume) -> str:
        """Have libvirt list the new file; the file is good even where libvirt is not."""
        with contextlib.suppress(FastdlError), told(f"the pool {self.name}"):
            self._libvirt.pool(self.id).refresh()
        return super().published(volume)

    def remove(self, volume: Volume) -> bool:
        """Unlink the file and have libvirt forget it."""
        gone = super().remove(volume)
        self.published(volume)
        return gone


class BlockPool:
    """A disk, logical, iscsi or rbd pool."""

    def __init__(self, libvirt: Libvirt, pool: Any, kind: str, state: Path) -> None:
        self.id: str = pool.UUIDString()
        self.name: str = pool.name()
        self.kind = kind
        self.markers = MarkerFolder(state / "pools" / self.id)
        self._libvirt = libvirt

    def info(self) -> PoolInfo:
        """The pool as the inventory reports it."""
        kind = _BLOCKS[self.kind]
        shared = self.kind in {"iscsi", "rbd"}
        try:
            with told(f"the pool {self.name}"):
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

    def present(self, volume: Volume, marker: Marker) -> bool:
        """Whether the volume is there and holds at least the disk."""
        found = self._lookup(marker.handle or volume.name)
        if found is None:
            return False
        with told(f"the volume {volume.name}"):
            return int(found.info()[1]) >= marker.size

    @contextlib.contextmanager
    def place(self, volume: Volume, image: Image) -> Iterator[Placement]:
        """The volume that an earlier attempt made, or a new one of the disk's size."""
        need = image.disk_size
        if need is None:
            raise SinkRefusedError(
                f"a volume for {volume.name} cannot be made: the origin does not tell how large "
                "the disk in its compressed file is"
            )
        found, made = self._claim(volume, need)
        try:
            with self._opened(found) as placement:
                yield placement
        except FastdlError as exc:
            if made and not exc.retryable:
                self._delete(found)
                self.markers.delete(volume.name)
            raise

    def published(self, volume: Volume) -> str:
        """The install path: the volume's name in libvirt."""
        marker = self.markers.read(volume.name)
        return (marker.handle if marker else "") or volume.name

    def remove(self, volume: Volume) -> bool:
        """Delete the volume; one that this agent did not make is refused."""
        marker = self.markers.read(volume.name)
        found = self._lookup((marker.handle if marker else "") or volume.name)
        if found is None:
            return False
        if marker is None:
            raise SinkRefusedError(
                f"{volume.name} in the pool {self.name} was not made by this agent"
            )
        self._delete(found)
        return True

    def discard(self, volume: Volume) -> None:
        """Delete the volume that an unfinished job made."""
        marker = self.markers.read(volume.name)
        if marker is None or marker.complete:
            return
        found = self._lookup(marker.handle or volume.name)
        if found is not None and self.kind != "iscsi":
            self._delete(found)

    def _claim(self, volume: Volume, need: int) -> tuple[Any, bool]:
        """(libvirt's volume, whether it is ours to delete again)."""
        marker = self.markers.read(volume.name)
        found = self._lookup((marker.handle if marker else "") or volume.name)
        if found is None:
            return self._create(volume, need), True
        if marker is None and self.kind != "iscsi":
            raise SinkRefusedError(
                f"the pool {self.name} has a volume {volume.name} that this agent did not make"
            )
        with told(f"the volume {volume.name}"):
            capacity = int(found.info()[1])
        if capacity < need:
            raise SinkSpaceError(
                f"the volume {volume.name} has {capacity} bytes, the disk needs {need}"
            )
        return found, marker is not None

    def _create(self, volume: Volume, need: int) -> Any:
        if self.kind == "iscsi":
            raise SinkRefusedError(
                f"the target of the pool {self.name} has no unit {volume.name}: "
                "iscsi volumes are made on the storage system"
            )
        size = -(-need // _MIB) * _MIB
        with told(f"the pool {self.name}"):
            pool = self._libvirt.pool(self.id)
            pool.refresh()
            require_space(f"the pool {self.name}", need=size, available=int(pool.info()[3]))
            found = self._create_named(pool, volume.name, size)
            self.markers.write(Marker(volume=volume.name, handle=found.name()))
            if self.kind != "rbd":
                path = Path(found.path())
                if device_size(path) < need:
                    self._delete(found)
                    raise SinkSpaceError(f"{path} came out smaller than {need} bytes")
                blank_edges(path)  # what a former owner left must not look like a signature
        return found

    def _create_named(self, pool: Any, name: str, size: int) -> Any:
        """A new volume; in disk pools it is a partition, whose name is not ours to choose."""
        if self.kind != "disk":
            return pool.createXML(_volume_xml(name, size))
        try:
            return pool.createXML(_volume_xml(_next_partition(pool), size))
        except _library().libvirtError as exc:
            expected = _EXPECTED_NAME.search(str(exc))
            if expected is None:
                raise
            # libvirt checks the name after it made the partition, and leaves it behind.
            pool.refresh()
            return pool.storageVolLookupByName(expected[1])

    def _lookup(self, name: str) -> Any:
        library = _library()
        with told(f"the pool {self.name}"):
            pool = self._libvirt.pool(self.id)
            try:
                return pool.storageVolLookupByName(name)
            except library.libvirtError as exc:
                if exc.get_error_code() == library.VIR_ERR_NO_STORAGE_VOL:
                    return None
                raise

    @contextlib.contextmanager
    def _opened(self, found: Any) -> Iterator[Placement]:
        if self.kind != "rbd":
            yield Placement(target=str(found.path()), target_format="raw")
            return
        with told(f"the pool {self.name}"):
            image = _rbd_image(self._libvirt, self.id, found.name())
        with exported(image) as uri:
            yield Placement(target=uri, target_format="raw")

    def _delete(self, found: Any) -> None:
        with told(f"the pool {self.name}"):
            pool = self._libvirt.pool(self.id)
            try:
                found.delete()
            except _library().libvirtError:
                # libvirt takes the number of loop0p1 or nvme0n1p1 for "p1", and parted refuses.
                if self.kind != "disk" or not _delete_partition(pool, found.name()):
                    raise
                pool.refresh()


def _rbd_image(libvirt: Libvirt, pool_id: str, name: str) -> RbdImage:
    """Where the image is, from the pool's own description; the key from libvirt's secrets."""
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
    """The name of the partition that parted makes next: the lowest free number."""
    _, base = _partitions(pool)
    taken = set(pool.listVolumes())
    return next(f"{base}{n}" for n in itertools.count(1) if f"{base}{n}" not in taken)


def _delete_partition(pool: Any, name: str) -> bool:
    """Have parted remove the partition called *name*; False when it could not."""
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


def _kind(pool: Any) -> str:
    return fromstring(pool.XMLDesc()).get("type") or ""


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    """Turn libvirt's error into one of ours, in one sentence."""
    library = _library()
    try:
        yield
    except library.libvirtError as exc:
        kind: type[FastdlError] = SinkRefusedError
        if exc.get_error_code() == library.VIR_ERR_OPERATION_FAILED:
            kind = SinkSpaceError if "space" in str(exc).lower() else SinkRefusedError
        if exc.get_error_code() in {library.VIR_ERR_INTERNAL_ERROR, library.VIR_ERR_SYSTEM_ERROR}:
            kind = SinkIOError
        raise kind(f"libvirt on {what}: {exc}") from exc


def require_library() -> None:
    """UsageError where libvirt's Python package is missing."""
    _library()


def _library() -> Any:
    try:
        import libvirt  # noqa: PLC0415 - the extra [libvirt]
    except ImportError:
        raise UsageError(
            "libvirt pools need the Python package libvirt-python: "
            "pip install '.[libvirt]' where fastdl's source is"
        ) from None
    # Errors are raised as well; without this they are also printed.
    libvirt.registerErrorHandler(lambda *_: None, None)
    return libvirt
