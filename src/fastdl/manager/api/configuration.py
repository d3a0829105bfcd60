# SPDX-License-Identifier: Apache-2.0
"""Global settings: list and change."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.errors import ApiParamError
from fastdl.manager.api.spec import (
    PAGING,
    Call,
    Command,
    Field,
    Kind,
    Listing,
    Param,
    Reply,
    Single,
)
from fastdl.manager.ledger import records
from fastdl.manager.settings import SETTINGS, Setting, check, shown

_TYPES: Final = {
    "int": "Number", "float": "Decimal", "bool": "Boolean", "cidrs": "CSV", "names": "CSV",
    "json": "String", "proxy": "String", "token": "String",
}  # fmt: skip
_SCOPES: Final = ("zoneid", "clusterid", "storageid", "accountid", "domainid", "imagestoreuuid")


def _view(setting: Setting, value: str) -> dict[str, Any]:
    """Return a row of listConfigurations; *value*: as people may see it."""
    return {
        "category": setting.category,
        "group": "Storage" if "download" in setting.name else "Miscellaneous",
        "subgroup": "Direct download" if setting.name.startswith("direct.") else "Others",
        "name": setting.name,
        "value": value,
        "defaultvalue": setting.default,
        "scope": "Global",
        "description": setting.description,
        "isdynamic": True,
        "component": "fastdl",
        "displaytext": setting.name.replace(".", " ").capitalize(),
        "type": _TYPES[setting.kind],
    }


def _no_scopes(call: Call) -> None:
    for name in _SCOPES:
        if call.get(name) is not None:
            raise ApiParamError(f"{name}: every setting here is global")


async def list_(call: Call) -> Reply:
    """The settings, their values and what they mean."""
    _no_scopes(call)
    settings = call.core.services.settings
    word = (call.get("keyword") or "").lower()
    items = [
        _view(setting, settings.shown(setting.name))
        for setting in SETTINGS.values()
        if call.get("name") in {None, setting.name}
        and call.get("category") in {None, setting.category}
        and word in setting.name
    ]
    first, size = call.page()
    return Listing("configuration", items[first : first + size], len(items))


async def update(call: Call) -> Reply:
    """Change a setting; it takes effect at once."""
    _no_scopes(call)
    s, name = call.core.services, call.args["name"]
    value = check(name, call.get("value") or SETTINGS[name].default if name in SETTINGS else "")

    async def work(tx: AsyncConnection) -> None:
        await records.set_setting(tx, name, s.settings.to_store(name, value))
        await call.note(tx, "CONFIGURATION.VALUE.EDIT", f"{name} is now {shown(name, value)}")

    await call.write(work)
    s.settings.set(name, value)
    call.core.dispatcher.wake()
    return Single("configuration", _view(SETTINGS[name], shown(name, value)))


_SETTING: Final = tuple(
    Field(name)
    for name in ("category", "name", "value", "defaultvalue", "scope", "description", "isdynamic")
)
_SCOPE_PARAMS: Final = tuple(
    Param(name, Kind.STRING, "refused: every setting here is global") for name in _SCOPES
)

COMMANDS: Final = (
    Command(
        name="listConfigurations",
        text="List settings",
        handler=list_,
        params=(
            Param("name", text="by name"),
            Param("category", text="by category"),
            Param("group", text="accepted and ignored"),
            Param("subgroup", text="accepted and ignored"),
            *_SCOPE_PARAMS,
            *PAGING,
        ),
        response=_SETTING,
        admin=True,
    ),
    Command(
        name="updateConfiguration",
        text="Change a setting",
        handler=update,
        params=(
            Param("name", text="the setting", required=True),
            Param("value", text="its new value; without one, the default", length=4096),
            *_SCOPE_PARAMS,
        ),
        response=_SETTING,
        admin=True,
        changes=True,
    ),
)
