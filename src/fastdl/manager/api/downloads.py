# SPDX-License-Identifier: Apache-2.0
"""Downloads to primary storage: prepare, watch, cancel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.errors import ApiParamError, InternalError
from fastdl.manager.api.spec import (
    JOB,
    Bare,
    Call,
    Command,
    Field,
    Kind,
    Param,
    Reply,
)
from fastdl.manager.api.template_access import owned, require_enabled, visible
from fastdl.manager.downloads import quota, requests, results
from fastdl.manager.ledger import (
    copies,
    hosts,
    job_list,
    jobs,
    pools,
    records,
    templates,
    zones,
)
from fastdl.manager.ledger.values import BULK, URGENT


async def _pools(call: Call, tx: AsyncConnection, zone_id: str) -> list[str]:
    """The requested pools: one, those of some hosts, or every one an Up host can reach."""
    fleet = call.context.fleet
    if call.get("storageid") is not None:
        pool = await pools.get(tx, call.args["storageid"])
        if pool is None or pool.zone != zone_id:
            raise call.no_entity("storageid")
        return [pool.id]
    wanted: list[str] = call.get("hostids") or []
    found: dict[str, None] = {}
    for host_id in wanted:
        host = await hosts.get(tx, host_id)
        if host is None or host.zone != zone_id:
            raise ApiParamError(f"Unable to find host by id {host_id} in the zone")
        found.update(dict.fromkeys(sorted(await pools.usable(tx, host_id))))
    if not wanted:
        for pool in await pools.of_zone(tx, zone_id):
            if any(fleet.reaching(pool.id)):
                found[pool.id] = None
    return list(found)


async def prepare(call: Call) -> Reply:
    """Download a template to pools before (or when) a VM needs it; one download per pool."""
    s, zone_id = call.context, call.args["zoneid"]
    rank = _rank(call)
    async with s.ledger.read() as tx:
        row = await visible(call, tx, "templateid")
        enabled = {zone.id: zone.enabled for zone in await zones.all_zones(tx)}
        if zone_id not in await templates.zones_of(tx, row.id):
            raise ApiParamError(f"Template {row.name} is not registered in this zone")
        require_enabled(enabled, zone_id)
        pools = await _pools(call, tx, zone_id)
    if not pools:
        raise InternalError("No primary storage pool of the zone can be reached by a host in Up")

    async def work(tx: AsyncConnection) -> str:
        if zone_id not in await templates.zones_of(tx, row.id):
            raise call.no_entity("templateid")  # deleted since it was looked up
        found = await copies.wanted(tx, row.id, pools, now=call.now, iso=row.iso)
        for copy in found.values():
            await requests.keep(tx, copy, now=call.now)
        bounds = await _bounds(call, tx, row, list(found.values()))
        new = [
            requests.new_download(s.settings, row, found[pool], zone_id, rank=rank, bounds=limits)
            for pool, limits in bounds.items()
        ]
        parts = await jobs.submit(tx, new, now=call.now)
        text = f"{row.name} is brought to {len(new)} pool(s)"
        await call.note(tx, "TEMPLATE.PREPARE", text, row.id)
        return await records.add_api_job(
            tx,
            owner=call.user.id,
            command=call.command.name,
            now=call.now,
            instance_type="Template",
            instance=row.id,
            parts=parts,
        )

    api_job = await call.write(work)
    call.context.dispatcher.wake()
    return Bare({"jobid": api_job})


async def _bounds(
    call: Call, tx: AsyncConnection, row: Row[Any], found: Sequence[Row[Any]]
) -> dict[str, quota.Limits]:
    """Pool → what the template may become there, without pools that are too small for it.

    The caller's account is charged for what is fetched now, an administrator's is not.
    ApiParamError where it fits nowhere, or not in the pool that was named.
    """
    settings, size, left = call.context.settings, quota.disk_of(row) or 0, None
    fitting, refusal = [], None
    for copy in found:
        pool = await pools.get(tx, copy.pool)
        try:
            quota.limits(settings, pool).check(row)
            fitting.append((copy, pool))
        except ApiParamError as exc:
            refusal = refusal or exc
    if refusal is not None and not fitting:
        raise refusal
    fetched = [
        copy
        for copy, _ in fitting
        if not copy.complete and not await job_list.live_download(tx, copies.key_of(copy))
    ]
    if fetched and not call.user.admin:
        left = await quota.charge(tx, settings, call.user.account, count=len(fetched), size=size)
    account = "" if call.user.admin else call.user.account
    for copy in fetched:
        await copies.change(tx, copies.key_of(copy), now=call.now, account=account, size=size)
    return {copy.pool: quota.limits(settings, pool, room=left) for copy, pool in fitting}


def _rank(call: Call) -> int:
    """A request that names one pool has a VM waiting; one that names none seeds in advance."""
    given = call.get("priority")
    if given is None:
        return URGENT if call.get("storageid") is not None else BULK
    if given not in {"urgent", "bulk"}:
        raise ApiParamError("priority is either urgent or bulk")
    return URGENT if given == "urgent" else BULK


async def cancel(call: Call) -> Reply:
    """Cancel a template's downloads: all, or those to one pool."""
    row = await owned(call, "templateid")

    async def work(tx: AsyncConnection) -> list[Row[Any]]:
        live = await job_list.live_of_template(tx, row.id)
        there = [job for job in live if call.get("storageid") in {None, job.pool}]
        cancelled = await results.cancel(tx, there, now=call.now)
        if not cancelled:
            raise ApiParamError(f"Template {row.name} is not being downloaded there")
        text = f"{len(cancelled)} download(s) of {row.name} cancelled"
        await call.note(tx, "TEMPLATE.DOWNLOAD.CANCEL", text, row.id)
        return cancelled

    cancelled = await call.write(work)
    call.context.dispatcher.cancelled(cancelled)
    return Bare({"success": True, "displaytext": f"{len(cancelled)} download(s) cancelled"})


COMMANDS: Final = (
    Command(
        name="prepareTemplate",
        text="Download a template to primary storage now: to one pool, hosts' pools, or a zone's",
        handler=prepare,
        params=(
            Param("zoneid", Kind.UUID, "the zone", required=True),
            Param("templateid", Kind.UUID, "the template or ISO", required=True),
            Param("storageid", text="this pool only"),
            Param("hostids", Kind.LIST, "the pools of these hosts"),
            Param("priority", text="urgent (a VM is waiting; default with storageid) or bulk"),
        ),
        response=JOB,
        admin=True,
        opened_by="allow.user.prepare.template",
        changes=True,
        is_async=True,
    ),
    Command(
        name="cancelTemplateDownload",
        text="Cancel a template's downloads; the fetched data is kept for a week, for a resume",
        handler=cancel,
        params=(
            Param("templateid", Kind.UUID, "the template or ISO", required=True),
            Param("storageid", text="to this pool only"),
        ),
        response=(Field("success", "boolean"),),
        changes=True,
    ),
)
