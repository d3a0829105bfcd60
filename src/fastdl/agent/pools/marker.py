# SPDX-License-Identifier: Apache-2.0
"""What is known of the copies in a pool: where they came from, and who may write them now?

One small JSON file for each volume, in a separate folder: next to the volumes if the pool is a
folder, in the agent's state if it consists of block devices. A marker is written whole (temporary
file, flush, rename), first as an intent, then as provenance.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from fastdl import fs
from fastdl.agent.pools.note import FOLDER, HIDDEN
from fastdl.errors import AgentRefusedError, SinkBusyError, SinkRefusedError
from fastdl.sinks.base import sink_error

VERSION = 1
AS_IT_IS = "same"
"""A ``landing``: the copy has the source's bytes."""
VOLUME_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@contextlib.contextmanager
def storage(what: str) -> Iterator[None]:
    """Turn the operating system's errors about *what* into the classes of ``fastdl.errors``."""
    try:
        yield
    except OSError as exc:
        raise sink_error(exc, what) from exc


_MAX_SIZE = 1 << 20
_NUMBER_MAX = (1 << 63) - 1
_TEXT_MAX = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Marker:
    """The provenance of one volume. URLs are without userinfo and query values.

    ``complete``  false: a download was started, nothing is known to be finished
    ``handle``    the volume's own name in the storage if we cannot choose it
    ``creating``  NAME/SIZE that a new one was about to get: without a handle, it may exist
    ``size``      bytes of the file, or of the disk on a block device
    ``template``  that it is a copy of, and in which ``zone``, as the manager names them
    ``inode``, ``mtime_ns``  of the published file
    ``edges``     SHA-256 of the first and last MiB of a published device
    ``landing``   how the source became the copy; ``AS_IT_IS``: the digests are the copy's too
    ``damage``    what an audit found wrong with it
    ``replaces``  publishing it replaces a copy of ours
    ``machine``   whose root disk it is; empty: it is a template's copy
    ``asked``     digest of the sources as they were given, and ``shape``: the format and capacity
                  that were, of a volume that was made on request
    """

    volume: str
    complete: bool = False
    handle: str = ""
    creating: str = ""
    size: int = 0
    virtual_size: int = 0
    format: str = ""
    integrity: str = "none"
    digests: Mapping[str, str] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    validators: Mapping[str, Any] = field(default_factory=dict)
    mirrors: tuple[Mapping[str, Any], ...] = ()
    template: str = ""
    zone: str = ""
    inode: int = 0
    mtime_ns: int = 0
    edges: str = ""
    landing: str = ""
    damage: str = ""
    replaces: bool = False
    machine: str = ""
    asked: str = ""
    shape: str = ""
    finished: str = ""
    fastdl: str = ""
    marker_version: int = VERSION


_FIELDS = frozenset(f.name for f in fields(Marker))


_NUMBERS = ("size", "virtual_size", "inode", "mtime_ns")
_TEXTS = (
    *("handle", "creating", "format", "integrity", "template", "zone"),
    *("edges", "landing", "damage", "machine", "asked", "shape", "finished", "fastdl"),
)

Opened = Callable[[], AbstractContextManager[int]]
"""Opens the folder of a pool; see ``folder.PoolFolder.opened``."""


class MarkerFolder:
    """The markers of one pool: in the agent's own *folder*, which is created when needed, or hidden
    in the pool's folder, which *pool* opens. Links are never followed.
    """

    def __init__(self, folder: Path | None = None, *, pool: Opened | None = None) -> None:
        assert (folder is None) != (pool is None)
        self._folder = folder
        self._pool = pool

    def read(self, volume: str) -> Marker | None:
        """The marker of *volume*; None if there is none or it is not valid."""
        with contextlib.suppress(OSError, ValueError), self._opened(make=False) as fd:
            return _parse(_bytes(f"{volume}.json", fd), volume)
        return None

    def write(self, marker: Marker) -> None:
        """Replace the marker of its volume with *marker*."""
        text = json.dumps(asdict(marker), indent=1, sort_keys=True).encode()
        with storage(f"the marker of {marker.volume}"), self._opened(make=True) as folder:
            fs.replace_file(
                f"{marker.volume}.json",
                text,
                folder_fd=folder,
                prepare=lambda fd: fs.set_mode(fd, 0o644),
            )

    def delete(self, volume: str) -> bool:
        """Delete the marker of *volume*; False if there was none."""
        with storage(f"the marker of {volume}"):
            try:
                with self._opened(make=False) as folder:
                    os.unlink(f"{volume}.json", dir_fd=folder)
                    fs.sync_folder(folder)
            except FileNotFoundError:
                return False
        return True

    def volumes(self) -> list[str]:
        """The volumes that have a marker: files with foreign names are ignored."""
        with contextlib.suppress(FileNotFoundError), self._opened(make=False) as folder:
            names = os.listdir(folder)  # noqa: PTH208 - by descriptor
            found = (name.removesuffix(".json") for name in names if name.endswith(".json"))
            return sorted(filter(VOLUME_NAME.fullmatch, found))
        return []

    @contextlib.contextmanager
    def lock(self, volume: str, *, fence: int = 0) -> Iterator[None]:
        """Be the only writer of *volume*, on this host and on all hosts that share the storage.

        The lock file carries the highest *fence* that ever held it: SinkBusyError while
        another job holds the lock, AgentRefusedError for an outdated fence.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        with storage(f"the lock of {volume}"), self._opened(make=True) as folder:
            fd = os.open(f".{volume}.lock", flags, 0o600, dir_fd=folder)
        try:
            with storage(f"the lock of {volume}"):
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    raise SinkRefusedError(f"the lock of {volume} is not a regular file")
                _claim(fd, volume, fence)
            yield
        finally:
            os.close(fd)

    def written(self, volume: str) -> float:
        """When the marker of *volume* was written, in seconds since 1970; 0 if there is none."""
        with contextlib.suppress(OSError), self._opened(make=False) as folder:
            return os.stat(f"{volume}.json", dir_fd=folder, follow_symlinks=False).st_mtime
        return 0.0

    def fence(self, volume: str) -> int:
        """The highest fence that ever held the lock of *volume*, 0 if none did."""
        with contextlib.suppress(OSError), self._opened(make=False) as folder:
            return _fence(_bytes(f".{volume}.lock", folder))
        return 0

    @contextlib.contextmanager
    def _opened(self, *, make: bool) -> Iterator[int]:
        if self._pool is not None:
            with self._pool() as root:
                with contextlib.suppress(FileExistsError):
                    if make:
                        os.mkdir(HIDDEN, 0o755, dir_fd=root)
                fd = os.open(HIDDEN, FOLDER | os.O_NOFOLLOW, dir_fd=root)
        else:
            assert self._folder is not None
            if make:
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(self._folder, FOLDER | os.O_NOFOLLOW)
        try:
            yield fd
        finally:
            os.close(fd)


def _bytes(name: str, folder: int) -> bytes:
    # Others who can write to the folder may have put a FIFO or a link there.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    fd = os.open(name, flags, dir_fd=folder)
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ValueError(name)
        return file.read(_MAX_SIZE)


def _parse(data: bytes, volume: str) -> Marker:
    """The marker in *data*; ValueError if it is not a valid one."""
    try:
        plain = json.loads(data)
        found = Marker(**{key: value for key, value in plain.items() if key in _FIELDS})
    except (TypeError, AttributeError, RecursionError) as exc:
        raise ValueError(volume) from exc
    whole = all(type(getattr(found, name)) is int for name in _NUMBERS)
    sizes = all(0 <= size <= _NUMBER_MAX for size in (found.size, found.virtual_size) if whole)
    text = all(_is_text(getattr(found, name)) for name in _TEXTS)
    if (
        found.volume != volume
        or not whole
        or not sizes
        or not text
        or type(found.complete) is not bool
    ):
        raise ValueError(volume)
    digests, validators = found.digests, found.validators
    if not isinstance(digests, dict) or not isinstance(validators, dict):
        raise ValueError(volume)
    if not all(map(_is_text, [*digests.values(), *_listed(found.sources)])):
        raise ValueError(volume)
    if not all(isinstance(mirror, dict) for mirror in _listed(found.mirrors)):
        raise ValueError(volume)
    return found


def _listed(value: Any) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise ValueError("not a list")
    return list(value)


def _is_text(value: Any) -> bool:
    """Whether *value* can be reported: others who write to a pool must not break our reports."""
    return isinstance(value, str) and len(value) <= _TEXT_MAX and value.isprintable()


def _fence(data: bytes) -> int:
    """The fence in a lock file, 0 if it is not valid."""
    seen = data.strip()
    number = int(seen) if seen.isdigit() and len(seen) < 20 else 0
    return number if number <= _NUMBER_MAX else 0


def _claim(fd: int, volume: str, fence: int) -> None:
    try:
        fs.lock_exclusively(fd)
    except BlockingIOError:
        raise SinkBusyError(f"another job is writing {volume} to this pool") from None
    highest = _fence(os.pread(fd, 32, 0))
    if fence and fence < highest:
        raise AgentRefusedError(
            f"this job's claim on {volume} is stale (fence {fence} after {highest})"
        )
    if fence > highest:
        os.pwrite(fd, f"{fence:<31}\n".encode(), 0)
        os.fsync(fd)
