# SPDX-License-Identifier: Apache-2.0
"""Does whoever uses NATS servers get away from one that fails, and leave nothing behind?"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from nats.aio.client import Client
from nats.errors import Error as NatsError

from fastdl.errors import UsageError
from fastdl.wire.nats.connection import Connector, Who
from fastdl.wire.nats.servers import parse_servers
from tests.env import nats

WHO = Who(title="this test", name="test")


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[nats.Server]]:
    """Two servers that know nothing of each other."""
    with nats.server(tmp_path / "a") as first, nats.server(tmp_path / "b") as second:
        yield [first, second]


def connector(servers: list[nats.Server], said: list[Exception | None] | None = None) -> Connector:
    """Connects to *servers*; what it calls ``broken`` with is *said*."""
    url = "nats://" + ",".join(one.address for one in servers)
    broken = (list[Exception | None]() if said is None else said).append
    return Connector(parse_servers(url, option="--nats"), WHO, broken=broken)


async def where(made: Connector, *, failure: Exception | None = None) -> int:
    """The port of the server that is used; the use ends in *failure*."""
    try:
        async with made.connected() as client:
            assert client.connected_url is not None
            port = client.connected_url.port
            if failure is not None:
                raise failure
    except ConnectionError as exc:
        if exc is not failure:
            raise
    assert port is not None
    return port


async def test_a_server_that_is_of_no_use_is_left(servers: list[nats.Server]) -> None:
    """Such as one that is cut off from the others: it accepts connections, and nobody is there."""
    made, (first, second) = connector(servers), servers
    assert await where(made) == first.port
    assert await where(made, failure=ConnectionError("nobody answers")) == first.port
    assert await where(made) == second.port
    assert await where(made) == second.port
    assert await where(made, failure=ConnectionError("nobody answers")) == second.port
    assert await where(made) == first.port


async def test_a_server_that_stands_still_is_left(servers: list[nats.Server]) -> None:
    """It accepts connections, as far as the kernel does, and says nothing."""
    servers[0].pause()
    async with asyncio.timeout(10):
        assert await where(connector(servers)) == servers[1].port


async def test_a_server_that_stands_still_keeps_nothing_here(servers: list[nats.Server]) -> None:
    """What it has not taken is given up with the socket, and no task waits for it."""
    made, tasks = connector(servers[:1]), asyncio.all_tasks()
    descriptors = len(os.listdir("/proc/self/fd"))
    async with made.connected() as client:
        servers[0].pause()
        sending = asyncio.create_task(_flood(client))
        socket = client._transport._io_writer.transport  # type: ignore[union-attr]
        while not socket.get_write_buffer_size():
            await asyncio.sleep(0.01)
    sending.cancel()
    with contextlib.suppress(NatsError, asyncio.CancelledError):
        await sending
    async with asyncio.timeout(10):
        while asyncio.all_tasks() != tasks:
            await asyncio.sleep(0.05)
    assert len(os.listdir("/proc/self/fd")) == descriptors


async def _flood(client: Client) -> None:
    while True:
        await client.publish("x", b"x" * (1 << 18))


async def test_servers_that_come_and_go_leave_nothing_behind(servers: list[nats.Server]) -> None:
    """Ten times, in the middle of a connection and of an attempt; each end is said once."""
    said = list[Exception | None]()
    made, tasks = connector(servers[:1], said), asyncio.all_tasks()
    descriptors = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        async with made.connected():
            servers[0].kill()
            while None not in said:
                await asyncio.sleep(0.05)
        with pytest.raises(ConnectionRefusedError):
            await where(made)
        assert said.count(None) == 1
        said.clear()
        await asyncio.to_thread(servers[0].start)
    async with asyncio.timeout(10):
        while asyncio.all_tasks() != tasks:
            await asyncio.sleep(0.05)
    assert len(os.listdir("/proc/self/fd")) == descriptors


async def test_a_refusal_is_said_once(tmp_path: Path) -> None:
    """By what is raised; the server's complaint is not one about a connection."""
    said = list[Exception | None]()
    with nats.server(tmp_path, more=["authorization { token: secret }"]) as server:
        made = connector([server], said)
        with pytest.raises(UsageError, match="refuses this test"):
            await where(made)
    assert said == []
