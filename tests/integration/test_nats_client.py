# SPDX-License-Identifier: Apache-2.0
"""Does a call of the NATS client end when it is cancelled, at whatever moment?"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from nats.aio.msg import Msg
from nats.js.api import StreamConfig

from fastdl.wire.nats.client import Client, obeying
from tests.env import nats

MOMENTS = 16
"""Turns of the loop, after a response has come in, at which a call is cancelled."""


@pytest.mark.parametrize("what", ["request", "fetch"])
async def test_a_call_is_cancelled_together_with_its_result(tmp_path: Path, what: str) -> None:
    """Whoever calls again and again ends, however close the cancellation is to a response."""
    with nats.server(tmp_path) as server:
        client = Client()
        await client.connect([server.url])
        call = await _call(client, what)
        for moment in range(MOMENTS):
            calling = asyncio.create_task(_again(call))
            await _busy(client)
            for _ in range(moment):
                await asyncio.sleep(0)
            calling.cancel()
            done, _ = await asyncio.wait({calling}, timeout=5)
            assert done, f"{what} goes on: cancelled at turn {moment}"
        await client.close()


async def _call(client: Client, what: str) -> Callable[[], Awaitable[object]]:
    """The call, to which there always is a response."""
    if what == "request":

        async def respond(msg: Msg) -> None:
            await msg.respond(b"")

        await client.subscribe("asked", cb=respond)
        return lambda: client.request("asked", timeout=5)
    js = client.jetstream()
    await js.add_stream(StreamConfig(name="s", subjects=["s"]))
    consumer = await js.pull_subscribe("s", durable="d")
    fetch = obeying(consumer.fetch)

    async def one() -> None:
        await client.publish("s", b"")
        for msg in await fetch(2, timeout=5):
            await msg.ack()

    return one


async def _busy(client: Client) -> None:
    """Returns when the next response has come in."""
    before = client.stats["in_msgs"] + 2  # not only what has to be done once
    while client.stats["in_msgs"] <= before:
        await asyncio.sleep(0)


async def _again(call: Callable[[], Awaitable[object]]) -> None:
    while True:
        await call()
        await asyncio.sleep(0)


async def test_a_flush_that_is_cut_short_is_not_taken_for_sent(tmp_path: Path) -> None:
    """The server stands still: a limit on a large message's time ends it."""
    with nats.server(tmp_path, more=["max_payload: 8000000"]) as server:
        client = Client()
        await client.connect([server.url])
        server.pause()
        with pytest.raises(TimeoutError):
            await _send(client)
        server.resume()
        await client.close()


async def _send(client: Client) -> None:
    """More than a server's socket takes, in half a second."""
    async with asyncio.timeout(0.5):
        for _ in range(8):
            await client.publish("s", bytes(6_000_000))
