# SPDX-License-Identifier: Apache-2.0
"""Bringing one template to every pool that has another one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.errors import ApiParamError
from fastdl.manager.downloads import quota, requests
from fastdl.manager.hosts.fleet import Fleet
from fastdl.manager.ledger import copies, job_list, jobs, pools, templates
from fastdl.manager.ledger.jobs import LIVE, State
from fastdl.manager.ledger.text import loads
from fastdl.manager.ledger.values import BULK
from fastdl.manager.settings import Settings
from fastdl.wire import codec
from fastdl.wire import messages as m


@dataclass(frozen=True, slots=True)
class Seeding:
    """*ready*: every pool that a host reaches now has the template. *failed*: why one cannot."""

    ready: bool
    failed: str | None


async def seed(
    tx: AsyncConnection,
    settings: Settings,
    fleet: Fleet,
    model: Row[Any],
    row: Row[Any],
    *,
    now: float,
    again: bool,
) -> Seeding:
    """Have the template *row* downloaded to where *model* is, in bulk; what runs is left alone.

    *again*: also where that failed before. Pools that no host reaches get theirs when one does,
    and nobody waits for them.
    """
    zones = await templates.zones_of(tx, row.id)
    there = {
        copy.pool: copy
        for copy in await copies.of_template(tx, model.id)
        if copy.complete and copy.pool_zone in zones
    }
    latest = await job_list.latest_of_template(tx, row.id)
    wanted = await copies.wanted(tx, row.id, sorted(there), now=now, iso=row.iso)
    new, failed = [], None
    for pool_id, copy in wanted.items():
        earlier = latest.get(pool_id)
        if copy.complete or copy.state == copies.REMOVING:
            continue
        live = earlier is not None and earlier.state in LIVE
        if earlier is not None and (live or not again):
            failed = _why(earlier, there[pool_id]) or failed
            continue
        pool = await pools.get(tx, pool_id)
        bounds = quota.limits(settings, pool)
        try:
            bounds.check(row)
        except ApiParamError as exc:
            failed = exc.message
            continue
        # Whoever pays for the version that it follows pays for this one.
        account, size = there[pool_id].account, quota.disk_of(row) or 0
        await copies.change(tx, copies.key_of(copy), now=now, account=account, size=size)
        zone_id = there[pool_id].pool_zone
        new.append(requests.new_download(settings, row, copy, zone_id, rank=BULK, bounds=bounds))
    await jobs.submit(tx, new, now=now)
    reached = [pool_id for pool_id in wanted if any(fleet.reaching(pool_id))]
    done = all(wanted[pool_id].complete for pool_id in reached)
    return Seeding(ready=done and bool(reached or not wanted), failed=failed)


def _why(job: Row[Any], copy: Row[Any]) -> str | None:
    """Why the latest attempt of *job* failed; None if none did."""
    if job.failure:
        said = codec.from_plain(m.Failure, loads(job.failure)).message
    elif job.state in LIVE or job.state == State.DONE:
        return None
    else:
        said = job.state
    return f"pool {copy.pool_name}: {said}"
