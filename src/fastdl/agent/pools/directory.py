# SPDX-License-Identifier: Apache-2.0
"""A pool that is a folder: local file systems, NFS mounts, shared mount points.

A volume is a file named as the command says; its provenance lies in ``.fastdl`` beside it,
where every host that shares the folder finds it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path

from fastdl.agent.pools import note
from fastdl.agent.pools.base import Image, Placement, Volume, require_space
from fastdl.agent.pools.marker import Marker, MarkerFolder, staging_path, storage
from fastdl.errors import FastdlError, SinkRefusedError
from fastdl.sinks.paths import journal_name, part_name
from fastdl.wire.messages import PoolInfo, PoolType

_NETWORK = frozenset({"nfs", "nfs4", "ceph", "glusterfs", "fuse.glusterfs", "gfs2", "ocfs2"})


class DirectoryPool:
    """The folder *path*. Without *pool_id* the folder itself carries the pool's id."""

    def __init__(
        self,
        path: Path,
        *,
        name: str,
        pool_id: str | None = None,
        kind: PoolType = PoolType.FILESYSTEM,
    ) -> None:
        self.path = path
        self.name = name
        self.kind = kind
        self.markers = MarkerFolder(path / note.HIDDEN)
        self._id = pool_id

    @property
    def id(self) -> str:
        """The pool's id; SinkRefusedError where the folder cannot keep one."""
        if self._id is None:
            with storage(f"the pool {self.name} ({self.path})"):
                self._id = note.kept(self.path).id
        return self._id

    def info(self) -> PoolInfo:
        """The pool as the inventory reports it."""
        told = self.kind is PoolType.SHARED_MOUNT_POINT
        shared = told or _file_system(self.path) in _NETWORK
        try:
            self._check()
            room = os.statvfs(self.path)
            proof = note.kept(self.path).proof(self.id)
        except (FastdlError, OSError) as exc:
            known = self._id or str(uuid.uuid5(uuid.NAMESPACE_URL, self.path.as_uri()))
            return PoolInfo(
                id=known, name=self.name, type=self.kind, path=str(self.path), error=str(exc)
            )
        return PoolInfo(
            id=self.id,
            name=self.name,
            type=self.kind,
            shared=shared,
            path=str(self.path),
            capacity=room.f_blocks * room.f_frsize,
            available=room.f_bavail * room.f_frsize,
            proof=proof,
        )

    def present(self, volume: Volume, marker: Marker) -> bool:
        """Whether the file is there with the size that was published."""
        try:
            found = (self.path / volume.file_name).stat(follow_symlinks=False)
        except OSError:
            return False
        return stat.S_ISREG(found.st_mode) and found.st_size == marker.size

    @contextlib.contextmanager
    def place(self, volume: Volume, image: Image) -> Iterator[Placement]:
        """The file's path; the engine makes the file and, when it fails, removes it."""
        self._check()
        with storage(f"the pool {self.name}"):
            room = os.statvfs(self.path)
        require_space(
            f"the pool {self.name}",
            need=_need(image),
            available=room.f_bavail * room.f_frsize + self._kept(volume),
        )
        yield Placement(
            target=str(self.path / volume.file_name),
            target_format="same",
            beneath=self.path,
        )

    def published(self, volume: Volume) -> str:
        """The install path: the file's name."""
        return volume.file_name

    def remove(self, volume: Volume) -> bool:
        """Unlink the file."""
        path = self.path / volume.file_name
        with storage(str(path)):
            try:
                if not stat.S_ISREG(path.stat(follow_symlinks=False).st_mode):
                    raise SinkRefusedError(f"{path} is not a regular file")
                path.unlink()
            except FileNotFoundError:
                return False
        return True

    def discard(self, volume: Volume) -> None:
        """Remove the engine's part file and journal, and what was being unpacked."""
        shutil.rmtree(staging_path(self.path / volume.file_name), ignore_errors=True)
        for name in (part_name(volume.file_name), journal_name(volume.file_name)):
            with storage(str(self.path)):
                (self.path / name).unlink(missing_ok=True)

    def _check(self) -> None:
        if not self.path.is_dir():
            raise SinkRefusedError(f"the pool {self.name}: there is no folder {self.path}")
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise SinkRefusedError(f"the pool {self.name}: {self.path} cannot be written")

    def _kept(self, volume: Volume) -> int:
        """Bytes that an interrupted job of this volume already occupies."""
        try:
            part = self.path / part_name(volume.file_name)
            return part.stat(follow_symlinks=False).st_blocks * 512
        except OSError:
            return 0


def _need(image: Image) -> int | None:
    """Bytes on disk: a raw image takes its whole size; other files at least what is downloaded."""
    if image.format in {"raw", "iso"}:
        return image.disk_size
    return image.source_size


def _file_system(path: Path) -> str:
    """The type of the file system that *path* is on, as mountinfo spells it."""
    best, kind = -1, ""
    real = os.path.realpath(path)
    with contextlib.suppress(OSError), Path("/proc/self/mountinfo").open() as file:
        for line in file:
            fields, _, tail = line.partition(" - ")
            point = fields.split()[4].replace("\\040", " ")
            inside = real == point or real.startswith(point.rstrip("/") + "/")
            if inside and len(point) >= best:
                best, kind = len(point), tail.split()[0]
    return kind
