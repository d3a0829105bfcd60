# SPDX-License-Identifier: Apache-2.0
"""What is in a pool, according to its markers, and who uses it?"""

from __future__ import annotations

from typing import Final

from fastdl.agent.pools import Found, Marker, Pool, State, Usage, Volume
from fastdl.errors import FastdlError
from fastdl.wire.messages import CopiesDone, CopyInfo

PAGE: Final = 500
"""Copies in one response."""


def listing(pool: Pool, usage: Usage, *, after: str = "") -> CopiesDone:
    """Return the copies in *pool* after the volume *after*; raises if the pool is unavailable."""
    names = [name for name in pool.markers.volumes() if name > after]
    known = {name: pool.markers.read(name) for name in names[:PAGE]}
    # A machine's disk is nobody's copy.
    known = {name: marker for name, marker in known.items() if marker and not marker.machine}
    targets = {name: pool.target(Volume(name), marker) for name, marker in known.items() if marker}
    users = usage.all(targets)
    copies = tuple(
        _info(pool, marker, users[name]) for name, marker in known.items() if marker is not None
    )
    return CopiesDone(copies=copies, more=len(names) > PAGE)


def _info(pool: Pool, marker: Marker, users: tuple[str, ...]) -> CopyInfo:
    volume = Volume(marker.volume)
    try:
        found = pool.inspect(volume, marker)
    except FastdlError as exc:
        found = Found(State.CHANGED, str(exc))
    return CopyInfo(
        volume=marker.volume,
        template=marker.template[:64],
        zone=marker.zone[:64],
        complete=marker.complete,
        state=found.state.value,
        why=found.why[:4096],
        install_path=pool.install_path(volume, marker)[:4096],
        virtual_size=max(0, marker.virtual_size),
        bytes=max(0, marker.size),
        fence=pool.markers.fence(marker.volume),
        users=tuple(user[:4096] for user in users),
    )
