# SPDX-License-Identifier: Apache-2.0
"""Lists of templates and ISOs, and their filters."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.errors import ApiParamError
from fastdl.manager.api import catalog, views
from fastdl.manager.api.filters import NONE, READ, SHOWS, By, Is, Refused
from fastdl.manager.api.spec import (
    IN_DOMAIN,
    IN_PROJECT,
    TAGGED,
    Call,
    Command,
    Kind,
    Listing,
    Param,
    Reply,
    listed,
)
from fastdl.manager.api.templates import ARCH, SHOWN
from fastdl.manager.ledger import copies, templates

FILTERS: Final = (
    "featured",
    "self",
    "selfexecutable",
    "sharedexecutable",
    "executable",
    "community",
    "all",
)


async def _list(call: Call, *, iso: bool) -> Reply:
    filter_ = call.args["isofilter" if iso else "templatefilter"]
    if filter_ == "all" and not call.user.admin:
        raise ApiParamError("Filter all can be specified by root admins only")
    narrow: dict[str, dict[str, Any]] = {
        "featured": {"public": True, "featured": True},
        "community": {"public": True, "featured": False},
        "self": {"owner": call.user.id},
        "selfexecutable": {"owner": call.user.id},
        "sharedexecutable": {"shared_with": call.user.account},
        "executable": {"visible_to": (call.user.id, call.user.account)},
        "all": {},
    }
    where = call.wanted
    if "oscategoryid" in where:
        where["oscategoryid"] = catalog.os_types(where["oscategoryid"])
    first, size = call.page()
    async with call.context.ledger.read() as tx:
        count, rows = await templates.find(
            tx,
            iso=iso,
            where=where,
            unique=bool(call.get("showunique")),
            first=first,
            limit=size,
            **narrow[filter_],
        )
        items = []
        for row in rows:
            own = row.owner == call.user.id
            held = None
            if len(rows) <= 20 and (own or call.user.admin):
                held = await _copies(tx, row)
            items.append(views.template(row, admin=call.user.admin, own=own, copies=held))
    return Listing("iso" if iso else "template", items, count)


async def _copies(tx: AsyncConnection, row: Row[Any]) -> list[dict[str, Any]]:
    return [
        {
            "datastoreId": copy.pool,
            "datastore": copy.pool_name,
            "datastoreRole": "Primary",
            "downloadPercent": "100",
            "downloadState": "DOWNLOADED",
            "installPath": copy.install_path,
        }
        for copy in await copies.of_template(tx, row.id, zone_id=row.zone_id)
        if copy.complete
    ]


async def list_templates(call: Call) -> Reply:
    """List the templates this user may see."""
    return await _list(call, iso=False)


async def list_isos(call: Call) -> Reply:
    """List the ISOs this user may see."""
    return await _list(call, iso=True)


_LIST: Final = (
    Param("id", Kind.UUID, "one of them", narrows=By()),
    Param("ids", Kind.LIST, "several", narrows=By()),
    Param("name", text="by name", narrows=By()),
    Param("zoneid", Kind.UUID, "by zone", narrows=By()),
    Param("hypervisor", text="by hypervisor", narrows=By()),
    Param("account", text="by account", narrows=By()),
    IN_DOMAIN,
    IN_PROJECT,
    TAGGED,
    dataclasses.replace(ARCH, narrows=By()),
    Param("ispublic", Kind.BOOLEAN, "by whether everybody sees it", narrows=By()),
    Param("isfeatured", Kind.BOOLEAN, "by whether it is offered first", narrows=By()),
    Param("storageid", text="by a pool that has a copy of it", narrows=By()),
    Param("oscategoryid", Kind.UUID, "by family of guest operating systems", narrows=By()),
    Param("imagestoreid", text="there is no secondary storage", narrows=NONE),
    Param(
        "showremoved",
        Kind.BOOLEAN,
        "true is refused",
        narrows=Refused("deleted entries are not listed", but=False),
    ),
    Param("showunique", Kind.BOOLEAN, "one row for all zones", narrows=READ),
    Param("details", text="accepted: all are shown", narrows=SHOWS),
    *listed(By()),
)

COMMANDS: Final = (
    Command(
        name="listTemplates",
        text="List templates",
        handler=list_templates,
        params=(
            Param(
                "templatefilter",
                text=", ".join(FILTERS),
                required=True,
                choices=FILTERS,
                narrows=READ,
            ),
            Param(
                "isready",
                Kind.BOOLEAN,
                "all are as soon as they are registered",
                narrows=Is(value=True),
            ),
            Param("templatetype", text="all are USER", narrows=Is("USER")),
            Param("isvnf", Kind.BOOLEAN, "none is", narrows=Is(value=False)),
            Param("forcks", Kind.BOOLEAN, "none is", narrows=Is(value=False)),
            Param("parenttemplateid", text="none has a parent", narrows=NONE),
            Param("extensionid", text="none has an extension", narrows=NONE),
            *_LIST,
        ),
        response=SHOWN,
    ),
    Command(
        name="listIsos",
        text="List ISOs",
        handler=list_isos,
        params=(
            Param(
                "isofilter",
                text=", ".join(FILTERS),
                choices=FILTERS,
                default="selfexecutable",
                narrows=READ,
            ),
            Param("bootable", Kind.BOOLEAN, "by whether VMs boot from it", narrows=By()),
            # CloudStack's ListIsosCmd.listInReadyState: true asks for ready ones alone, which
            # all are, false for all. Ansible's module always sends false.
            Param(
                "isready",
                Kind.BOOLEAN,
                "false lists all, as true does: all are ready",
                narrows=SHOWS,
            ),
            *_LIST,
        ),
        response=SHOWN,
    ),
)
