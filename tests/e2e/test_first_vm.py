# SPDX-License-Identifier: Apache-2.0
"""From a mirror with a private CA to a Linux that boots: on files, on block devices, from an ISO.

Real processes throughout: HTTPS mirror, manager, agent, libvirtd, qemu; the guest is Debian's
kernel with busybox, started by SYSLINUX.
"""

from __future__ import annotations

import contextlib
import hashlib
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fastdl.errors import FastdlError
from fastdl.lab.certs import Authority
from fastdl.lab.metalink import metalink
from tests.env import libvirtd, linux_guest
from tests.env.loopdev import loop_device
from tests.env.machines import enterable
from tests.env.manager import Client
from tests.env.process import AgentProcess, ManagerProcess, eventually

MIB = 1 << 20
BOOT_S = 120.0


class Cloud:
    """A zone with one host, whose pools are libvirt's, and a mirror."""

    def __init__(self, folder: Path, libvirt: Any) -> None:
        self.folder = folder
        self.libvirt = libvirt
        self.manager = ManagerProcess(folder)
        self.host = AgentProcess(folder, "kvm1", self.manager)
        self.ca = Authority(folder)
        self.www = folder / "www"
        self.www.mkdir()
        self.mirror = ""
        self.zone = ""
        self.pools: dict[str, str] = {}
        self.machines: list[str] = []
        self.api: Client

    def serve(self, held: contextlib.ExitStack) -> None:
        """Start the mirror: a file server with a certificate of the private CA."""
        leaf, port = self.ca.make("mirror", issuer=self.ca.ca), self.folder / "port"
        words = [sys.executable, "-m", "fastdl.lab.origin", self.www, leaf.chain, leaf.key, port]
        process = subprocess.Popen([str(word) for word in words])
        held.callback(process.wait, 30)
        held.callback(process.terminate)

    async def start(self) -> None:
        """Start the rest."""
        port = self.folder / "port"

        async def listens() -> bool:
            return port.exists() and bool(port.read_text().strip())

        await eventually(listens)
        self.mirror = f"https://127.0.0.1:{port.read_text().strip()}"
        self.api = await self.manager.start()
        self.zone = (await self.api("createZone", name="z1"))["zone"]["id"]
        sites = {"name": "secstorage.allowed.internal.sites", "value": "127.0.0.0/8"}
        await self.api("updateConfiguration", **sites)
        token = (await self.api("createHostToken", zoneid=self.zone))["token"]
        conf = self.host.folder / "conf"
        conf.mkdir()
        (conf / "agent.properties").write_text("fastdl.machine.hypervisor=qemu\n")
        await self.host.start(token, pools=False)

        async def offered() -> bool:
            found = (await self.api("listStoragePools")).get("storagepool", [])
            up = {pool["id"] for pool in found if pool["state"] == "Up"}
            return set(self.pools.values()) <= up

        await eventually(offered)

    def publish(self, image: Path) -> str:
        """Serve *image* with a metalink; the metalink's URL."""
        image.rename(self.www / image.name)
        content = (self.www / image.name).read_bytes()
        (self.www / f"{image.name}.meta4").write_text(
            metalink(
                image.name,
                [f"{self.mirror}/{image.name}"],
                size=len(content),
                sha256=hashlib.sha256(content).hexdigest(),
            )
        )
        return f"{self.mirror}/{image.name}.meta4"

    async def register(self, url: str, *, iso: bool = False) -> str:
        """Register a template or an ISO; its id."""
        given = {"name": "linux", "zoneid": self.zone, "url": url, "directdownload": "true"}
        if iso:
            return str((await self.api("registerIso", **given))["iso"][0]["id"])
        answer = await self.api("registerTemplate", format="QCOW2", hypervisor="KVM", **given)
        return str(answer["template"][0]["id"])

    async def deploy(self, template: str, pool: str, **params: Any) -> dict[str, Any]:
        """Deploy into a pool; how that ended, with the machine's ``id``."""
        answer = await self.api(
            "deployVirtualMachine",
            templateid=template,
            zoneid=self.zone,
            storageid=self.pools[pool],
            memory=256,
            **params,
        )
        self.machines.append(answer["id"])
        return {**await self.job(answer), "id": answer["id"]}

    async def job(self, answer: dict[str, Any]) -> dict[str, Any]:
        """How an async job ended."""

        async def ended() -> dict[str, Any] | None:
            state = await self.api("queryAsyncJobResult", jobid=answer["jobid"])
            return state if state["jobstatus"] else None

        found: dict[str, Any] = await eventually(ended, within=BOOT_S)
        return found

    async def boots(self, ended: dict[str, Any]) -> None:
        """The deployment succeeded, and the guest's line arrives."""
        assert ended["jobstatus"] == 1, ended["jobresult"]

        async def said() -> bool:
            found = await self.api("getVirtualMachineConsoleOutput", id=ended["id"])
            return linux_guest.LINE in found["consoleoutput"]["output"]

        await eventually(said, within=BOOT_S)

    async def gone(self, ended: dict[str, Any]) -> None:
        """Destroy the machine for good."""
        job = await self.job(
            await self.api("destroyVirtualMachine", id=ended["id"], expunge="true")
        )
        assert job["jobstatus"] == 1, job["jobresult"]

    def left(self) -> dict[str, Any]:
        """What the host has of machines and in its pools."""
        known = {domain.UUIDString() for domain in self.libvirt.listAllDomains()}
        found: dict[str, Any] = {"domains": known & set(self.machines)}
        for name, id_ in self.pools.items():
            pool = self.libvirt.storagePoolLookupByUUIDString(id_)
            pool.refresh()
            found[name] = len([one for one in pool.listVolumes() if not one.startswith(".")])
        return found

    async def end(self) -> None:
        """End the processes, and whatever a failed test left running."""
        await self.host.end(signal.SIGKILL)
        await self.manager.end(signal.SIGKILL)
        for domain in self.libvirt.listAllDomains():
            if domain.UUIDString() in self.machines:
                if domain.isActive():
                    domain.destroy()
                domain.undefine()


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[Cloud]:
    """The zone, with a pool of files and one of partitions."""
    linux_guest.require()
    with libvirtd.running(tmp_path) as uri, contextlib.ExitStack() as held:
        libvirt: Any = pytest.importorskip("libvirt")
        connection = libvirt.open(uri)
        held.callback(connection.close)
        made = Cloud(tmp_path, connection)
        images = held.enter_context(enterable())
        device = held.enter_context(loop_device(tmp_path, size=192 * MIB))
        files = f"<target><path>{images}</path></target>"
        blocks = (
            f"<source><device path='{device.path}'/><format type='gpt'/></source>"
            "<target><path>/dev</path></target>"
        )
        for kind, type_, about in (("files", "dir", files), ("blocks", "disk", blocks)):
            xml = f"<pool type='{type_}'><name>{libvirtd.new_name()}</name>{about}</pool>"
            pool = connection.storagePoolDefineXML(xml)
            held.callback(pool.undefine)
            if kind == "blocks":
                pool.build(libvirt.VIR_STORAGE_POOL_BUILD_OVERWRITE)
            pool.create()
            held.callback(pool.destroy)
            made.pools[kind] = pool.UUIDString()
        made.serve(held)
        try:
            await made.start()
            yield made
        finally:
            await made.end()


async def test_from_a_mirror_to_a_guest(cloud: Cloud, tmp_path: Path) -> None:
    """No certificate, a revoked one, the same one again; then files, blocks and an ISO."""
    url = cloud.publish(linux_guest.disk(tmp_path))
    with pytest.raises(FastdlError, match="certificate is not trusted"):
        await cloud.register(url)
    alias = {"hypervisor": "KVM", "name": "mirror1", "zoneid": cloud.zone}
    pem = cloud.ca.ca.cert_file.read_text()
    await cloud.api("uploadTemplateDirectDownloadCertificate", certificate=pem, **alias)
    template = await cloud.register(url)
    iso = await cloud.register(cloud.publish(linux_guest.iso(tmp_path)), iso=True)

    await cloud.api("revokeTemplateDirectDownloadCertificate", **alias)
    for pool in ("files", "blocks"):
        ended = await cloud.deploy(template, pool)
        assert ended["jobstatus"] == 2
        text = ended["jobresult"]["errortext"]
        assert "no certificate of this host's keystore matches" in text
        (vm,) = (await cloud.api("listVirtualMachines", id=ended["id"]))["virtualmachine"]
        assert (vm["state"], vm["error"]) == ("Error", text)
    assert cloud.left() == {"domains": set(), "files": 0, "blocks": 0}

    (host,) = (await cloud.api("listHosts", zoneid=cloud.zone))["host"]
    await cloud.api(
        "uploadTemplateDirectDownloadCertificate", certificate=pem, hostid=host["id"], **alias
    )
    for pool in ("files", "blocks"):
        ended = await cloud.deploy(template, pool)
        await cloud.boots(ended)
        assert cloud.left() == {"domains": {ended["id"]}, "files": 2, "blocks": 0} | (
            {"files": 1, "blocks": 2} if pool == "blocks" else {}
        )
        await cloud.gone(ended)
    ended = await cloud.deploy(iso, "files", size=1)
    await cloud.boots(ended)
    await cloud.gone(ended)
    assert cloud.left() == {"domains": set(), "files": 2, "blocks": 1}
    for command, id_ in (("deleteTemplate", template), ("deleteIso", iso)):
        assert (await cloud.job(await cloud.api(command, id=id_)))["jobstatus"] == 1
    assert cloud.left() == {"domains": set(), "files": 0, "blocks": 0}
