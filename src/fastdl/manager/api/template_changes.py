# SPDX-License-Identifier: Apache-2.0
"""Existing templates and ISOs: their attributes and permissions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.errors import ApiParamError
from fastdl.manager import sealed
from fastdl.manager.api import catalog
from fastdl.manager.api.filters import READ
from fastdl.manager.api.spec import (
    ROOT_DOMAIN,
    Bare,
    Call,
    Command,
    Field,
    Kind,
    Param,
    Reply,
    Single,
)
from fastdl.manager.api.template_access import owned, template_item
from fastdl.manager.api.templates import ARCH, check_details, check_name
from fastdl.manager.downloads import registration
from fastdl.manager.ledger import accounts, grants, templates
from fastdl.manager.ledger.text import loads

_FLAGS: Final = (
    "passwordenabled",
    "sshkeyenabled",
    "isdynamicallyscalable",
    "requireshvm",
    "templatetag",
    "sortkey",
)
_ADMINS: Final = "Only ROOT admins are allowed to modify this attribute."
OPERATIONS: Final = ("add", "remove", "reset")
ACCOUNTS_MAX: Final = 1000
"""Accounts that a template may be shared with."""


def _changes(call: Call, row: Row[Any]) -> dict[str, Any]:
    """Return the changed columns; ApiParamError if the values are not allowed."""
    values: dict[str, Any] = {}
    if (name := call.get("name")) is not None:
        check_name(name)
        values["name"] = name
    if (text := call.get("displaytext")) is not None:
        values["display_text"] = text
    for name in ("arch", "bootable"):
        if call.get(name) is not None:
            values[name] = call.args[name]
    flags: dict[str, Any] = loads(row.flags)
    if (os_type := call.get("ostypeid")) is not None:
        if os_type not in catalog.OS_NAMES:
            raise call.no_entity("ostypeid")
        values["os_type"] = os_type
        flags["ostypename"] = catalog.OS_NAMES[os_type]
    given = call.get("format")
    if given is not None and given.upper() != row.format.upper():
        raise ApiParamError(
            f"The format belongs to what is downloaded ({row.format}): register a new "
            f"template for another"
        )
    flags |= {name: call.args[name] for name in _FLAGS if call.get(name) is not None}
    if flags != loads(row.flags):
        values["flags"] = flags
    if call.get("cleanupdetails"):
        values["details"] = {}
    elif call.get("details") is not None:
        details = dict(call.args["details"])
        check_details(details)
        registration.headers_of(details)
        values["details"] = sealed.seal_details(call.context.vault, details)
    return values


async def _update(call: Call, *, iso: bool) -> Reply:
    row = await owned(call, "id", iso=iso)

    async def work(tx: AsyncConnection) -> dict[str, Any] | None:
        found = await templates.locked(tx, row.id)
        if found is None:
            raise call.no_entity("id")
        if values := _changes(call, found):
            await templates.change(tx, row.id, values)
        kind = "ISO" if iso else "TEMPLATE"
        await call.note(tx, f"{kind}.UPDATE", f"{found.name} changed", row.id)
        return await template_item(call, tx, row.id)

    item = await call.write(work)
    assert item is not None
    return Single("iso" if iso else "template", item)


async def update_template(call: Call) -> Reply:
    """Change a template's name and the attributes that VMs get from it."""
    return await _update(call, iso=False)


async def update_iso(call: Call) -> Reply:
    """Change an ISO's name and the attributes that VMs get from it."""
    return await _update(call, iso=True)


async def _permissions(call: Call, *, iso: bool) -> Reply:
    """Who may use a template: everybody, the owner, or named accounts."""
    row, op, names = await owned(call, "id", iso=iso), call.get("op"), call.get("accounts")
    if call.get("projectids") is not None:
        raise ApiParamError("fastdl has no projects: share with accounts")
    if op is not None and op not in OPERATIONS:
        raise ApiParamError(f"Invalid operation {op}: use {', '.join(OPERATIONS)}")
    if names is not None and op is None:
        raise ApiParamError('"op" has to be given with "accounts"')
    if op in {"add", "remove"} and not names:
        raise ApiParamError(f'"accounts" has to be given with "op={op}"')
    admins_only = [call.get(name) for name in ("isfeatured", "isextractable")]
    if not call.user.admin and any(value is not None for value in admins_only):
        raise ApiParamError(_ADMINS)
    columns = {"public": call.get("ispublic"), "featured": call.get("isfeatured")}

    async def work(tx: AsyncConnection) -> None:
        found = await templates.locked(tx, row.id)
        if found is None:
            raise call.no_entity("id")
        values: dict[str, Any] = {key: v for key, v in columns.items() if v is not None}
        if (extractable := call.get("isextractable")) is not None:
            values["flags"] = loads(found.flags) | {"isextractable": extractable}
        if values:
            await templates.change(tx, row.id, values)
        await _share(call, tx, row, op, names)
        kind = "ISO" if iso else "TEMPLATE"
        await call.note(tx, f"{kind}.PERMISSIONS.UPDATE", f"permissions of {row.name}", row.id)

    await call.write(work)
    return Bare({"success": True})


async def _share(
    call: Call, tx: AsyncConnection, row: Row[Any], op: str | None, names: list[str] | None
) -> None:
    if op == "reset":
        await grants.remove(tx, row.id)
    elif op == "remove":
        await grants.remove(tx, row.id, names)
    elif op == "add":
        known = {user.account for user in await accounts.all_users(tx)}
        for name in names or ():
            if name not in known:
                raise ApiParamError(
                    f"Unable to grant a launch permission to account {name}, account not found. "
                    f"No permissions updated, please verify the account names and retry."
                )
        await grants.add(tx, row.id, [name for name in names or () if name != row.account])
        if len(await grants.of_template(tx, row.id)) > ACCOUNTS_MAX:
            raise ApiParamError(f"A template can be shared with {ACCOUNTS_MAX} accounts")


async def update_template_permissions(call: Call) -> Reply:
    """Set who may use a template."""
    return await _permissions(call, iso=False)


async def update_iso_permissions(call: Call) -> Reply:
    """Set who may use an ISO."""
    return await _permissions(call, iso=True)


async def _list_permissions(call: Call, *, iso: bool) -> Reply:
    row = await owned(call, "id", iso=iso)
    async with call.context.ledger.read() as tx:
        shared = await grants.of_template(tx, row.id)
    item = {
        "id": row.id,
        "ispublic": row.public,
        "domainid": ROOT_DOMAIN,
        "account": shared or None,
    }
    return Single("templatepermission", item)


async def list_template_permissions(call: Call) -> Reply:
    """List who may use a template."""
    return await _list_permissions(call, iso=False)


async def list_iso_permissions(call: Call) -> Reply:
    """List who may use an ISO."""
    return await _list_permissions(call, iso=True)


_ID: Final = Param("id", Kind.UUID, "the template or ISO", required=True)
_LISTED_ID: Final = replace(_ID, narrows=READ)
_UPDATE: Final = (
    _ID,
    Param("name", text="its name", length=251),
    Param("displaytext", text="what users see", length=4096),
    Param("ostypeid", Kind.UUID, "the guest operating system (listOsTypes)"),
    ARCH,
    Param("format", text="only the current value"),
    Param("passwordenabled", Kind.BOOLEAN, "kept as a flag"),
    Param("sshkeyenabled", Kind.BOOLEAN, "kept as a flag"),
    Param("isdynamicallyscalable", Kind.BOOLEAN, "kept as a flag"),
    Param("isrouting", Kind.BOOLEAN, "accepted and ignored"),
    Param("sortkey", Kind.INTEGER, "kept as a flag"),
    Param("details", Kind.MAP, "all its details, as registerTemplate has them"),
    Param("cleanupdetails", Kind.BOOLEAN, "true: remove all details"),
)
_PERMISSIONS: Final = (
    _ID,
    Param("ispublic", Kind.BOOLEAN, "whether everybody sees it"),
    Param("isfeatured", Kind.BOOLEAN, "whether it is offered first (administrators)"),
    Param("isextractable", Kind.BOOLEAN, "kept as a flag (administrators)"),
    Param("op", text="add or remove the accounts, or reset: stop sharing it"),
    Param("accounts", Kind.LIST, "accounts that see it although it is not public"),
    Param("projectids", Kind.LIST, "refused: fastdl has no projects"),
)
_SUCCESS: Final = (Field("success", "boolean"),)
_SHOWN: Final = tuple(Field(name) for name in ("id", "name", "displaytext", "ostypeid", "details"))
_SHARED: Final = (Field("id"), Field("ispublic", "boolean"), Field("account", "list"))

COMMANDS: Final = (
    Command(
        name="updateTemplate",
        text="Change the attributes of a template",
        handler=update_template,
        params=(
            *_UPDATE,
            Param("requireshvm", Kind.BOOLEAN, "kept as a flag"),
            Param("templatetag", text="kept as a flag"),
            Param("templatetype", text="only one exists", choices=("USER",)),
        ),
        response=_SHOWN,
        changes=True,
    ),
    Command(
        name="updateIso",
        text="Change the attributes of an ISO",
        handler=update_iso,
        params=(*_UPDATE, Param("bootable", Kind.BOOLEAN, "kept as a flag")),
        response=_SHOWN,
        changes=True,
    ),
    Command(
        name="updateTemplatePermissions",
        text="Set who may use a template: everybody, the owner, or named accounts",
        handler=update_template_permissions,
        params=_PERMISSIONS,
        response=_SUCCESS,
        changes=True,
    ),
    Command(
        name="updateIsoPermissions",
        text="Set who may use an ISO: everybody, the owner, or named accounts",
        handler=update_iso_permissions,
        params=_PERMISSIONS,
        response=_SUCCESS,
        changes=True,
    ),
    Command(
        name="listTemplatePermissions",
        text="List the accounts that a template was shared with",
        handler=list_template_permissions,
        params=(_LISTED_ID,),
        response=_SHARED,
    ),
    Command(
        name="listIsoPermissions",
        text="List the accounts that an ISO was shared with",
        handler=list_iso_permissions,
        params=(_LISTED_ID,),
        response=_SHARED,
    ),
)
