# SPDX-License-Identifier: Apache-2.0
"""Removes copies from a pool: only what a marker proves to be ours, and only if not in use."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Collection

from fastdl.agent.pools import Found, Pool, State, Usage, Volume
from fastdl.agent.present import list_users
from fastdl.errors import FastdlError, SinkIOError, SinkRefusedError
from fastdl.wire.messages import RemoveDone

log = logging.getLogger(__name__)


async def remove(
    pool: Pool, volume: Volume, usage: Usage, *, fence: int = 0, forced: bool = False
) -> RemoveDone:
    """Remove *volume*, what an unfinished job left of it, and its marker.

    A copy that is in use, or was replaced by something else, is kept, with the reason, unless
    *forced*. SinkRefusedError for what is not provably ours, even if *forced*.
    """

    def work() -> RemoveDone:
        with pool.markers.lock(volume.name, fence=fence):
            return _remove(pool, volume, usage, forced=forced)

    return await asyncio.to_thread(work)


def _remove(pool: Pool, volume: Volume, usage: Usage, *, forced: bool) -> RemoveDone:
    marker = pool.markers.read(volume.name)
    if marker is not None and marker.machine:
        raise SinkRefusedError(f"{volume.name} is a disk of the machine {marker.machine}")
    found = pool.inspect(volume, marker)
    if marker is None or not marker.complete or found.state in {State.ABSENT, State.LANDED}:
        pool.discard(volume)
        known = pool.markers.delete(volume.name)
        if found.state is State.FOREIGN:
            raise _refusal(found)
        return RemoveDone(was_present=known and marker is not None and marker.complete)
    if found.state is State.FOREIGN:
        raise _refusal(found)
    if not found.ours and not forced:
        return RemoveDone(kept=True, reason=found.why)
    if users := pool.remove(volume, marker, used=None if forced else usage.of):
        return RemoveDone(kept=True, users=users, reason=f"it is in use by {list_users(users)}")
    pool.discard(volume)
    pool.markers.delete(volume.name)
    return RemoveDone()


def _refusal(found: Found) -> FastdlError:
    kind = SinkIOError if found.elsewhere else SinkRefusedError
    return kind(f"{found.why}: it is left alone")


def prune(pool: Pool, *, running: Collection[str], before: float) -> list[str]:
    """Remove what unfinished jobs left that were not resumed since *before* (seconds since 1970);
    return the volumes. *running*: those that jobs of this host are about.
    """
    gone = []
    for name in pool.markers.volumes():
        if name in running or pool.markers.written(name) >= before:
            continue
        with contextlib.suppress(FastdlError), pool.markers.lock(name):
            marker = pool.markers.read(name)
            if marker is None or marker.complete or marker.machine:
                continue
            pool.discard(Volume(name))
            pool.markers.delete(name)
            gone.append(name)
    return gone
