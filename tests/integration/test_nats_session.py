# SPDX-License-Identifier: Apache-2.0
"""Does a session over a real NATS server give signs of life only while its end may be relied on?"""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import nats
import pytest
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from fastdl.lab.certs import Authority
from fastdl.wire.nats.connection import store
from fastdl.wire.nats.session import Session
from fastdl.wire.nats.tunnel import Frame, Kind, Tunnel
from tests.env import nats as servers


async def test_a_ping_is_answered_only_by_an_end_that_counts(tmp_path: Path) -> None:
    """Afterwards the session ends at both ends."""
    authority = Authority(tmp_path / "certs")
    leaf = authority.make("server", issuer=authority.ca)
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    own.load_cert_chain(leaf.chain, leaf.key)
    trusting = ssl.create_default_context(cafile=str(authority.ca.cert_file))
    counts = True
    with servers.server(tmp_path / "nats") as running:
        async with await nats.connect(running.url) as client, asyncio.timeout(30):
            ends = {"into": "a", "out": "b", "waiting_max": 1 << 20}
            manager = Session(
                client, Tunnel(own, name=None, limit=1 << 16), counts=lambda: counts, **ends
            )
            ends = {"into": "b", "out": "a", "waiting_max": 1 << 20}
            host = Session(client, Tunnel(trusting, name="localhost", limit=1 << 16), **ends)
            await asyncio.gather(manager.hear(), host.hear())
            await client.flush()
            await asyncio.gather(manager.establish(), host.establish())
            reading = asyncio.create_task(manager.read())
            await host.write(Kind.PING, b"1")
            assert await host.read() == Frame(Kind.PONG, b"1")
            counts = False
            await host.write(Kind.PING, b"2")
            assert await host.read() is None
            assert await reading is None


@pytest.mark.parametrize(
    "answer", [b"x", b"1", b"{}", b'{"error": 1}', b'{"error": {"code": 1, "more": 2}}', b"\xff"]
)
async def test_who_answers_for_jetstream_is_not_believed(tmp_path: Path, answer: bytes) -> None:
    """On servers without permissions anybody can; it is a failure like others."""
    with servers.server(tmp_path / "nats") as running:
        async with await nats.connect(running.url) as client, asyncio.timeout(30):

            async def heard(msg: Msg) -> None:
                await msg.respond(answer)

            await client.subscribe("a", cb=heard)
            with pytest.raises((NatsError, OSError)):
                await store(client, "S", "a", b"", within=5)
