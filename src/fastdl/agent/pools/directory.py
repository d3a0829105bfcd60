# SPDX-License-Identifier: Apache-2.0
"""A pool that is a folder: local file systems, NFS mounts, shared mount points.

A volume is a file named by the command; its provenance is in ``.fastdl`` next to it, where every
host that shares the folder finds it. Unfinished volumes are there too: bytes land in
``.fastdl/new/VOLUME``, and the agent gives them their name once they are verified. A name that is
used by somebody else's file is never taken over.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from fastdl import fs
from fastdl.agent.pools.base import (
    Found,
    Image,
    Placement,
    State,
    Used,
    Volume,
    require_space,
    unchanged,
)
from fastdl.agent.pools.folder import Memory, PoolFolder, reaches_others
from fastdl.agent.pools.marker import Marker, MarkerFolder, storage
from fastdl.agent.pools.note import HIDDEN, opened
from fastdl.agent.pools.usage import Target
from fastdl.errors import FastdlError, SinkRefusedError
from fastdl.sinks import syscalls
from fastdl.wire.messages import PoolInfo, PoolType

_NEW: Final = "new"
_GOING: Final = "going"
_TRIES: Final = 8


class DirectoryPool:
    """The folder *path*. Without *pool_id* the folder itself carries the pool's id.

    *memory*: the host's record of its folders; *mounted*: the folder is a mount point. *markers*:
    of a pool that others look into as well: they are elsewhere, and nothing hidden stays here.
    """

    holds_disks = True
    raw_disks = False

    def __init__(
        self,
        path: Path,
        *,
        name: str,
        pool_id: str | None = None,
        kind: PoolType = PoolType.FILESYSTEM,
        memory: Memory | None = None,
        mounted: bool = False,
        markers: MarkerFolder | None = None,
    ) -> None:
        self.path = path
        self.name = name
        self.kind = kind
        self._folder = PoolFolder(
            path, name=name, memory=memory, mounted=mounted, noted=markers is None
        )
        self._memory = memory
        self._tidy = markers is not None
        self.markers = markers or MarkerFolder(pool=self._folder.opened)
        self._id = pool_id

    @property
    def id(self) -> str:
        """The pool's id, the last known one while it is not mounted; SinkRefusedError if the folder
        cannot store one.
        """
        if self._id is None:
            known = self._memory.of(self.path) if self._memory else None
            self._id = known or self._folder.note().id
        return self._id

    def info(self) -> PoolInfo:
        """The pool as reported in the inventory."""
        shared = self.kind is PoolType.SHARED_MOUNT_POINT or reaches_others(self.path)
        try:
            proof = self._folder.note().proof(self.id)
            self._folder.require_writable()
            room = self._room()
        except (FastdlError, OSError) as exc:
            known = self._memory.of(self.path) if self._memory else None
            id_ = self._id or known or str(uuid.uuid5(uuid.NAMESPACE_URL, self.path.as_uri()))
            return PoolInfo(
                id=id_, name=self.name, type=self.kind, path=str(self.path), error=str(exc)
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

    def images(self) -> Iterable[Path]:
        """The pool's files, without hidden ones and without those in subfolders."""
        with (
            storage(f"the pool {self.name}"),
            self._folder.opened() as root,
            os.scandir(root) as found,
        ):
            names = [
                entry.name
                for entry in found
                if entry.name[0] != "." and entry.is_file(follow_symlinks=False)
            ]
        return [self.path / name for name in sorted(names)]

    def target(self, volume: Volume, marker: Marker | None) -> Target:
        """The file, and libvirt's name for it."""
        del marker
        names = frozenset({f"volume:{self.name}/{volume.file_name}"})
        return Target(self.path / volume.file_name, names)

    def inspect(self, volume: Volume, marker: Marker | None) -> Found:
        """Compare the file with the marker: the inode, the size, the time of the last change."""
        with storage(str(self.path / volume.file_name)), self._folder.opened() as root:
            self._put_back(root, volume)
            found = _status(volume.file_name, root)
            if marker is None or not marker.complete:
                return self._without_proof(root, volume, marker, found)
            landed = self._landed(root, volume)
            if landed is not None and _is_what(landed, marker):
                return Found(State.LANDED)
            return Found(State.ABSENT) if found is None else _compared(found, marker)

    def _without_proof(
        self, root: int, volume: Volume, marker: Marker | None, found: os.stat_result | None
    ) -> Found:
        if found is not None:
            return Found(
                State.FOREIGN,
                f"{self.path / volume.file_name} was not put there by fastdl",
                ours=False,
            )
        landed = marker is not None and self._landed(root, volume) is not None
        return Found(State.LANDED if landed else State.ABSENT)

    @contextlib.contextmanager
    def place(self, volume: Volume, image: Image) -> Iterator[Placement]:
        """The volume's own hidden folder; the engine creates the file in it."""
        self._folder.require_writable()
        with storage(f"the pool {self.name}"), self._folder.opened() as root:
            room = self._room()
            available = room.f_bavail * room.f_frsize + self._kept(root, volume)
            require_space(f"the pool {self.name}", need=_need(image), available=available)
            self._make_new(root, volume)
        yield Placement(
            target=str(self.landed(volume)),
            target_format="same",
            beneath=self.path,
        )

    def void(self, volume: Volume, marker: Marker) -> bool:
        """No: the old file stays until the new one replaces it."""
        del volume, marker
        return False

    def landed(self, volume: Volume) -> Path:
        """The file in the hidden folder."""
        return self._landing(volume) / volume.file_name

    def seal(self, volume: Volume, marker: Marker) -> Marker:
        """*marker* with the inode, the size and the time of what has landed."""
        with storage(f"{volume.file_name}"), self._folder.opened() as root:
            found = self._landed(root, volume)
        if found is None:
            raise SinkRefusedError(f"the data fetched for {volume.name} is gone: start again")
        return _sealed(marker, found)

    def seal_again(self, volume: Volume, marker: Marker) -> Marker:
        """*marker* after the published file was changed on purpose."""
        with storage(f"{volume.file_name}"), self._folder.opened() as root:
            found = _status(volume.file_name, root)
        return marker if found is None else _sealed(marker, found)

    def publish(self, volume: Volume, marker: Marker, *, replace: bool) -> str:
        """Rename what has landed into the pool; durable on return."""
        del marker
        name = volume.file_name
        with storage(f"publishing {self.path / name}"), self._folder.opened() as root:
            with self._new(root, volume, make=False) as new:
                if replace:
                    os.rename(name, name, src_dir_fd=new, dst_dir_fd=root)
                else:
                    _rename_new(new, name, root, name, what=str(self.path / name))
                fs.sync_folder(new)
            fs.sync_folder(root)
            self._discard(root, volume)
        return name

    def install_path(self, volume: Volume, marker: Marker) -> str:
        """The file's name."""
        del marker
        return volume.file_name

    def remove(self, volume: Volume, marker: Marker, *, used: Used | None) -> tuple[str, ...]:
        """Unlink the file, after hiding it: nobody can open it by its name from then on, and a
        second check finds users that opened it before.
        """
        del marker
        name = volume.file_name
        if used is not None and (users := used(self.target(volume, None))):
            return users
        with storage(str(self.path / name)), self._folder.opened() as root:
            if used is None:
                os.unlink(name, dir_fd=root)
            else:
                with self._hidden(root, _GOING, make=True) as going:
                    os.rename(name, name, src_dir_fd=root, dst_dir_fd=going)
                    hidden = self.path / HIDDEN / _GOING / name
                    if users := used(replace(self.target(volume, None), path=hidden)):
                        self._put_back(root, volume)
                        return users
                    os.unlink(name, dir_fd=going)
            fs.sync_folder(root)
        return ()

    def discard(self, volume: Volume) -> None:
        """Remove the folder in which the volume's bytes land."""
        with storage(str(self.path)), self._folder.opened() as root:
            self._discard(root, volume)

    # --- the hidden folders --------------------------------------------------------------

    def _landing(self, volume: Volume) -> Path:
        return self.path / HIDDEN / _NEW / volume.name

    @contextlib.contextmanager
    def _hidden(self, root: int, name: str, *, make: bool) -> Iterator[int]:
        """``.fastdl/NAME``, opened; made where *make*. OSError."""
        with contextlib.ExitStack() as stack:
            fd = root
            for part in (HIDDEN, name):
                fd = stack.enter_context(opened(part, fd, make=make))
            yield fd

    @contextlib.contextmanager
    def _new(self, root: int, volume: Volume, *, make: bool) -> Iterator[int]:
        with (
            self._hidden(root, _NEW, make=make) as new,
            opened(volume.name, new, make=make) as fd,
        ):
            yield fd

    def _make_new(self, root: int, volume: Volume) -> None:
        for _ in range(_TRIES):
            # Whoever finishes another volume may remove the empty folders above it meanwhile.
            with contextlib.suppress(FileNotFoundError), self._new(root, volume, make=True):
                return
        with self._new(root, volume, make=True):
            pass

    def _landed(self, root: int, volume: Volume) -> os.stat_result | None:
        """The status of the completely landed file, None if there is none."""
        with contextlib.suppress(FileNotFoundError), self._new(root, volume, make=False) as new:
            found = _status(volume.file_name, new)
            return found if found is not None and stat.S_ISREG(found.st_mode) else None
        return None

    def _put_back(self, root: int, volume: Volume) -> None:
        """Restore what was being removed when the agent died, or turned out to be in use."""
        name = volume.file_name
        with (
            contextlib.suppress(FileNotFoundError, FileExistsError),
            self._hidden(root, _GOING, make=False) as going,
        ):
            _rename_new(going, name, root, name, what=name)
            fs.sync_folder(root)

    def _discard(self, root: int, volume: Volume) -> None:
        with contextlib.suppress(FileNotFoundError), self._hidden(root, _NEW, make=False) as new:
            shutil.rmtree(volume.name, dir_fd=new)
        if self._tidy:
            with contextlib.suppress(OSError), opened(HIDDEN, root, make=False) as hidden:
                os.rmdir(_NEW, dir_fd=hidden)
            with contextlib.suppress(OSError):
                os.rmdir(HIDDEN, dir_fd=root)

    def _kept(self, root: int, volume: Volume) -> int:
        """Bytes that an interrupted job of this volume already occupies."""
        with (
            contextlib.suppress(OSError),
            self._new(root, volume, make=False) as new,
            os.scandir(new) as entries,
        ):
            return sum(e.stat(follow_symlinks=False).st_blocks * 512 for e in entries)
        return 0

    def _room(self) -> os.statvfs_result:
        return os.statvfs(self.path)


def _status(name: str, folder: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _sealed(marker: Marker, found: os.stat_result) -> Marker:
    return replace(marker, size=found.st_size, inode=found.st_ino, mtime_ns=found.st_mtime_ns)


def _compared(found: os.stat_result, marker: Marker) -> Found:
    if not stat.S_ISREG(found.st_mode):
        return Found(State.FOREIGN, f"{marker.volume} is not a regular file any more", ours=False)
    if _is_what(found, marker):
        return unchanged(marker)
    ours = found.st_ino == marker.inode
    if found.st_size != marker.size:
        why = f"it has {found.st_size} bytes, {marker.size} were published"
    else:
        why = "it was written to since it was published"
    return Found(State.CHANGED, why if ours else f"another file took its place: {why}", ours=ours)


def _is_what(found: os.stat_result, marker: Marker) -> bool:
    """Whether *found* is what *marker* describes. (Inodes differ if a pool was moved, or its file
    system has none; sizes and times stay with the file.)
    """
    return found.st_size == marker.size and found.st_mtime_ns == marker.mtime_ns


def _rename_new(source: int, old: str, target: int, new: str, *, what: str) -> None:
    try:
        syscalls.rename_new(source, old, new, target)
    except FileExistsError:
        raise SinkRefusedError(f"{what} appeared in the meantime: it was not replaced") from None


def _need(image: Image) -> int | None:
    """Bytes on disk: a raw image takes its whole size, other files at least the download's."""
    if image.format in {"raw", "iso"}:
        return image.disk_size
    return image.source_size
