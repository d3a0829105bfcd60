# SPDX-License-Identifier: Apache-2.0
"""Volumes in libvirt's pools, made of what a source gives: ``create``, or ``create_async``.

The host that runs this fetches the image itself: libvirt has no download of its own.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from fastdl.agent.direct import Direct
from fastdl.agent.pools import Volume
from fastdl.agent.pools.virt import VolumePools
from fastdl.agent.templates import Wanted
from fastdl.agent.volumes import Made, VolumeWanted, make
from fastdl.engine.cancel import Cancel
from fastdl.engine.journal_file import default_state_dir
from fastdl.engine.options import FetchOptions, ProgressCallback
from fastdl.errors import UsageError

if TYPE_CHECKING:
    from fastdl.engine.api import Source
    from fastdl.model.digest import Digest

__all__ = ["CONNECT", "Made", "create", "create_async"]

CONNECT: Final = "qemu:///system"
_ELSEWHERE: Final = re.compile(r"[a-z+]+://[^/]")
"""A URI of libvirt with a host in it."""
_OURS: Final = frozenset({
    "target_format", "overwrite", "zero_rest", "skip_existing", "take_up", "remote_time",
    "content_disposition", "checksum_list", "write_metalink",
})  # fmt: skip
"""Options of ``fetch`` that a volume decides about, or that have another name here."""


def create(
    pool: str,
    name: str,
    sources: Source | Sequence[Source],
    *,
    checksum: str | Digest | None = None,
    format: Literal["same", "raw"] = "same",  # noqa: A002 - libvirt's word
    capacity: int | None = None,
    overwrite: bool = False,
    connect: str = CONNECT,
    state: str | os.PathLike[str] | None = None,
    progress: ProgressCallback | None = None,
    cancel: Cancel | None = None,
    log: Callable[[str], None] | None = None,
    **options: Any,
) -> Made:
    """Make the volume *name* in libvirt's *pool* of what *sources* give; blocks until it is there.

    pool      its name or uuid; it has to be active, and on this host
    sources   one URL or path, or several that are mirrors of the same bytes; a metalink at any
    checksum  ``{SHA-256}HEX``, ``sha-256:HEX``, or the URL of a list; of the bytes as downloaded
    format    same: as the source has it (compression removed); raw: converted. Pools of block
              devices take raw only
    capacity  bytes that the disk has at least; by default the image's
    overwrite replace a volume of that name that differs, unless somebody uses it
    connect   libvirt's URI
    state     folder for what is known of the volumes made here; by default the user's
    progress, cancel, log and the other *options*: as for ``fastdl.fetch_sync``

    A volume that was made of the same source is returned at once (``already_present``); one that
    differs is a SinkRefusedError. Raises a ``fastdl.errors.FastdlError``; the pool then has no
    volume of that name, or the one that it had.
    """

    cancel = cancel or Cancel()
    asked, pools = _asked(pool, name, sources, checksum, format, capacity, overwrite=overwrite,
                          connect=connect, state=state, options=options)  # fmt: skip
    direct = Direct(cancel, progress=progress, log=log)

    def work() -> Made:
        return asyncio.run(make(asked, pools, runners=direct.series, cancel=cancel))

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return work()
    with ThreadPoolExecutor(1) as thread:  # a loop runs in this thread, which is blocked anyway
        return thread.submit(work).result()


async def create_async(
    pool: str,
    name: str,
    sources: Source | Sequence[Source],
    *,
    checksum: str | Digest | None = None,
    format: Literal["same", "raw"] = "same",  # noqa: A002 - libvirt's word
    capacity: int | None = None,
    overwrite: bool = False,
    connect: str = CONNECT,
    state: str | os.PathLike[str] | None = None,
    progress: ProgressCallback | None = None,
    log: Callable[[str], None] | None = None,
    **options: Any,
) -> Made:
    """``create`` for asyncio: cancelling the task stops the transfer, then raises.

    *progress* is called in the event loop's thread.
    """
    report: ProgressCallback | None = None
    if progress is not None:
        wanted, loop = progress, asyncio.get_running_loop()

        def report(now: Any) -> None:
            loop.call_soon_threadsafe(wanted, now)

    cancel = Cancel()
    asked, pools = _asked(pool, name, sources, checksum, format, capacity, overwrite=overwrite,
                          connect=connect, state=state, options=options)  # fmt: skip
    direct = Direct(cancel, progress=report, log=log)
    return await make(asked, pools, runners=direct.series, cancel=cancel)


def _asked(
    pool: str,
    name: str,
    sources: Source | Sequence[Source],
    checksum: str | Digest | None,
    format: str,  # noqa: A002 - libvirt's word
    capacity: int | None,
    *,
    overwrite: bool,
    connect: str,
    state: str | os.PathLike[str] | None,
    options: dict[str, Any],
) -> tuple[VolumeWanted, VolumePools]:
    if ours := _OURS.intersection(options):
        raise UsageError(f"there is no option {min(ours)!r} for a volume")
    if format not in {"same", "raw"}:
        raise UsageError("format is same or raw")
    if capacity is not None and not (isinstance(capacity, int) and 0 < capacity < 1 << 63):
        raise UsageError("the capacity is a number of bytes above 0")
    if _ELSEWHERE.match(connect):
        raise UsageError(
            f"{connect.partition('?')[0]} is on another host, which has to fetch the image itself: "
            "run fastdl there, or call its agent (docs/volumes.md)"
        )
    built = FetchOptions.build(checksum=checksum, **options)
    if built.checksum_list is not None:
        options = {**options, "checksum_list": built.checksum_list}
    folder = Path(state or f"{default_state_dir()}/volumes").absolute()
    wanted = Wanted(
        volume=Volume(name),
        sources=_texts(sources),
        checksum=str(built.checksum) if built.checksum is not None else None,
        options=options,
        state=folder,
    )
    asked = VolumeWanted(
        pool=pool, wanted=wanted, raw=format == "raw", capacity=capacity, overwrite=overwrite
    )
    return asked, VolumePools(connect, folder)


def _texts(sources: Source | Sequence[Source]) -> tuple[str, ...]:
    """The sources; paths are absolute, so that they mean the same in a later call."""
    listed = [sources] if isinstance(sources, str | os.PathLike) else sources
    texts = [os.fspath(source) for source in listed]
    if not texts:
        raise UsageError("a source is needed")
    scheme = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
    return tuple(one if scheme.match(one) else os.path.abspath(one) for one in texts)  # noqa: PTH100
