# SPDX-License-Identifier: Apache-2.0
"""Async jobs and events."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.manager.api import views
from fastdl.manager.api.spec import PAGING, Bare, Call, Command, Field, Kind, Listing, Param, Reply
from fastdl.manager.api.templates import template_item
from fastdl.manager.ledger import records
from fastdl.manager.ledger.text import loads


async def _view(call: Call, tx: AsyncConnection, row: Row[Any]) -> dict[str, Any]:
    result = loads(row.result)
    if row.status == records.SUCCEEDED and row.command == "prepareTemplate" and row.instance:
        item = await template_item(call, tx, row.instance)
        result = {"template": item} if item is not None else result
    code = result.get("errorcode", 530) if row.status == records.FAILED else 0
    return {
        "accountid": row.owner,
        "userid": row.owner,
        "cmd": f"org.apache.cloudstack.api.command.{row.command}Cmd",
        "jobstatus": row.status,
        "jobprocstatus": 0,
        "jobresultcode": code,
        "jobresulttype": "object" if row.status != records.PENDING else None,
        "jobresult": result if row.status != records.PENDING else None,
        "jobinstancetype": row.instance_type,
        "jobinstanceid": row.instance,
        "created": views.date(row.created),
        "completed": views.date(row.completed),
        "jobid": row.id,
    }


async def query(call: Call) -> Reply:
    """The state of one async job."""
    async with call.core.services.ledger.read() as tx:
        row = await records.get_api_job(tx, call.args["jobid"])
        if row is None or (row.owner != call.user.id and not call.user.admin):
            raise call.no_entity("jobid")
        return Bare(await _view(call, tx, row))


async def list_jobs(call: Call) -> Reply:
    """Async jobs, newest first."""
    first, size = call.page()
    owner = None if call.user.admin and call.get("listall") else call.user.id
    async with call.core.services.ledger.read() as tx:
        count, rows = await records.api_jobs(tx, owner=owner, first=first, limit=size)
        items = [await _view(call, tx, row) for row in rows]
    return Listing("asyncjobs", items, count)


async def list_events(call: Call) -> Reply:
    """Events, newest first; who is no administrator sees their own account's."""
    first, size = call.page()
    async with call.core.services.ledger.read() as tx:
        count, rows = await records.events(
            tx, type_=call.get("type"), level=call.get("level"), resource=call.get("resourceid"),
            account=None if call.user.admin else call.user.account, first=first, limit=size,
        )  # fmt: skip
    return Listing("event", [views.event(row) for row in rows], count)


_JOB: Final = tuple(
    Field(n)
    for n in ("jobid", "cmd", "jobstatus", "jobresultcode", "jobresult", "created", "completed")
)

COMMANDS: Final = (
    Command(
        name="queryAsyncJobResult",
        text="The state of an async job: jobstatus 0 pending, 1 succeeded, 2 failed",
        handler=query,
        params=(Param("jobid", Kind.UUID, "the job", required=True),),
        response=_JOB,
    ),
    Command(
        name="listAsyncJobs",
        text="List async jobs",
        handler=list_jobs,
        params=(Param("listall", Kind.BOOLEAN, "everybody's (administrators)"), *PAGING),
        response=_JOB,
    ),
    Command(
        name="listEvents",
        text="List events",
        handler=list_events,
        params=(
            Param("type", text="by type: TEMPLATE.DIRECT.DOWNLOAD.FAILURE…"),
            Param("level", text="INFO, WARN or ERROR"),
            Param("resourceid", Kind.UUID, "by what it is about"),
            *PAGING,
        ),
        response=tuple(
            Field(n)
            for n in (
                "id",
                "type",
                "level",
                "description",
                "account",
                "username",
                "address",
                "created",
            )
        ),
    ),
)
