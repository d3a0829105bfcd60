# SPDX-License-Identifier: Apache-2.0
"""Many simulated hosts in a process of their own, told what to do on standard input.

    python -m benchmarks.manager.hosts SPEC.json

SPEC has the manager's address, the authority's certificate and each host's identity. Words on
standard input, one a line, are answered with one JSON object each: ``connect`` (all hosts, a few
handshakes at a time), ``status`` (who is connected, who holds which certificate, and when
the last of it came). The end of the input ends the process.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

import uvloop
from cryptography.hazmat.primitives import serialization

from fastdl.wire import messages as m
from tests.env.fake_agent import DEFAULTS, FakeAgent, local_pool

HANDSHAKES: Final = 64
"""At a time; more of them only wait for each other on the same processors."""


class Fleet:
    """The hosts of one process."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.agents = [_agent(spec, host) for host in spec["hosts"]]
        self.last_import = 0.0
        for agent in self.agents:
            agent.work[m.Kind.CERTIFICATES] = self._certificates

    async def _certificates(self, agent: FakeAgent, command: m.Command) -> m.Done | m.Failure:
        done = await DEFAULTS[m.Kind.CERTIFICATES](agent, command)
        self.last_import = time.time()
        return done

    async def connect(self) -> dict[str, Any]:
        """Connect all; the time is until the last was welcomed."""
        gate = asyncio.Semaphore(HANDSHAKES)

        async def one(agent: FakeAgent) -> None:
            async with gate:
                await agent.connect()

        started, cpu = time.time(), time.process_time()
        await asyncio.gather(*(one(agent) for agent in self.agents))
        refused = [agent.refusals[0].message for agent in self.agents if agent.refusals]
        return {
            "connected": self.connected,
            "refused": refused[:3],
            "started": started,
            "ended": time.time(),
            "cpu_s": round(time.process_time() - cpu, 2),
        }

    @property
    def connected(self) -> int:
        """How many are connected and welcome."""
        return sum(agent.connected for agent in self.agents)

    def status(self) -> dict[str, Any]:
        """What became of it."""
        held = Counter(alias for agent in self.agents for alias in agent.keystore)
        return {
            "connected": self.connected,
            "held": held,
            "last_import": self.last_import,
            "cpu_s": round(time.process_time(), 2),
        }


def _agent(spec: dict[str, Any], host: dict[str, str]) -> FakeAgent:
    agent = FakeAgent(
        address=tuple(spec["address"]),
        name=host["name"],
        pools=(local_pool(host["name"]),),
        beats=True,
    )
    key = serialization.load_pem_private_key(spec["key"].encode(), password=None)
    reply = m.EnrolReply(
        host_id=host["id"], zone_id=spec["zone"], certificate=host["certificate"], ca=spec["ca"]
    )
    agent.adopt(reply, key)  # type: ignore[arg-type]
    agent.prepare()
    return agent


async def _serve(fleet: Fleet) -> None:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    _say({"hosts": len(fleet.agents)})
    while word := (await reader.readline()).decode().strip():
        _say(await fleet.connect() if word == "connect" else fleet.status())
    for agent in fleet.agents:
        await agent.close()


def _say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


def main() -> None:
    """Be the hosts of the named file."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    uvloop.run(_serve(Fleet(json.loads(Path(sys.argv[1]).read_text()))))


if __name__ == "__main__":
    main()
