# SPDX-License-Identifier: Apache-2.0
"""Does a session over a real NATS server give signs of life only while its end may be relied on?"""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import nats

from fastdl.lab.certs import Authority
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
