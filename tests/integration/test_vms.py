# SPDX-License-Identifier: Apache-2.0
"""Virtual machines by the API: manager, agent and libvirtd as processes, and what survives them."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastdl.errors import AgentLostError, FastdlError
from fastdl.lab import guest
from tests.env import libvirtd
from tests.env.faults import Rule, When
from tests.env.machines import enterable
from tests.env.origin import FaultOrigin, Resource
from tests.env.process import eventually
from tests.env.site import Site

LINE = "THE GUEST IS UP"
CONTENT = guest.disk(LINE, 2 << 20)


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A libvirtd that can run machines."""
    with libvirtd.running(tmp_path_factory.mktemp("libvirtd")) as found:
        yield found


class Machines(Site):
    """A site whose template is a disk that boots, and its machines."""

    def __init__(self, folder: Path, origin: FaultOrigin, uri: str) -> None:
        super().__init__(folder, origin, CONTENT)
        origin.resources["/x.raw"] = Resource.of(CONTENT)
        self.held = contextlib.ExitStack()
        self.host.pool = self.held.enter_context(enterable())
        conf = self.host.folder / "conf"
        conf.mkdir()
        (conf / "agent.properties").write_text("fastdl.machine.hypervisor=qemu\n")
        self.libvirt = pytest.importorskip("libvirt").open(uri)
        self.ids: list[str] = []

    async def deploy(self, template: str, **params: Any) -> dict[str, str]:
        """Start a deployment: its id and jobid."""
        answer = await self.api(
            "deployVirtualMachine",
            templateid=template,
            zoneid=self.zone,
            **{"memory": 64, **params},
        )
        self.ids.append(answer["id"])
        return answer

    async def job(self, answer: dict[str, str], *, within: float = 60) -> dict[str, Any]:
        """How an async job ended."""

        async def ended() -> dict[str, Any] | None:
            state = await self.api("queryAsyncJobResult", jobid=answer["jobid"])
            return state if state["jobstatus"] else None

        found: dict[str, Any] = await eventually(ended, within=within)
        return found

    async def order(self, command: str, id_: str, **params: Any) -> dict[str, Any]:
        """Carry out a command for a machine; how it ended."""
        return await self.job(await self.api(command, id=id_, **params))

    async def state(self, id_: str) -> str | None:
        """The machine's state, None where it is gone."""
        found = (await self.api("listVirtualMachines", id=id_)).get("virtualmachine")
        return found[0]["state"] if found else None

    async def says(self, id_: str, times: int = 1) -> None:
        """Wait until the guest has written its line so often, and its host is there to say so."""

        async def said() -> bool:
            try:
                found = await self.api("getVirtualMachineConsoleOutput", id=id_)
            except AgentLostError:
                return False
            return bool(found["consoleoutput"]["output"].count(LINE) >= times)

        await eventually(said)

    def domains(self) -> dict[str, bool]:
        """Those of this site's machines that libvirt knows, and whether they run."""
        known = {one.UUIDString(): one for one in self.libvirt.listAllDomains()}
        return {id_: bool(known[id_].isActive()) for id_ in self.ids if id_ in known}

    def files(self) -> list[str]:
        """The names in the pool that are not hidden."""
        return sorted(p.name for p in self.host.pool.iterdir() if p.name[0] != ".")

    async def end(self) -> None:
        """End all, with the machines."""
        await super().end()
        for id_ in self.domains():
            with contextlib.suppress(Exception):
                found = self.libvirt.lookupByUUIDString(id_)
                if found.isActive():
                    found.destroy()
                found.undefine()
        self.libvirt.close()
        self.held.close()


@pytest.fixture
async def site(tmp_path: Path, origin: FaultOrigin, uri: str) -> AsyncIterator[Machines]:
    """A manager, a host and an origin."""
    made = Machines(tmp_path, origin, uri)
    try:
        await made.start()
        yield made
    finally:
        await made.end()
        origin.resources.clear()


async def test_the_life_of_a_machine(site: Machines) -> None:
    """Deployed from a template that is nowhere yet; stopped, started, destroyed, expunged."""
    template = await site.template()
    answer = await site.deploy(template, name="web-1", displayname="Web <1>")
    ended = await site.job(answer)
    assert ended["jobstatus"] == 1, ended["jobresult"]
    vm = ended["jobresult"]["virtualmachine"]
    assert (vm["id"], vm["state"], vm["name"]) == (answer["id"], "Running", "web-1")
    assert vm["hostname"] == "kvm1"
    await site.says(vm["id"])
    ended = await site.order("stopVirtualMachine", vm["id"], forced="true")
    assert ended["jobresult"]["virtualmachine"]["state"] == "Stopped"
    assert site.domains() == {vm["id"]: False}
    assert (await site.order("startVirtualMachine", vm["id"]))["jobstatus"] == 1
    await site.says(vm["id"], times=2)
    assert (await site.order("destroyVirtualMachine", vm["id"]))["jobstatus"] == 1
    assert await site.state(vm["id"]) == "Destroyed"
    assert site.domains() == {vm["id"]: False}
    recovered = await site.api("recoverVirtualMachine", id=vm["id"])
    assert recovered["virtualmachine"]["state"] == "Stopped"
    assert (await site.order("destroyVirtualMachine", vm["id"], expunge="true"))["jobstatus"] == 1
    assert await site.state(vm["id"]) is None
    assert not site.domains()
    assert len(site.files()) == 1, "only the template's copy is left"


async def test_the_life_of_a_machine_by_its_name(site: Machines) -> None:
    """``fastdl vm`` alone: no id is typed."""
    await site.template("u24")
    done = await site.fastdl("vm", "deploy", "u24", "web-1", "--memory", "64M", "--host", "kvm1")
    assert (done.code, done.out) == (0, "web-1: running on kvm1\n"), done.err
    (vm,) = await site.shown("vm", "list")
    site.ids.append(vm["id"])
    assert (vm["memory"], vm["templatename"]) == (64, "u24")
    await site.says(vm["id"])
    assert LINE in (await site.fastdl("vm", "console", "web-1")).out
    assert (await site.fastdl("vm", "stop", "web-1", "--force")).out == "web-1: stopped\n"
    assert "Stopped" in (await site.fastdl("vm", "list")).out
    assert (await site.fastdl("vm", "start", "web-1")).out == "web-1: running on kvm1\n"
    wrong = await site.fastdl("vm", "deploy", "u24", "web-2", "--memory", "1000K")
    assert (wrong.code, "whole number" in wrong.err) == (2, True)
    assert (await site.fastdl("vm", "destroy", "web-1", "--expunge")).code == 0
    assert await site.shown("vm", "list") == []


async def test_a_template_in_use_stays(site: Machines) -> None:
    """deleteTemplate succeeds; the copy goes when the last machine has gone."""
    template = await site.template()
    vm = await site.deploy(template)
    assert (await site.job(vm))["jobstatus"] == 1
    assert (await site.job(await site.api("deleteTemplate", id=template)))["jobstatus"] == 1
    (copy,) = await site.copies(templateid=template)
    assert copy["state"] == "Removing"
    assert any(vm["id"] in user or "image" in user for user in copy["users"])
    assert len(site.files()) == 2
    await site.order("destroyVirtualMachine", vm["id"], expunge="true")

    async def gone() -> bool:
        return not site.files()

    await eventually(gone)


async def test_a_failed_download_leaves_nothing(site: Machines) -> None:
    """A wrong digest: the job says why, the machine is in Error, the host has nothing of it."""
    template = await site.template()
    site.origin.resources["/x.raw"] = Resource.of(CONTENT[:-1] + b"x")
    vm = await site.deploy(template)
    ended = await site.job(vm)
    assert ended["jobstatus"] == 2
    assert ended["jobresult"]["errorcode"] == 530
    assert "sha-256" in ended["jobresult"]["errortext"].lower()
    assert await site.state(vm["id"]) == "Error"
    assert not site.domains()
    assert not site.files()
    assert (await site.order("destroyVirtualMachine", vm["id"]))["jobstatus"] == 1
    assert await site.state(vm["id"]) is None


async def test_a_start_that_fails_leaves_nothing(site: Machines) -> None:
    """More memory than qemu can have."""
    vm = await site.deploy(await site.template(), memory=1 << 24)
    ended = await site.job(vm)
    assert ended["jobstatus"] == 2
    assert "libvirt" in ended["jobresult"]["errortext"]
    assert await site.state(vm["id"]) == "Error"
    assert not site.domains()
    assert len(site.files()) == 1


async def test_an_agent_that_dies(site: Machines) -> None:
    """Killed again and again during deployments: each machine exists once, and runs."""
    template = await site.template()
    answers = [await site.deploy(template) for _ in range(3)]
    for pause in (0.0, 0.2, 0.4, 0.8):
        await asyncio.sleep(pause)
        await site.host.end(signal.SIGKILL)
        await site.host.start()
    for answer in answers:
        ended = await site.job(answer)
        assert ended["jobstatus"] == 1, ended["jobresult"]
        await site.says(answer["id"])
    assert site.domains() == dict.fromkeys(site.ids, True)
    for answer in answers:
        await site.order("destroyVirtualMachine", answer["id"], expunge="true")
    assert not site.domains()
    assert len(site.files()) == 1


async def test_a_manager_that_dies(site: Machines) -> None:
    """Killed between request and outcome: the next one continues, the job's number still holds."""
    template = await site.template()
    answer = await site.deploy(template)
    await site.manager.end(signal.SIGKILL)
    site.api = await site.manager.start()
    assert (await site.job(answer))["jobstatus"] == 1
    await site.says(answer["id"])
    answer = {**answer, **(await site.api("destroyVirtualMachine", id=answer["id"], expunge=True))}
    await site.manager.end(signal.SIGKILL)
    site.api = await site.manager.start()
    assert (await site.job(answer))["jobstatus"] == 1
    assert not site.domains()


async def test_destroyed_while_it_is_deployed(site: Machines) -> None:
    """Its template is on its way: the deployment fails, and nothing comes later."""
    template = await site.template()
    site.origin.resources["/x.raw"] = Resource.of(CONTENT, rules=[Rule(when=When(), rate=200_000)])
    vm = await site.deploy(template)
    ended = await site.order("destroyVirtualMachine", vm["id"], expunge="true")
    assert ended["jobstatus"] == 1
    assert (await site.job(vm))["jobstatus"] == 2
    assert await site.state(vm["id"]) is None
    assert not site.domains()


async def test_a_guest_that_goes_off_by_itself(site: Machines) -> None:
    """What the host sees is what is listed."""
    vm = await site.deploy(await site.template())
    assert (await site.job(vm))["jobstatus"] == 1
    site.libvirt.lookupByUUIDString(vm["id"]).destroy()

    async def stopped() -> bool:
        return await site.state(vm["id"]) == "Stopped"

    await eventually(stopped)
    assert (await site.order("startVirtualMachine", vm["id"]))["jobstatus"] == 1


async def test_a_guest_that_goes_off_while_its_host_is_away(site: Machines) -> None:
    """The host says so as soon as it is back."""
    vm = await site.deploy(await site.template())
    assert (await site.job(vm))["jobstatus"] == 1
    await site.host.end(signal.SIGKILL)
    site.libvirt.lookupByUUIDString(vm["id"]).destroy()
    await site.host.start()

    async def stopped() -> bool:
        return await site.state(vm["id"]) == "Stopped"

    await eventually(stopped, within=20)


async def test_what_cannot_be_asked_for(site: Machines) -> None:
    """Each wrong request has its own words, and makes nothing."""
    template = await site.template()
    nobody = "00000000-0000-0000-0000-00000000000f"
    for params, word in (
        ({"name": "../x"}, "Invalid name"),
        ({"name": "1up"}, "Invalid name"),
        ({"hostid": nobody}, "Unable to find host"),
        ({"storageid": nobody}, "storageid"),
        ({"serviceofferingid": nobody}, "serviceofferingid"),
        ({"memory": 0}, "memory"),
        ({"details[0].memory": "1e9"}, "memory"),
        ({"details[0].rootDiskController": "floppy"}, "rootDiskController"),
        ({"rootdisksize": 1 << 19}, "rootdisksize"),
        ({"templateid": nobody}, "templateid"),
        ({"zoneid": nobody}, "zoneid"),
    ):
        given = {"templateid": template, "zoneid": site.zone, **params}
        with pytest.raises(FastdlError, match=word):
            await site.api.send("deployVirtualMachine", {k: str(v) for k, v in given.items()})
    assert not (await site.api("listVirtualMachines"))
    vm = await site.deploy(template, name="Twice", startvm="false")
    assert (await site.job(vm))["jobresult"]["virtualmachine"]["state"] == "Stopped"
    with pytest.raises(FastdlError, match="already exists"):
        await site.deploy(template, name="tWICE")
    with pytest.raises(FastdlError, match="it is Stopped"):
        await site.api("stopVirtualMachine", id=vm["id"])
    with pytest.raises(FastdlError, match="it is Stopped"):
        await site.api("expungeVirtualMachine", id=vm["id"])


async def test_a_host_with_machines_is_not_deleted_by_accident(site: Machines) -> None:
    """Only where that is forced; the machine itself is left alone."""
    vm = await site.deploy(await site.template())
    assert (await site.job(vm))["jobstatus"] == 1
    (host,) = await site.hosts("Up")
    await site.api("prepareHostForMaintenance", id=host["id"])

    async def drained() -> bool:
        (found,) = await site.hosts("Up")
        return bool(found["resourcestate"] == "Maintenance")

    await eventually(drained)
    with pytest.raises(FastdlError, match="1 virtual machines"):
        await site.api("deleteHost", id=host["id"])
    await site.api("deleteHost", id=host["id"], forced="true")
    assert await site.state(vm["id"]) is None
    assert site.domains() == {vm["id"]: True}
