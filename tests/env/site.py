# SPDX-License-Identifier: Apache-2.0
"""A small installation: a manager, a host and an origin, each a process of its own."""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
import sys
from pathlib import Path
from typing import Any, NamedTuple

from tests.env.manager import Client
from tests.env.origin import FaultOrigin, pseudo_random
from tests.env.process import AgentProcess, ManagerProcess, eventually

CONTENT = pseudo_random(41, 8 << 20)


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


class Site:
    """A manager with a zone, a host and an origin."""

    def __init__(
        self,
        folder: Path,
        origin: FaultOrigin,
        content: bytes = CONTENT,
        *,
        database: str | None = None,
    ) -> None:
        """*origin* serves *content* as ``/x.raw``; *database*: as ``ManagerProcess`` takes it."""
        self.sha256 = hashlib.sha256(content).hexdigest()
        self.manager = ManagerProcess(folder, database)
        self.host = AgentProcess(folder, "kvm1", self.manager)
        self.origin = origin
        self.zone = ""
        self.api: Client

    async def start(self, *more: str, pools: bool = True, through: str = "") -> None:
        """Start all of it; *more* and *pools* as ``AgentProcess.start`` takes them.

        *through*: an address by which the host reaches the manager.
        """
        self.api = await self.manager.start()
        self.zone = (await self.api("createZone", name="z1"))["zone"]["id"]
        sites = {"name": "secstorage.allowed.internal.sites", "value": "127.0.0.0/8"}
        await self.api("updateConfiguration", **sites)
        token = (await self.api("createHostToken", zoneid=self.zone))["token"]
        reached, self.manager.agents = self.manager.agents, through or self.manager.agents
        await self.host.start(token, *more, pools=pools)
        self.manager.agents = reached
        await eventually(self.pools)

    async def end(self) -> None:
        """End all of it."""
        await self.host.end(signal.SIGKILL)
        await self.manager.end(signal.SIGKILL)

    async def pools(self, state: str = "Up") -> list[dict[str, Any]]:
        """The pools in that state."""
        found = (await self.api("listStoragePools")).get("storagepool", [])
        return [pool for pool in found if pool["state"] == state]

    async def template(self, name: str = "t1") -> str:
        """Register a template; its id."""
        answer = await self.api(
            "registerTemplate",
            name=name,
            url=self.origin.url("/x.raw"),
            format="RAW",
            hypervisor="KVM",
            zoneid=self.zone,
            directdownload="true",
            checksum="{SHA-256}" + self.sha256,
        )
        id_: str = answer["template"][0]["id"]
        return id_

    async def prepare(self, template: str) -> dict[str, Any]:
        """Ask for the template in every pool; the job's start."""
        answer: dict[str, Any] = await self.api(
            "prepareTemplate", zoneid=self.zone, templateid=template
        )
        return answer

    async def prepare_at(self, template: str, pool: str) -> dict[str, Any]:
        """Ask for the template in one pool; the job's start."""
        answer: dict[str, Any] = await self.api(
            "prepareTemplate", zoneid=self.zone, templateid=template, storageid=pool
        )
        return answer

    async def brought(self, template: str, *, within: float = 20) -> Path:
        """Bring the template to the pool; its file."""
        job = await self.api.job(await self.prepare(template), within=within)
        assert job["jobstatus"] == 1, job
        (row,) = await self.copies(templateid=template)
        return self.host.pool / row["installpath"]

    async def copies(self, **params: Any) -> list[dict[str, Any]]:
        """listTemplateCopies."""
        found: list[dict[str, Any]] = (await self.api("listTemplateCopies", **params)).get(
            "templatecopy", []
        )
        return found

    async def downloads(self, template: str) -> list[dict[str, Any]]:
        """listTemplateDownloads."""
        found: list[dict[str, Any]] = (
            await self.api("listTemplateDownloads", templateid=template)
        ).get("templatedownload", [])
        return found

    async def hosts(self, state: str) -> list[dict[str, Any]]:
        """The hosts in that state."""
        found: list[dict[str, Any]] = (await self.api("listHosts", state=state)).get("host", [])
        return found

    async def events(self, type_: str) -> list[dict[str, Any]]:
        """Events of one type."""
        found: list[dict[str, Any]] = (await self.api("listEvents", type=type_)).get("event", [])
        return found

    async def fastdl(self, *words: str, stdin: str = "") -> Done:
        """Run a command of somebody who administers the zone."""
        credentials = self.manager.state / "admin.json"
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "fastdl", *words, "--credentials", str(credentials),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await asyncio.wait_for(process.communicate(stdin.encode()), 120)
        return Done(process.returncode or 0, out.decode(), err.decode())

    async def shown(self, *words: str) -> list[dict[str, Any]]:
        """What a list prints with ``--json``."""
        done = await self.fastdl(*words, "--json")
        assert done.code == 0, done.err
        found: list[dict[str, Any]] = json.loads(done.out)
        return found
