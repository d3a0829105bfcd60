# SPDX-License-Identifier: Apache-2.0
"""What may a disk hold after a power cut? A log of a real run (``seam.h``), and a model.

Bytes and sizes are durable once a flush of their file or device has returned that started after
the write had ended; until then each write may be there, or not, or some of its sectors. A later
write never lies below an earlier one: both go through one page cache. For names there are two
models. *ordered*: what journaling file systems do, names change in their order, and any flush
takes all earlier changes with it. *posix*: each change is there or not, until its own folder is
flushed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from random import Random
from typing import NamedTuple

SECTOR = 512
_ENTRY = struct.Struct("=cBHHxxIxxxxqqqqqq")
"""``struct entry`` of seam_record.c."""

WRITES = ("none", "all", "some", "torn", "last")
"""What became of writes that nothing made durable: none, all, any, any sectors, the last only."""
NAMES = ("ordered", "posix")


class Entry(NamedTuple):
    """One line of the log; *kind* as in seam_record.c, *inode* a :func:`key`, *data* of a write."""

    kind: str
    is_folder: bool
    mode: int
    number: int
    inode: int
    offset: int
    length: int
    mtime_ns: int
    first: str
    second: str
    data: bytes


def key(device: int, inode: int) -> int:
    """What identifies a file; file systems number theirs alike."""
    return (device << 64) + inode


def entries(log: Path) -> list[Entry]:
    """The log, in order."""
    raw = log.read_bytes()
    found, at = [], 0
    while at + _ENTRY.size <= len(raw):
        kind, folder, first, second, mode, number, inode, device, *numbers = _ENTRY.unpack_from(
            raw, at
        )
        at += _ENTRY.size
        names = raw[at : at + first + second]
        at += first + second
        size = numbers[1] if kind == b"W" else 0
        data, at = raw[at : at + size], at + size
        found.append(
            Entry(
                kind.decode(), bool(folder), mode, number, key(device, inode), *numbers,
                names[:first].decode(), names[first:].decode(), data,
            )
        )  # fmt: skip
    return found


@dataclass(slots=True)
class File:
    """A file or device: what is durable, and what was asked for since."""

    data: bytearray
    mode: int = 0o100600
    mtime_ns: int = 0
    fixed: bool = False
    pending: list[Entry] = field(default_factory=list)

    def apply(self, op: Entry, keep: Iterable[tuple[int, int]] | None = None) -> None:
        """Let *op* happen, or only the ranges *keep* of its bytes."""
        if op.kind in "TE":
            size = max(op.length, len(self.data)) if op.kind == "E" else op.length
            del self.data[size:]
            self.data.extend(bytes(size - len(self.data)))
            return
        data = op.data if op.kind == "W" else bytes(op.length)
        for start, end in [(0, len(data))] if keep is None else keep:
            at = op.offset + start
            stop = min(op.offset + end, len(self.data)) if op.kind == "Z" else op.offset + end
            if self.fixed:
                stop = min(stop, len(self.data))
            if stop <= at:
                continue
            self.data.extend(bytes(max(0, stop - len(self.data))))
            self.data[at:stop] = data[start : start + stop - at]


@dataclass(slots=True)
class Tree:
    """Folders (path → mode) and names (path → :func:`key`) with what they name."""

    folders: dict[str, int]
    names: dict[str, int]
    files: dict[int, File]


def snapshot(roots: Iterable[Path], devices: Iterable[Path]) -> Tree:
    """What lies below *roots* and on *devices* now, all of it durable."""
    tree = Tree({}, {}, {})
    for root in roots:
        for path in [root, *sorted(root.rglob("*"))]:
            if path.is_dir():
                tree.folders[str(path)] = path.stat().st_mode
            else:
                _add(tree, path)
    for device in devices:
        _add(tree, device)
        found = device.stat()
        tree.files[key(found.st_dev, found.st_ino)].fixed = True
    return tree


def _add(tree: Tree, path: Path) -> None:
    found = path.stat()
    here = key(found.st_dev, found.st_ino)
    tree.names[str(path)] = here
    with path.open("rb") as opened:
        data = bytearray(opened.read())
    tree.files[here] = File(data, found.st_mode, found.st_mtime_ns)


class Cut:
    """The state of a log when the power goes after its first *length* entries."""

    def __init__(self, start: Tree, log: list[Entry], length: int, *, names: str) -> None:
        self._ordered = names == "ordered"
        self._folders = dict(start.folders)
        self._names = dict(start.names)
        self._files = {
            inode: File(bytearray(f.data), f.mode, f.mtime_ns, f.fixed)
            for inode, f in start.files.items()
        }
        self._changes: list[Entry] = []
        self._ended: set[int] = set()
        self._flushes: dict[int, tuple[Entry, list[Entry], list[Entry]]] = {}
        for entry in log[:length]:
            self._take(entry)

    def _take(self, entry: Entry) -> None:
        if entry.kind in "CRLUMX":
            if entry.kind == "C":
                self._files[entry.inode] = File(bytearray(), entry.mode, entry.mtime_ns)
            self._changes.append(entry)
        elif entry.kind in "WZTE":
            self._file(entry).pending.append(entry)
        elif entry.kind == "F":
            self._flushes[entry.number] = (
                entry,
                [op for op in self._pending(entry) if op.number in self._ended],
                [op for op in self._changes if self._ordered or _folder_of(op) == entry.first],
            )
        elif entry.kind == "D" and not entry.length:
            self._failed(entry.number)
        elif entry.kind == "D":
            self._ended.add(entry.number)
            if entry.number in self._flushes:
                self._flushed(*self._flushes.pop(entry.number))

    def _failed(self, number: int) -> None:
        """What failed had no effect; it was done in another way, or the job has ended."""
        self._flushes.pop(number, None)
        for file in self._files.values():
            file.pending[:] = [op for op in file.pending if op.number != number]

    def _file(self, entry: Entry) -> File:
        # Unnamed files, and those outside of what is watched.
        return self._files.setdefault(entry.inode, File(bytearray(), entry.mode))

    def _pending(self, flush: Entry) -> list[Entry]:
        return [] if flush.is_folder else self._file(flush).pending

    def _flushed(self, flush: Entry, ops: list[Entry], changes: list[Entry]) -> None:
        if not flush.is_folder:
            file = self._file(flush)
            for op in _taken(file.pending, ops):
                file.apply(op)
            file.mode, file.mtime_ns = flush.mode, flush.mtime_ns
        if self._ordered or flush.is_folder:
            for op in _taken(self._changes, changes):
                self._change(op)

    def _change(self, op: Entry) -> None:
        match op.kind:
            case "C":
                self._names[op.first] = op.inode
            case "R":
                self._names.pop(op.first, None)
                self._names[op.second] = op.inode
            case "L":
                self._names[op.second] = op.inode
            case "U":
                self._names.pop(op.first, None)
            case "M":
                self._folders[op.first] = op.mode
            case _:
                self._folders.pop(op.first, None)

    def tree(self, rng: Random, *, writes: str) -> Tree:
        """One of the states that the disk may be in; *writes* is one of :data:`WRITES`."""
        kept = (
            self._changes[: rng.randint(0, len(self._changes))]
            if self._ordered
            else [op for op in self._changes if rng.random() < 0.5]
        )
        if writes in ("none", "all"):
            kept = self._changes if writes == "all" else []
        for op in kept:
            self._change(op)
        for file in self._files.values():
            _survive(file, rng, writes)
        folders = {
            path: mode
            for path, mode in self._folders.items()
            if all(str(p) in self._folders for p in PurePosixPath(path).parents if _below(p, self))
        }
        names = {
            path: inode
            for path, inode in self._names.items()
            if str(PurePosixPath(path).parent) in folders or self._files[inode].fixed
        }
        return Tree(folders, names, {inode: self._files[inode] for inode in names.values()})

    @property
    def roots(self) -> list[str]:
        """The folders that are there whatever happens."""
        return [p for p in self._folders if str(PurePosixPath(p).parent) not in self._folders]


def _taken(pending: list[Entry], ops: list[Entry]) -> list[Entry]:
    """Those of *ops* that are still *pending*, which they are no longer then."""
    meant = {id(op) for op in ops}
    found = [op for op in pending if id(op) in meant]
    pending[:] = [op for op in pending if id(op) not in meant]
    return found


def _below(path: PurePosixPath, cut: Cut) -> bool:
    return any(PurePosixPath(root) in (path, *path.parents) for root in cut.roots)


def _folder_of(op: Entry) -> str:
    return str(PurePosixPath(op.second or op.first).parent)


def _survive(file: File, rng: Random, writes: str) -> None:
    pending, file.pending = file.pending, []
    if writes == "last":
        pending = pending[-1:]
    for op in pending:
        if writes in ("all", "last") or (writes == "some" and rng.random() < 0.5):
            file.apply(op)
        elif writes == "torn":
            file.apply(op, _sectors(op, rng))


def _sectors(op: Entry, rng: Random) -> list[tuple[int, int]]:
    """Some sectors of a write; a size is there or not."""
    length = len(op.data) if op.kind == "W" else op.length
    if op.kind in "TE":
        return [(0, 0)] if rng.random() < 0.5 else []
    if rng.random() < 0.5:  # from one end, as a disk that was interrupted leaves it
        middle = rng.randint(0, length) // SECTOR * SECTOR
        return [(0, middle)] if rng.random() < 0.5 else [(middle, length)]
    step = rng.choice((SECTOR, 4096, 65536))
    return [(at, min(at + step, length)) for at in range(0, length, step) if rng.random() < 0.5]


def restore(tree: Tree, roots: Iterable[Path]) -> Mapping[int, int]:
    """Make *roots* and the devices what *tree* says; inode number now → then, of each file."""
    import os  # noqa: PLC0415
    import shutil  # noqa: PLC0415

    for root in roots:
        for path in root.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for folder, mode in sorted(tree.folders.items()):
        Path(folder).mkdir(exist_ok=True)
        Path(folder).chmod(mode & 0o7777)
    now = {}
    for name, inode in tree.names.items():
        path, file = Path(name), tree.files[inode]
        with path.open("r+b" if file.fixed else "wb") as opened:
            opened.write(file.data)
        if not file.fixed:
            path.chmod(file.mode & 0o7777)
            os.utime(path, ns=(file.mtime_ns, file.mtime_ns))
            now[path.stat().st_ino] = inode % 2**64
    return now
