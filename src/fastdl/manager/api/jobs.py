# SPDX-License-Identifier: Apache-2.0
"""Async jobs and events."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.manager.api import machine_views, views
from fastdl.manager.api.filters import NONE, READ, By, Is, Refused
from fastdl.manager.api.spec import (
    IN_DOMAIN,
    IN_PROJECT,
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
from fastdl.manager.api.template_access import template_item
from fastdl.manager.ledger import records
from fastdl.manager.ledger.text import loads


async def _view(call: Call, tx: AsyncConnection, row: Row[Any]) -> dict[str, Any]:
    result = loads(row.result)
    if row.status == records.SUCCEEDED and row.instance_type == "VirtualMachine" and row.instance:
        machine = await machine_views.item(tx, row.instance)
        result = {"virtualmachine": machine} if machine is not None else result
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
    """Return the state of one async job."""
    async with call.context.ledger.read() as tx:
        row = await records.get_api_job(tx, call.args["jobid"])
        if row is None or (row.owner != call.user.id and not call.user.admin):
            raise call.no_entity("jobid")
        return Bare(await _view(call, tx, row))


async def list_jobs(call: Call) -> Reply:
    """List async jobs, newest first."""
    first, size = call.page()
    owner = None if call.user.admin and call.get("listall") else call.user.id
    async with call.context.ledger.read() as tx:
        count, rows = await records.api_jobs(
            tx, where=call.wanted, owner=owner, first=first, limit=size
        )
        items = [await _view(call, tx, row) for row in rows]
    return Listing("asyncjobs", items, count)


async def list_events(call: Call) -> Reply:
    """List events, newest first; a caller who is not an administrator sees their own account's."""
    first, size = call.page()
    own = not call.user.admin or call.get("listall") is False
    async with call.context.ledger.read() as tx:
        count, rows = await records.events(
            tx,
            where=call.wanted,
            seen_by=call.user.account if own else None,
            first=first,
            limit=size,
        )
    return Listing("event", [views.event(row) for row in rows], count)


_DATE: Final = "{} then: a day, or a day and a time (UTC), inclusive"
_LASTING: Final = "an event here is written when it is over; use startdate and enddate"
_JOB: Final = tuple(
    Field(n)
    for n in ("jobid", "cmd", "jobstatus", "jobresultcode", "jobresult", "created", "completed")
)

COMMANDS: Final = (
    Command(
        name="queryAsyncJobResult",
        text="Return the state of an async job: jobstatus 0 pending, 1 succeeded, 2 failed",
        handler=query,
        params=(Param("jobid", Kind.UUID, "the job", required=True),),
        response=_JOB,
    ),
    Command(
        name="listAsyncJobs",
        text="List async jobs",
        handler=list_jobs,
        params=(
            Param("account", text="by the account that started it", narrows=By()),
            IN_DOMAIN,
            Param("startdate", Kind.DATE, "started since then", narrows=By()),
            Param("resourceid", text="by its subject", narrows=By()),
            Param("resourcetype", text="Template, Iso, Host, User, VirtualMachine", narrows=By()),
            Param("managementserverid", text="none is bound to one", narrows=NONE),
            *listed(By(), listall=READ),
        ),
        response=_JOB,
    ),
    Command(
        name="listEvents",
        text="List events",
        handler=list_events,
        params=(
            Param("id", Kind.UUID, "the event", narrows=By()),
            Param("startid", Kind.UUID, "the event: none has parts", narrows=By()),
            Param("type", text="by type: TEMPLATE.DIRECT.DOWNLOAD.FAILURE…", narrows=By()),
            Param("level", text="INFO, WARN or ERROR", narrows=By()),
            Param("state", text="all are Completed", narrows=By()),
            Param("account", text="by account", narrows=By()),
            IN_DOMAIN,
            IN_PROJECT,
            Param("resourceid", text="by its subject", narrows=By()),
            Param("resourcetype", text="by what that is: Template, Host…", narrows=By()),
            Param("startdate", Kind.DATE, _DATE.format("since"), narrows=By()),
            Param("enddate", Kind.DATE, _DATE.format("until"), narrows=By()),
            Param("archived", Kind.BOOLEAN, "none is", narrows=Is(value=False)),
            Param("duration", text="refused", narrows=Refused(_LASTING)),
            Param("entrytime", text="refused", narrows=Refused(_LASTING)),
            *listed(By(), listall=READ),
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
