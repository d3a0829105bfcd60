# SPDX-License-Identifier: Apache-2.0
"""A manager with many hosts that come and go, under commands that succeed and fail."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from fastdl.errors import FastdlError
from fastdl.lab.certs import self_signed
from tests.env.fake_agent import FakeAgent, local_pool
from tests.env.manager import Client
from tests.env.process import ManagerProcess

AGENTS = 20
ALIASES = 5
STEP_S = 0.02


async def manage(
    folder: Path, over: Callable[[], bool], looked: Callable[[int], None], ends: Counter[str]
) -> None:
    """Work until *over*; *looked* is called with the manager's pid between any two commands."""
    manager = ManagerProcess(folder)
    client = await manager.start()
    agents: list[FakeAgent] = []
    try:
        zone = (await client("createZone", name="soak"))["zone"]["id"]
        host, _, port = manager.agents.rpartition(":")
        for number in range(AGENTS):
            pool = local_pool(f"p{number}")
            agent = FakeAgent(address=(host, int(port)), name=f"h{number}", pools=(pool,))
            await agent.enrol((await client("createHostToken", zoneid=zone))["token"])
            await agent.connect()
            agents.append(agent)
        rng = random.Random(3)  # noqa: S311
        pems = [self_signed(f"m{number}.example") for number in range(3)]
        template = await _template(client, zone)
        while not over():
            await _step(client, rng, agents, zone, template, pems, ends)
            looked(manager.pid)
            await asyncio.sleep(STEP_S)
    finally:
        for agent in agents:
            with contextlib.suppress(Exception):
                await agent.close()
        await manager.end(signal.SIGTERM)


async def _template(client: Client, zone: str) -> str:
    answer = await client(
        "registerTemplate", name="t", url="https://mirror.example/t.qcow2", format="QCOW2",
        hypervisor="KVM", zoneid=zone, directdownload="true",
    )  # fmt: skip
    return str(answer["template"][0]["id"])


async def _step(
    client: Client,
    rng: random.Random,
    agents: list[FakeAgent],
    zone: str,
    template: str,
    pems: list[str],
    ends: Counter[str],
) -> None:
    """One thing that an operator, or a host, does."""
    what = rng.choice(("upload", "delete", "list", "prepare", "wrong", "reconnect"))
    alias = f"a{rng.randrange(ALIASES)}"
    try:
        match what:
            case "upload":
                await client(
                    "uploadTemplateDirectDownloadCertificate",
                    name=alias,
                    zoneid=zone,
                    certificate=rng.choice(pems),
                    hypervisor="KVM",
                )
            case "delete":
                listed = await client("listTemplateDirectDownloadCertificates", zoneid=zone)
                for row in listed.get("directdownloadcertificate", [])[:1]:
                    await client("deleteTemplateDirectDownloadCertificate", id=row["id"])
            case "list":
                await client("listHosts")
                await client("listTemplateDownloads", templateid=template)
            case "prepare":
                await client("prepareTemplate", templateid=template, zoneid=zone)
            case "wrong":
                await client("deleteTemplate", id="00000000-0000-0000-0000-000000000000")
            case _:
                agent = rng.choice(agents)
                await agent.close()
                await agent.connect()
    except FastdlError as exc:
        ends[f"{what} {exc.code_name}"] += 1
    else:
        ends[f"{what} ok"] += 1
