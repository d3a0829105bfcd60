# SPDX-License-Identifier: Apache-2.0
"""What is known of the copies in a pool: where they came from, and who may write them now?

One small JSON file for each volume, in a folder of its own: beside the volumes where the
pool is a folder, in the agent's state where it is made of block devices. A marker is
written whole (temporary file, flush, rename), first as an intent, then as provenance.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from fastdl.errors import AgentRefusedError, SinkBusyError
from fastdl.sinks.base import sink_error

VERSION = 1


@contextlib.contextmanager
def storage(what: str) -> Iterator[None]:
    """Turn the operating system's errors about *what* into the classes of ``fastdl.errors``."""
    try:
        yield
    except OSError as exc:
        raise sink_error(exc, what) from exc


_MAX_SIZE = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Marker:
    """The provenance of one volume. URLs are without userinfo and query values.

    ``complete``  false: a download was begun, nothing is known to be finished
    ``handle``    the volume's own name in the storage where that is not ours to choose
    ``size``      bytes of the file, or of the disk on a block device
    """

    volume: str
    complete: bool = False
    handle: str = ""
    size: int = 0
    virtual_size: int = 0
    format: str = ""
    integrity: str = "none"
    digests: Mapping[str, str] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    validators: Mapping[str, Any] = field(default_factory=dict)
    mirrors: tuple[Mapping[str, Any], ...] = ()
    finished: str = ""
    fastdl: str = ""
    marker_version: int = VERSION


_FIELDS = frozenset(f.name for f in fields(Marker))


def staging_path(target: Path) -> Path:
    """The hidden folder beside the file *target* in which a compressed image is unpacked."""
    return target.with_name(f".{target.name}.fastdl-unpacked")


class MarkerFolder:
    """The markers of one pool. The folder is made when the first one is written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, volume: str) -> Marker | None:
        """The marker of *volume*; None where there is none or it cannot be believed."""
        path = self._path(volume)
        try:
            with path.open("rb") as file:
                plain = json.loads(file.read(_MAX_SIZE))
            known = {key: value for key, value in plain.items() if key in _FIELDS}
            found = Marker(**known)
        except (OSError, ValueError, TypeError, AttributeError):
            return None
        if found.volume != volume or type(found.size) is not int:
            return None
        if not isinstance(found.digests, dict) or found.complete not in {True, False}:
            return None
        return found

    def write(self, marker: Marker) -> None:
        """Put *marker* in the place of what was known of its volume."""
        with storage(f"the marker of {marker.volume}"):
            self._write(marker)

    def _write(self, marker: Marker) -> None:
        self._make_folder()
        text = json.dumps(asdict(marker), indent=1, sort_keys=True)
        fd, name = tempfile.mkstemp(dir=self.folder, prefix=".", suffix=".tmp")
        temporary = Path(name)
        try:
            with os.fdopen(fd, "wb") as file:
                os.fchmod(fd, 0o644)
                file.write(text.encode())
                file.flush()
                os.fsync(fd)
            temporary.rename(self._path(marker.volume))
        finally:
            temporary.unlink(missing_ok=True)
        self._sync()

    def delete(self, volume: str) -> bool:
        """Forget *volume*; False when nothing was known."""
        with storage(f"the marker of {volume}"):
            try:
                self._path(volume).unlink()
            except FileNotFoundError:
                return False
            self._sync()
        return True

    def volumes(self) -> list[str]:
        """The volumes of which something is known."""
        with contextlib.suppress(FileNotFoundError):
            return sorted(path.stem for path in self.folder.glob("*.json") if path.name[0] != ".")
        return []

    @contextlib.contextmanager
    def lock(self, volume: str, *, fence: int = 0) -> Iterator[None]:
        """Be the only writer of *volume*, on this host and on others that share the storage.

        The lock file carries the highest *fence* that ever held it: SinkBusyError while
        another job holds the lock, AgentRefusedError for a fence that was overtaken.
        """
        with storage(f"the lock of {volume}"):
            self._make_folder()
            path = self.folder / f".{volume}.lock"
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            with storage(f"the lock of {volume}"):
                _claim(fd, volume, fence)
            yield
        finally:
            os.close(fd)

    def _path(self, volume: str) -> Path:
        return self.folder / f"{volume}.json"

    def _make_folder(self) -> None:
        self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)

    def _sync(self) -> None:
        fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _claim(fd: int, volume: str, fence: int) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SinkBusyError(f"another job is writing {volume} to this pool") from None
    seen = os.pread(fd, 32, 0).strip()
    highest = int(seen) if seen.isdigit() else 0
    if fence and fence < highest:
        raise AgentRefusedError(
            f"this job's claim on {volume} was overtaken (fence {fence} after {highest})"
        )
    if fence > highest:
        os.pwrite(fd, f"{fence:<31}\n".encode(), 0)
        os.fsync(fd)
