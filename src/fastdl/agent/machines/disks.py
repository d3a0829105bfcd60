# SPDX-License-Identifier: Apache-2.0
"""The root disk of a virtual machine: on file pools an overlay on the template's copy, on block
pools a volume that it is copied to.

Its marker names the machine, so that it is nobody's copy; its lock carries the highest fence of
the orders for the machine, on all hosts that reach the pool.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from fastdl import __version__
from fastdl.agent.machines import qcow2
from fastdl.agent.pools import Image, Marker, Placement, Pool, State, Volume
from fastdl.agent.pools.marker import storage
from fastdl.agent.provenance import now
from fastdl.errors import Cancelled, SinkBusyError, SinkIOError, SinkRefusedError
from fastdl.sinks.paths import open_folder

_CHUNK: Final = 4 << 20
_BLKZEROOUT: Final = 0x127F
_PAUSE_S: Final = 0.2
_PATIENCE_S: Final = 60.0
"""How long a copy's lock is waited for: somebody checks it, or removes it."""
FORMATS: Final = {"raw": "raw", "qcow2": "qcow2", "vmdk": "vmdk", "vhd": "vpc", "vhdx": "vhdx",
                  "vdi": "vdi"}  # fmt: skip
"""Formats of copies that can be below a disk, as qemu calls them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """A file or device that a machine has. *format*: as qemu calls it."""

    path: Path
    device: bool
    format: str
    size: int = 0


@dataclass(frozen=True, slots=True)
class Copy:
    """A template's copy, whose lock is held."""

    pool: Pool
    volume: Volume
    marker: Marker

    def disk(self) -> Disk:
        """The copy as a machine's drive, or as what is below its disk."""
        return _disk(self.pool, self.volume, self.marker)


@contextlib.contextmanager
def copy_of(pool: Pool, name: str, *, iso: bool, stop: threading.Event) -> Iterator[Copy | str]:
    """The template's intact copy, which cannot be removed meanwhile; or why there is none."""
    volume = Volume(name, iso=iso)
    with _locked(pool, name, stop):
        marker = pool.markers.read(name)
        if marker is None or not marker.complete or marker.machine:
            yield f"the pool has no finished copy {name}"
            return
        found = pool.inspect(volume, marker)
        yield (
            Copy(pool, volume, marker)
            if found.state is State.INTACT
            else (found.why or f"the copy {name} is {found.state.value}")
        )


@contextlib.contextmanager
def _locked(pool: Pool, name: str, stop: threading.Event) -> Iterator[None]:
    end = time.monotonic() + _PATIENCE_S
    with contextlib.ExitStack() as held:
        while True:
            try:
                held.enter_context(pool.markers.lock(name))
                break
            except SinkBusyError:
                if time.monotonic() >= end:
                    raise
            if stop.wait(_PAUSE_S):
                raise Cancelled("the agent stops")
        yield


def existing(pool: Pool, name: str, machine: str) -> Disk | None:
    """The finished disk of *machine*, None if there is none; completes what a crash interrupted.

    SinkRefusedError for a disk of that name that is not this machine's.
    """
    volume, marker = Volume(name), pool.markers.read(name)
    if marker is None or not marker.complete:
        return None
    _require_own(marker, machine)
    found = pool.inspect(volume, marker)
    if found.state is State.LANDED:
        pool.publish(volume, marker, replace=False)
    elif found.state is State.ABSENT:
        return None
    elif not found.ours and not _device(pool, volume, marker):
        raise SinkRefusedError(f"the disk {name}: {found.why}")
    return _disk(pool, volume, marker)


def create(
    pool: Pool, name: str, machine: str, size: int, below: Copy | None, stop: threading.Event
) -> Disk:
    """Make the disk of *machine*: of *size* bytes, at least as large as *below*, whose content it
    has; empty without one. May be repeated after a crash.

    Everything that placing in a pool raises; Cancelled when *stop* is set.
    """
    volume = Volume(name)
    if below is not None:
        size = max(size, below.marker.virtual_size)
    known = pool.markers.read(name)
    if known is not None and known.machine:
        _require_own(known, machine)
    intent = Marker(volume=name, machine=machine, fastdl=__version__)
    if known is None or not known.handle:
        pool.markers.write(intent)
    length = size if pool.raw_disks else qcow2.empty(size).length
    with pool.place(volume, Image(source_size=length, virtual_size=length)) as placement:
        made = pool.markers.read(name)
        intent = replace(intent, handle=made.handle if made else "")
        pool.markers.write(intent)
        if pool.raw_disks:
            _copy(Path(placement.target), below.disk().path if below else None, size, stop)
            length = size
        else:
            length = _overlay(placement, size, below)
    marker = replace(
        intent,
        complete=True,
        size=length,
        virtual_size=size,
        format="raw" if pool.raw_disks else "qcow2",
        finished=now(),
    )
    marker = pool.seal(volume, marker)
    pool.markers.write(marker)
    pool.publish(volume, marker, replace=False)
    return _disk(pool, volume, marker)


def remove(pool: Pool, name: str, machine: str) -> None:
    """Remove the disk of *machine*, and what an unfinished order left of it; absent is fine."""
    volume, marker = Volume(name), pool.markers.read(name)
    if marker is None:
        return
    if not (marker.handle and not marker.complete):
        _require_own(marker, machine)
    if marker.complete:
        found = pool.inspect(volume, marker)
        if found.state not in {State.ABSENT, State.LANDED}:
            if not found.ours and not _device(pool, volume, marker):
                raise SinkRefusedError(f"the disk {name}: {found.why}: it is left alone")
            pool.remove(volume, marker, used=None)
    pool.discard(volume)
    pool.markers.delete(name)


def _require_own(marker: Marker, machine: str) -> None:
    if marker.machine != machine:
        raise SinkRefusedError(f"{marker.volume} is not the disk of the machine {machine}")


def _device(pool: Pool, volume: Volume, marker: Marker) -> bool:
    """Whether the disk is a device: its machine writes to its edges, which proves nothing then."""
    path = pool.target(volume, marker).path
    return path is not None and path.is_block_device()


def _disk(pool: Pool, volume: Volume, marker: Marker) -> Disk:
    path = pool.target(volume, marker).path
    if path is None:
        raise SinkRefusedError(f"{volume.name} is neither a file nor a device on this host")
    kind = FORMATS.get(marker.format)
    if path.is_block_device():
        return Disk(path=path, device=True, format="raw", size=marker.virtual_size)
    if volume.iso:
        kind = "raw"
    if kind is None:
        raise SinkRefusedError(f"a machine cannot have a disk of the format {marker.format[:32]}")
    return Disk(path=path, device=False, format=kind, size=marker.virtual_size)


def _overlay(placement: Placement, size: int, below: Copy | None) -> int:
    """Write an empty image on top of *below*; return the file's length."""
    backing = None
    if below is not None:
        disk = below.disk()
        backing = qcow2.Backing(str(disk.path), disk.format)
    made = qcow2.empty(size, backing)
    parent, _, name = placement.target.rpartition("/")
    beneath = str(placement.beneath) if placement.beneath else None
    folder = open_folder(parent, policy="strict", beneath=beneath)
    try:
        with storage(placement.target):
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(name, flags, 0o600, dir_fd=folder)
            try:
                os.pwrite(fd, made.head, 0)
                os.ftruncate(fd, made.length)
                os.fsync(fd)
            finally:
                os.close(fd)
    finally:
        os.close(folder)
    return made.length


def _copy(target: Path, source: Path | None, size: int, stop: threading.Event) -> None:
    """Fill the device *target*: with what *source* holds, then with zeros. Nothing that a former
    owner left may stay readable, so zeros are written too."""
    with storage(str(target)), contextlib.ExitStack() as opened:
        to = os.open(target, os.O_WRONLY | os.O_EXCL | os.O_CLOEXEC)
        opened.callback(os.close, to)
        at, whole = 0, os.lseek(to, 0, os.SEEK_END)
        if whole < size:
            raise SinkIOError(f"{target} has {whole} bytes, the disk needs {size}")
        if source is not None:
            fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
            opened.callback(os.close, fd)
            while at < size and (block := os.pread(fd, min(_CHUNK, size - at), at)):
                if stop.is_set():
                    raise Cancelled("the agent stops")
                if any(block):
                    _write(to, block, at)
                else:
                    _zero(to, at, len(block))
                at += len(block)
        while at < whole:
            if stop.is_set():
                raise Cancelled("the agent stops")
            length = min(1 << 30, whole - at)
            _zero(to, at, length)
            at += length
        os.fsync(to)


def _zero(fd: int, at: int, length: int) -> None:
    """BLKZEROOUT, or written zeros for what is no multiple of a sector, or has no such call."""
    with contextlib.suppress(OSError):
        fcntl.ioctl(fd, _BLKZEROOUT, struct.pack("QQ", at, length))
        return
    zeros = bytes(min(_CHUNK, length))
    for start in range(at, at + length, len(zeros)):
        _write(fd, zeros[: min(len(zeros), at + length - start)], start)


def _write(fd: int, block: bytes, at: int) -> None:
    view = memoryview(block)
    while view:
        written = os.pwrite(fd, view, at)
        view, at = view[written:], at + written
