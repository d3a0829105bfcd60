# SPDX-License-Identifier: Apache-2.0
"""What goes wrong: each fault breaks something, waits, and puts it right again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable

from scripts.breaking.rig import Rig
from tests.env.process import ManagerProcess, eventually

PARTITION_S = 50.0
"""Longer than a host is waited for."""
CUT_OFF_S = 80.0
"""Longer than the hosts of a manager that died are waited for, and others' downloads take to begin.
"""
STOP_S = 45.0
"""Longer than any lease of a manager."""
FLAPS = 10
FAILOVER_S = {False: 35.0, True: 10.0}
"""The longest that no download may begin after the death of the manager that dispatched: without
and with NATS."""
GAP_S = 40.0
"""So long is watched for it."""

Fault = Callable[[Rig, random.Random], Awaitable[str]]
"""Returns what was done, in a few words."""


async def kill_holder(rig: Rig, draw: random.Random) -> str:
    """kill -9 of the manager that dispatches; back when another one has taken over."""
    manager, said = await _kill_holder(rig)
    await asyncio.sleep(5 + 5 * draw.random())
    await rig.cluster.start(manager)
    return said


async def kill_everything(rig: Rig, draw: random.Random) -> str:
    """kill -9 of the manager that dispatches, then of all NATS servers and of half of the agents;
    all are away at once."""
    manager, said = await _kill_holder(rig)
    servers = rig.cluster.nats + rig.cluster.hosts_nats
    for server in servers:
        server.kill()
    agents = draw.sample(rig.agents, len(rig.agents) // 2)
    await asyncio.gather(*(agent.end(signal.SIGKILL) for agent in agents))
    await asyncio.sleep(5 + 5 * draw.random())
    for server in servers:
        await asyncio.to_thread(server.start)
    for agent in agents:
        await rig.start_agent(agent)
    await rig.cluster.start(manager)
    nats = f", {len(servers)} NATS servers" if servers else ""
    return f"{said}; then killed{nats} and {len(agents)} agents"


async def _kill_holder(rig: Rig) -> tuple[ManagerProcess, str]:
    """kill -9 of the manager that dispatches: which, and how long no download began."""
    manager = await rig.cluster.holder()
    last = time.monotonic()
    await manager.end(signal.SIGKILL)
    killed, gap = time.monotonic(), 0.0
    with contextlib.suppress(TimeoutError):
        await eventually(rig.all_begun, within=GAP_S)
    over = time.monotonic()
    for at in sorted(at for origin in rig.origins for at in origin.starts.values()):
        if at > killed:
            gap, last = max(gap, at - last), at
    if not await rig.all_begun():
        gap = max(gap, over - last)
    # A place at an origin is free only when a download has ended.
    most = FAILOVER_S[bool(rig.cluster.nats)] + rig.load.lasts
    if gap > most:
        rig.noted.append(f"no download began for {gap:.1f} s, {most:.0f} s are allowed")
    return manager, f"killed {manager.state.name}, which dispatched: a gap of {gap:.1f} s"


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


def partition(*, incoming: bool, outgoing: bool) -> Fault:
    """A third of the hosts cut off from all managers: they hear nothing (*incoming*), they are not
    heard (*outgoing*), or both; origins stay."""

    async def fault(rig: Rig, draw: random.Random) -> str:
        return await _partition(rig, draw, incoming=incoming, outgoing=outgoing)

    return fault


async def _partition(rig: Rig, draw: random.Random, *, incoming: bool, outgoing: bool) -> str:
    rig.pace(rig.load.slow)
    victims = await _busy(rig, draw, max(1, len(rig.agents) // 3))
    for number in victims:
        rig.spaces[number].cut(rig.manager_ports(), incoming=incoming, outgoing=outgoing)
    try:
        await asyncio.sleep(PARTITION_S)
    finally:
        rig.pace(rig.load.rate)
        for number in victims:
            rig.spaces[number].mend()
    names = ", ".join(rig.agents[n].name for n in victims)
    return f"cut off {names}{_way(incoming, outgoing)}"


async def cut_database(rig: Rig, draw: random.Random) -> str:
    """A manager cut off from PostgreSQL alone, in one direction or both; its hosts, the balancer
    and NATS still reach it. Longer than others wait before they give its hosts' work away."""
    incoming, outgoing = draw.choice([(True, False), (False, True), (True, True)])
    manager = (
        await rig.cluster.holder() if draw.random() < 0.5 else draw.choice(rig.cluster.managers)
    )
    rig.pace(rig.load.slow)
    await _busy(rig, draw, max(1, len(rig.agents) // 3))
    rig.cut_database(manager, incoming=incoming, outgoing=outgoing)
    try:
        await asyncio.sleep(CUT_OFF_S)
    finally:
        rig.pace(rig.load.rate)
        rig.mend("database")
    return f"cut off {manager.state.name} from PostgreSQL{_way(incoming, outgoing)}"


def _way(incoming: bool, outgoing: bool) -> str:  # noqa: FBT001 - of one kind
    return " both ways" if incoming and outgoing else " inwards" if incoming else " outwards"


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
    servers = rig.cluster.nats + rig.cluster.hosts_nats
    for few in (draw.sample(servers, 1), servers):
        for server in few:
            server.kill(wipe=True)
        await asyncio.sleep(3)
        for server in few:
            await asyncio.to_thread(server.start)
    return "killed and wiped one NATS server, then all"


async def cut_nats(rig: Rig, draw: random.Random) -> str:
    """All managers cut off from one NATS server between them, or from all, in one direction or
    both; the servers hear each other."""
    incoming, outgoing = draw.choice([(True, False), (False, True), (True, True)])
    servers = rig.cluster.nats
    few = servers if draw.random() < 0.5 else draw.sample(servers, 1)
    rig.cut_nats(few, incoming=incoming, outgoing=outgoing)
    try:
        await asyncio.sleep(PARTITION_S)
    finally:
        rig.mend("nats")
    return f"cut off {len(few)} of {len(servers)} NATS servers{_way(incoming, outgoing)}"


async def flap_nats(rig: Rig, draw: random.Random) -> str:
    """The managers are cut off from all NATS servers between them again and again, for seconds."""
    for _ in range(FLAPS):
        rig.cut_nats(rig.cluster.nats, incoming=True, outgoing=True)
        try:
            await asyncio.sleep(1 + 4 * draw.random())
        finally:
            rig.mend("nats")
        await asyncio.sleep(1 + 4 * draw.random())
    return f"cut off all NATS servers for seconds, {FLAPS} times"


async def roll_nats(rig: Rig, draw: random.Random) -> str:
    """kill -9 of the NATS servers to hosts one after the other, each after the last is back."""
    servers = rig.cluster.hosts_nats
    for server in draw.sample(servers, len(servers)):
        server.kill()
        await asyncio.sleep(2)
        await asyncio.to_thread(server.start)
        await asyncio.sleep(3)
    return "killed each NATS server to hosts in turn"


async def pause_nats(rig: Rig, draw: random.Random) -> str:
    """SIGSTOP of one NATS server to hosts, or of all of them, for longer than a lease lasts."""
    servers = rig.cluster.hosts_nats
    few = servers if draw.random() < 0.5 else draw.sample(servers, 1)
    rig.pace(rig.load.slow)
    await _busy(rig, draw, max(1, len(rig.agents) // 3))
    for server in few:
        server.pause()
    try:
        await asyncio.sleep(STOP_S)
    finally:
        rig.pace(rig.load.rate)
        for server in few:
            server.resume()
    return f"stopped {len(few)} of {len(servers)} NATS servers to hosts for {STOP_S:.0f} s"


async def split_nats(rig: Rig, draw: random.Random) -> str:
    """The NATS servers to hosts cut off from each other: hosts have to find one with a manager."""
    rig.pace(rig.load.slow)
    await _busy(rig, draw, max(1, len(rig.agents) // 3))
    rig.split_nats()
    try:
        await asyncio.sleep(PARTITION_S)
        if not await rig.all_up():
            rig.noted.append("hosts do not find a manager while NATS servers are cut off")
    finally:
        rig.pace(rig.load.rate)
        rig.mend("nats")
    return "cut off all NATS servers to hosts from each other"


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
    "kill-everything": kill_everything,
    "partition": partition(incoming=True, outgoing=True),
    "partition-inwards": partition(incoming=True, outgoing=False),
    "partition-outwards": partition(incoming=False, outgoing=True),
    "cut-database": cut_database,
    "crash-database": crash_database,
    "fail-over": fail_over,
}
WITH_NATS: dict[str, Fault] = {"wipe-nats": wipe_nats}
"""These only where managers have it between them, or to their hosts."""
BETWEEN_MANAGERS: dict[str, Fault] = {"cut-nats": cut_nats, "flap-nats": flap_nats}
"""These only where managers have it between them."""
HOSTS_ON_NATS: dict[str, Fault] = {
    "roll-nats": roll_nats,
    "pause-nats": pause_nats,
    "split-nats": split_nats,
}
"""These only where hosts are on it."""
LOSSY = {"fail-over"}
"""The ledger itself loses what was committed: what nobody knows any more is not asked for."""
