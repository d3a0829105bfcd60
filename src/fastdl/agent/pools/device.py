# SPDX-License-Identifier: Apache-2.0
"""A pool that is one block device, named in the configuration: it holds one volume at a time."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
import struct
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

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
from fastdl.agent.pools.marker import Marker, MarkerFolder, storage
from fastdl.agent.pools.usage import Target
from fastdl.errors import FastdlError, SinkBusyError, SinkRefusedError
from fastdl.wire.messages import PoolInfo, PoolType

_EDGE = 1 << 20  # what the engine holds back at both ends, and zeroes when a job fails
_BLKGETSIZE64 = 0x80081272


class DevicePool:
    """The device at *path*; its volume's marker is in *state*."""

    holds_disks = False
    """It is full once it holds a template."""
    raw_disks = True

    def __init__(self, path: Path, *, name: str, host_id: str, state: Path) -> None:
        self.path = path
        self.name = name
        self.id = str(uuid.uuid5(uuid.NAMESPACE_URL, f"fastdl:{host_id}:{path}"))
        self.markers = MarkerFolder(state / "pools" / self.id)

    def info(self) -> PoolInfo:
        """The pool as reported in the inventory; a device that holds a volume has no free space."""
        error, size = None, 0
        try:
            size = device_size(self.path)
        except FastdlError as exc:
            error = str(exc)
        return PoolInfo(
            id=self.id,
            name=self.name,
            type=PoolType.BLOCK,
            path=str(self.path),
            capacity=size,
            available=0 if self._holds() else size,
            error=error,
        )

    def images(self) -> Iterable[Path]:
        """The device."""
        return [self.path]

    def target(self, volume: Volume, marker: Marker | None) -> Target:
        """The device."""
        del volume, marker
        return Target(self.path)

    def inspect(self, volume: Volume, marker: Marker | None) -> Found:
        """Compare the device's first and last MiB with the marker."""
        del volume
        if marker is None or not marker.complete:
            return Found(State.ABSENT)
        # The program that wrote to its edges now uses the device for something else.
        return compare_device(self.path, marker, ours=False)

    @contextlib.contextmanager
    def place(self, volume: Volume, image: Image) -> Iterator[Placement]:
        """The device itself, as raw."""
        holds = self._holds()
        if holds not in {None, volume.name}:
            raise SinkBusyError(f"the device {self.path} holds the volume {holds}: remove it first")
        require_space(
            f"the device {self.path}",
            need=image.disk_size,
            available=device_size(self.path),
        )
        yield Placement(target=str(self.path), target_format="raw")

    def void(self, volume: Volume, marker: Marker) -> bool:
        """Blank the edges: the data between them no longer belongs to any volume."""
        del volume, marker
        blank_edges(self.path)
        return True

    def landed(self, volume: Volume) -> Path:
        """Never called: what lands on a device already has its name."""
        raise NotImplementedError(volume.name)

    def seal(self, volume: Volume, marker: Marker) -> Marker:
        """*marker* with the digest of the device's edges."""
        del volume
        return replace(marker, edges=edges(self.path, marker.size))

    def publish(self, volume: Volume, marker: Marker, *, replace: bool) -> str:
        """Nothing to do: the engine wrote the edges last."""
        del replace
        return self.install_path(volume, marker)

    def install_path(self, volume: Volume, marker: Marker) -> str:
        """The device."""
        del volume, marker
        return str(self.path)

    def remove(self, volume: Volume, marker: Marker, *, used: Used | None) -> tuple[str, ...]:
        """Make the device's content unrecognisable by zeroing its head and tail.

        SinkBusyError while the kernel reports it in use, whatever *used* reports.
        """
        if used is not None and (users := used(self.target(volume, marker))):
            return users
        blank_edges(self.path)
        return ()

    def discard(self, volume: Volume) -> None:
        """Zero the device's head and tail: the data between them then belongs to no volume."""
        if self._holds() is None and self.markers.read(volume.name) is not None:
            blank_edges(self.path)

    def _holds(self) -> str | None:
        return next(
            (
                volume
                for volume in self.markers.volumes()
                if (marker := self.markers.read(volume)) and marker.complete
            ),
            None,
        )


def device_size(path: Path) -> int:
    """The size of the block device at *path* in bytes; SinkRefusedError if it is not one."""
    with storage(str(path)), _opened(path, os.O_RDONLY) as fd:
        return _size(fd)


def blank_edges(path: Path) -> None:
    """Zero the first and last MiB of the device at *path*, durably; refused while it is in use."""
    size = device_size(path)
    zeros = bytes(min(_EDGE, size))
    with storage(str(path)), _opened(path, os.O_WRONLY | os.O_EXCL) as fd:
        for at in (0, size - len(zeros)):
            written = 0
            while written < len(zeros):
                written += os.pwrite(fd, zeros[written:], at + written)
        os.fsync(fd)


def edges(path: Path, size: int) -> str:
    """SHA-256 of the first and last MiB of the *size* bytes at the start of a device."""
    digest = hashlib.sha256()
    with storage(str(path)), _opened(path, os.O_RDONLY) as fd:
        for at in (0, max(0, size - _EDGE)):
            digest.update(os.pread(fd, min(_EDGE, size), at))
    return digest.hexdigest()


def compare_device(path: Path, marker: Marker, *, ours: bool) -> Found:
    """What the device at *path* contains, compared with its *marker*; *ours*: see ``Found``."""
    if device_size(path) < marker.size:
        why = f"{path} has less than the {marker.size} bytes that were published"
        return Found(State.CHANGED, why, ours=ours)
    if marker.edges and edges(path, marker.size) != marker.edges:
        why = f"the first or the last MiB of {path} was written to since it was published"
        return Found(State.CHANGED, why, ours=ours)
    return unchanged(marker)


def _size(fd: int) -> int:
    answer = fcntl.ioctl(fd, _BLKGETSIZE64, bytes(8))
    return int(struct.unpack("Q", answer)[0])


@contextlib.contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    fd = os.open(path, flags | os.O_CLOEXEC)
    try:
        if not stat.S_ISBLK(os.fstat(fd).st_mode):
            raise SinkRefusedError(f"{path} is not a block device")
        yield fd
    finally:
        os.close(fd)
