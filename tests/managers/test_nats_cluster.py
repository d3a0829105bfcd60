# SPDX-License-Identifier: Apache-2.0
"""Does a cluster of three NATS servers lose one, and nothing that was said?"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.api import StreamConfig

from fastdl.manager.fabric import RESYNC
from fastdl.manager.fabric.nats_fabric import REPLICAS
from fastdl.manager.fabric.nats_subjects import Subjects
from tests.env import nats
from tests.env.seats import derive, fabric, listening, until

pytestmark = pytest.mark.skipif(
    "FASTDL_MANAGERS" not in os.environ, reason="takes minutes: scripts/test-managers"
)


def url_of(servers: Sequence[nats.Server]) -> str:
    """All of them."""
    return "nats://" + ",".join(server.address for server in servers)


@contextlib.asynccontextmanager
async def client_of(servers: Sequence[nats.Server]) -> AsyncIterator[Client]:
    """A client of a cluster whose servers have agreed on a leader."""
    client = Client()
    await client.connect([server.url for server in servers])
    try:
        async with asyncio.timeout(30):
            while True:
                with contextlib.suppress(NatsError):
                    await client.jetstream(timeout=1).account_info()
                    break
                await asyncio.sleep(0.2)
        yield client
    finally:
        await client.close()


async def replicas(client: Client) -> int:
    """How many copies of the stream there are to be."""
    with contextlib.suppress(NatsError):
        info = await client.jetstream().stream_info(Subjects(derive).stream)
        return info.config.num_replicas or 0
    return 0


@pytest.mark.parametrize("which", [0, 1, 2])
async def test_a_cluster_loses_a_server_and_no_message(tmp_path: Path, which: int) -> None:
    """Whichever it is, the one that all managers use among them: they go to another, and what was
    said meanwhile is there."""
    with nats.cluster(tmp_path) as servers:
        a, b = (fabric(url_of(servers), name) for name in "ab")
        async with listening(a, b, within=30) as (_, heard), client_of(servers) as client:
            async with asyncio.timeout(30):
                while await replicas(client) < REPLICAS:
                    await asyncio.sleep(0.2)
            a.notify("post", "h1")
            await until(lambda: ("post", "h1") in heard)
            servers[which].kill()
            a.notify("post", "h2")
            await until(lambda: ("post", "h2") in heard, within=30)
            a.notify("post", "h3")
            await until(lambda: ("post", "h3") in heard, within=30)


async def test_a_stream_whose_only_server_died_is_made_anew(tmp_path: Path) -> None:
    """It had no replica yet, and its server does not come back."""
    with nats.cluster(tmp_path) as servers:
        name = Subjects(derive).stream
        async with client_of(servers) as client:
            config = StreamConfig(
                name=name, subjects=[Subjects(derive).kept], num_replicas=1, max_msgs_per_subject=1
            )
            await client.jetstream().add_stream(config)
            info = await client.jetstream().stream_info(name)
        assert info.cluster is not None
        holder = next(one for one in servers if one.name == info.cluster.leader)
        holder.kill()
        left = [one for one in servers if one is not holder]
        a, b = (fabric(url_of(left), name) for name in "ab")
        async with listening(a, b, within=60) as (_, heard):
            a.notify("post", "h1")
            await until(lambda: bool({("post", "h1"), (RESYNC,)} & set(heard)), within=30)
