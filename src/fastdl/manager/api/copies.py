# SPDX-License-Identifier: Apache-2.0
"""Copies on primary storage: their records and their removal."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.errors import ApiParamError
from fastdl.manager.api import views
from fastdl.manager.api.filters import SHOWS, By
from fastdl.manager.api.spec import (
    JOB,
    Bare,
    Call,
    Command,
    Field,
    Kind,
    Listing,
    Param,
    Reply,
    listed,
)
from fastdl.manager.downloads import audits, results
from fastdl.manager.downloads.removal import remove_copies
from fastdl.manager.ledger import copies, job_list, pools, records, zones
from fastdl.manager.ledger.text import loads

_STATES: Final = {
    copies.ABSENT: "Absent",
    copies.READY: "Ready",
    copies.REMOVING: "Removing",
    copies.ORPHAN: "Orphan",
}


async def list_copies(call: Call) -> Reply:
    """List the copies in pools, or being removed, with their users."""
    first, size = call.page()
    where = call.wanted
    if "state" in where:
        where["state"] = next(key for key, name in _STATES.items() if name == where["state"])
    if call.get("refresh"):
        await _refresh(call)
    async with call.context.ledger.read() as tx:
        count, rows = await copies.find(tx, where=where, first=first, limit=size)
        names = {zone.id: zone.name for zone in await zones.all_zones(tx)}
    return Listing("templatecopy", [_view(row, names) for row in rows], count)


async def _refresh(call: Call) -> None:
    """Ask hosts first, for one pool: asking about all would take too long."""
    if call.get("storageid") is None:
        raise ApiParamError("refresh needs storageid: only one pool at a time can be refreshed")
    async with call.context.ledger.read() as tx:
        if await pools.get(tx, call.args["storageid"]) is None:
            raise call.no_entity("storageid")
    await call.context.copy_watch.list_copies(call.args["storageid"])


def _view(row: Row[Any], zone_names: dict[str, str]) -> dict[str, Any]:
    return {
        "volume": row.volume,
        "state": _STATES[row.state],
        "templateid": row.template,
        "templatename": row.template_name,
        "templateremoved": row.template_removed is not None or row.live is None,
        "storageid": row.pool,
        "storagename": row.pool_name,
        "zoneid": row.pool_zone,
        "zonename": zone_names.get(row.pool_zone),
        "complete": row.complete,
        "installpath": row.install_path or None,
        "size": row.size,
        "physicalsize": row.bytes,
        "account": row.account or None,
        "users": loads(row.users),
        "reason": row.note or None,
        "created": views.date(row.created),
        "updated": views.date(row.updated),
    }


async def delete_copy(call: Call) -> Reply:
    """Remove one copy, of any owner; a copy in use only if forced."""
    volume, template = call.get("volume"), call.get("templateid")
    if (volume is None) == (template is None):
        raise ApiParamError("Name the copy by storageid and either volume or templateid")

    names = ("storageid", "volume", "templateid")
    where = {name: call.args[name] for name in names if call.get(name) is not None}

    async def work(tx: AsyncConnection) -> tuple[str, list[Row[Any]]]:
        _, rows = await copies.find(tx, where=where, limit=100)
        if not rows:
            raise call.no_entity("volume" if volume is not None else "templateid")
        live = [
            job for row in rows if (job := await job_list.live_download(tx, copies.key_of(row)))
        ]
        cancelled = await results.cancel(tx, live, now=call.now)
        what = rows[0].template_name or rows[0].volume
        await call.note(
            tx,
            "TEMPLATE.COPY.DELETE",
            f"the copy of {what} on pool {rows[0].pool} is removed",
            rows[0].template,
        )
        removals = await remove_copies(tx, rows, now=call.now, forced=bool(call.get("forced")))
        parts = [job for _, job in removals]
        api_job = await records.add_api_job(
            tx,
            owner=call.user.id,
            command=call.command.name,
            now=call.now,
            instance_type="Template",
            instance=rows[0].template,
            parts=parts,
        )
        if not parts:
            await records.complete_api_job(
                tx, api_job, status=records.SUCCEEDED, result={"success": True}, now=call.now
            )
        return api_job, cancelled

    api_job, cancelled = await call.write(work)
    call.context.dispatcher.cancelled(cancelled)
    call.context.dispatcher.wake()
    return Bare({"jobid": api_job})


async def audit_copy(call: Call) -> Reply:
    """Have a host read one copy as a whole, and compare it with its digest."""
    host = audits.able_host(call.context.fleet, call.args["storageid"])
    names = ("storageid", "volume", "templateid")
    where = {name: call.args[name] for name in names if call.get(name) is not None}
    if len(where) != 2:
        raise ApiParamError("Name the copy by storageid and either volume or templateid")

    async def work(tx: AsyncConnection) -> str:
        _, rows = await copies.find(tx, where=where, limit=100)
        if not rows:
            raise call.no_entity("volume" if "volume" in where else "templateid")
        parts = [await audits.submit(tx, row, host, now=call.now) for row in rows]
        what = rows[0].template_name or rows[0].volume
        text = f"an audit of the copy of {what} on pool {rows[0].pool} was requested"
        await call.note(tx, "TEMPLATE.COPY.AUDIT", text, rows[0].template)
        return await records.add_api_job(
            tx,
            owner=call.user.id,
            command=call.command.name,
            now=call.now,
            instance_type="Template",
            instance=rows[0].template,
            parts=parts,
        )

    api_job = await call.write(work)
    call.context.delivery.post(host.id)
    return Bare({"jobid": api_job})


COMMANDS: Final = (
    Command(
        name="listTemplateCopies",
        text="List the copies on primary storage: of templates, deleted ones, and unknown ones",
        handler=list_copies,
        params=(
            Param("storageid", text="by pool", narrows=By()),
            Param("templateid", Kind.UUID, "by template", narrows=By()),
            Param("zoneid", Kind.UUID, "by zone", narrows=By()),
            Param("volume", text="by the volume's name", narrows=By()),
            Param("state", text="Ready, Absent, Removing or Orphan", narrows=By(),
                  choices=tuple(_STATES.values())),
            Param("orphaned", Kind.BOOLEAN, "whether they belong to no template (any more)",
                  narrows=By()),
            Param("refresh", Kind.BOOLEAN, "ask a host about the pool first (with storageid)",
                  narrows=SHOWS),
            *listed(By()),
        ),
        response=tuple(
            Field(name)
            for name in (
                "volume", "state", "templateid", "templatename", "templateremoved", "storageid",
                "storagename", "zoneid", "zonename", "complete", "installpath", "size",
                "physicalsize", "account", "users", "reason", "created", "updated",
            )
        ),
        admin=True,
    ),
    Command(
        name="auditTemplateCopy",
        text="Read a copy as a whole and compare it with its digest: which pieces are damaged?",
        handler=audit_copy,
        params=(
            Param("storageid", text="the pool", required=True),
            Param("volume", text="the volume's name (listTemplateCopies)"),
            Param("templateid", Kind.UUID, "the template whose copy it is"),
        ),
        response=JOB,
        admin=True,
        changes=True,
        is_async=True,
    ),
    Command(
        name="deleteTemplateCopy",
        text="Remove a copy from primary storage; a copy in use is kept until it is unused",
        handler=delete_copy,
        params=(
            Param("storageid", text="the pool", required=True),
            Param("volume", text="the volume's name (listTemplateCopies)"),
            Param("templateid", Kind.UUID, "the template whose copy it is"),
            Param("forced", Kind.BOOLEAN, "also where it is in use"),
        ),
        response=JOB,
        admin=True,
        changes=True,
        is_async=True,
    ),
)  # fmt: skip
