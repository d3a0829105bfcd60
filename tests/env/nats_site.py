# SPDX-License-Identifier: Apache-2.0
"""A small installation whose hosts are on NATS: a manager, a host, an origin, and NATS servers
with the configuration that ``fastdl manager --write-nats-config`` writes."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

from nats.errors import Error as NatsError

from fastdl.agent import identity
from fastdl.agent.identity import Identity
from fastdl.manager.config import ManagerConfig
from fastdl.manager.hosts import nats_config
from fastdl.wire import messages as m
from fastdl.wire.nats.client import Client
from fastdl.wire.nats.servers import NATS_NAME
from tests.env import nats
from tests.env.manager import Zone
from tests.env.origin import FaultOrigin
from tests.env.process import eventually
from tests.env.site import Site

CONNECT_S = 20.0
"""How long a connection may take to begin, or to end."""


class NatsSite(Site):
    """``host`` (``who``) is connected, and ``other`` is enrolled, once ``start`` has returned."""

    def __init__(
        self,
        folder: Path,
        origin: FaultOrigin,
        *,
        servers: int = 1,
        callout: bool = False,
        database: str | None = None,
    ) -> None:
        """*servers*: more than one are a cluster; *callout*: they ask the manager who connects;
        *database*: as ``Site``."""
        super().__init__(folder, origin, database=database)
        self._database = database
        self._folder = folder
        self._callout = callout
        if servers == 1:
            more = ['include "fastdl-hosts.conf"']
            self.servers = [nats.Server(folder, name="nats", more=more)]
        else:
            more = ['include "../fastdl-hosts.conf"']
            self.servers = nats.members(folder / "nats", servers, more=more)
        self.server = self.servers[0]
        self.url = "tls://" + ",".join(server.address for server in self.servers)
        self.who: Identity
        self.other: Identity

    async def start(self, *more: str, pools: bool = True, through: str = "") -> None:
        """Start all of it; *more* and *pools* as ``AgentProcess.start`` takes them."""
        del through
        await self.serve()
        self.zone = (await self.api("createZone", name="z1"))["zone"]["id"]
        sites = {"name": "secstorage.allowed.internal.sites", "value": "127.0.0.0/8"}
        await self.api("updateConfiguration", **sites)
        managers = [f"https://{self.manager.agents}"]
        self.who, self.other = [
            await identity.enrol(managers, await self.token(), folder, name=folder.parent.name)
            for folder in (self.host.state, self._folder / "other" / "state")
        ]
        config = ManagerConfig(state=self.manager.state, database=self._database)
        await nats_config.write(config, self._folder / "nats", callout=self._callout)
        for server in self.servers:
            await asyncio.to_thread(server.start)
        await self.host.start(None, "--nats", self.url, *more, pools=pools)
        await eventually(self.pools)

    async def serve(self) -> None:
        """Start the manager (again)."""
        self.api = await self.manager.start("--agent-nats", self.url)

    async def end(self) -> None:
        """End all of it."""
        await super().end()
        for server in self.servers:
            server.kill()

    async def token(self) -> str:
        """A token that enrols a host."""
        found: str = (await self.api("createHostToken", zoneid=self.zone))["token"]
        return found

    @contextlib.asynccontextmanager
    async def as_manager(self) -> AsyncIterator[Client]:
        """A connection that may use every subject."""
        async with connected(self.url, managers(self._folder / "nats")) as (client, _):
            yield client


async def enrolled(here: Zone, folder: Path) -> Identity:
    """A new host of the zone, called as *folder*, where its identity is kept."""
    host, port = here.manager.server.address
    token = await here.token()
    return await identity.enrol([f"https://{host}:{port}"], token, folder, name=folder.name)


def hello(host: str) -> m.Hello:
    """What *host* says first."""
    return m.Hello(
        host_id=host, name="x", wire_oldest=1, wire_newest=1, version="0", kinds=tuple(m.Kind),
        inventory=m.Inventory(), instance=secrets.token_hex(16),
    )  # fmt: skip


def managers(folder: Path) -> ssl.SSLContext:
    """What managers connect with, of the configuration in *folder*."""
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    context.load_cert_chain(folder / "manager.pem")
    return context


@contextlib.asynccontextmanager
async def connected(
    url: str, context: ssl.SSLContext, prefix: str = "_INBOX"
) -> AsyncIterator[tuple[Client, list[str]]]:
    """A connection, and what the server complained of. *url*: of one server or several; *prefix*:
    of subjects for responses."""
    complaints, client = list[str](), Client()
    scheme, _, addresses = url.partition("://")

    async def complained(exc: Exception) -> None:
        complaints.append(str(exc))

    async with asyncio.timeout(CONNECT_S):
        await client.connect(
            [f"{scheme}://{one}" for one in addresses.split(",")],
            tls=context,
            tls_hostname=NATS_NAME,
            error_cb=complained,
            allow_reconnect=False,
            max_reconnect_attempts=1,
            connect_timeout=5,
            inbox_prefix=prefix,
        )
    if not client.is_connected:  # the client takes the end of the stream for a welcome
        await client.close()
        raise ConnectionError(f"{url} closed the connection")
    try:
        yield client, complaints
    finally:
        with contextlib.suppress(NatsError, OSError):
            async with asyncio.timeout(CONNECT_S):
                await client.close()
