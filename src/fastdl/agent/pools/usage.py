# SPDX-License-Identifier: Apache-2.0
"""Who uses a copy? Asked before one is removed or replaced.

A linked clone reads its template for as long as it lives, and cannot start without it. So these
count: locks on the file, as qemu takes them, from other hosts too where the file system tells;
processes that have it open; loop devices, mounts and mappings on top; images in this host's
pools that name it, directly or by others; and the disks of libvirt's domains, running or not.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from fastdl.agent.pools import domains
from fastdl.agent.pools.backing import Headers, Unreadable
from fastdl.sinks import device

USERS_MAX: Final = 16
"""Users that are told of one copy; one is enough to keep it."""
_F_OFD_GETLK: Final = 36
_FLOCK: Final = struct.Struct("hhqqi4x")  # l_type, l_whence, l_start, l_len, l_pid


@dataclass(frozen=True, slots=True)
class Target:
    """What is asked about. *path*: of the file or the device on this host, None for neither;
    *names*: other names of it, as ``backing.locations`` and ``domains.disks`` spell them."""

    path: Path | None
    names: frozenset[str] = frozenset()


class Searched(Protocol):
    """A pool, as far as images in it may refer to a copy."""

    def images(self) -> Iterable[Path]:
        """The files and devices of its volumes, whoever made them."""


class Usage:
    """What one host can tell. *pools*: this host's; *libvirt*: the URI that its domains are at."""

    def __init__(self, pools: Callable[[], Sequence[Searched]], *, libvirt: str) -> None:
        self._pools = pools
        self._libvirt = libvirt

    def of(self, target: Target) -> tuple[str, ...]:
        """Who uses *target*, in words; SinkBusyError where that cannot be told now."""
        found: dict[str, None] = {}
        for user in self._users(target):
            found[user] = None
            if len(found) >= USERS_MAX:
                break
        return tuple(found)

    def _users(self, target: Target) -> Iterator[str]:
        if target.path is not None:
            yield from _of_path(target.path)
        headers = Headers()
        for image in self._images(target):
            try:
                if any(_same(place, target) for place in headers.chain(image)):
                    yield f"image {image}"
            except Unreadable as exc:
                yield f"perhaps an image: {exc}"
        for name, place in domains.disks(self._libvirt):
            try:
                chain = headers.chain(Path(place)) if place.startswith("/") else ()
                if _same(place, target) or any(_same(inner, target) for inner in chain):
                    yield f"domain {name}"
            except Unreadable as exc:
                yield f"perhaps domain {name}: {exc}"

    def _images(self, target: Target) -> Iterator[Path]:
        for pool in self._pools():
            for image in pool.images():
                if target.path is None or not _is(image, target.path):
                    yield image


def _same(place: str, target: Target) -> bool:
    """Whether *place* stands for *target*. A volume has its name in its pool wherever that is
    mounted, and no other file has it: a path that leads nowhere here counts by its last part."""
    if place in target.names:
        return True
    if target.path is None or not place.startswith("/"):
        return False
    return _is(Path(place), target.path) or Path(place).name == target.path.name


def _is(one: Path, other: Path) -> bool:
    try:
        first, second = one.stat(), other.stat()
    except OSError:
        return one == other
    if stat.S_ISBLK(first.st_mode) and stat.S_ISBLK(second.st_mode):
        return first.st_rdev == second.st_rdev
    return os.path.samestat(first, second)


def _of_path(path: Path) -> Iterator[str]:
    """What the kernel knows of users of the file or device at *path*."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except FileNotFoundError:
        return
    except OSError as exc:
        yield f"perhaps somebody: {path} cannot be read: {exc.strerror}"
        return
    try:
        found = os.fstat(fd)
        locked = _is_locked(fd)
    finally:
        os.close(fd)
    opened = list(_openers(found, path))
    yield from opened
    if locked and not opened:
        yield "a lock that another host or a process out of sight holds"
    if stat.S_ISBLK(found.st_mode):
        if user := device.user_of(found.st_rdev):
            yield f"the kernel: {user}"
    else:
        yield from _loops(found)


def _is_locked(fd: int) -> bool:
    """Whether somebody holds a lock, as qemu does on each image that it has open."""
    with contextlib.suppress(OSError):  # a file system without locks tells nothing
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        told = fcntl.fcntl(fd, _F_OFD_GETLK, asked)
        return bool(_FLOCK.unpack(told)[0] != fcntl.F_UNLCK)
    return False


def _openers(found: os.stat_result, path: Path) -> Iterator[str]:
    """The processes that have the file open, this one excepted; those that we may look into."""
    device_node = stat.S_ISBLK(found.st_mode)
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal() or int(process.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if any(
                _opens(fd, found, path, device_node=device_node)
                for fd in (process / "fd").iterdir()
            ):
                name = (process / "comm").read_text("utf-8", "replace").strip()
                yield f"process {name} (pid {process.name})"


def _opens(fd: Path, found: os.stat_result, path: Path, *, device_node: bool) -> bool:
    """Told by the link's text first: a look at what it leads to may wait for a server."""
    try:
        text = str(fd.readlink())
        if device_node:
            return text.startswith("/dev/") and _rdev(fd) == found.st_rdev
        # A file that was renamed since, or lies elsewhere in another mount namespace, keeps
        # its inode; of those that were opened under another name only the text differs.
        if not re.search(r"(^|/)" + re.escape(path.name) + r"( \(deleted\))?$", text):
            return False
        return os.path.samestat(fd.stat(), found)
    except OSError:
        return False


def _rdev(fd: Path) -> int:
    seen = fd.stat()
    return seen.st_rdev if stat.S_ISBLK(seen.st_mode) else 0


def _loops(found: os.stat_result) -> Iterator[str]:
    for backing in sorted(Path("/sys/block").glob("loop*/loop/backing_file")):
        with contextlib.suppress(OSError):
            if os.path.samestat(Path(backing.read_text().rstrip("\n")).stat(), found):
                yield f"the kernel: loop device {backing.parent.parent.name}"
