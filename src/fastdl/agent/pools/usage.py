# SPDX-License-Identifier: Apache-2.0
"""Who uses a copy? Checked before one is removed or replaced.

A linked clone reads its template for as long as it lives, and cannot start without it. So these
count: locks on the file, as qemu takes them, from other hosts too if the file system shows them;
processes that have it open; loop devices, mounts and mappings on top; images in this host's pools
that name it, directly or by others; and the disks of libvirt's domains, running or not.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from fastdl.agent.pools import domains
from fastdl.agent.pools.backing import Headers, Unreadable
from fastdl.errors import FastdlError
from fastdl.sinks import device

USERS_MAX: Final = 16
"""Users reported for one copy; one is enough to keep it."""
_F_OFD_GETLK: Final = 36
_FLOCK: Final = struct.Struct("hhqqi4x")  # l_type, l_whence, l_start, l_len, l_pid


@dataclass(frozen=True, slots=True)
class Target:
    """The copy in question. *path*: of the file or the device on this host, None for neither;
    *names*: its other names, as ``backing.locations`` and ``domains.disks`` spell them.
    """

    path: Path | None
    names: frozenset[str] = frozenset()


class Searched(Protocol):
    """A pool, as far as images in it may refer to a copy."""

    def images(self) -> Iterable[Path]:
        """The files and devices of its volumes, including those that others made."""


class Usage:
    """What one host can find out. *pools*: this host's; *libvirt*: the URI of its domains."""

    def __init__(self, pools: Callable[[], Sequence[Searched]], *, libvirt: str) -> None:
        self._pools = pools
        self._libvirt = libvirt

    def of(self, target: Target) -> tuple[str, ...]:
        """Who uses *target*, in words; SinkBusyError if that cannot be determined now."""
        return self.all({"": target})[""]

    def all(self, targets: Mapping[str, Target]) -> dict[str, tuple[str, ...]]:
        """Like ``of``, for each of *targets*, by their keys, in one pass."""
        found: dict[str, dict[str, None]] = {key: {} for key in targets}
        for key, user in self._users(_Index(targets)):
            if len(found[key]) < USERS_MAX:
                found[key][user] = None
        return {key: tuple(users) for key, users in found.items()}

    def _users(self, index: _Index) -> Iterator[tuple[str, str]]:
        yield from _of_kernel(index)
        headers = Headers()
        images: dict[Path, None] = {}
        for pool in self._pools():
            try:
                images |= dict.fromkeys(pool.images())
            except FastdlError as exc:  # its images are not gone, only not visible
                for key in index.targets:
                    yield key, f"perhaps an image: {exc}"
        for image in images:
            own = index.of(str(image))
            try:
                for key in _needed(headers, image, index) - own:
                    yield key, f"image {image}"
            except Unreadable as exc:
                for key in index.targets.keys() - own:
                    yield key, f"perhaps an image: {exc}"
        for name, place in domains.disks(self._libvirt):
            try:
                chain = _needed(headers, Path(place), index) if place.startswith("/") else set()
                for key in index.of(place) | chain:
                    yield key, f"domain {name}"
            except Unreadable as exc:
                for key in index.targets:
                    yield key, f"perhaps domain {name}: {exc}"


def _needed(headers: Headers, image: Path, index: _Index) -> set[str]:
    return {key for place in headers.chain(image) for key in index.of(place)}


class _Index:
    """Which of *targets* does a location stand for?"""

    def __init__(self, targets: Mapping[str, Target]) -> None:
        self.targets = targets
        self.by_name: dict[str, set[str]] = {}
        self.status: dict[str, os.stat_result] = {}
        self._by_place: dict[str, set[str]] = {}
        self._by_identity: dict[object, set[str]] = {}
        for key, target in targets.items():
            for name in target.names:
                self._by_place.setdefault(name, set()).add(key)
            if target.path is None:
                continue
            self.by_name.setdefault(target.path.name, set()).add(key)
            with contextlib.suppress(OSError):
                self.status[key] = target.path.stat()
                self._by_identity.setdefault(_identity(self.status[key]), set()).add(key)

    def of(self, place: str) -> set[str]:
        """The keys of what *place* stands for. A volume has the same unique name in its pool
        wherever that is mounted: a path that does not exist here is matched by its last part.
        """
        found = set(self._by_place.get(place, ()))
        if place.startswith("/"):
            found |= self.by_name.get(place.rpartition("/")[2], set())
            with contextlib.suppress(OSError):
                found |= self.holding(Path(place).stat())
        return found

    def holding(self, status: os.stat_result) -> set[str]:
        """The keys of the file or device with that *status*."""
        return self._by_identity.get(_identity(status), set())


def _identity(status: os.stat_result) -> object:
    if stat.S_ISBLK(status.st_mode):
        return status.st_rdev
    return status.st_dev, status.st_ino


def _of_kernel(index: _Index) -> Iterator[tuple[str, str]]:
    """What the kernel knows of users of the files and devices."""
    opened = set()
    for key, user in _openers(index):
        opened.add(key)
        yield key, user
    loops = _loops()
    for key, target in index.targets.items():
        if target.path is None:
            continue
        try:
            fd = os.open(target.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        except FileNotFoundError:
            continue
        except OSError as exc:
            yield key, f"perhaps somebody: {target.path} cannot be read: {exc.strerror}"
            continue
        try:
            found = os.fstat(fd)
            if _is_locked(fd) and key not in opened:
                yield key, "a lock that another host or a process out of sight holds"
        finally:
            os.close(fd)
        if stat.S_ISBLK(found.st_mode):
            if (claimed := device.user_of(found.st_rdev)) is not None:
                yield key, f"the kernel: {claimed}"
        elif loop := loops.get(_identity(found)):
            yield key, f"the kernel: loop device {loop}"


def _is_locked(fd: int) -> bool:
    """Whether there is a lock, as qemu holds one on each image that it has open."""
    with contextlib.suppress(OSError):  # a file system without locks shows nothing
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        reply = fcntl.fcntl(fd, _F_OFD_GETLK, asked)
        return bool(_FLOCK.unpack(reply)[0] != fcntl.F_UNLCK)
    return False


def _openers(index: _Index) -> Iterator[tuple[str, str]]:
    """The processes that have one of them open, except this one; only those we may inspect."""
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal() or int(process.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            found = {key for fd in (process / "fd").iterdir() for key in _opens(fd, index)}
            if found:
                name = (process / "comm").read_text("utf-8", "replace").strip()
                for key in found:
                    yield key, f"process {name} (pid {process.name})"


def _opens(fd: Path, index: _Index) -> set[str]:
    """Compared by the link's text first: a stat of its target may wait for a server."""
    try:
        text = str(fd.readlink()).removesuffix(" (deleted)")
        # A file in another mount namespace keeps its last name, and its inode.
        if text.startswith("/dev/") or text.rpartition("/")[2] in index.by_name:
            return index.holding(fd.stat())
    except OSError:
        pass
    return set()


def _loops() -> dict[object, str]:
    """Identity of a file → the loop device on top of it."""
    found: dict[object, str] = {}
    for backing in sorted(Path("/sys/block").glob("loop*/loop/backing_file")):
        with contextlib.suppress(OSError):
            path = Path(backing.read_text().rstrip("\n"))
            found[_identity(path.stat())] = backing.parent.parent.name
    return found
