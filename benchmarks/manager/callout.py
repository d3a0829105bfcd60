# SPDX-License-Identifier: Apache-2.0
"""What does it cost a manager to admit a host to NATS servers that ask it (auth callout)?

    python -m benchmarks.manager.callout

One server and one manager, each a process of its own, on this machine; 40 hosts connect 25 times
each, 16 at a time, and leave at once. Counted is the manager's processor time, without what it
uses in as long a time when nobody connects.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from benchmarks.options import say
from fastdl.agent import identity
from fastdl.agent.identity import Identity
from fastdl.manager.config import ManagerConfig
from fastdl.manager.hosts import nats_config
from fastdl.wire.nats import subjects
from tests.env import nats
from tests.env.nats_site import connected
from tests.env.process import ManagerProcess

HOSTS: Final = 40
EACH: Final = 25
TOGETHER: Final = 16
_TICK: Final = os.sysconf("SC_CLK_TCK")


def _processor_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


async def _measure(folder: Path) -> None:
    server = nats.Server(folder, name="nats", more=['include "fastdl-hosts.conf"'])
    url = f"tls://{server.address}"
    manager = ManagerProcess(folder)
    try:
        api = await manager.start("--agent-nats", url)
        zone = (await api("createZone", name="z1"))["zone"]["id"]
        who = list[Identity]()
        for number in range(HOSTS):
            token = (await api("createHostToken", zoneid=zone))["token"]
            home = folder / f"h{number}"
            who.append(
                await identity.enrol([f"https://{manager.agents}"], token, home, name=home.name)
            )
        await nats_config.write(ManagerConfig(state=manager.state), folder / "nats", callout=True)
        server.start()
        await asyncio.sleep(5)  # the manager connects, and has nothing else to do
        contexts = [host.context() for host in who]
        few = asyncio.Semaphore(TOGETHER)

        async def one(number: int) -> None:
            prefix = subjects.inbox(who[number].host_id)
            async with few, connected(url, contexts[number], prefix):
                pass

        began, used = time.monotonic(), _processor_s(manager.pid)
        await asyncio.gather(*(one(number) for number in range(HOSTS) for _ in range(EACH)))
        took, busy = time.monotonic() - began, _processor_s(manager.pid) - used
        used = _processor_s(manager.pid)
        await asyncio.sleep(took)
        idle = _processor_s(manager.pid) - used
        cost = (busy - idle) / (HOSTS * EACH) * 1000
        say(f"{HOSTS * EACH} admitted in {took:.1f} s; the manager's processor: {cost:.2f} ms each")
    finally:
        await manager.end(signal.SIGKILL)
        server.kill()


def main() -> int:
    """Measure once."""
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_measure(Path(folder)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
