# SPDX-License-Identifier: Apache-2.0
"""How does the agent run a download in a separate process?

The worker may crash, hang or be killed: that becomes an error of the job, never of the agent.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

from fastdl.agent import workers
from fastdl.agent.confine import BEST_EFFORT, Confinement
from fastdl.agent.death import error_of_death
from fastdl.agent.workers import Worker
from fastdl.errors import NetError, error_from

log = logging.getLogger(__name__)

ProgressCallback = Callable[[Mapping[str, Any]], None]

_CANCEL_SECONDS = 10.0
"""How long a cancelled worker may take to flush its journal before it is killed."""
_MAKER: ContextVar[workers.Maker] = ContextVar("maker", default=workers.executed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a worker should do. *options*: fields of ``FetchOptions``, as JSON has them;
    *placement*: of ``engine.options.Placement``, likewise.

    *action*: ``fetch``; ``unpack``, which removes one layer of compression and keeps the image's
    own format; ``probe``; ``documents``, of at most *most* bytes each; or ``vouch``, a TLS
    handshake alone. *file_size*: the most bytes that a file written by it may have; None: no limit.
    """

    action: str
    sources: tuple[str, ...] = field(repr=False)
    target: str | None = None
    checksum: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    placement: Mapping[str, Any] = field(default_factory=dict)
    most: int = 0
    file_size: int | None = None


class Runner(Protocol):
    """What executes a piece of work: ``run``, or one of a ``series``."""

    def __call__(
        self,
        work: Work,
        /,
        *,
        progress: ProgressCallback | None = None,
        deadline: float | None = None,
    ) -> Awaitable[dict[str, Any]]: ...


async def run(
    work: Work,
    /,
    *,
    confinement: Confinement = BEST_EFFORT,
    progress: ProgressCallback | None = None,
    deadline: float | None = None,
) -> dict[str, Any]:
    """Run *work*; the engine's result as a dict.

    *deadline* is in seconds. Cancelling the caller's task cancels the job: what was fetched is kept
    for a resume. Raises what the engine raised, NetError at the deadline, InternalError if the
    worker died (see ``death``).
    """
    async with series(confinement) as runner:
        return await runner(work, progress=progress, deadline=deadline)


@contextlib.asynccontextmanager
async def series(confinement: Confinement = BEST_EFFORT) -> AsyncIterator[Runner]:
    """``run`` for the works of one job, which share a process: its start costs as much as a
    small download. Probes first, each confined separately, then at most one other work."""
    ids = await asyncio.to_thread(confinement.ids)
    common = {"required": confinement.required, "ids": ids}
    async with _worker() as worker:

        async def next_of_job(
            work: Work,
            /,
            *,
            progress: ProgressCallback | None = None,
            deadline: float | None = None,
        ) -> dict[str, Any]:
            try:
                async with asyncio.timeout(deadline):
                    return await _converse(worker, work, common, progress)
            except TimeoutError:
                text = f"the job did not end within {deadline:.0f} s"
                raise NetError(text, phase="fetch") from None

        yield next_of_job


async def _converse(
    worker: Worker,
    work: Work,
    common: Mapping[str, Any],
    progress: ProgressCallback | None,
) -> dict[str, Any]:
    assert worker.stdin is not None
    assert worker.stdout is not None
    job = {
        "action": work.action,
        "sources": work.sources,
        "target": work.target,
        "checksum": work.checksum,
        "options": dict(work.options),
        "placement": dict(work.placement),
        "most": work.most,
        "confinement": {**common, "file_size": work.file_size},
    }
    with contextlib.suppress(ConnectionError):
        worker.stdin.write(json.dumps(job).encode() + b"\n")
        await worker.stdin.drain()
    async for line in worker.stdout:
        message = json.loads(line)
        if "missing" in message:
            _warn_of(tuple(message["missing"]))
        elif "progress" in message and progress is not None:
            progress(message["progress"])
        elif "result" in message:
            result: dict[str, Any] = message["result"]
            return result
        elif "error" in message:
            raise error_from(message["error"])
    raise error_of_death("the download's process", await worker.wait())


@functools.cache
def _warn_of(missing: tuple[str, ...]) -> None:
    """Logged once for the same *missing*."""
    log.warning(
        "downloads are not fully confined: this host lacks %s (fastdl.confinement=required "
        "refuses them instead)",
        " and ".join(missing),
    )


@contextlib.asynccontextmanager
async def forking() -> AsyncIterator[None]:
    """Within, and in tasks made within, workers are forked from a server: for many jobs."""
    server = workers.ForkServer()
    token = _MAKER.set(server.worker)
    try:
        yield
    finally:
        _MAKER.reset(token)
        await asyncio.shield(server.close())


@contextlib.asynccontextmanager
async def _worker() -> AsyncIterator[Worker]:
    """A running worker, which has ended when the block ends."""
    worker = await _MAKER.get()()
    try:
        yield worker
    finally:
        await asyncio.shield(_end(worker))


async def _end(worker: Worker) -> None:
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.close()
    try:
        async with asyncio.timeout(_CANCEL_SECONDS):
            while await worker.stdout.read(1 << 16):
                pass  # a full pipe must not keep it from ending
            await worker.wait()
    except TimeoutError:
        worker.kill()
        await worker.wait()
