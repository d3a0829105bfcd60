# SPDX-License-Identifier: Apache-2.0
"""Which volumes are in the making on request, and how far is each?

Jobs live in memory: what was fetched is on disk, so that the same request after a restart of the
agent goes on from it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from fastdl.agent.config import HostConfig
from fastdl.agent.pools import Volume
from fastdl.agent.pools.virt import VolumePools
from fastdl.agent.templates import Wanted
from fastdl.agent.volumes import Made, VolumeWanted, make
from fastdl.engine.options import FetchOptions
from fastdl.errors import ApiLimitError, ApiParamError, FastdlError, UsageError, as_error
from fastdl.trust import certificate
from fastdl.wire.volumes import VolumeRequest

log = logging.getLogger(__name__)

WAITING_MAX: Final = 64
"""Jobs that wait for their turn."""
_ENDED_MAX: Final = 256
"""Jobs whose end is remembered."""
_PATIENCE_S: Final = 3600.0
"""How long a job waits while another one makes the same volume."""


@dataclass(slots=True)
class Job:
    """One request. *state*: waiting, running, done, failed or cancelled."""

    request: VolumeRequest
    state: str = "waiting"
    progress: Mapping[str, Any] = field(default_factory=dict)
    made: Made | None = None
    error: FastdlError | None = None
    started: float = field(default_factory=time.time)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    def end(self) -> None:
        """Note that it has ended."""
        if self.state in ("waiting", "running"):
            self.state = "cancelled"
        self.ended.set()

    def to_dict(self) -> dict[str, Any]:
        """The job as a client sees it; no source, which may be secret."""
        kept = ("stage", "done", "total", "fetched", "rate", "eta", "waiting")
        return {
            "id": self.request.id,
            "state": self.state,
            "pool": self.request.pool,
            "name": self.request.name,
            "started": round(self.started, 3),
            "progress": {name: self.progress.get(name) for name in kept if self.progress},
            "volume": dataclasses.asdict(self.made) if self.made is not None else None,
            "error": self.error.to_dict() if self.error is not None else None,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """*running*: jobs at once; *size*: bytes that a source and its disk may have."""

    running: int = 4
    size: int = 1 << 40


class VolumeJobs:
    """The jobs of one agent. Used from one event loop.

    *config*: how the host is configured now; *state*: where what is known of volumes is kept.
    """

    def __init__(
        self, config: Callable[[], HostConfig], *, libvirt: str, state: Path, limits: Limits
    ) -> None:
        self._config = config
        self._pools = VolumePools(libvirt, state)
        self._state = state
        self._limits = limits
        self._turns = asyncio.Semaphore(limits.running)
        self._jobs: dict[str, Job] = {}

    def submit(self, request: VolumeRequest) -> Job:
        """The job of *request*: the running one, else a new one, which ends at once if the volume
        is there. ApiLimitError if too many wait, ApiParamError for options that cannot be.
        """
        held = self._jobs.get(request.id)
        if held is not None and not held.ended.is_set():
            return held
        if sum(job.state == "waiting" for job in self._jobs.values()) >= WAITING_MAX:
            raise ApiLimitError(f"{WAITING_MAX} volumes are waiting already", retry_after_s=10)
        try:
            wanted = self._wanted(request)
        except UsageError as exc:
            raise ApiParamError(exc.message) from None
        job = Job(request)
        self._jobs.pop(request.id, None)
        self._jobs[request.id] = job
        self._forget_old()
        job.task = asyncio.create_task(self._run(job, wanted), name=f"volume {request.name}")
        # Also if it is cancelled before it begins: then nothing of it runs.
        job.task.add_done_callback(lambda _: job.end())
        return job

    def get(self, id_: str) -> Job | None:
        """The job of that id, if it is known."""
        return self._jobs.get(id_)

    async def cancel(self, job: Job) -> None:
        """Stop the job and wait for its end; what it fetched may be kept for a later one."""
        if job.task is not None and not job.ended.is_set():
            job.task.cancel()
        await job.ended.wait()

    async def close(self) -> None:
        """Stop all jobs."""
        for job in list(self._jobs.values()):
            await self.cancel(job)

    async def _run(self, job: Job, wanted: VolumeWanted) -> None:
        name = f"{job.request.pool}/{job.request.name}"

        def progress(now: Mapping[str, Any]) -> None:
            job.progress = now

        try:
            async with self._turns:
                job.state = "running"
                log.info("making the volume %s", name)
                job.made = await make(wanted, self._pools, progress=progress)
            job.state = "done"
            log.info("made the volume %s%s", name, " before" if job.made.already_present else "")
        except asyncio.CancelledError:
            job.state = "cancelled"
            log.info("cancelled the volume %s", name)
        except Exception as exc:  # noqa: BLE001 - the last frame of the job
            job.error = as_error(exc)
            job.state = "failed"
            log.warning("the volume %s: %s: %s", name, job.error.code_name, job.error)

    def _forget_old(self) -> None:
        ended = [job for job in self._jobs.values() if job.ended.is_set()]
        for job in ended[: max(0, len(ended) - _ENDED_MAX)]:
            del self._jobs[job.request.id]

    def _wanted(self, request: VolumeRequest) -> VolumeWanted:
        """What ``make`` takes; the source is under the agent's own policy. UsageError."""
        config = self._config()
        options: dict[str, Any] = {
            "policy": "strict",
            "allowed_cidrs": config.allowed_cidrs,
            "nfs_servers": config.nfs_servers,
            "anchors": (*self._anchors(config), *_certificates(request)),
            "headers": request.headers,
            "metalink_by_type": False,
        }
        if request.checksum_list is not None:
            options["checksum_list"] = request.checksum_list
        FetchOptions.build(checksum=request.checksum, **options)
        return VolumeWanted(
            pool=request.pool,
            wanted=Wanted(
                volume=Volume(request.name),
                sources=request.sources,
                checksum=request.checksum,
                options=options,
                max_source_size=self._limits.size,
                max_virtual_size=self._limits.size,
                patience=_PATIENCE_S,
                state=self._state,
                confinement=config.confinement,
            ),
            raw=request.raw,
            capacity=request.capacity,
            overwrite=request.overwrite,
        )

    def _anchors(self, config: HostConfig) -> tuple[str, ...]:
        """The keystore's; one that cannot be read adds no trust."""
        with contextlib.suppress(FastdlError):
            return config.anchors()
        log.warning("the keystore cannot be read: volumes trust the system's authorities only")
        return ()


def _certificates(request: VolumeRequest) -> tuple[str, ...]:
    if request.cacert is None:
        return ()
    try:
        return tuple(one.pem() for one in certificate.read(request.cacert.encode()))
    except FastdlError as exc:
        raise UsageError(f"cacert: {exc.message}") from None
