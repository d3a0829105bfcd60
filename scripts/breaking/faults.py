# SPDX-License-Identifier: Apache-2.0
"""What goes wrong: each fault breaks something, waits, and puts it right again."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable

from scripts.breaking.rig import RATE, Rig
from tests.env.process import ManagerProcess

PARTITION_S = 50.0
"""Longer than a host is waited for."""
SLOW = 0.05e6
"""Bytes a second of a connection meanwhile."""
STOP_S = 45.0
"""Longer than any lease of a manager."""

Fault = Callable[[Rig, random.Random], Awaitable[str]]
"""Returns what was done, in a few words."""


async def kill_holder(rig: Rig, draw: random.Random) -> str:
    """kill -9 of the manager that dispatches; back after ten seconds."""
    manager = await rig.cluster.holder()
    await manager.end(signal.SIGKILL)
    killed = time.monotonic()
    await asyncio.sleep(10 + 10 * draw.random())
    await rig.cluster.start(manager)
    starts = sorted(at for origin in rig.origins for at in origin.starts.values() if at > killed)
    gap = f"next download after {starts[0] - killed:.1f} s" if starts else "no download began"
    return f"killed {manager.state.name}, which dispatched: {gap}"


async def kill_any(rig: Rig, draw: random.Random) -> str:
    """kill -9 of two managers; one goes on."""
    victims = draw.sample(rig.cluster.managers, 2)
    for manager in victims:
        await manager.end(signal.SIGKILL)
    await asyncio.sleep(5)
    for manager in victims:
        await rig.cluster.start(manager)
    return f"killed {' and '.join(manager.state.name for manager in victims)}"


async def stop_manager(rig: Rig, draw: random.Random) -> str:
    """SIGSTOP of a manager for longer than its leases last; then it goes on as if nothing was."""
    manager: ManagerProcess = (
        await rig.cluster.holder() if draw.random() < 0.5 else draw.choice(rig.cluster.managers)
    )
    os.kill(manager.pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(STOP_S)
    finally:
        os.kill(manager.pid, signal.SIGCONT)
    return f"stopped {manager.state.name} for {STOP_S:.0f} s"


async def kill_agents(rig: Rig, draw: random.Random) -> str:
    """kill -9 of half of the agents; back after some seconds."""
    victims = draw.sample(rig.agents, len(rig.agents) // 2)
    for agent in victims:
        await agent.end(signal.SIGKILL)
    await asyncio.sleep(2 + 6 * draw.random())
    for agent in victims:
        await rig.start_agent(agent)
    return f"killed {', '.join(agent.name for agent in victims)}"


async def partition(rig: Rig, draw: random.Random) -> str:
    """A third of the hosts cut off from all managers, in one direction or both; origins stay."""
    incoming, outgoing = draw.choice([(True, False), (False, True), (True, True)])
    rig.pace(SLOW)  # so that what they download outlasts what is waited for
    victims = await _busy(rig, draw, max(1, len(rig.agents) // 3))
    for number in victims:
        rig.spaces[number].cut(rig.manager_ports(), incoming=incoming, outgoing=outgoing)
    try:
        await asyncio.sleep(PARTITION_S)
    finally:
        rig.pace(RATE)
        for number in victims:
            rig.spaces[number].mend()
    how = "both ways" if incoming and outgoing else "inwards" if incoming else "outwards"
    return f"cut off {', '.join(rig.agents[n].name for n in victims)} {how}"


async def crash_database(rig: Rig, draw: random.Random) -> str:
    """PostgreSQL's immediate stop; back after some seconds, or longer than hosts are waited for."""
    away = 3.0 if draw.random() < 0.5 else 40.0
    await asyncio.to_thread(rig.cluster.server.stop)
    await asyncio.sleep(away)
    await asyncio.to_thread(rig.cluster.server.start)
    return f"PostgreSQL was away for {away:.0f} s"


async def fail_over(rig: Rig, draw: random.Random) -> str:
    """A standby that lags some seconds takes the place of PostgreSQL: commits are lost."""
    server = rig.cluster.server
    await asyncio.to_thread(server.start_standby)
    await asyncio.sleep(1)
    await asyncio.to_thread(server.stop_standby)
    lag = 2 + 6 * draw.random()
    await asyncio.sleep(lag)
    await asyncio.to_thread(server.fail_over)
    return f"a standby that lagged {lag:.0f} s was promoted"


async def wipe_nats(rig: Rig, draw: random.Random) -> str:
    """kill -9 of all NATS servers, one of them alone first; what they stored is gone."""
    servers = rig.cluster.nats
    for few in (draw.sample(servers, 1), servers):
        for server in few:
            server.kill(wipe=True)
        await asyncio.sleep(3)
        for server in few:
            await asyncio.to_thread(server.start)
    return "killed and wiped one NATS server, then all"


async def _busy(rig: Rig, draw: random.Random, count: int) -> list[int]:
    """The numbers of *count* hosts, of those first that began to download after this call."""
    began, busy = time.monotonic(), list[int]()
    while len(busy) < count and time.monotonic() < began + 30:
        await asyncio.sleep(0.1)
        loading = {
            key[0]
            for origin in rig.origins
            for key in origin.running
            if origin.starts.get(key, 0) > began
        }
        busy = [n for n, space in enumerate(rig.spaces) if space.address in loading]
    rest = [n for n in range(len(rig.agents)) if n not in busy]
    return [*busy, *draw.sample(rest, max(0, count - len(busy)))][:count]


FAULTS: dict[str, Fault] = {
    "kill-holder": kill_holder,
    "kill-managers": kill_any,
    "stop-manager": stop_manager,
    "kill-agents": kill_agents,
    "partition": partition,
    "crash-database": crash_database,
    "fail-over": fail_over,
}
WITH_NATS: dict[str, Fault] = {"wipe-nats": wipe_nats}
"""These only where managers have it between them."""
LOSSY = {"fail-over"}
"""The ledger itself loses what was committed: what nobody knows any more is not asked for."""
