# SPDX-License-Identifier: Apache-2.0
"""Is a copy still what was published? All of it is read and compared with its digest.

The digest of the whole decides; a list of pieces from the manager only says where the damage is.
What is found is recorded in the marker, so that the copy is replaced by the next download and no
machine is made from it before.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import mmap
import os
import stat
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from fastdl.agent.piece_lists import JobPieces
from fastdl.agent.pools import AS_IT_IS, Found, Marker, Pool, State, Usage, Volume
from fastdl.engine.mending import PieceCheck
from fastdl.engine.shared_pieces import shared_in
from fastdl.errors import Cancelled, SinkBusyError, SinkRefusedError
from fastdl.model.digest import hasher
from fastdl.sinks.base import sink_error
from fastdl.wire.messages import AuditDone

DAMAGED: Final = "damaged"
UNKNOWN: Final = "unknown"
_READ: Final = 1 << 20
_SHOWN: Final = 16
"""Ranges of pieces in the text; the result has all."""
_PROVING: Final = ("sha-512", "sha-256")


async def audit(pool: Pool, volume: Volume, usage: Usage, pieces: JobPieces | None) -> AuditDone:
    """Read the copy *volume* in *pool* and report what it is; nothing is changed but its marker.

    *pieces*: the manager's list for it. SinkRefusedError for a machine's disk and for what is not
    provably ours; SinkIOError and its kin where the storage does not respond.
    """
    marker, found = await asyncio.to_thread(_known, pool, volume)
    if marker is None or found.state in {State.ABSENT, State.LANDED}:
        return AuditDone(state=State.ABSENT.value, why=found.why[:4096])
    users = await asyncio.to_thread(usage.of, pool.target(volume, marker))
    users = tuple(user[:4096] for user in users[:64])
    algorithm = next((name for name in _PROVING if name in marker.digests), None)
    path = pool.target(volume, marker).path
    why = ""
    if marker.landing != AS_IT_IS:
        why = "its own digest is not known: it was converted or unpacked"
    elif algorithm is None:
        why = "it was downloaded without a SHA-256 or SHA-512 to compare it with"
    if path is None:
        why = "it cannot be read as a file or device here"
    if algorithm is None or path is None or why:
        return AuditDone(state=UNKNOWN, why=why, users=users)
    lists = await pieces.shared(marker.size) if pieces is not None else {}
    stop = threading.Event()
    reading = asyncio.ensure_future(
        asyncio.to_thread(_compared, path, marker, algorithm, lists, stop)
    )
    try:
        done = await asyncio.shield(reading)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait([reading])
        reading.exception()
        raise
    await asyncio.to_thread(_record, pool, marker, done)
    return replace(done, users=users)


def _known(pool: Pool, volume: Volume) -> tuple[Marker | None, Found]:
    marker = pool.markers.read(volume.name)
    if marker is not None and marker.machine:
        raise SinkRefusedError(f"{volume.name} is a disk of the machine {marker.machine}")
    found = pool.inspect(volume, marker)
    if found.state is State.FOREIGN:
        raise SinkRefusedError(found.why)
    return marker if marker is not None and marker.complete else None, found


def _compared(
    path: Path, marker: Marker, algorithm: str, lists: Mapping[str, Any], stop: threading.Event
) -> AuditDone:
    shared = shared_in(lists.get("shared"))
    check = PieceCheck(shared.pieces) if shared is not None else None
    whole, size, unreadable = hasher(algorithm), 0, 0
    for data, length in _blocks(path, marker.size, stop):
        whole.update(data[:length])
        if check is not None:
            check.feed(data)  # in step, whatever cannot be read
        size += length
        unreadable += len(data) - length
    if check is not None:
        check.end()
    about: dict[str, Any] = {"bytes": size}
    if shared is not None:
        about |= {"pieces": shared.pieces.count, "length": shared.length}
    if not unreadable and whole.hexdigest() == marker.digests[algorithm]:
        return AuditDone(state=State.INTACT.value, **about)
    why = f"its {algorithm} is not that of what was published"
    if unreadable:
        why = f"{unreadable} of its bytes cannot be read"
    if check is not None and shared is not None and (wrong := check.wrong()):
        about["wrong"] = tuple(wrong)
        why += f"; wrong: {len(wrong)} of its {shared.pieces.count} pieces of {shared.length} "
        why += f"bytes, counted from 0: {ranges(wrong)}"
    return AuditDone(state=DAMAGED, why=why, **about)


def ranges(numbers: list[int]) -> str:
    """*numbers*, which ascend, as a text: neighbours as a range."""
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and found[-1][1] == number - 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    texts = [str(a) if a == b else f"{a}-{b}" for a, b in found[:_SHOWN]]
    return ", ".join(texts) + (", …" if len(found) > _SHOWN else "")


def _blocks(path: Path, size: int, stop: threading.Event) -> Iterator[tuple[memoryview, int]]:
    """The first *size* bytes at *path*: (block, how many bytes of it could be read), zeros for the
    rest. Around the page cache where that is possible: it belongs to the host's machines, and the
    storage is what is audited."""
    memory = memoryview(mmap.mmap(-1, _READ, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    fd, direct = _opened(path)
    try:
        for at in range(0, size, _READ):
            if stop.is_set():
                raise Cancelled("the audit was stopped")
            wanted = min(_READ, size - at)
            try:
                have = _read(fd, memory if direct else memory[:wanted], at, wanted)
            except OSError:
                have = 0
            memory[have:wanted] = bytes(wanted - have)
            yield memory[:wanted], have
    finally:
        os.close(fd)


def _opened(path: Path) -> tuple[int, bool]:
    """The file or device at *path*, and whether it is read directly."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    try:
        # Devices are named by links; nobody's link leads out of a folder.
        flags |= 0 if path.is_block_device() else os.O_NOFOLLOW
        try:
            fd, direct = os.open(path, flags | os.O_DIRECT), True
        except OSError:
            fd, direct = os.open(path, flags), False
        mode = os.fstat(fd).st_mode
        if stat.S_ISREG(mode) or stat.S_ISBLK(mode):
            return fd, direct
        os.close(fd)
    except OSError as exc:
        raise sink_error(exc, f"reading {path}") from exc
    raise SinkRefusedError(f"{path} is neither a file nor a device")


def _read(fd: int, memory: memoryview, at: int, wanted: int) -> int:
    have = 0
    while have < wanted:
        try:
            n = os.preadv(fd, [memory[have:]], at + have)
        except OSError as exc:
            if exc.errno == errno.EINVAL and _through_the_cache(fd):
                continue
            raise
        if not n:
            break
        have += n
    return min(have, wanted)


def _through_the_cache(fd: int) -> bool:
    """Read *fd* that way from now on; False if it is so already. Some file systems open a file for
    direct reads and then refuse them."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    fcntl.fcntl(fd, fcntl.F_SETFL, flags & ~os.O_DIRECT)
    return bool(flags & os.O_DIRECT)


def _record(pool: Pool, marker: Marker, done: AuditDone) -> None:
    """Note the outcome in *marker*, unless somebody writes the volume now or wrote it since."""
    damage = done.why[:4096] if done.state == DAMAGED else ""
    if damage == marker.damage:
        return
    try:
        with pool.markers.lock(marker.volume):
            if pool.markers.read(marker.volume) == marker:
                pool.markers.write(replace(marker, damage=damage))
    except SinkBusyError:
        return
