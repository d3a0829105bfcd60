# SPDX-License-Identifier: Apache-2.0
"""Is this folder still the same storage? Checked at each use, before anything is created in it.

If storage is not mounted, its mount point is an empty folder on the root disk: files written there
fill that disk, and are hidden once the storage is back. So a folder is identified by the note in it
(``note``); a host remembers which note it found, and parent folders are never created.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from fastdl import fs
from fastdl.agent.pools import note
from fastdl.agent.pools.note import FOLDER, Note
from fastdl.errors import FastdlError, SinkIOError, SinkRefusedError
from fastdl.sinks.base import sink_error

log = logging.getLogger(__name__)

_FSTAB: Final = Path("/etc/fstab")
_NETWORK: Final = frozenset({"nfs", "nfs4", "ceph", "glusterfs", "fuse.glusterfs", "gfs2", "ocfs2"})


class Memory:
    """Which note each pool folder of this host had: ``pools.json`` in the *state* folder.

    Safe for threads and processes, each of which may have its own instance. If the state folder
    cannot be written, the host forgets, with a warning.
    """

    def __init__(self, state: Path) -> None:
        self.path = state / "pools.json"

    def of(self, folder: Path) -> str | None:
        """The id in the note that *folder* had, None for a new folder."""
        found = self._read().get(str(folder))
        return found if isinstance(found, str) else None

    def keep(self, folder: Path, id_: str) -> None:
        """Remember the note of *folder*."""
        try:
            with self._alone():
                known = self._read() | {str(folder): id_}
                fs.replace_file(self.path, json.dumps(known, indent=1, sort_keys=True).encode())
        except OSError as exc:
            log.warning("cannot record which storage %s is: %s", folder, exc)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Lock the state folder, or what another pool remembers in the meantime would be lost."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _read(self) -> dict[str, Any]:
        with contextlib.suppress(OSError, ValueError):
            found = json.loads(self.path.read_bytes())
            if isinstance(found, dict):
                return found
        return {}


class PoolFolder:
    """The folder *path* of the pool *name*. *mounted*: it must be a mount point itself; *noted*:
    it carries a note.
    """

    def __init__(
        self, path: Path, *, name: str, memory: Memory | None, mounted: bool, noted: bool = True
    ) -> None:
        self.path = path
        self.name = name
        self._memory = memory
        self._mounted = mounted
        self._noted = noted

    @contextlib.contextmanager
    def opened(self) -> Iterator[int]:
        """The folder, open and confirmed to be the same as before: names are relative to this
        descriptor, and while it is open nobody can unmount the storage.

        SinkIOError, which may be retried later or on another host, while the storage is not
        mounted; SinkRefusedError for a folder that cannot be a pool.
        """
        try:
            fd = os.open(self.path, FOLDER)
        except (FileNotFoundError, NotADirectoryError):
            raise self._away(f"there is no folder {self.path}") from None
        except OSError as exc:
            raise self._away(f"{self.path}: {exc.strerror}") from exc
        try:
            self._check(fd)
            yield fd
        finally:
            os.close(fd)

    def note(self) -> Note:
        """The folder's note; raises as ``opened`` does."""
        with self.opened() as fd:
            return self._note(fd)

    def _note(self, fd: int) -> Note:
        try:
            return note.kept(fd)
        except OSError as exc:
            raise sink_error(exc, f"the pool {self.name} ({self.path})") from exc

    def _check(self, fd: int) -> None:
        if self._mounted and not self.path.is_mount():
            raise self._away(f"nothing is mounted on {self.path}")
        if not self._noted:
            return
        try:
            found = note.read(fd)
        except OSError as exc:
            raise sink_error(exc, f"the pool {self.name} ({self.path})") from exc
        known = self._memory.of(self.path) if self._memory else None
        if known is None:
            if found is None and (point := missing_mount(self.path)):
                raise self._away(f"{point} is not mounted, as /etc/fstab wants it")
            found = found or self._note(fd)
            if self._memory:
                self._memory.keep(self.path, found.id)
        elif found is None or found.id != known:
            what = "has no note of fastdl any more" if found is None else "is another pool's"
            assert self._memory is not None
            raise self._away(
                f"{self.path} {what}: is its storage mounted? (where it was replaced on purpose, "
                f"take the folder out of {self._memory.path})"
            )

    def _away(self, why: str) -> FastdlError:
        return SinkIOError(f"the pool {self.name}: {why}", retryable=True)

    def require_writable(self) -> None:
        """SinkRefusedError if this process may not write to the folder."""
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise SinkRefusedError(f"the pool {self.name}: {self.path} cannot be written")


def missing_mount(path: Path) -> str | None:
    """The mount point in /etc/fstab at or above *path* that nothing is mounted on."""
    with contextlib.suppress(OSError):
        there = {mount.path for mount in fs.mounts()}
        for line in _FSTAB.read_text().splitlines():
            fields = line.partition("#")[0].split()
            point = fs.unescaped(fields[1]).rstrip("/") if len(fields) >= 2 else ""
            inside = str(path) == point or str(path).startswith(point + "/")
            if point.startswith("/") and inside and point not in there:
                return point
    return None


def reaches_others(path: Path) -> bool:
    """Whether *path* is on a file system that other hosts reach too, as far as its type shows."""
    best, kind = -1, ""
    real = os.path.realpath(path)
    with contextlib.suppress(OSError):
        for mount in fs.mounts():
            inside = real == mount.path or real.startswith(mount.path.rstrip("/") + "/")
            if inside and len(mount.path) >= best:
                best, kind = len(mount.path), mount.kind
    return kind in _NETWORK
