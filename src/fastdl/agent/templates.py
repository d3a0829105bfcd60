# SPDX-License-Identifier: Apache-2.0
"""How does one template get into one pool, once, however often it is asked for?

Look, lock, probe, check the room, intend, fetch (in a confined process), remember. A crash
at any point leaves something from which the same command finishes: a resume, a finished
file that only lacks its marker, or nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from fastdl import __version__
from fastdl.agent import work
from fastdl.agent.confine import BEST_EFFORT, Confinement
from fastdl.agent.pools import Image, Marker, Placement, Pool, Volume
from fastdl.agent.work import ProgressCallback, Runner, Work
from fastdl.errors import LimitError, SinkBusyError, SinkRefusedError, TrustError
from fastdl.model.digest import Digest, parse_checksum
from fastdl.model.image import COMPRESSED
from fastdl.wire.messages import DownloadDone, MirrorReport, Validators

log = logging.getLogger(__name__)

T = TypeVar("T")

_LOCK_PAUSE = 0.5  # seconds between looks at a lock that another process holds


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What shall be in the pool. *options*: fields of ``FetchOptions`` as JSON has them.

    *fence* orders competing claims on a shared pool; 0 makes none. *deadline*: seconds.
    *expected_size*: the disk's, as the command has it, for sources that do not tell.
    *patience*: seconds to wait while another job writes the volume, and then find it there.
    """

    volume: Volume
    sources: tuple[str, ...] = field(repr=False)
    checksum: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    max_virtual_size: int | None = None
    expected_size: int | None = None
    fence: int = 0
    deadline: float | None = None
    patience: float = 0.0
    state: Path | None = None
    confinement: Confinement = BEST_EFFORT


async def bring(
    pool: Pool,
    wanted: Wanted,
    *,
    progress: ProgressCallback | None = None,
) -> DownloadDone:
    """Bring *wanted* into *pool*; at once when it is there.

    SinkRefusedError when the volume's name is taken by something else; everything that
    probing, placing and fetching raise.
    """
    volume = wanted.volume
    async with _locked(pool, wanted):
        marker = await asyncio.to_thread(_present, pool, wanted)
        if marker is not None:
            return _done(marker, pool.published(volume), fetched=0, already=True)
        begun = time.monotonic()
        async with contextlib.AsyncExitStack() as process:
            runner = await process.enter_async_context(work.series(wanted.confinement))
            probe = await _probe(wanted, runner)
            image = _image(probe, wanted)
            async with _threaded(pool.place(volume, image)) as placement, process.pop_all():
                # The process ends first: what was placed is not let go while it may write.
                await asyncio.to_thread(_intend, pool, volume, placement)
                result = await _trusting(
                    runner(
                        _fetching(wanted, placement, image),
                        progress=progress,
                        deadline=_left(wanted.deadline, begun),
                    )
                )
        known = await asyncio.to_thread(pool.markers.read, volume.name)
        marker = _provenance(volume, known.handle if known else "", result, probe)
        await asyncio.to_thread(pool.markers.write, marker)
        install_path = await asyncio.to_thread(pool.published, volume)
    return _done(
        marker,
        install_path,
        fetched=int(result.get("fetched_bytes", 0)),
        already=bool(result.get("already_present", False)),
        result=result,
    )


async def remove(pool: Pool, volume: Volume, *, fence: int = 0) -> bool:
    """Remove *volume* and what is known of it; False when it was not there."""
    async with _threaded(pool.markers.lock(volume.name, fence=fence)):
        return await asyncio.to_thread(_remove, pool, volume)


async def discard(pool: Pool, volume: Volume) -> None:
    """Remove what an unfinished job of *volume* left; a finished copy stays."""
    async with _threaded(pool.markers.lock(volume.name)):
        await asyncio.to_thread(_discard, pool, volume)


def _discard(pool: Pool, volume: Volume) -> None:
    marker = pool.markers.read(volume.name)
    if marker is not None and marker.complete:
        return
    pool.discard(volume)
    pool.markers.delete(volume.name)


def _remove(pool: Pool, volume: Volume) -> bool:
    was_there = pool.remove(volume)
    known = pool.markers.delete(volume.name)
    return was_there or known


async def _probe(wanted: Wanted, runner: Runner) -> dict[str, Any]:
    return await _trusting(
        runner(
            Work(action="probe", sources=wanted.sources, options=wanted.options),
            deadline=wanted.deadline,
        )
    )


async def _trusting(work_of: Awaitable[dict[str, Any]]) -> dict[str, Any]:
    """The result of *work_of*; a want of trust says where this host's trust comes from."""
    try:
        return await work_of
    except TrustError as exc:
        raise TrustError(
            f"{exc.message}; no certificate of this host's keystore matches",
            phase=exc.phase,
            origin=exc.origin,
        ) from exc


@contextlib.asynccontextmanager
async def _locked(pool: Pool, wanted: Wanted) -> AsyncIterator[None]:
    """The volume's lock, waited for as long as *wanted* allows."""
    end = time.monotonic() + wanted.patience
    while True:
        lock = pool.markers.lock(wanted.volume.name, fence=wanted.fence)
        try:
            await asyncio.to_thread(lock.__enter__)
            break
        except SinkBusyError:
            if time.monotonic() >= end:
                raise
        await asyncio.sleep(_LOCK_PAUSE)
    try:
        yield
    finally:
        lock.__exit__(None, None, None)


def _image(plain: Mapping[str, Any], wanted: Wanted) -> Image:
    image = Image(
        source_size=plain.get("size"),
        virtual_size=plain.get("virtual_size") or wanted.expected_size,
        format=plain.get("format") or "",
    )
    limit = wanted.max_virtual_size
    if limit is not None and image.virtual_size is not None and image.virtual_size > limit:
        raise LimitError(f"the disk has {image.virtual_size} bytes, at most {limit} are allowed")
    return image


def _fetching(wanted: Wanted, placement: Placement, image: Image) -> Work:
    """The work that lands *image*; compressed ones are unpacked, whatever they hold."""
    action, target_format = "fetch", placement.target_format
    inner, _, outer = image.format.rpartition(".")
    if target_format == "same" and outer in COMPRESSED:
        declared = wanted.options.get("source_format", "auto")
        # A fixed VHD shows itself at its end: only who expects it keeps it what it is.
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
            "max_virtual_size": wanted.max_virtual_size,
            "beneath": str(placement.beneath) if placement.beneath else None,
            "state_dir": str(wanted.state) if wanted.state else None,
        },
    )


def _present(pool: Pool, wanted: Wanted) -> Marker | None:
    """The marker of the finished volume, or None; SinkRefusedError for another image there."""
    volume = wanted.volume
    marker = pool.markers.read(volume.name)
    digest = parse_checksum(wanted.checksum) if wanted.checksum else None
    if marker is None:
        return None
    if not marker.complete:
        return _adopted(pool, volume, digest)
    if not pool.present(volume, marker):
        return None
    held = marker.digests.get(digest.algorithm) if digest else None
    if digest and held and held != digest.hex:
        raise SinkRefusedError(
            f"{volume.name} is in the pool with another content ({digest.algorithm} {held}); "
            "remove it first"
        )
    return marker if digest is None or held else None


def _adopted(pool: Pool, volume: Volume, digest: Digest | None) -> Marker | None:
    """The marker of a file that was published by a job that could not write its marker any more.

    Files only: the engine publishes them whole, and the intent was written while no file
    was there. What is on a device is known to the engine's journal alone.
    """
    path = Path(pool.info().path) / volume.file_name
    if not path.is_file() or path.is_symlink():
        return None
    algorithm = digest.algorithm if digest else "sha-256"
    with path.open("rb") as file:
        found = hashlib.file_digest(file, algorithm.replace("-", "")).hexdigest()
    if digest and digest.hex != found:
        return None  # perhaps the digest is of a compressed source; the engine decides
    size = path.stat().st_size
    marker = Marker(
        volume=volume.name,
        complete=True,
        size=size,
        virtual_size=_virtual_size(path, size),
        digests={algorithm: found},
        integrity=digest.strength if digest else "none",
        finished=_now(),
        fastdl=__version__,
    )
    pool.markers.write(marker)
    return marker


def _virtual_size(path: Path, size: int) -> int:
    """The disk's size: qcow2 states it in its header (bytes 24 to 31), raw is what it is."""
    with path.open("rb") as file:
        head = file.read(32)
    return int.from_bytes(head[24:32], "big") if head[:4] == b"QFI\xfb" else size


def _intend(pool: Pool, volume: Volume, placement: Placement) -> None:
    """Note that a download begins; not where a stranger's file is, which must not become ours."""
    known = pool.markers.read(volume.name)
    if known is None and placement.beneath is not None and Path(placement.target).exists():
        return
    handle = known.handle if known else ""
    pool.markers.write(Marker(volume=volume.name, handle=handle, fastdl=__version__))


def _provenance(
    volume: Volume, handle: str, result: Mapping[str, Any], probe: Mapping[str, Any]
) -> Marker:
    mirrors = tuple(result.get("mirrors") or ())
    return Marker(
        volume=volume.name,
        complete=True,
        handle=handle,
        size=int(result["target_bytes"]),
        virtual_size=int(result.get("virtual_size") or result["target_bytes"]),
        format=str(result.get("format") or ""),
        integrity=str(result.get("integrity") or "none"),
        digests=dict(result.get("digests") or {}),
        sources=tuple(str(mirror["url"]) for mirror in mirrors),
        validators=dict(probe.get("validators") or {}),
        mirrors=mirrors,
        finished=_now(),
        fastdl=__version__,
    )


def _done(
    marker: Marker,
    install_path: str,
    *,
    fetched: int,
    already: bool,
    result: Mapping[str, Any] | None = None,
) -> DownloadDone:
    run = result or {}
    return DownloadDone(
        install_path=install_path,
        virtual_size=marker.virtual_size,
        source_bytes=int(run.get("source_bytes") or 0),
        target_bytes=marker.size,
        fetched_bytes=fetched,
        digests=dict(marker.digests),
        integrity=marker.integrity,
        format=marker.format,
        seconds=float(run.get("seconds") or 0.0),
        validators=validators_of({"validators": marker.validators, "size": marker.size}),
        mirrors=tuple(_mirror(mirror) for mirror in marker.mirrors[:64]),
        warnings=tuple(str(warning)[:4096] for warning in run.get("warnings", ())[:64]),
        already_present=already,
    )


def validators_of(probe: Mapping[str, Any]) -> Validators:
    """What a probe's result says that tells one version of the source from the next."""
    found = probe.get("validators") or {}
    return Validators(
        size=probe.get("size"), etag=found.get("etag"), last_modified=found.get("last_modified")
    )


def _mirror(plain: Mapping[str, Any]) -> MirrorReport:
    return MirrorReport(
        url=str(plain.get("url", ""))[:4096],
        bytes=int(plain.get("bytes") or 0),
        requests=int(plain.get("requests") or 0),
        errors=int(plain.get("errors") or 0),
        state=str(plain.get("state", ""))[:32],
    )


def _left(deadline: float | None, begun: float) -> float | None:
    return None if deadline is None else max(0.0, deadline - (time.monotonic() - begun))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextlib.asynccontextmanager
async def _threaded(manager: AbstractContextManager[T]) -> AsyncIterator[T]:
    """*manager* entered and left in a thread: pools may wait for libvirt or a network mount."""
    value = await asyncio.to_thread(manager.__enter__)
    try:
        yield value
    except BaseException as exc:
        left = asyncio.to_thread(manager.__exit__, type(exc), exc, exc.__traceback__)
        if not await asyncio.shield(left):
            raise
    else:
        await asyncio.shield(asyncio.to_thread(manager.__exit__, None, None, None))
