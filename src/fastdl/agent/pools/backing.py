# SPDX-License-Identifier: Apache-2.0
"""Which other files does a disk image need? The names in its header, and in theirs.

Read as qemu reads them: qcow, qcow2 (its data file too), QED, and a VMDK's descriptor. Only names
are taken from the first bytes; whether the image is sound is not checked.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import stat
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

_HEAD: Final = 64 << 10
_CLUSTER_MAX: Final = 2 << 20  # the header and the names in it are in the first cluster
_NAME_MAX: Final = 1023  # of a backing file, docs/interop/qcow2.txt
_CHAIN_MAX: Final = 256
_DATA_FILE: Final = 0x44415441
_PARENT: Final = re.compile(rb'^[ \t]*parentFileNameHint[ \t]*=[ \t]*"([^"\r\n]{1,4096})"', re.M)
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_ROUNDS: Final = 64


def names_in(head: bytes) -> list[str]:
    """Return the names that an image starting with *head* refers to, as written there."""
    found: list[bytes] = []
    if head[:4] == b"QFI\xfb" and len(head) >= 20:
        version, at, length = struct.unpack(">IQI", head[4:20])
        found.append(_at(head, at, length))
        if version >= 3:
            found += _data_files(head)
    elif head[:4] == b"QED\0" and len(head) >= 64:
        at, length = struct.unpack("<II", head[56:64])
        found.append(_at(head, at, length))
    elif head[:4] == b"KDMV" or head.lstrip()[:21] == b"# Disk DescriptorFile":
        found += _PARENT.findall(head)
    return [os.fsdecode(name) for name in found if name]


def _needed(head: bytes) -> int:
    """How many bytes of the file are needed to contain the name that its header points to."""
    if head[:4] == b"QFI\xfb" and len(head) >= 20:
        return int.from_bytes(head[8:16]) + int.from_bytes(head[16:20])
    return 0


def _at(head: bytes, at: int, length: int) -> bytes:
    return head[at : at + length] if 0 < length <= _NAME_MAX and at > 0 else b""


def _data_files(head: bytes) -> Iterator[bytes]:
    """The external data file named by a header extension of qcow2."""
    at = struct.unpack(">I", head[100:104])[0] if len(head) >= 104 else _HEAD
    for _ in range(_ROUNDS):
        if at + 8 > len(head):
            return
        kind, length = struct.unpack(">II", head[at : at + 8])
        if kind == 0:
            return
        if kind == _DATA_FILE:
            yield head[at + 8 : at + 8 + min(length, _NAME_MAX)]
        at += 8 + (length + 7) // 8 * 8


def locations(name: str, folder: Path) -> list[str]:
    """Return the locations that *name*, in an image of *folder*, may stand for.

    Paths become absolute; ``json:`` descriptions give each file name in them, and an image of
    Ceph is ``rbd:POOL/IMAGE``. Names of other protocols stay as written.
    """
    if name.startswith("json:"):
        with contextlib.suppress(ValueError, RecursionError):
            return list(_described(json.loads(name[5:]), folder))
        return []
    if name.startswith("rbd:"):
        return [name.partition(":")[0] + ":" + re.split(r"[:@]", name[4:], maxsplit=1)[0]]
    if name.startswith("file:"):
        name = re.sub(r"^file:(?://(?=/))?", "", name)
    elif _SCHEME.match(name):
        return [name]
    return [os.path.normpath(folder / name)]


def _described(plain: Any, folder: Path) -> Iterator[str]:
    if not isinstance(plain, Mapping):
        return
    # Nested options may also be spelled with dots: {"file.filename": …}.
    for key, value in plain.items():
        last = str(key).rpartition(".")[2]
        if last == "filename" and isinstance(value, str):
            yield from locations(value, folder) if not value.startswith("json:") else ()
        elif isinstance(value, Mapping):
            yield from _described(value, folder)
    prefixes = {str(key).rpartition(".")[0] for key in plain if str(key).endswith("image")}
    for prefix in prefixes:
        dot = f"{prefix}." if prefix else ""
        pool, image = plain.get(f"{dot}pool"), plain.get(f"{dot}image")
        if isinstance(pool, str) and isinstance(image, str):
            yield f"rbd:{pool}/{image}"


class Unreadable(Exception):
    """An image that may refer to anything, because it cannot be read."""


class Headers:
    """The headers read in one search, each once."""

    def __init__(self) -> None:
        self._known: dict[str, list[str]] = {}

    def chain(self, path: Path) -> Iterator[str]:
        """Yield the locations that the image at *path* needs, directly or indirectly.

        Nothing if there is no file or device of that name; Unreadable if there is one that cannot
        be read.
        """
        todo, seen = [str(path)], set[str]()
        while todo and len(seen) < _CHAIN_MAX:
            image = todo.pop()
            if image in seen:
                continue
            seen.add(image)
            for location in self._direct(image):
                yield location
                if location.startswith("/"):
                    todo.append(location)

    def _direct(self, image: str) -> list[str]:
        if image not in self._known:
            folder = Path(os.path.realpath(image)).parent
            names = names_in(_head(image))
            self._known[image] = [place for name in names for place in locations(name, folder)]
        return self._known[image]


def _head(path: str) -> bytes:
    try:
        # Nothing here may wait for a writer, or be tricked into a device's side effects.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as exc:
        if exc.errno in {errno.ENOENT, errno.ENOTDIR, errno.ENXIO, errno.ELOOP}:
            return b""
        raise Unreadable(f"{path} cannot be read: {exc.strerror}") from exc
    try:
        kind = os.fstat(fd).st_mode
        if not (stat.S_ISREG(kind) or stat.S_ISBLK(kind)):
            return b""
        head = os.pread(fd, _HEAD, 0)
        needed = _needed(head)
        return os.pread(fd, needed, 0) if len(head) < needed <= _CLUSTER_MAX else head
    except OSError as exc:
        raise Unreadable(f"{path} cannot be read: {exc.strerror}") from exc
    finally:
        os.close(fd)
