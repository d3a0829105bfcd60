# SPDX-License-Identifier: Apache-2.0
"""The commands of virtual machines: which there are; lists and consoles."""

from __future__ import annotations

from typing import Any, Final

from fastdl.errors import AgentLostError
from fastdl.manager.api import machine_views
from fastdl.manager.api.filters import NONE, SHOWS, By, Contains, Is
from fastdl.manager.api.lists import page_of
from fastdl.manager.api.machine_deployment import MEMORY_MAX, PROCESSORS_MAX, deploy
from fastdl.manager.api.machine_orders import destroy, expunge, recover, start, stop
from fastdl.manager.api.machine_views import OFFERING
from fastdl.manager.api.spec import (
    IN_DOMAIN,
    IN_PROJECT,
    JOB,
    TAGGED,
    Call,
    Command,
    Field,
    Kind,
    Param,
    Reply,
    Single,
    listed,
)
from fastdl.manager.ledger import vms
from fastdl.wire import messages as m


async def list_(call: Call) -> Reply:
    """List machines, oldest first."""
    async with call.context.ledger.read() as tx:
        items = await machine_views.items(tx, await vms.existing(tx))
    if call.get("ids"):
        items = [item for item in items if item["id"] in call.args["ids"]]
    return page_of(call, "virtualmachine", items)


async def list_offerings(call: Call) -> Reply:
    """List service offerings: there is one, and requests say how large their machines are."""
    return page_of(call, "serviceoffering", [OFFERING])


async def console(call: Call) -> Reply:
    """Return the end of what a machine wrote to its serial console."""
    async with call.context.ledger.read() as tx:
        vm = await vms.get(tx, call.args["id"])
    if vm is None or vm.removed is not None:
        raise call.no_entity("id")
    host = call.context.fleet.hosts.get(vm.host)
    if host is None:
        raise AgentLostError(f"The host of the virtual machine {vm.display_name} is not Up")
    args = m.ConsoleArgs(machine=vm.id, most=call.args["length"])
    done = await call.context.requests.send(host, m.Kind.CONSOLE, args)
    assert isinstance(done, m.ConsoleDone)
    return Single("consoleoutput", {"virtualmachineid": vm.id, "output": done.text})


_VM: Final = tuple(
    Field(name)
    for name in (
        "id", "name", "displayname", "account", "created", "state", "zoneid", "zonename",
        "hostid", "hostname", "templateid", "templatename", "isoid", "isoname", "cpunumber",
        "memory", "serviceofferingid", "serviceofferingname", "rootdisksize", "storageid",
        "storagename", "hypervisor", "accelerated", "instancename", "error",
    )
)  # fmt: skip
_ID: Final = Param("id", Kind.UUID, "the virtual machine", required=True)


def _order(name: str, text: str, handler: Any, *params: Param) -> Command:
    return Command(
        name=name,
        text=text,
        handler=handler,
        params=(_ID, *params),
        response=JOB,
        admin=True,
        changes=True,
        is_async=True,
    )


COMMANDS: Final = (
    Command(
        name="deployVirtualMachine",
        text="Create a virtual machine; its template is downloaded first where it is missing",
        handler=deploy,
        params=(
            Param("templateid", Kind.UUID, "the template or ISO", required=True),
            Param("zoneid", Kind.UUID, "the zone", required=True),
            Param("hostid", Kind.UUID, "on this host only"),
            Param("storageid", text="in this pool only"),
            Param("serviceofferingid", Kind.UUID, "accepted: there is one, of any size"),
            Param("name", text="a host name: unique in the zone", length=63),
            Param("displayname", text="shown instead of the name"),
            Param("startvm", Kind.BOOLEAN, "false: it is created and stays Stopped", default=True),
            Param("cpunumber", Kind.INTEGER, "processors", default=1, least=1,
                  most=PROCESSORS_MAX),
            Param("memory", Kind.INTEGER, "MiB of memory", default=512, least=16,
                  most=MEMORY_MAX),
            Param("details", Kind.MAP, "cpuNumber, memory (MiB), rootDiskController"),
            Param("rootdisksize", Kind.INTEGER, "GiB of the root disk; default: the template's",
                  least=1, most=1 << 20),
            Param("size", Kind.INTEGER, "the same, as CloudStack has it for ISOs", least=1,
                  most=1 << 20),
            Param("hypervisor", text="KVM", choices=("KVM",)),
        ),
        response=(Field("id"), *JOB),
        admin=True,
        changes=True,
        is_async=True,
    ),
    _order("startVirtualMachine", "Start a virtual machine, on its host", start),
    _order(
        "stopVirtualMachine",
        "Stop a virtual machine",
        stop,
        Param("forced", Kind.BOOLEAN, "switch it off, without asking its guest first"),
    ),
    _order(
        "destroyVirtualMachine",
        "Destroy a virtual machine; it can be recovered for expunge.delay seconds",
        destroy,
        Param("expunge", Kind.BOOLEAN, "remove it and its disk at once"),
    ),
    _order("expungeVirtualMachine", "Remove a destroyed virtual machine and its disk", expunge),
    Command(
        name="recoverVirtualMachine",
        text="Make a destroyed virtual machine a stopped one again",
        handler=recover,
        params=(_ID,),
        response=_VM,
        admin=True,
        changes=True,
    ),
    Command(
        name="listVirtualMachines",
        text="List virtual machines",
        handler=list_,
        params=(
            Param("id", Kind.UUID, "the virtual machine", narrows=By()),
            Param("ids", Kind.LIST, "several", narrows=By("id")),
            Param("name", text="by name", narrows=By()),
            Param("state", text="Running, Stopped, Starting, Error…", narrows=By()),
            Param("zoneid", Kind.UUID, "by zone", narrows=By()),
            Param("hostid", Kind.UUID, "by host", narrows=By()),
            Param("templateid", Kind.UUID, "by template", narrows=By()),
            Param("isoid", Kind.UUID, "by ISO", narrows=By()),
            Param("storageid", text="by the pool of its disk", narrows=By()),
            Param("serviceofferingid", Kind.UUID, "there is one", narrows=By()),
            Param("hypervisor", text="all are KVM", narrows=Is("KVM")),
            Param("account", text="by account", narrows=By()),
            Param("userid", Kind.UUID, "by user", narrows=By()),
            Param("podid", text="there are no pods", narrows=NONE),
            Param("networkid", text="none has a network", narrows=NONE),
            Param("groupid", text="there are no groups", narrows=NONE),
            Param("displayvm", Kind.BOOLEAN, "all are", narrows=Is(value=True)),
            Param("haenable", Kind.BOOLEAN, "none is", narrows=Is(value=False)),
            Param("details", text="accepted: all are shown", narrows=SHOWS),
            IN_DOMAIN,
            IN_PROJECT,
            TAGGED,
            *listed(Contains(("name", "displayname"))),
        ),
        response=_VM,
        admin=True,
    ),
    Command(
        name="getVirtualMachineConsoleOutput",
        text="Return the end of what a virtual machine wrote to its serial console",
        handler=console,
        params=(
            _ID,
            Param("length", Kind.INTEGER, "bytes from the end", default=16384, least=1,
                  most=64 << 10),
        ),
        response=(Field("virtualmachineid"), Field("output")),
        admin=True,
    ),
    Command(
        name="listServiceOfferings",
        text="List service offerings: one, of any size",
        handler=list_offerings,
        params=(
            Param("id", Kind.UUID, "the offering", narrows=By()),
            Param("name", text="by name", narrows=By()),
            Param("issystem", Kind.BOOLEAN, "it is not", narrows=By()),
            Param("virtualmachineid", Kind.UUID, "accepted: it suits all", narrows=SHOWS),
            IN_DOMAIN,
            *listed(),
        ),
        response=(Field("id"), Field("name"), Field("iscustomized", "boolean")),
    ),
)  # fmt: skip
