# SPDX-License-Identifier: Apache-2.0
"""How is a keystore file read and changed while Java, other agents and crashes are around?

Every change: lock, read, edit in memory, write a temporary file next to it, flush, exchange
the two, look whether the file that came out is the one that was read, flush the folder. A
crash leaves the old or the new file, whole. Java's keytool takes no lock and rewrites in
place, so that look is what notices it; its file is then put back, and the edit made again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fastdl import fs
from fastdl.errors import (
    CertRejectedError,
    FastdlError,
    KeystoreAuthError,
    KeystoreCorruptError,
    SinkBusyError,
    SinkIOError,
    SinkRefusedError,
    SinkSpaceError,
)
from fastdl.sinks import syscalls
from fastdl.trust import certificate as certs
from fastdl.trust.keystore import jks
from fastdl.trust.keystore.entry import Document
from fastdl.trust.keystore.jks import Jks
from fastdl.trust.keystore.pkcs12 import Pkcs12

MAX_SIZE = 16 * 1024 * 1024
"""No keystore of a host comes near; the bound keeps a wrong path from filling memory."""

_ATTEMPTS = 20
_PAUSE = 0.05  # seconds: an in-place rewrite by keytool takes about 10 ms
_LOCK_WAIT = 30.0


@dataclass(frozen=True, slots=True)
class Passphrase:
    """A secret that does not show when printed."""

    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class StoreFile:
    """One keystore file and the passphrase that opens it."""

    path: Path
    passphrase: Passphrase

    def read(self) -> Document:
        """The store as it is now. KeystoreCorruptError when it is missing or damaged."""
        return parse(self.content(), self.passphrase.text)

    def content(self) -> bytes:
        """The file's bytes as they are now. KeystoreCorruptError when it is missing.

        Symlinks are followed here: distributions link to their CA store. A change is
        made to the file itself only.
        """
        data = _read(self.path, os.O_NONBLOCK)
        if data is None:
            raise KeystoreCorruptError(f"there is no keystore at {self.path}")
        return data

    def update(self, edit: Callable[[Document], Document]) -> bool:
        """Apply *edit*, which is pure and may run several times; True when the file changed.

        A missing file is created as an empty PKCS#12 store with mode 0600 first. Every
        error leaves the file as it was.
        """
        try:
            with _locked(self.path):
                _sweep(self.path)
                return self._update_locked(edit)
        except OSError as exc:
            raise _sink_error(self.path, exc) from exc

    def _update_locked(self, edit: Callable[[Document], Document]) -> bool:
        for attempt in range(_ATTEMPTS):
            before = _read(self.path)
            try:
                current = Pkcs12.new() if before is None else parse(before, self.passphrase.text)
            except (KeystoreCorruptError, KeystoreAuthError):
                # Perhaps keytool is in the middle of rewriting it: then it changes soon.
                if attempt == _ATTEMPTS - 1 or not _changes_soon(self.path, before):
                    raise
                continue
            edited = edit(current)
            if edited is current and before is not None:
                return False
            content = edited.encode(self.passphrase.text)
            if _replace(self.path, before, content):
                return True
        raise SinkBusyError(f"{self.path} keeps being changed by another program; try again")


def parse(data: bytes, passphrase: str) -> Document:
    """The keystore in *data*, recognised by its content whatever the file is called."""
    if data[:4] == jks.MAGIC:
        return Jks.parse(data, passphrase)
    other = _other_kind(data)
    if other is not None:
        raise KeystoreCorruptError(other)
    return Pkcs12.parse(data, passphrase)


def _other_kind(data: bytes) -> str | None:
    """What a file is that is no PKCS#12 keystore, and what to do about it; None for one."""
    if not data:
        return "the keystore file is empty"
    if data[:4] == jks.JCEKS_MAGIC:
        return "this is a JCEKS keystore; convert it to PKCS#12 with keytool"
    if b"-----BEGIN " in data[:4096]:
        return "this is a PEM file, not a keystore"
    if data[:4] in (b"\0\0\0\1", b"\0\0\0\2"):
        return "this is a BKS or UBER keystore of Bouncy Castle; convert it to PKCS#12 with keytool"
    if data[:1] != b"\x30":
        return "the file is neither a JKS nor a PKCS#12 keystore"
    # A PKCS#12 begins with its version. A certificate and a BCFKS begin with a sequence.
    width = data[1] & 0x7F if len(data) > 1 and data[1] & 0x80 else 0
    if data[2 + width : 3 + width] != b"\x30":
        return None
    try:
        certs.parse(data)
    except CertRejectedError:
        return "this is a BCFKS keystore of Bouncy Castle; convert it to PKCS#12 with keytool"
    return "this is a certificate, not a keystore"


def _read(path: Path, flags: int = os.O_NOFOLLOW | os.O_NONBLOCK) -> bytes | None:
    """The file's bytes, None where there is no file; special files are refused."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise _sink_error(path, exc) from exc
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise SinkRefusedError(f"{path} is not a regular file")
        data = file.read(MAX_SIZE + 1)
    if len(data) > MAX_SIZE:
        raise KeystoreCorruptError(f"{path} is larger than any keystore")
    return data


def _changes_soon(path: Path, before: bytes | None) -> bool:
    """Whether another program changes the file within a few pauses."""
    for _ in range(4):
        time.sleep(_PAUSE)
        if _read(path) != before:
            return True
    return False


def _replace(path: Path, before: bytes | None, content: bytes) -> bool:
    """Put *content* in the place of *before*; False when the file is no longer *before*."""

    def prepare(fd: int) -> None:
        if before is not None:
            _copy_attributes(path, fd)

    def put(folder: int, fresh: str, name: str) -> bool:
        if _read(path) != before:
            return False
        try:
            if before is None:
                syscalls.rename_new(folder, fresh, name)
                return True
            exchanged = syscalls.exchange(folder, fresh, name)
        except (FileExistsError, FileNotFoundError):
            return False
        if not exchanged:
            os.rename(fresh, name, src_dir_fd=folder, dst_dir_fd=folder)
            return True
        same = False
        try:
            same = _read(path.with_name(fresh)) == before
        finally:
            if not same:
                syscalls.exchange(folder, fresh, name)
        return same

    return fs.replace_file(path, content, prepare=prepare, put=put)


def _sweep(path: Path) -> None:
    """Remove what a crash left behind; under the lock no other writer's file can be meant."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        leftover.unlink(missing_ok=True)


def _copy_attributes(path: Path, fd: int) -> None:
    """Owner, mode and extended attributes (the SELinux label among them) of *path* onto *fd*."""
    found = path.stat(follow_symlinks=False)
    if (found.st_uid, found.st_gid) != (os.geteuid(), os.getegid()):
        os.fchown(fd, found.st_uid, found.st_gid)
    os.fchmod(fd, stat.S_IMODE(found.st_mode))
    for name in os.listxattr(path, follow_symlinks=False):
        os.setxattr(fd, name, os.getxattr(path, name, follow_symlinks=False))


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the keystore's lock. A file of its own: the store's inode changes with each update."""
    lock = path.parent / f".{path.name}.lock"
    fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        deadline = time.monotonic() + _LOCK_WAIT
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise SinkBusyError(
                        f"another program has held the lock of {path} for {_LOCK_WAIT:.0f} s"
                    ) from None
                time.sleep(_PAUSE / 5)
        yield
    finally:
        os.close(fd)


def _sink_error(path: Path, exc: OSError) -> FastdlError:
    reason = os.strerror(exc.errno) if exc.errno else str(exc)
    message = f"the keystore {path} cannot be read or written: {reason}"
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        return SinkSpaceError(message)
    if exc.errno == errno.EIO:
        return SinkIOError(message)
    return SinkRefusedError(message)
