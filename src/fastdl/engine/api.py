# SPDX-License-Identifier: Apache-2.0
"""The public functions of the engine: ``fetch`` and ``probe``, each with a ``_sync`` form."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from fastdl.engine.cancel import Cancel
from fastdl.engine.context import Events
from fastdl.engine.options import FetchOptions, ProgressCallback

if TYPE_CHECKING:
    from pathlib import Path

    from fastdl.core.job import Pace
    from fastdl.engine.result import Probe, Result
    from fastdl.model.digest import Digest

Source = str | os.PathLike[str]
T = TypeVar("T")


def _texts(sources: Source | Sequence[Source]) -> list[str]:
    if isinstance(sources, str | os.PathLike):
        sources = [sources]
    return [os.fspath(source) for source in sources]


def fetch_sync(
    sources: Source | Sequence[Source],
    target: str | Path,
    *,
    checksum: str | Digest | None = None,
    progress: ProgressCallback | None = None,
    cancel: Cancel | None = None,
    log: Callable[[str], None] | None = None,
    pace: Pace | None = None,
    told: list[Callable[[], None]] | None = None,
    **options: Any,
) -> Result:
    """Fetch *sources* to *target*, verified, durable and published; blocks until then.

    sources   one URL or path, or several that are mirrors of the same bytes; a metalink at any
    target    file, existing folder, block device, NBD URI, ``null:`` or ``-`` (standard output)
    checksum  ``{SHA-256}HEX`` or ``sha-256:HEX``, of the bytes as downloaded
    progress  called about ten times a second, from the calling thread
    cancel    a ``Cancel`` whose ``cancel()`` another thread may call
    log       called with one line about each request and each mirror that is left, no secrets
    pace      a ``fastdl.core.job.Pace``: the limit of bytes/s that several transfers share
    told      receives what to call when the result has been handed on: who is killed before that
              and calls again is told what was published. None: that is on return
    options   fields of ``fastdl.engine.options.FetchOptions``

    Raises a ``fastdl.errors.FastdlError``; the target is then unchanged or unusable.
    """
    from fastdl.engine.fetch import fetch_job

    made = FetchOptions.build(checksum=checksum, **options)
    return fetch_job(
        _texts(sources),
        os.fspath(target),
        made,
        events=Events(progress, log, told),
        cancel=cancel,
        pace=pace,
    )


async def fetch(
    sources: Source | Sequence[Source],
    target: str | Path,
    *,
    checksum: str | Digest | None = None,
    progress: ProgressCallback | None = None,
    **options: Any,
) -> Result:
    """``fetch_sync`` for asyncio: cancelling the task stops the transfer, then raises.

    *progress* is called in the event loop's thread.
    """
    import asyncio  # the command line does not need it

    loop = asyncio.get_running_loop()
    cancel = Cancel()
    report: ProgressCallback | None = None
    if progress is not None:
        wanted = progress

        def report(state: Any) -> None:
            loop.call_soon_threadsafe(wanted, state)

    return await in_thread(
        lambda: fetch_sync(
            sources, target, checksum=checksum, progress=report, cancel=cancel, **options
        ),
        cancel,
    )


def probe_sync(
    sources: Source | Sequence[Source],
    *,
    checksum: str | Digest | None = None,
    cancel: Cancel | None = None,
    **options: Any,
) -> Probe:
    """Size, ranges, validators, format, virtual size and digests of *sources*; writes nothing."""
    from fastdl.engine.probe import probe_job

    made = FetchOptions.build(checksum=checksum, **options)
    cancel = cancel or Cancel()
    with cancel.within(made.max_time):
        return probe_job(_texts(sources), made, cancel)


async def probe(
    sources: Source | Sequence[Source],
    *,
    checksum: str | Digest | None = None,
    **options: Any,
) -> Probe:
    """``probe_sync`` for asyncio: cancelling the task stops the requests, then raises."""
    cancel = Cancel()
    return await in_thread(
        lambda: probe_sync(sources, checksum=checksum, cancel=cancel, **options), cancel
    )


async def in_thread(work: Callable[[], T], cancel: Cancel) -> T:
    """The result of *work* from a thread, which *cancel* stops when the task is cancelled."""
    import asyncio

    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        cancel.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # retrieved: the caller asked for the cancellation
        raise
