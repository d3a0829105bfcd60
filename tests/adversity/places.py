# SPDX-License-Identifier: Apache-2.0
"""Where does a case write, and what may be there afterwards? (invariants I1, I2 and I4)

A place prepares its target as the case asks, remembers everything around it, and checks
what the command left: the complete new content, or the old state without a trace.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.env.loopdev import attached
from tests.env.tmpfs import tmpfs

MIB = 1024 * 1024
RESUMABLE = frozenset({10, 11, 12, 30, 31, 130})
"""Exit codes after which a part file and its journal may stay for the next attempt."""
OLD = b"the content that was here before\n"


class Place(Protocol):
    """What the runner needs to know of a target."""

    target: Path

    def check_done(self, content: bytes) -> None:
        """Fail unless the target holds *content* and nothing else changed."""

    def check_failed(self, *, code: int, untouched: bool) -> None:
        """Fail unless the old state is whole, or (device) head and tail are zero."""


class FilePlace:
    """A file target in a folder with neighbours."""

    def __init__(self, folder: Path, kind: str, content: bytes) -> None:
        self.folder = folder / "pool"
        self.folder.mkdir(exist_ok=True)
        (self.folder / "neighbour.raw").write_bytes(os.urandom(5000))
        (self.folder / "sub").mkdir()
        (self.folder / "sub" / "other.qcow2").write_bytes(OLD)
        self.target = self.folder / "image.img"
        self._prepare(kind, content)
        self._before = _tree(self.folder)

    def _prepare(self, kind: str, content: bytes) -> None:
        other = self.folder / "sub" / "other.qcow2"
        if kind == "exists":
            self.target.write_bytes(OLD)
        elif kind == "same":
            self.target.write_bytes(content)
        elif kind == "symlink":
            self.target.symlink_to(other)
        elif kind == "dangling":
            self.target.symlink_to(self.folder / "sub" / "nowhere")
        elif kind == "hard-link":
            self.target.hardlink_to(other)
        elif kind == "fifo":
            os.mkfifo(self.target)
        elif kind == "dev-full":
            self.target = Path("/dev/full")
        elif kind == "missing-parent":
            self.target = self.folder / "nowhere" / "image.img"
        elif kind == "folder":
            self.target = self.folder / "sub" / "image.raw"
        elif kind not in ("absent", "full-disk"):
            raise ValueError(f"no file target is called {kind!r}")

    def check_done(self, content: bytes) -> None:
        assert self.target.is_file()
        assert not self.target.is_symlink()
        got = self.target.read_bytes()
        assert len(got) == len(content)
        assert _digest(got) == _digest(content), "exit 0, but the target holds other bytes"
        after = _tree(self.folder)
        name = str(self.target.relative_to(self.folder))
        after.pop(name)
        self._before.pop(name, None)
        assert after == self._before, "something beside the target changed or was left"

    def check_failed(self, *, code: int, untouched: bool) -> None:
        after = _tree(self.folder)
        kept = {name: state for name, state in after.items() if name in self._before}
        assert kept == self._before, "the failed command changed what was there"
        extra = sorted(after.keys() - self._before.keys())
        assert str(self.target) not in {str(self.folder / name) for name in extra}, "published"
        if untouched or code not in RESUMABLE:
            assert not extra, f"left behind after exit {code}: {extra}"


class LoopPlace:
    """A loop device, filled with old data, of the size and state that the case asks for."""

    def __init__(self, device: str) -> None:
        self.target = Path(device)
        self._before = self._read()

    def _read(self) -> bytes:
        return self.target.read_bytes()

    def check_done(self, content: bytes) -> None:
        got = self._read()
        assert len(got) == len(self._before)
        assert _digest(got[: len(content)]) == _digest(content), "exit 0, but other bytes"

    def check_failed(self, *, code: int, untouched: bool) -> None:
        got = self._read()
        if _digest(got) == _digest(self._before):
            return
        assert not untouched, f"exit {code}, but the device was written"
        edge = min(MIB, len(got))
        assert not any(got[:edge]), f"exit {code}, and the head is not zero"
        assert not any(got[-edge:]), f"exit {code}, and the tail is not zero"


@contextlib.contextmanager
def open_place(
    sink: str, folder: Path, *, kind: str, device: Mapping[str, Any], content: bytes
) -> Iterator[Place]:
    """Prepare the target of one run: *sink* is file or loop, the rest is from the case."""
    with contextlib.ExitStack() as stack:
        if kind == "full-disk":
            stack.enter_context(tmpfs(folder / "pool", "512k"))
        if sink == "file":
            yield FilePlace(folder, kind, content)
            return
        node = stack.enter_context(loop_device(folder, device, len(content)))
        if device.get("mounted"):
            mount = folder / "mnt"
            mount.mkdir()
            subprocess.run(["mount", "-o", "ro", node, str(mount)], check=True)
            stack.callback(subprocess.run, ["umount", str(mount)], check=True)
        if device.get("held"):
            holder = os.open(node, os.O_RDWR | os.O_EXCL)
            stack.callback(os.close, holder)
        yield LoopPlace(node)


@contextlib.contextmanager
def loop_device(folder: Path, wish: Mapping[str, Any], image: int) -> Iterator[str]:
    """A loop device full of a former tenant's bytes; skips where the machine allows none.

    *wish*: ``size`` in bytes (or ``short``: so many less than the image), ``sector``,
    ``signature`` (ext4, gpt, LVM2_member), ``read_only``.
    """
    size = wish.get("size", max(4 * MIB, image + MIB))
    if "short" in wish:
        size = image - wish["short"]
    backing = folder / "device.raw"
    with backing.open("wb") as out:
        out.write((b"\xa5old tenant data" * 65536)[:MIB] * -(-size // MIB))
        out.truncate(size)
    options = ["--sector-size", str(wish["sector"])] if "sector" in wish else []
    if wish.get("read_only"):
        options.append("--read-only")
    _sign(backing, wish.get("signature", ""))
    with attached(backing, *options) as node:
        yield node


def _sign(backing: Path, signature: str) -> None:
    """Write the signature of a file system, table or volume onto *backing*."""
    commands = {
        "ext4": ["mkfs.ext4", "-q", "-F", str(backing)],
        "gpt": ["parted", "-s", str(backing), "mklabel", "gpt"],
    }
    if signature == "LVM2_member":
        _write_lvm_label(backing)
    elif signature:
        command = commands[signature]
        if shutil.which(command[0], path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None:
            pytest.skip(f"{command[0]} is not installed")
        subprocess.run(command, check=True, capture_output=True)


def _write_lvm_label(backing: Path) -> None:
    """The label sector of an LVM2 physical volume (what blkid looks for), with its checksum."""
    label = bytearray(512)
    label[0:8] = b"LABELONE"
    label[8:16] = (1).to_bytes(8, "little")
    label[20:24] = (32).to_bytes(4, "little")
    label[24:32] = b"LVM2 001"
    label[32:64] = b"abcdefghijklmnopqrstuvwxyz012345"
    label[64:72] = backing.stat().st_size.to_bytes(8, "little")
    label[16:20] = _lvm_crc(bytes(label[20:])).to_bytes(4, "little")
    with backing.open("r+b") as out:
        out.write(b"\0" * 4096)
        out.seek(512)
        out.write(label)


def _lvm_crc(data: bytes) -> int:
    """CRC-32 with LVM's start value and without the final inversion."""
    crc = 0xF597A6CF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0xEDB88320 if crc & 1 else 0)
    return crc


def _tree(folder: Path) -> dict[str, str]:
    """Name → kind, size, links and digest of everything below *folder*."""
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"link to {path.readlink()}"
        elif path.is_file():
            found[name] = f"{path.stat().st_nlink} {path.stat().st_size} {_digest_file(path)}"
        else:
            found[name] = f"{path.stat().st_mode:o}"
    return found


def _digest_file(path: Path) -> str:
    return _digest(path.read_bytes())


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
