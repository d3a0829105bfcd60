# SPDX-License-Identifier: Apache-2.0
"""What clients query along the way: hypervisors, OS types, offerings, capabilities, listApis."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any, Final

from fastdl import __version__
from fastdl.manager.api.filters import READ, By, Contains, Is, Refused
from fastdl.manager.api.lists import page_of
from fastdl.manager.api.spec import (
    Call,
    Command,
    Field,
    Kind,
    Param,
    Reply,
    Single,
    listed,
)
from fastdl.manager.ledger import zones

_OS: Final = uuid.uuid5(uuid.NAMESPACE_DNS, "ostypes.fastdl.internal")
_CATEGORIES: Final = {
    "Ubuntu": ("Ubuntu 20.04 LTS", "Ubuntu 22.04 LTS", "Ubuntu 24.04 LTS"),
    "Debian": ("Debian GNU/Linux 11 (64-bit)", "Debian GNU/Linux 12 (64-bit)"),
    "RedHat": ("Red Hat Enterprise Linux 8.0", "Red Hat Enterprise Linux 9.0"),
    "RockyLinux": ("Rocky Linux 8", "Rocky Linux 9"),
    "SUSE": ("SUSE Linux Enterprise Server 15 (64-bit)", "openSUSE Leap 15 (64-bit)"),
    "FreeBSD": ("FreeBSD 13 (64-bit)", "FreeBSD 14 (64-bit)"),
    "Windows": ("Windows Server 2022 (64-bit)", "Windows 11 (64-bit)"),
    "Other": ("Other (64-bit)", "Other Linux (64-bit)", "Other PV (64-bit)"),
}
DEFAULT_OS: Final = "Other Linux (64-bit)"
HYPERVISORS: Final = ("KVM", "XenServer", "VMware", "LXC", "BareMetal", "Ovm3", "Simulator")


def _uuid(name: str) -> str:
    return str(uuid.uuid5(_OS, name))


OS_NAMES: Final = {_uuid(name): name for names in _CATEGORIES.values() for name in names}


async def list_hypervisors(call: Call) -> Reply:
    """List hypervisors; only KVM supports direct download. The same in every zone."""
    async with call.context.ledger.read() as tx:
        nowhere = (
            call.get("zoneid") is not None and await zones.get(tx, call.args["zoneid"]) is None
        )
    names = () if nowhere else HYPERVISORS
    return page_of(call, "hypervisor", [{"name": name} for name in names])


async def list_os_types(call: Call) -> Reply:
    """List guest operating systems."""
    items = [
        {
            "id": _uuid(n),
            "name": n,
            "description": n,
            "oscategoryid": _uuid(c),
            "isuserdefined": False,
        }
        for c, names in _CATEGORIES.items()
        for n in names
    ]
    return page_of(call, "ostype", items)


async def list_os_categories(call: Call) -> Reply:
    """List the categories of guest operating systems."""
    items = [{"id": _uuid(name), "name": name, "isfeatured": False} for name in _CATEGORIES]
    return page_of(call, "oscategory", items)


def os_types(category: str) -> list[str | None]:
    """Return the OS types of a category; None among them where it is that of ``DEFAULT_OS``, which
    a template without an OS type is shown with."""
    for name, types in _CATEGORIES.items():
        if _uuid(name) == category:
            return [*map(_uuid, types), *([None] if DEFAULT_OS in types else [])]
    return []


async def nothing(call: Call) -> Reply:
    """Return an empty list: fastdl has none of these, and clients can continue."""
    return page_of(call, "", [])


async def list_capabilities(call: Call) -> Reply:
    """Return the server's capabilities, which clients query first."""
    settings = call.context.settings
    return Single(
        "capability",
        {
            "cloudstackversion": f"fastdl {__version__}",
            "securitygroupsenabled": False,
            "userpublictemplateenabled": True,
            "dynamicrolesenabled": False,
            "defaultuipagesize": 20,
            "defaultpagesize": settings.whole("default.page.size"),
        },
    )


def list_apis(commands: Mapping[str, Command]) -> Command:
    """Return ``listApis``: which of *commands* a user may call, from the declarations."""

    async def handler(call: Call) -> Reply:
        items = [
            describe(command)
            for command in commands.values()
            if call.user.admin or not command.admin
        ]
        return page_of(call, "api", items)

    return Command(
        name="listApis",
        text="List the commands this user may call",
        handler=handler,
        params=(Param("name", text="one command", narrows=By()), *listed()),
        response=(
            Field("name"),
            Field("description"),
            Field("isasync", "boolean"),
            Field("params", "set"),
            Field("response", "set"),
        ),
    )


def describe(command: Command) -> dict[str, Any]:
    """Return a command as listApis shows it."""
    return {
        "name": command.name,
        "description": command.text,
        "since": command.since or None,
        "isasync": command.is_async,
        "related": command.related,
        "params": [
            {
                "name": p.name,
                "description": p.text,
                "type": p.kind.value,
                "length": p.length,
                "required": p.required,
                "related": "",
            }
            for p in command.params
        ],
        "response": [
            {"name": f.name, "description": f.text, "type": f.type} for f in command.response
        ],
        "type": "",
    }


def _empty(name: str, text: str) -> Command:
    return Command(name=name, text=text, handler=nothing, params=listed(), empty=True)


_WHOLE: Final = "families are listed whether a template of theirs is registered or not"

COMMANDS: Final = (
    Command(
        name="listCapabilities",
        text="List the server's capabilities",
        handler=list_capabilities,
        response=(Field("cloudstackversion"),),
    ),
    Command(
        name="listHypervisors",
        text="List hypervisors; only KVM supports direct download",
        handler=list_hypervisors,
        params=(Param("zoneid", Kind.UUID, "by zone", narrows=READ), *listed()),
        response=(Field("name"),),
    ),
    Command(
        name="listOsTypes",
        text="List guest operating systems",
        handler=list_os_types,
        params=(
            Param("id", Kind.UUID, "one of them", narrows=By()),
            Param("ids", Kind.LIST, "several", narrows=By("id")),
            Param("oscategoryid", Kind.UUID, "by family", narrows=By()),
            Param("description", text="by a part of it", narrows=Contains(("description",))),
            Param("fordisplay", Kind.BOOLEAN, "all are", narrows=Is(value=True)),
            *listed(),
        ),
        response=(Field("id"), Field("description"), Field("oscategoryid")),
    ),
    Command(
        name="listOsCategories",
        text="List categories of guest operating systems",
        handler=list_os_categories,
        params=(
            Param("id", Kind.UUID, "the family", narrows=By()),
            Param("name", text="by name", narrows=By()),
            Param("isfeatured", Kind.BOOLEAN, "none is", narrows=Is(value=False)),
            *(
                Param(name, text=f"refused: {_WHOLE}", narrows=Refused(_WHOLE))
                for name in ("arch", "isiso", "isvnf", "zoneid")
            ),
            *listed(),
        ),
        response=(Field("id"), Field("name")),
    ),
    *(
        _empty(name, "Always empty: fastdl has none of these")
        for name in (
            "listDiskOfferings",
            "listNetworks",
            "listProjects",
            "listPublicIpAddresses",
            "listPortForwardingRules",
            "listIpForwardingRules",
            "listSSHKeyPairs",
            "listSecurityGroups",
            "listAffinityGroups",
            "listVolumes",
            "listSnapshots",
        )
    ),
)
