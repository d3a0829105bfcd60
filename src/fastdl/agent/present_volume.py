# SPDX-License-Identifier: Apache-2.0
"""Is a volume there already that was made of the same source? If it is another one, may it be
replaced?

Machines write to their volumes, so that one made here stays what was asked for however it changed
since. A volume is replaced only on demand, and never while somebody uses it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from fastdl import __version__
from fastdl.agent import provenance
from fastdl.agent.pools import Found, Marker, State, Usage, Volume
from fastdl.agent.pools.blocks import BlockPool
from fastdl.agent.pools.virt import VolumePool
from fastdl.agent.present import Before, hash_of, image_in, require_unused
from fastdl.errors import SinkRefusedError
from fastdl.model.digest import Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a caller wants. *sources*: their digest; *shape*: format and capacity; *described*: the
    source's checksum is written in another document.
    """

    volume: Volume
    sources: str
    shape: str
    described: bool
    overwrite: bool


def existing(
    pool: VolumePool, asked: Asked, digest: Digest | None, usage: Usage, *, known: bool
) -> Before | None:
    """What exists of the volume; finishes what a crash left without its name.

    *digest*: the source's, None if there is none or, unless *known*, not yet. Returns None if that
    has to be known first. ``why`` of a finished one: what is to be said about it.
    SinkRefusedError if something else has the name, SinkBusyError if that cannot be replaced.
    """
    volume = asked.volume
    marker = pool.markers.read(volume.name)
    found = pool.inspect(volume, marker)
    if found.state is State.LANDED and marker is not None and marker.complete:
        if marker.replaces:
            require_unused(pool, volume, marker, usage, "its successor has landed")
        pool.publish(volume, marker, replace=marker.replaces)
        found = pool.inspect(volume, marker)
    elif found.state is State.LANDED:
        pool.discard(volume)  # nobody recorded what it is
        return Before()
    if found.state is State.ABSENT:
        return Before()
    if marker is None or not marker.complete or _is_strange(pool, found):
        marker, why = _stranger(pool, asked, found, digest, known=known)
    else:
        why = _difference(pool, asked, marker, found, digest, known=known)
    if why == "":
        assert marker is not None
        changed = found.state is State.CHANGED
        return Before(ready=marker, why="it was written to since it was made" if changed else "")
    if why is None:
        return None
    if not asked.overwrite or (marker is None and isinstance(pool, BlockPool)):
        raise SinkRefusedError(
            f"the pool {pool.name} has a volume {volume.name} already: {why}; "
            + ("delete it first" if asked.overwrite else "delete it, or say --overwrite"),
            phase="land",
        )
    void = marker or Marker(volume=volume.name)
    require_unused(pool, volume, void, usage, why)
    return Before(void=void, why=why)


def _is_strange(pool: VolumePool, found: Found) -> bool:
    """Whether it is certain that something else took the volume's name."""
    if found.state is State.FOREIGN:
        return True
    # A machine that writes to its disk changes a device's ends as well.
    return found.state is State.CHANGED and not found.ours and not isinstance(pool, BlockPool)


def _stranger(
    pool: VolumePool, asked: Asked, found: Found, digest: Digest | None, *, known: bool
) -> tuple[Marker | None, str | None]:
    """A volume that nothing is known of: its marker if its content is the wanted one, else what is
    wrong; (None, None) if the digest is needed for that.
    """
    path = pool.target(asked.volume, None).path
    if isinstance(pool, BlockPool) or path is None or path.is_symlink() or not path.is_file():
        return None, found.why
    if digest is None:
        unknown = "it was not made by fastdl, and no checksum is given to compare it with"
        return None, unknown if known else None
    if hash_of(path, digest.algorithm) != digest.hex:
        return None, f"its {digest.algorithm} is not {digest.hex}"
    seen = path.stat()
    kind, disk = image_in(path, seen.st_size)
    marker = Marker(
        volume=asked.volume.name,
        complete=True,
        size=seen.st_size,
        format=kind,
        virtual_size=disk,
        digests={digest.algorithm: digest.hex},
        integrity=digest.strength,
        inode=seen.st_ino,
        mtime_ns=seen.st_mtime_ns,
        asked=asked.sources,
        shape=asked.shape,
        finished=provenance.now(),
        fastdl=__version__,
    )
    pool.markers.write(marker)
    return marker, ""


def _difference(
    pool: VolumePool,
    asked: Asked,
    marker: Marker,
    found: Found,
    digest: Digest | None,
    *,
    known: bool,
) -> str | None:
    """How the volume differs from what is asked for; "" if it does not, None if unknown yet."""
    if marker.shape and marker.shape != asked.shape:
        return "it was made with another format or capacity"
    if digest is None:
        if asked.described and not known:
            return None
        if marker.asked == asked.sources:
            return ""
        return "it was made from another source" if known else None
    held = marker.digests.get(digest.algorithm)
    if held:
        return "" if held == digest.hex else f"it was made of other content ({digest.algorithm})"
    path = pool.target(asked.volume, marker).path
    if (
        found.state is State.INTACT
        and path is not None
        and path.is_file()
        and hash_of(path, digest.algorithm) == digest.hex
    ):
        digests = {**marker.digests, digest.algorithm: digest.hex}
        pool.markers.write(replace(marker, digests=digests))
        return ""
    return f"no {digest.algorithm} of it is known"
