# SPDX-License-Identifier: Apache-2.0
"""How does one template get into one pool, once, however often it is requested?

Look, lock, probe, check the space, record the intent, fetch (in a confined process), record the
result. A crash at any point leaves something from which the same command finishes: a resume, a
finished file that only lacks its marker, or nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from fastdl import __version__
from fastdl.agent import provenance, work
from fastdl.agent.confine import BEST_EFFORT, Confinement
from fastdl.agent.piece_lists import JobPieces
from fastdl.agent.pools import AS_IT_IS, Image, Marker, Placement, Pool, Usage, Volume
from fastdl.agent.present import Before, before, require_unused
from fastdl.agent.work import ProgressCallback, Runner, Work
from fastdl.errors import LimitError, SinkBusyError, TrustError
from fastdl.model.digest import parse_checksum
from fastdl.model.image import COMPRESSED
from fastdl.wire.messages import DownloadDone

log = logging.getLogger(__name__)

T = TypeVar("T")

_FILE_MARGIN = 64 << 20
"""Bytes by which a file may exceed what it holds: footers, blocks that are written as a whole."""
NO_LISTS: Mapping[str, Any] = {}
_LOCK_PAUSE = 0.5  # seconds between checks of a lock that another process holds


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What should be in the pool. *options*: fields of ``FetchOptions`` as JSON has them.

    *fence* orders competing claims on a shared pool; 0 makes no claim. *deadline*: seconds.
    *max_source_size*, *max_virtual_size*: bytes that the file at the origin and the disk may have.
    *expected_size*: the disk's, from the command, for sources that do not report it. *patience*:
    seconds to wait while another job writes the volume. *template*, *zone*: what it is a copy of,
    for later readers of its marker. *pieces*: the manager's lists, for a job of a manager.
    """

    volume: Volume
    sources: tuple[str, ...] = field(repr=False)
    checksum: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    max_source_size: int | None = None
    max_virtual_size: int | None = None
    expected_size: int | None = None
    fence: int = 0
    deadline: float | None = None
    patience: float = 0.0
    state: Path | None = None
    confinement: Confinement = BEST_EFFORT
    template: str = ""
    zone: str = ""
    pieces: JobPieces | None = None


async def bring(
    pool: Pool,
    wanted: Wanted,
    usage: Usage,
    *,
    progress: ProgressCallback | None = None,
) -> DownloadDone:
    """Fetch *wanted* into *pool*; returns immediately if it is there.

    A copy of ours that somebody changed is replaced if nobody uses it (*usage*). SinkRefusedError
    if the volume's name is taken by something else; everything that probing, placing and fetching
    raise.
    """
    volume = wanted.volume
    digest = parse_checksum(wanted.checksum) if wanted.checksum else None
    async with locked(pool, wanted):
        there = await asyncio.to_thread(before, pool, volume, digest, usage)
        if there.ready is not None:
            path = await asyncio.to_thread(pool.install_path, volume, there.ready)
            return provenance.done(there.ready, path, already=True)
        begun = time.monotonic()
        async with contextlib.AsyncExitStack() as process:
            runner = await process.enter_async_context(work.series(wanted.confinement))
            probe = await _probe(wanted, runner)
            image = image_of(probe, wanted)
            lists = await wanted.pieces.shared(image.source_size) if wanted.pieces else {}
            async with threaded(pool.place(volume, image)) as placement, process.pop_all():
                # The process ends first: its target is not released while it may write.
                await to_end(_intend, pool, wanted, there)
                result = await _trusting(
                    runner(
                        fetching(
                            wanted, placement, image, probe, lists, _damaged(pool, wanted, there)
                        ),
                        progress=progress,
                        deadline=_left(wanted.deadline, begun),
                    )
                )
        if wanted.pieces is not None:
            wanted.pieces.keep(result)
        marker = await to_end(_finish, pool, wanted, there, usage, result, probe)
        install_path = await asyncio.to_thread(pool.install_path, volume, marker)
    return provenance.done(marker, install_path, result=result, replaced=there.why)


def _intend(pool: Pool, wanted: Wanted, there: Before) -> None:
    """Record that a download starts.

    A file that will be replaced stays as it is until its successor has landed; a device is empty
    from now on.
    """
    if there.void is None or pool.void(wanted.volume, there.void):
        pool.markers.write(known_of(pool, wanted))


def _damaged(pool: Pool, wanted: Wanted, there: Before) -> Path | None:
    """The file that is to be replaced, of which parts may be right; a device is empty by now."""
    if there.void is None or there.void.landing != AS_IT_IS or pool.raw_disks:
        return None
    return pool.target(wanted.volume, there.void).path


def known_of(pool: Pool, wanted: Wanted) -> Marker:
    """The marker of a volume that is still empty."""
    known = pool.markers.read(wanted.volume.name)
    return Marker(
        volume=wanted.volume.name,
        handle=known.handle if known else "",
        template=wanted.template,
        zone=wanted.zone,
        fastdl=__version__,
    )


def _finish(
    pool: Pool,
    wanted: Wanted,
    there: Before,
    usage: Usage,
    result: Mapping[str, Any],
    probe: Mapping[str, Any],
) -> Marker:
    """Record what has landed, then give it its name; both may be repeated after a crash."""
    volume = wanted.volume
    marker = provenance.marker_of(known_of(pool, wanted), result, probe)
    marker = replace(pool.seal(volume, marker), replaces=there.void is not None)
    if there.void is not None:
        require_unused(pool, volume, there.void, usage, there.why)
    pool.markers.write(marker)
    pool.publish(volume, marker, replace=marker.replaces)
    return marker


async def _probe(wanted: Wanted, runner: Runner) -> dict[str, Any]:
    return await _trusting(
        runner(
            Work(action="probe", sources=wanted.sources, options=wanted.options),
            deadline=wanted.deadline,
        )
    )


async def _trusting(work_of: Awaitable[dict[str, Any]]) -> dict[str, Any]:
    """The result of *work_of*; a TrustError also names this host's keystore."""
    try:
        return await work_of
    except TrustError as exc:
        raise TrustError(
            f"{exc.message}; no certificate of this host's keystore matches",
            phase=exc.phase,
            origin=exc.origin,
        ) from exc


@contextlib.asynccontextmanager
async def locked(pool: Pool, wanted: Wanted) -> AsyncIterator[None]:
    """The volume's lock; waits for it as long as *wanted* allows."""
    end = time.monotonic() + wanted.patience
    async with contextlib.AsyncExitStack() as held:
        while True:
            lock = pool.markers.lock(wanted.volume.name, fence=wanted.fence)
            try:
                await held.enter_async_context(threaded(lock))
                break
            except SinkBusyError:
                if time.monotonic() >= end:
                    raise
            await asyncio.sleep(_LOCK_PAUSE)
        yield


def image_of(plain: Mapping[str, Any], wanted: Wanted) -> Image:
    image = Image(
        source_size=plain.get("size"),
        virtual_size=plain.get("virtual_size") or wanted.expected_size,
        format=plain.get("format") or "",
    )
    for what, size, limit in (
        ("the file at the origin", image.source_size, wanted.max_source_size),
        ("the disk", image.disk_size, wanted.max_virtual_size),
    ):
        if limit is not None and size is not None and size > limit:
            raise LimitError(f"{what} has {size} bytes, at most {limit} are allowed")
    return image


def fetching(
    wanted: Wanted,
    placement: Placement,
    image: Image,
    probe: Mapping[str, Any],
    lists: Mapping[str, Any] = NO_LISTS,
    damaged: Path | None = None,
) -> Work:
    """The work that lands *image*; compressed ones are unpacked, whatever they contain. *lists*:
    what ``JobPieces.shared`` said; *damaged*: the copy of it that is replaced."""
    action, target_format = "fetch", placement.target_format
    inner, _, outer = image.format.rpartition(".")
    if target_format == "same" and outer in COMPRESSED:
        declared = wanted.options.get("source_format", "auto")
        # A fixed VHD is only recognisable at its end: it stays one only if it is expected.
        if inner in {"raw", "iso"} and declared in {"auto", "raw", "iso"}:
            target_format = "raw"
        else:
            action = "unpack"
    return Work(
        action=action,
        sources=wanted.sources,
        target=placement.target,
        checksum=wanted.checksum,
        options={
            **wanted.options,
            "target_format": target_format,
            "max_virtual_size": _at_most(wanted, probe),
        },
        placement={
            "beneath": str(placement.beneath) if placement.beneath else None,
            "state_dir": str(wanted.state) if wanted.state else None,
            "damaged": str(damaged) if damaged and action == "fetch" else None,
            **lists,
        },
        file_size=_file_size(wanted, as_it_is=action == "fetch" and target_format == "same"),
    )


def _file_size(wanted: Wanted, *, as_it_is: bool) -> int | None:
    """Bytes that a file of the download may have. The limits are checked earlier; this bounds what
    a compromised process can write to a pool.
    """
    source, disk = wanted.max_source_size, wanted.max_virtual_size
    if source is None or (disk is None and not as_it_is):
        return None
    return (source if as_it_is or disk is None else max(source, disk)) + _FILE_MARGIN


def _at_most(wanted: Wanted, probe: Mapping[str, Any]) -> int | None:
    """Limit of decoded bytes: the size that an .xz file states, if it does, so that a wrong index
    is reported as a broken file and not as a full pool.
    """
    stated: int | None = probe.get("virtual_size")
    if stated is not None and probe.get("format") in {"raw.xz", "iso.xz"}:
        return stated
    return wanted.max_virtual_size


def _left(deadline: float | None, begun: float) -> float | None:
    return None if deadline is None else max(0.0, deadline - (time.monotonic() - begun))


@contextlib.asynccontextmanager
async def threaded(manager: AbstractContextManager[T]) -> AsyncIterator[T]:
    """*manager* entered and left in a thread: pools may wait for libvirt or a network mount.

    What was entered is left, also if the task is cancelled while it is being entered.
    """
    entered: list[T] = []
    try:
        await to_end(lambda: entered.append(manager.__enter__()))
        yield entered[0]
    except BaseException as exc:
        done: bool | None = False
        if entered:
            done = await to_end(manager.__exit__, type(exc), exc, exc.__traceback__)
        if not done:
            raise
    else:
        await to_end(manager.__exit__, None, None, None)


async def to_end(function: Callable[..., T], *args: Any) -> T:
    """The result of *function*, which runs in a thread.

    If the task is cancelled, this raises when the thread has ended: nothing stops a thread, and
    a lock that is held must not be released while it still changes the storage.
    """
    running = asyncio.ensure_future(asyncio.to_thread(function, *args))
    cancelled: asyncio.CancelledError | None = None
    while not running.done():
        try:
            await asyncio.wait({running})
        except asyncio.CancelledError as exc:
            cancelled = exc
    if cancelled is None:
        return running.result()
    if not running.cancelled():
        running.exception()  # seen: the cancellation is what counts
    raise cancelled
