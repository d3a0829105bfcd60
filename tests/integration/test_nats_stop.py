# SPDX-License-Identifier: Apache-2.0
"""Do managers and hosts end when they are told to at the moment at which their NATS servers do?"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.env import nats, postgresql
from tests.env.nats_site import NatsSite
from tests.env.origin import FaultOrigin
from tests.env.process import eventually

TIMES = 4


@pytest.fixture
def fabric(tmp_path: Path) -> Iterator[nats.Server]:
    """A server between managers."""
    with nats.server(tmp_path / "fabric") as running:
        yield running


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[NatsSite]:
    """A manager and a host on three servers."""
    with FaultOrigin({}) as origin, postgresql.server() as server:
        url = postgresql.fresh_database(server, "fastdl")
        made = NatsSite(tmp_path, origin, servers=3, database=url)
        try:
            yield made
        finally:
            await made.end()


async def test_all_end_at_once(site: NatsSite, fabric: nats.Server) -> None:
    """As with Ctrl-C at a terminal, or when a machine is shut down: nobody goes on to look for a
    server."""
    await site.start()
    await site.host.end(signal.SIGTERM)
    await site.manager.end(signal.SIGTERM)
    servers = [*site.servers, fabric]
    for _ in range(TIMES):
        site.api = await site.manager.start("--agent-nats", site.url, "--fabric", fabric.url)
        await site.host.start(None, "--nats", site.url)
        await eventually(lambda: site.hosts("Up"))
        for server in servers:
            server.kill()
        for process in (site.manager, site.host):
            os.kill(process.pid, signal.SIGTERM)
        await asyncio.gather(site.manager.ended(), site.host.ended())
        for server in servers:
            await asyncio.to_thread(server.start)
