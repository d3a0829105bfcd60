# SPDX-License-Identifier: Apache-2.0
"""What the kernel reports about an open block device: identity, size, and users."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from fastdl import fs
from fastdl.sinks.base import Identity

_BLKSSZGET = 0x1268
_SYS = Path("/sys/dev/block")
_BY_ID = Path("/dev/disk/by-id")
_STABLE = (
    ("wwid", ("wwid", "device/wwid")),
    ("serial", ("serial", "device/serial")),
    ("dm_uuid", ("dm/uuid",)),
    ("md_uuid", ("md/uuid",)),
    ("backing_file", ("loop/backing_file",)),
)
_UNIQUE = {"wwid", "dm_uuid", "md_uuid", "backing_file"}
"""A serial number is not: bridges and virtual disks repeat them."""


def number(fd: int) -> str:
    """``major:minor`` of the open device."""
    return _number(os.fstat(fd).st_rdev)


def _number(device: int) -> str:
    return f"{os.major(device)}:{os.minor(device)}"


def size(fd: int) -> int:
    """The device in bytes, asked through the descriptor."""
    return os.lseek(fd, 0, os.SEEK_END)


def sector_size(fd: int) -> int:
    """Bytes of a logical sector."""
    return int.from_bytes(fcntl.ioctl(fd, _BLKSSZGET, bytes(4)), "little")


def is_read_only(fd: int) -> bool:
    """Whether the kernel marks the device as read-only."""
    return _read(_SYS / number(fd) / "ro") == "1"


def identity(fd: int) -> Identity:
    """Identifies this device: size, sector size and its stable names.

    A partition carries its disk's stable names and its place on it. The device's number, which the
    kernel assigns at each start, counts where no name of it is unique.
    """
    found: Identity = {"kind": "block", "size": size(fd), "sector_size": sector_size(fd)}
    here = _SYS / number(fd)
    partition = _read(here / "partition")
    if partition:
        found["partition"] = int(partition)
        here = here.resolve().parent
    for key, places in _STABLE:
        value = next((text for place in places if (text := _read(here / place))), "")
        if value:
            found[key] = value
    if not _UNIQUE & found.keys():
        found["device"] = number(fd)
    by_id = _by_id(os.fstat(fd).st_rdev)
    if by_id:
        found["by_id"] = by_id
    return found


def generation(fd: int) -> str:
    """A number that the kernel never reuses while it runs: a reused ``major:minor`` shows."""
    here = (_SYS / number(fd)).resolve()
    return _read(here / "diskseq") or _read(here.parent / "diskseq")


def user_of(device: int) -> str | None:
    """The users of device number *device* or its partitions, as a phrase; None if unused.

    The kernel's own claim (O_EXCL) is what decides; this finds the words, and the uses that
    it does not claim for: a loop device on top.
    """
    numbers = dict(_family(device))
    return (
        _mounted(numbers)
        or _swapped(numbers)
        or next(filter(None, map(_held, numbers)), None)
        or _looped(numbers)
    )


def _family(device: int) -> Iterator[tuple[str, str]]:
    """``major:minor`` → name of the device and its partitions."""
    here = (_SYS / _number(device)).resolve()
    yield _number(device), here.name
    for part in sorted(here.glob("*/partition")):
        yield _read(part.with_name("dev")), part.parent.name


def _mounted(numbers: dict[str, str]) -> str | None:
    with contextlib.suppress(OSError):
        for mount in fs.mounts():
            if mount.device in numbers or _device_of(mount.source) in numbers:
                return f"mounted on {mount.path}"
    return None


def _swapped(numbers: dict[str, str]) -> str | None:
    for line in _lines("/proc/swaps")[1:]:
        if _device_of(fs.unescaped(line.split()[0])) in numbers:
            return "used as swap space"
    return None


def _held(device: str) -> str | None:
    with contextlib.suppress(OSError):
        holders = sorted(os.listdir(_SYS / device / "holders"))  # noqa: PTH208 - names alone
        if holders:
            return f"held by {', '.join(holders)}"
    return None


def _looped(numbers: dict[str, str]) -> str | None:
    for backing in sorted(Path("/sys/block").glob("loop*/loop/backing_file")):
        if _device_of(_read(backing)) in numbers:
            return f"used by {backing.parent.parent.name}"
    return None


def _device_of(path: str) -> str:
    """``major:minor`` of the block device at *path*, or an empty string."""
    if path.startswith("/"):
        with contextlib.suppress(OSError, ValueError):
            found = os.stat(path)  # noqa: PTH116
            if stat.S_ISBLK(found.st_mode):
                return _number(found.st_rdev)
    return ""


def _by_id(device: int) -> str:
    with contextlib.suppress(OSError):
        for link in sorted(_BY_ID.iterdir()):
            with contextlib.suppress(OSError):
                if link.stat().st_rdev == device:
                    return link.name
    return ""


def _lines(path: str) -> list[str]:
    with contextlib.suppress(OSError):
        return Path(path).read_text("utf-8", "surrogateescape").splitlines()
    return []


def _read(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text("utf-8", "replace").strip()
    return ""
