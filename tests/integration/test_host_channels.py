# SPDX-License-Identifier: Apache-2.0
"""What does the manager do with a host whose connection cannot be written to?"""

from __future__ import annotations

import asyncio
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from fastdl.wire import codec
from fastdl.wire import messages as m
from tests.env.manager import zone
from tests.env.nats_site import enrolled, hello


class Broken:
    """A ``Channel`` that reads, and whose writes fail as nobody expects."""

    def __init__(self, first: m.Message) -> None:
        self._first: str | None = codec.encode(first)
        self._ended = asyncio.Event()

    async def receive(self) -> str | None:
        """The first message, then nothing until it is closed."""
        text, self._first = self._first, None
        if text is None:
            await self._ended.wait()
        return text

    async def send(self, message: m.Message) -> None:
        """Fail."""
        raise LookupError(type(message).__name__)

    async def close(self, reason: str, last_word: m.Message | None = None) -> None:
        """End ``receive``."""
        del reason, last_word
        self._ended.set()


async def test_a_host_that_cannot_be_sent_anything_is_let_go(tmp_path: Path) -> None:
    """Otherwise it would be Up, and never get a document."""
    async with zone(tmp_path / "state") as here:
        who = await enrolled(here, tmp_path / "h1")
        held = x509.load_pem_x509_certificate((tmp_path / "h1" / "host.pem").read_bytes())
        peer = here.manager.context.authority.peer(held.public_bytes(Encoding.DER))
        async with asyncio.timeout(20):
            channel = Broken(hello(who.host_id))
            await here.manager.server.talk(lambda: peer, channel, address="h1")
        assert not here.manager.server.connected
