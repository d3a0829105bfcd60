# SPDX-License-Identifier: Apache-2.0
"""How is a copy of a template requested? As a job, whoever needs it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.errors import ApiConflictError
from fastdl.manager.downloads import quota, transfers
from fastdl.manager.ledger import copies, job_list, jobs
from fastdl.manager.ledger.jobs import NewJob
from fastdl.manager.settings import Settings
from fastdl.wire import messages as m
from fastdl.wire.pieces import sha256_in


async def keep(tx: AsyncConnection, copy: Row[Any], *, now: float) -> None:
    """Cancel the removal of a *copy* that is needed after all; ApiConflictError if it runs."""
    if copy.state != copies.REMOVING:
        return
    key = copies.key_of(copy)
    if await job_list.live_removal(tx, key):
        raise ApiConflictError("Its copy is being removed: try again shortly")
    await copies.change(tx, key, now=now, state=copies.ABSENT, forced=False, users=[], note="")


def new_download(
    settings: Settings,
    template: Row[Any],
    copy: Row[Any],
    zone_id: str,
    *,
    rank: int,
    bounds: quota.Limits,
) -> NewJob:
    """Return the job that brings *template* to where *copy* is; a live one is joined."""
    sources, headers, origins = transfers.sources_of(template)
    return NewJob(
        kind=m.Kind.DOWNLOAD,
        zone=zone_id,
        template=template.id,
        pool=copy.pool,
        volume=copy.volume,
        single=jobs.single_download(copies.key_of(copy)),
        lane=origins[0] if origins else "",
        origins=tuple(origins),
        rank=rank,
        args=m.DownloadArgs(
            template=template.id,
            pool=copy.pool,
            volume=copy.volume,
            iso=template.iso,
            format=template.format,
            transfer=transfers.for_sources(
                settings, sources, headers=headers, checksum=template.checksum
            ),
            deadline=float(settings.whole("primary.storage.download.wait")),
            max_source_size=bounds.source,
            max_virtual_size=bounds.virtual,
            piece_lists=sha256_in(template.checksum) is not None,
        ),
    )
