# SPDX-License-Identifier: Apache-2.0
"""What a zone's API says of hosts and pools, and how hosts report."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from fastdl.wire import messages as m
from tests.env.fake_agent import DEFAULTS, FakeAgent
from tests.env.manager import Zone


async def host(zone: Zone, agent: FakeAgent) -> dict[str, Any]:
    """The host as listHosts shows it."""
    (item,) = (await zone.api("listHosts", id=agent.host_id))["host"]
    found: dict[str, Any] = item
    return found


async def reported(agent: FakeAgent) -> None:
    """Have it report; returns when the manager has taken that in (what it hears comes in order)."""
    await agent.report()
    stale = m.JobResult(job="none", fence=0, kind="remove", failure=m.Failure(code=74, message=""))
    before = len(agent.acks)
    await agent.say(stale)
    async with asyncio.timeout(20):
        while len(agent.acks) == before:
            await asyncio.sleep(0.01)


async def pools(zone: Zone) -> dict[str, dict[str, Any]]:
    """Pool id → pool, as listStoragePools shows them."""
    return {p["id"]: p for p in (await zone.api("listStoragePools")).get("storagepool", [])}


async def events_of(zone: Zone, type_: str) -> list[str]:
    """What the events of a type say."""
    return [e["description"] for e in (await zone.api("listEvents", type=type_)).get("event", [])]


def held_back() -> tuple[asyncio.Event, Callable[[FakeAgent, m.Command], Awaitable[Any]]]:
    """(what lets them end, downloads that wait for it)."""
    release = asyncio.Event()

    async def slow(agent: FakeAgent, command: m.Command) -> m.Done | m.Failure:
        await release.wait()
        return await DEFAULTS["download"](agent, command)

    return release, slow


def downloads(agent: FakeAgent) -> list[str]:
    """The jobs that the host was given to download."""
    found = (c.job for d in agent.documents for c in d.commands if c.kind == "download")
    return list(dict.fromkeys(found))


async def prepared(zone: Zone, name: str, **where: str) -> dict[str, Any]:
    """The job of a template that is brought to pools."""
    item = await zone.template(name)
    return await zone.api("prepareTemplate", zoneid=zone.id, templateid=item["id"], **where)


async def refused(agent: FakeAgent) -> bool:
    """Whether the manager had a last word for it."""
    return bool(agent.refusals)


async def given(agent: FakeAgent, count: int) -> bool:
    """Whether the host was given so many downloads."""
    return len(downloads(agent)) >= count


async def state_is(zone: Zone, agent: FakeAgent, state: str) -> bool:
    """Whether listHosts shows *state*."""
    return bool((await host(zone, agent))["state"] == state)


async def counted(zone: Zone, command: str, **params: str) -> int:
    """How many rows a list has in all."""
    answer = await zone.api(command, page="1", pagesize="1", **params)
    return int(answer["count"])
