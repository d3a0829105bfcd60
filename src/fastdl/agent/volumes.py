# SPDX-License-Identifier: Apache-2.0
"""How does one volume get into a pool of libvirt's, made of what a source gives?

As ``virsh vol-create`` and ``vol-upload`` would make it, but fetched by the host itself: verified,
published whole or not at all, and made once however often it is asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from fastdl import fs
from fastdl.agent import provenance, work
from fastdl.agent.confine import Confinement
from fastdl.agent.direct import Direct
from fastdl.agent.pools import Image, Marker, Placement, Usage, Volume
from fastdl.agent.pools.blocks import BlockPool
from fastdl.agent.pools.marker import storage
from fastdl.agent.pools.virt import VolumePool, VolumePools
from fastdl.agent.present import Before, require_unused
from fastdl.agent.present_volume import Asked, existing
from fastdl.agent.templates import (
    Wanted,
    fetching,
    image_of,
    known_of,
    locked,
    threaded,
    to_end,
)
from fastdl.agent.work import ProgressCallback, Runner, Work
from fastdl.engine import staging
from fastdl.engine.cancel import Cancel
from fastdl.engine.journal_file import default_state_dir
from fastdl.errors import FastdlError, UsageError
from fastdl.model.digest import Digest, parse_checksum

Runners = Callable[[Confinement], AbstractAsyncContextManager[Runner]]


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeWanted:
    """A volume on request: *wanted* as for a template; *raw*: convert it; *capacity*: bytes that
    the disk has at least; *overwrite*: whatever has the name may be replaced; *pool*: name or uuid.
    """

    pool: str
    wanted: Wanted
    raw: bool = False
    capacity: int | None = None
    overwrite: bool = False

    def asked(self) -> Asked:
        """What is compared with the marker of what is there."""
        listed = "\n".join(sorted(self.wanted.sources))
        options = self.wanted.options
        return Asked(
            volume=self.wanted.volume,
            sources=hashlib.sha256(listed.encode("utf-8", "surrogateescape")).hexdigest(),
            shape=f"{'raw' if self.raw else 'same'} {self.capacity or 0}",
            described=bool(options.get("checksum_list") or options.get("discover")),
            overwrite=self.overwrite,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A volume that is there. *volume*: libvirt's name for it, in *pool*; sizes in bytes.

    *source_bytes* and *fetched_bytes* are of this run. *already_present*: nothing was to do;
    *replaced*: why what had the name was replaced.
    """

    pool: str
    volume: str
    path: str
    format: str
    capacity: int
    source_bytes: int = 0
    fetched_bytes: int = 0
    resumed_bytes: int = 0
    digests: Mapping[str, str] = field(default_factory=dict)
    integrity: str = "none"
    signed_by: str | None = None
    seconds: float = 0.0
    mirrors: tuple[Mapping[str, Any], ...] = ()
    warnings: tuple[str, ...] = ()
    already_present: bool = False
    replaced: str = ""


async def make(
    asked: VolumeWanted,
    pools: VolumePools,
    *,
    runners: Runners = work.series,
    progress: ProgressCallback | None = None,
    cancel: Cancel | None = None,
) -> Made:
    """Make the volume; returns at once if it is there.

    SinkRefusedError: no such pool, or its name is taken by something else; SinkBusyError: another
    job makes it, or what should be replaced is in use; SinkSpaceError; else as ``fetch_sync``.
    *cancel* stops what this process does itself.
    """
    begun = time.monotonic()
    pool = await asyncio.to_thread(pools.find, asked.pool)
    making = _Making(asked, pool, pools, runners, progress, cancel or Cancel())
    async with locked(pool, asked.wanted):
        made = await making.run()
    return replace(made, seconds=round(time.monotonic() - begun, 6))


@dataclass(frozen=True, slots=True)
class _Making:
    """One volume in the making; its lock is held."""

    asked: VolumeWanted
    pool: VolumePool
    pools: VolumePools
    runners: Runners
    progress: ProgressCallback | None
    cancel: Cancel

    async def run(self) -> Made:
        wanted = self.asked.wanted
        self.cancel.check()
        digest = parse_checksum(wanted.checksum) if wanted.checksum else None
        there = await self._existing(digest, known=digest is not None)
        if there is not None and there.ready is not None:
            return await self._made(there.ready, already=True, why=there.why)
        async with contextlib.AsyncExitStack() as process:
            runner = await process.enter_async_context(self.runners(wanted.confinement))
            probe = await runner(
                Work(action="probe", sources=wanted.sources, options=wanted.options)
            )
            if there is None:
                there = await self._existing(_digest_in(probe), known=True)
                assert there is not None
                if there.ready is not None:
                    return await self._made(there.ready, already=True, why=there.why)
            try:
                result = await self._fetched(there, runner, probe, process)
            except FastdlError as exc:
                if not exc.retryable:
                    await to_end(_forget, self.pool, wanted.volume)
                raise
            except asyncio.CancelledError:
                # It may have come when all had landed: then nobody has deleted the device yet.
                if isinstance(self.pool, BlockPool):
                    with contextlib.suppress(FastdlError):
                        await to_end(_forget, self.pool, wanted.volume)
                raise
        made = await uncancelled(self._published(there, result, probe))
        return _with_run(made, result)

    async def _published(
        self, there: Before, result: Mapping[str, Any], probe: Mapping[str, Any]
    ) -> Made:
        marker = await to_end(self._finish, there, result, probe)
        return await self._made(marker, already=False, why=there.why)

    async def _existing(self, digest: Digest | None, *, known: bool) -> Before | None:
        usage = Usage(self.pools.all, libvirt=self.pools.libvirt.uri)
        return await asyncio.to_thread(
            existing, self.pool, self.asked.asked(), digest, usage, known=known
        )

    async def _fetched(
        self,
        there: Before,
        runner: Runner,
        probe: Mapping[str, Any],
        process: contextlib.AsyncExitStack,
    ) -> dict[str, Any]:
        """The engine's result; what arrived has landed, but lacks its name."""
        wanted = self.asked.wanted
        image = image_of(probe, wanted)
        if not isinstance(self.pool, BlockPool) or image.disk_size is not None:
            return await self._landed(wanted, image, there, runner, probe, process)
        # Nobody says how large the disk is, and a device needs to know: by way of a file.
        with contextlib.ExitStack() as held:
            state = wanted.state or Path(default_state_dir())
            folder = await asyncio.to_thread(held.enter_context, staging.within(state / "staging"))
            path = folder / "image"
            staged = await runner(
                fetching(wanted, Placement(str(path), "raw", folder), image, probe),
                progress=self.progress,
            )
            size = int(staged["target_bytes"])
            copy = replace(
                wanted, sources=(str(path),), checksum=None, options={"source_format": "raw"}
            )
            image = Image(source_size=size, virtual_size=size, format="raw")
            direct = Direct(self.cancel)
            landed = await self._landed(copy, image, there, direct.run, {}, process)
        return {**staged, "target_bytes": landed["target_bytes"]}

    async def _landed(
        self,
        wanted: Wanted,
        image: Image,
        there: Before,
        runner: Runner,
        probe: Mapping[str, Any],
        process: contextlib.AsyncExitStack,
    ) -> dict[str, Any]:
        image = _of_capacity(image, self.asked.capacity)
        async with (
            threaded(self.pool.place(wanted.volume, image)) as given,
            process.pop_all(),  # ends first: its target is not released while it may write
        ):
            await to_end(self._intend, there)
            placement = replace(given, target_format="raw") if self.asked.raw else given
            if (
                placement.beneath is None
            ):  # a device: what a former volume left there is not this one's
                wanted = replace(wanted, options={**wanted.options, "zero_rest": True})
            return await runner(fetching(wanted, placement, image, probe), progress=self.progress)

    def _intend(self, there: Before) -> None:
        if there.void is None or self.pool.void(self.asked.wanted.volume, there.void):
            self.pool.markers.write(known_of(self.pool, self.asked.wanted))

    def _finish(self, there: Before, result: Mapping[str, Any], probe: Mapping[str, Any]) -> Marker:
        """Record what has landed, give it its name, and its capacity; may be repeated."""
        volume, asked = self.asked.wanted.volume, self.asked.asked()
        marker = provenance.marker_of(known_of(self.pool, self.asked.wanted), result, probe)
        if not isinstance(self.pool, BlockPool):
            _make_private(self.pool.landed(volume))
        marker = replace(
            self.pool.seal(volume, marker),
            replaces=there.void is not None,
            asked=asked.sources,
            shape=asked.shape,
        )
        if there.void is not None:
            usage = Usage(self.pools.all, libvirt=self.pools.libvirt.uri)
            require_unused(self.pool, volume, there.void, usage, there.why)
        self.pool.markers.write(marker)
        self.pool.publish(volume, marker, replace=marker.replaces)
        return marker

    async def _made(self, marker: Marker, *, already: bool, why: str) -> Made:
        return await to_end(partial(self._described, marker, already=already, why=why))

    def _described(self, marker: Marker, *, already: bool, why: str) -> Made:
        """What libvirt says of the volume, once it has the capacity that was asked for."""
        volume = self.asked.wanted.volume
        if already:
            self.pool.discard(volume)  # the folder that a killed job may have left
        name = self.pool.install_path(volume, marker)
        found = self.pools.describe(self.pool, name, capacity=self.asked.capacity or 0)
        if found.resized and not isinstance(self.pool, BlockPool):
            marker = self.pool.seal_again(volume, marker)
            self.pool.markers.write(replace(marker, virtual_size=found.capacity))
        return Made(
            pool=self.pool.name,
            volume=name,
            path=found.path,
            format=found.format,
            capacity=found.capacity,
            digests=dict(marker.digests),
            integrity=marker.integrity,
            mirrors=() if already else marker.mirrors,
            warnings=(f"{name}: {why}",) if already and why else (),
            already_present=already,
            replaced="" if already else why,
        )


async def uncancelled(publishing: Coroutine[Any, Any, Made]) -> Made:
    """Its result, also for a task that is cancelled meanwhile: a volume that is being published
    cannot be taken back, so that it comes too late."""
    running = asyncio.ensure_future(publishing)
    while not running.done():
        try:
            await asyncio.wait({running})
        except asyncio.CancelledError:
            if (task := asyncio.current_task()) is not None:
                task.uncancel()
    return running.result()


def _with_run(made: Made, result: Mapping[str, Any]) -> Made:
    return replace(
        made,
        source_bytes=int(result.get("source_bytes") or 0),
        fetched_bytes=int(result.get("fetched_bytes") or 0),
        resumed_bytes=int(result.get("resumed_bytes") or 0),
        signed_by=result.get("signed_by"),
        warnings=tuple(result.get("warnings") or ()),
    )


def _digest_in(probe: Mapping[str, Any]) -> Digest | None:
    """The strongest digest of the source that its list, metalink or product states."""
    digests: Mapping[str, str] = probe.get("digests") or {}
    return next((Digest(algorithm, hex_) for algorithm, hex_ in digests.items()), None)


def _of_capacity(image: Image, capacity: int | None) -> Image:
    """*image* as the volume for it has to be; UsageError if *capacity* is less than its disk."""
    if capacity is None:
        return image
    size = image.disk_size
    if size is not None and size > capacity:
        raise UsageError(f"the disk has {size} bytes: a capacity of {capacity} does not hold it")
    return replace(image, virtual_size=capacity) if size is not None else image


def _make_private(path: Path) -> None:
    """Nobody else reads a machine's disk: the mode that libvirt gives to new volumes."""
    with storage(str(path)):
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fs.set_mode(fd, 0o600)
        finally:
            os.close(fd)


def _forget(pool: VolumePool, volume: Volume) -> None:
    """Leave nothing of a job that failed for good."""
    marker = pool.markers.read(volume.name)
    if marker is None or not marker.complete:
        pool.discard(volume)
        pool.markers.delete(volume.name)
