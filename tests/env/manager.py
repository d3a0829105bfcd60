# SPDX-License-Identifier: Apache-2.0
"""A real manager in this process, and a client for its API."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.cli import api_client
from fastdl.manager.app import Manager, running
from fastdl.manager.config import ManagerConfig
from fastdl.manager.downloads.following import LEASE_S
from fastdl.manager.ledger import follows, records
from fastdl.web.routes import add_routes
from tests.env.fake_agent import FakeAgent

STOP_S = 60.0
"""How long a manager may take to stop; requests under way have 20 s."""


class Client:
    """Calls the API as ``fastdl api`` does, without blocking the loop."""

    def __init__(self, credentials: dict[str, str]) -> None:
        self.credentials = credentials

    async def __call__(self, command: str, **params: Any) -> dict[str, Any]:
        given = {k.replace("__", "."): str(v) for k, v in params.items()}
        return await self.send(command, given)

    async def send(self, command: str, params: dict[str, str], **options: Any) -> dict[str, Any]:
        """Call with parameters whose names Python cannot spell."""
        return await asyncio.to_thread(
            api_client.call, self.credentials, command, params, **options
        )

    async def job(self, answer: dict[str, Any], *, within: float = 20) -> dict[str, Any]:
        """Wait for an async job's end (*within* seconds); return its state."""
        async with asyncio.timeout(within):
            while True:
                state = await self("queryAsyncJobResult", jobid=answer["jobid"])
                if state["jobstatus"]:
                    return state
                await asyncio.sleep(0.05)


class Zone:
    """A manager, an admin's client, a zone and its agents."""

    def __init__(self, manager: Manager, client: Client, zone: str) -> None:
        self.manager = manager
        self.api = client
        self.id = zone
        self.agents: list[FakeAgent] = []

    async def token(self, **params: str) -> str:
        """A fresh enrolment token."""
        answer = await self.api("createHostToken", zoneid=self.id, **params)
        token: str = answer["token"]
        return token

    async def agent(self, name: str, *, connect: bool = True, **fields: Any) -> FakeAgent:
        """An enrolled (and connected) host."""
        agent = FakeAgent(address=self.manager.server.address, name=name, **fields)
        await agent.enrol(await self.token())
        if connect:
            await agent.connect()
            assert not agent.refusals, agent.refusals
        self.agents.append(agent)
        return agent

    async def template(self, name: str = "u24", **params: Any) -> dict[str, Any]:
        """A registered template."""
        values = {
            "name": name,
            "url": f"https://mirror.example/{name}.qcow2",
            "format": "QCOW2",
            "hypervisor": "KVM",
            "zoneid": self.id,
            "directdownload": "true",
        }
        answer = await self.api("registerTemplate", **{**values, **params})
        item: dict[str, Any] = answer["template"][0]
        return item

    async def follow(self, name: str, template: str) -> str:
        """A follow of a product, begun with *template*; another manager of the ledger, which does
        nothing, looks after all of them."""
        now = self.manager.context.clock.steady()
        product = f"simplestreams:https://mirror.example/#os:{name}:amd64:disk1.img"

        async def work(tx: AsyncConnection) -> str:
            assert await records.take_lease(tx, "follow", "another", now=now, ttl=LEASE_S)
            return await follows.create(
                tx, product=product, name=name, keep=1, template=template, version="1",
                now=now, due=now + 3600,
            )  # fmt: skip

        return await self.manager.context.ledger.write(work)


@contextlib.asynccontextmanager
async def zone(state: Path, *, accept_new_ca: bool = False, **config: Any) -> AsyncIterator[Zone]:
    """A manager with a zone ``z1`` (made at its first start)."""
    values: dict[str, Any] = {"listen": "127.0.0.1:0", "agent_listen": "127.0.0.1:0"}
    settings = ManagerConfig(state=state, **{**values, **config})
    started = running(settings, add_routes=add_routes, accept_new_ca=accept_new_ca)
    async with contextlib.AsyncExitStack() as held:
        manager = await held.enter_async_context(started)
        client = Client(json.loads((state / "admin.json").read_text()))
        zones = (await client("listZones")).get("zone")
        row = zones[0] if zones else (await client("createZone", name="z1"))["zone"]
        made = Zone(manager, client, row["id"])
        try:
            yield made
        finally:
            for agent in made.agents:
                await agent.close()
            async with asyncio.timeout(STOP_S):
                await held.aclose()
