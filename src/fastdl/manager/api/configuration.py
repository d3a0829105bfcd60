# SPDX-License-Identifier: Apache-2.0
"""Global settings: list and change."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.errors import ApiParamError
from fastdl.manager.api.filters import NONE, By, Contains, Refused
from fastdl.manager.api.lists import page_of
from fastdl.manager.api.spec import (
    Call,
    Command,
    Field,
    Param,
    Reply,
    Single,
    listed,
)
from fastdl.manager.ledger import records
from fastdl.manager.settings import SETTINGS, Setting, check, shown

_TYPES: Final = {
    "int": "Number",
    "float": "Decimal",
    "bool": "Boolean",
    "cidrs": "CSV",
    "names": "CSV",
    "json": "String",
    "proxy": "String",
    "token": "String",
    "url": "String",
    "buckets": "CSV",
}
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


async def list_(call: Call) -> Reply:
    """List the settings, their values and meanings."""
    settings = call.context.settings
    items = [_view(setting, settings.shown(setting.name)) for setting in SETTINGS.values()]
    return page_of(call, "configuration", items)


async def update(call: Call) -> Reply:
    """Change a setting; it takes effect at once."""
    for scope in _SCOPES:
        if call.get(scope) is not None:
            raise ApiParamError(f"{scope}: {_GLOBAL}")
    s, name = call.context, call.args["name"]
    value = check(name, call.get("value") or SETTINGS[name].default if name in SETTINGS else "")

    async def work(tx: AsyncConnection) -> None:
        await records.set_setting(tx, name, s.settings.to_store(name, value))
        await call.note(tx, "CONFIGURATION.VALUE.EDIT", f"{name} is now {shown(name, value)}")

    await call.write(work)
    s.settings.set(name, value)
    s.notices.tell("settings")
    call.context.dispatcher.wake()
    return Single("configuration", _view(SETTINGS[name], shown(name, value)))


_SETTING: Final = tuple(
    Field(name)
    for name in ("category", "name", "value", "defaultvalue", "scope", "description", "isdynamic")
)
_GLOBAL: Final = "every setting here is global"
_SCOPE_PARAMS: Final = tuple(
    Param(name, text=f"refused: {_GLOBAL}", narrows=Refused(_GLOBAL)) for name in _SCOPES
)

COMMANDS: Final = (
    Command(
        name="listConfigurations",
        text="List settings",
        handler=list_,
        params=(
            Param("name", text="by name", narrows=By()),
            Param("category", text="by category", narrows=By()),
            Param("group", text="by group", narrows=By()),
            Param("subgroup", text="by subgroup", narrows=By()),
            Param("parent", text="none has one", narrows=NONE),
            *_SCOPE_PARAMS,
            *listed(Contains(("name", "description"))),
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
