# SPDX-License-Identifier: Apache-2.0
"""Does the copy exist already? If something else does, may it be replaced?

What a marker describes is ours. If it was changed since, it is replaced, unless it is in use. What
is not provably ours is never adopted and never replaced.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from fastdl import __version__
from fastdl.agent import provenance
from fastdl.agent.pools import AS_IT_IS, Found, Marker, Pool, State, Usage, Volume
from fastdl.errors import (
    FormatError,
    SinkBusyError,
    SinkIOError,
    SinkRefusedError,
    UnsafeImageError,
)
from fastdl.model.digest import Digest, hasher
from fastdl.model.image import HEAD_BYTES, TAIL_BYTES, Format
from fastdl.model.image_magic import detect
from fastdl.sinks.base import sink_error


@dataclass(frozen=True, slots=True)
class Before:
    """*ready*: the marker of the finished copy; else *void*: the marker of what is there and should
    be replaced, and *why*.
    """

    ready: Marker | None = None
    void: Marker | None = None
    why: str = ""


def before(pool: Pool, volume: Volume, digest: Digest | None, usage: Usage) -> Before:
    """What exists of *volume*; finishes what a crash left without its name.

    SinkRefusedError for a name that is taken or has other content, SinkBusyError for a copy that
    should be replaced but is in use.
    """
    marker = pool.markers.read(volume.name)
    if marker is not None and marker.machine:
        raise SinkRefusedError(f"{volume.name} is a disk of the machine {marker.machine}")
    found = pool.inspect(volume, marker)
    if found.state is State.FOREIGN:
        raise SinkRefusedError(f"{found.why}: remove it, or give it another name")
    if marker is None:
        return Before()
    if not marker.complete:
        if found.state is State.LANDED:
            return Before(ready=_adopted(pool, volume, marker, digest))
        return Before()
    if found.state is State.LANDED:
        if marker.replaces:
            require_unused(pool, volume, marker, usage, "its successor has landed")
        pool.publish(volume, marker, replace=marker.replaces)
    if found.state is State.ABSENT:
        return Before()
    if found.state is State.CHANGED:
        marker, found = _recheck(pool, volume, marker, found)
    if found.state is State.CHANGED:
        require_unused(pool, volume, marker, usage, found.why)
        return Before(void=marker, why=found.why)
    return _of_content(pool, volume, marker, digest, usage)


def require_unused(pool: Pool, volume: Volume, marker: Marker, usage: Usage, why: str) -> None:
    """SinkBusyError if the copy, which should be replaced for *why*, is in use."""
    if users := usage.of(pool.target(volume, marker)):
        raise SinkBusyError(
            f"{volume.name} cannot be replaced ({why}) while it is in use by {list_users(users)}"
        )


def list_users(users: tuple[str, ...]) -> str:
    """*users* in one phrase."""
    more = f" and {len(users) - 3} more" if len(users) > 3 else ""
    return ", ".join(users[:3]) + more


def _of_content(
    pool: Pool, volume: Volume, marker: Marker, digest: Digest | None, usage: Usage
) -> Before:
    """Compare an intact copy with the requested *digest*."""
    if digest is None:
        return Before(ready=marker)
    held = marker.digests.get(digest.algorithm)
    if held == digest.hex:
        return Before(ready=marker)
    if held:
        raise SinkRefusedError(
            f"{volume.name} is in the pool with different content ({digest.algorithm} {held}); "
            "remove it first"
        )
    path = pool.target(volume, marker).path
    if path is not None and path.is_file() and hash_of(path, digest.algorithm) == digest.hex:
        known = replace(marker, digests={**marker.digests, digest.algorithm: digest.hex})
        pool.markers.write(known)
        return Before(ready=known)
    # The digest may be of a compressed source: the unpacked copy cannot be compared with it.
    why = f"no {digest.algorithm} of it is known"
    require_unused(pool, volume, marker, usage, why)
    return Before(void=marker, why=why)


def _recheck(pool: Pool, volume: Volume, marker: Marker, found: Found) -> tuple[Marker, Found]:
    """A file of which only time or inode changed is unchanged if its digest still matches."""
    path = pool.target(volume, marker).path
    if path is None or not path.is_file() or path.is_symlink():
        return marker, found
    seen = path.stat()
    if seen.st_size != marker.size:
        return marker, found
    for algorithm, held in marker.digests.items():
        if algorithm not in {"sha-256", "sha-512"}:
            continue
        try:
            same = hash_of(path, algorithm) == held
        except SinkIOError as exc:
            return marker, replace(found, why=exc.message)
        if same:
            marker = replace(marker, inode=seen.st_ino, mtime_ns=seen.st_mtime_ns, damage="")
            pool.markers.write(marker)
            return marker, Found(State.INTACT)
    return marker, found


def _adopted(pool: Pool, volume: Volume, known: Marker, digest: Digest | None) -> Marker | None:
    """Finish what had landed and was verified when an agent died before recording it: only the
    engine writes to that location. None if its digest is not the requested one.
    """
    landed = pool.seal(volume, known)
    path = pool.landed(volume)
    algorithm = digest.algorithm if digest else "sha-256"
    found = hash_of(path, algorithm)
    if digest and digest.hex != found:
        pool.discard(volume)  # the digest may be of a compressed source
        return None
    kind, disk = image_in(path, landed.size)
    marker = replace(
        landed,
        complete=True,
        format=kind,
        virtual_size=disk,
        digests={algorithm: found},
        landing=AS_IT_IS,
        integrity=digest.strength if digest else "none",
        finished=provenance.now(),
        fastdl=__version__,
    )
    pool.markers.write(marker)
    pool.publish(volume, marker, replace=False)
    return marker


def hash_of(path: Path, algorithm: str) -> str:
    """The digest of the file at *path*, in hexadecimal; SinkIOError and its kin."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hasher(algorithm)).hexdigest()
    except OSError as exc:
        raise sink_error(exc, f"reading {path}") from exc


def image_in(path: Path, size: int) -> tuple[str, int]:
    """The format of the file of *size* bytes, and the size of its disk: for qcow2 from its header
    (bytes 24 to 31), else the file's size. SinkIOError and its kin."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
            file.seek(max(0, size - TAIL_BYTES))
            kind = detect(head, file.read(TAIL_BYTES), size)
    except OSError as exc:
        raise sink_error(exc, f"reading {path}") from exc
    except (FormatError, UnsafeImageError):
        kind = Format.RAW
    return str(kind), int.from_bytes(head[24:32], "big") if kind is Format.QCOW2 else size
