# SPDX-License-Identifier: Apache-2.0
"""Are managers and hosts upgraded one after the other without anybody noticing?

Part of ``scripts/try-upgrade --rolling``, which makes the environments. Three managers of the
earlier version, on one PostgreSQL behind a load balancer, with three hosts of that version, are
replaced one by one, then the hosts. At each step managers of both versions serve, and each is asked
for what changes the ledger; a download runs through all of it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastdl.errors import FastdlError
from fastdl.lab.certs import self_signed
from scripts.upgrading import compare, done, everything, require
from tests.env.cluster import Cluster, cluster
from tests.env.faults import Rule, When
from tests.env.manager import Client
from tests.env.origin import FaultOrigin, Resource, pseudo_random
from tests.env.process import AgentProcess, eventually

SMALL = pseudo_random(78, 1 << 20)
LARGE = pseudo_random(79, 64 << 20)
RATE = 120e3
"""Bytes a second of each connection for the large image: minutes."""
TWICE = 32 << 20
"""Of each host: what is in memory when its agent restarts; the digest waits for slow parts."""


class Rollout:
    """Three managers and three hosts that are upgraded. *old*, *new*: how to start each version."""

    def __init__(
        self, made: Cluster, hosts: list[AgentProcess], origin: FaultOrigin, new: Sequence[str]
    ) -> None:
        self.cluster = made
        self.api = made.api
        self.hosts = hosts
        self.origin = origin
        self.new = new
        self.zone = ""
        self.steps = 0

    async def start(self) -> None:
        """A zone whose hosts are up."""
        self.zone = (await self.api("createZone", name="z1"))["zone"]["id"]
        sites = {"name": "secstorage.allowed.internal.sites", "value": "127.0.0.0/8"}
        await self.api("updateConfiguration", **sites)
        for host in self.hosts:
            await host.start((await self.api("createHostToken", zoneid=self.zone))["token"])
        await self.up()

    async def up(self) -> None:
        """Wait until every host and its pool are Up."""

        async def ready() -> bool:
            with contextlib.suppress(FastdlError, OSError):
                found = (await self.api("listHosts", state="Up")).get("host", [])
                pools = (await self.api("listStoragePools")).get("storagepool", [])
                there = [pool for pool in pools if pool["state"] == "Up"]
                return len(found) == len(there) == len(self.hosts)
            return False

        await eventually(ready, within=120)

    async def prepared(self, api: Client, name: str, content: bytes) -> dict[str, Any]:
        """Register *content* and ask for it in every pool, at *api*; the job."""
        self.origin.resources[f"/{name}.raw"] = Resource.of(content)
        if content is LARGE:
            self.origin.resources[f"/{name}.raw"].rules.append(Rule(when=When(), rate=RATE))
        answer = await api(
            "registerTemplate",
            name=name,
            url=self.origin.url(f"/{name}.raw"),
            format="RAW",
            hypervisor="KVM",
            zoneid=self.zone,
            directdownload="true",
        )
        template = answer["template"][0]["id"]
        return await api("prepareTemplate", zoneid=self.zone, templateid=template)

    async def ended(self, answer: dict[str, Any], *, within: float = 600) -> None:
        """Wait for a job's success."""
        state = await self.api.job(answer, within=within)
        require(f"a job ({state.get('jobresult')})", state["jobstatus"], 1)

    async def use(self, api: Client) -> None:
        """Ask one manager for what writes to most tables."""
        self.steps += 1
        name = f"s{self.steps}"
        await self.ended(await self.prepared(api, name, SMALL))
        await self.up()
        certificate = {"name": name, "hypervisor": "KVM", "zoneid": self.zone}
        answer = await api(
            "uploadTemplateDirectDownloadCertificate", certificate=self_signed(), **certificate
        )
        rows = answer["uploadtemplatedirectdownloadcertificate"]["hostsmap"]
        found = [row["status"] for row in rows]
        require("a certificate on the hosts", found, ["UPLOADED"] * len(self.hosts))
        await api("revokeTemplateDirectDownloadCertificate", **certificate)


async def listed(api: Client) -> dict[str, dict[str, dict[str, Any]]]:
    """``everything``, wherever each host is connected."""
    found = await everything(api)
    for row in found["listHosts"].values():
        row.pop("managementserverid", None)
    return found


async def roll(found: Rollout) -> None:
    """The whole story."""
    await found.start()
    clients = [found.cluster.client(one) for one in found.cluster.managers]
    for api in clients:
        await found.use(api)
    under_way = await found.prepared(found.api, "under-way", LARGE)

    async def flowing() -> bool:
        return found.origin.sent > 4 << 20

    await eventually(flowing)
    before = await listed(found.api)
    done("the earlier version: three managers, three hosts, a download under way")

    for number, manager in enumerate(found.cluster.managers):
        require("the end of a manager", await manager.end(signal.SIGTERM), 0)
        manager.program = found.new
        clients[number] = await manager.start()
        await found.up()
        require("what is listed", compare(before, await listed(found.api)), [])
        for api in clients:
            await found.use(api)
        done(f"{number + 1} of 3 managers are upgraded: each of them serves, both versions write")
    for host in found.hosts:
        await host.end(signal.SIGTERM)
        host.program = found.new
        await host.start()
        await found.up()
        await found.use(clients[0])
        done(f"{host.name} is upgraded; {found.origin.sent >> 20} MiB were sent until now")
    found.origin.resources["/under-way.raw"].rules.clear()
    await found.ended(under_way)
    needed = len(found.hosts) * (len(LARGE) + found.steps * len(SMALL))
    done(f"the download that was under way ended; {found.origin.sent >> 20} MiB were sent")
    more = found.origin.sent - needed - TWICE * len(found.hosts)
    require("bytes that were fetched for nothing", max(0, more), 0)
    for process in (*found.cluster.managers, *found.hosts):
        require("errors in a log", process.log().count("Traceback"), 0)
    done("nobody had an error")


async def run(folder: Path, old: Sequence[str], new: Sequence[str]) -> None:
    """Make the zone and upgrade it."""
    with FaultOrigin() as origin:
        async with cluster(folder, programs=[old] * 3) as made:
            hosts = [AgentProcess(folder, f"kvm{n}", made.managers[n]) for n in range(3)]
            for number, host in enumerate(hosts):
                host.program = old
                each = [made.managers[(number + k) % 3].agents for k in range(3)]
                host.through = tuple(each) if number else (made.agents,)
            try:
                await roll(Rollout(made, hosts, origin, new))
            finally:
                for host in hosts:
                    if host.alive:
                        await host.end(signal.SIGKILL)


def main() -> int:
    """Parse the environments of both versions and run."""
    parser = argparse.ArgumentParser(prog="scripts/try-upgrade --rolling")
    parser.add_argument("old", type=Path, help="environment of the earlier version")
    parser.add_argument("new", type=Path, help="environment of the later version")
    args = parser.parse_args()
    programs = [(str(path / "bin/python"), "-m", "fastdl") for path in (args.old, args.new)]
    with tempfile.TemporaryDirectory(prefix="fastdl-rolling-") as folder:
        asyncio.run(run(Path(folder), *programs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
