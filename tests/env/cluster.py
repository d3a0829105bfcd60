# SPDX-License-Identifier: Apache-2.0
"""Several managers on one PostgreSQL behind a load balancer, all on this machine, and NATS between
them, or to their hosts, if wanted.

The balancer is nginx, which passes connections on as they are: a port for the API, one for agents.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from fastdl.lab import nginx as lab
from fastdl.manager.ledger.engine import driver_url
from tests.env import nats, postgresql
from tests.env.manager import Client
from tests.env.process import ManagerProcess

_MODULES = (Path("/usr/lib/nginx/modules"), Path("/usr/lib64/nginx/modules"))
_STREAM = """
{module}
stream {{
    upstream api {{ {api} }}
    upstream agents {{ {agents} }}
    proxy_connect_timeout 2s;
    server {{ listen {api_listen}; proxy_pass api; proxy_timeout 60s; }}
    server {{ listen {agents_listen}; proxy_pass agents; proxy_timeout 10m; }}
}}
"""


class Cluster:
    """*server*: the database's, *url*: the ledger's; *nats*: three servers between managers, or
    none, *hosts_nats*: three to hosts, or none, *callout*: which ask managers who connects; *api*
    and *agents*: by the balancer."""

    def __init__(
        self,
        server: postgresql.Server,
        url: str,
        nats: list[nats.Server],
        hosts_nats: list[nats.Server],
        *,
        callout: bool,
    ) -> None:
        self.server = server
        self.url = url
        self.nats = nats
        self.hosts_nats = hosts_nats
        self.callout = callout
        self.managers: list[ManagerProcess] = []
        self.database_doors: dict[str, str] = {}
        """Name of a manager's state folder → the database's address that it alone uses."""
        self.agents = ""
        self.api: Client

    async def start(self, manager: ManagerProcess) -> Client:
        """Start a manager, with the identity that all have; a client of it alone."""
        first = self.managers[0]
        if manager is not first and not manager.state.exists():
            manager.state.mkdir(mode=0o700)
            shutil.copy(first.state / "secret.key", manager.state)
        more = list[str]()
        if self.nats:
            more += ["--fabric", "nats://" + ",".join(one.address for one in self.nats)]
        if self.hosts_nats:
            more += ["--agent-nats", self.hosts_url]
        return await manager.start(*more)

    @property
    def hosts_url(self) -> str:
        """Where hosts find managers through NATS."""
        return "tls://" + ",".join(one.address for one in self.hosts_nats)

    async def let_hosts_in(self) -> None:
        """Start the NATS servers to hosts, for those that are enrolled now or, with *callout*, at
        any time."""
        folder = str(self.hosts_nats[0].folder.parent)
        more = ("--nats-callout",) if self.callout else ()
        await self.managers[0].command("--write-nats-config", folder, *more)
        for server in self.hosts_nats:
            await asyncio.to_thread(server.start)

    def client(self, manager: ManagerProcess) -> Client:
        """A client of one manager alone."""
        return Client(self.api.credentials | {"url": f"http://{manager.listen}/client/api"})

    async def holder(self, lease: str = "dispatch") -> ManagerProcess:
        """The manager that has *lease*."""
        engine = create_async_engine(driver_url(self.url))
        try:
            async with engine.connect() as connection:
                query = text("SELECT owner FROM lease WHERE name = :name")
                owner = await connection.scalar(query, {"name": lease})
        finally:
            await engine.dispose()
        return next(one for one in self.managers if (one.state / "instance").read_text() == owner)


@contextlib.asynccontextmanager
async def cluster(
    folder: Path,
    *,
    address: str = "127.0.0.1",
    programs: Sequence[Sequence[str]] = (),
    names: str = "abc",
    with_nats: bool = False,
    hosts_on_nats: bool = False,
    callout: bool = False,
) -> AsyncIterator[Cluster]:
    """Managers *names* that serve, for agents at *address*. *programs*: the fastdl of each. With
    *hosts_on_nats* there are servers to hosts, too, which ``let_hosts_in`` starts; *callout*: these
    ask managers."""
    with contextlib.ExitStack() as stack:
        doors = {name: f"127.0.0.{number}" for number, name in enumerate(names, 2)}
        everywhere = ("127.0.0.1", *doors.values())
        server = stack.enter_context(postgresql.mortal_server(fsync=True, addresses=everywhere))
        messengers = stack.enter_context(nats.cluster(folder / "nats")) if with_nats else []
        carriers = list[nats.Server]()
        if hosts_on_nats:
            part = 'include "../fastdl-hosts.conf"'
            carriers = nats.members(folder / "carriers", more=[part], host=address)
            for one in carriers:
                stack.callback(one.kill)
        url = postgresql.fresh_database(server.url, "fastdl")
        made = Cluster(server, url, messengers, carriers, callout=callout)
        ports = iter(lab.free_ports(2 * len(names) + 2, tuple({"127.0.0.1", address})))
        for number, name in enumerate(names):
            url = made.url.replace("@127.0.0.1:", f"@{doors[name]}:")
            manager = ManagerProcess(folder, url, name=name)
            manager.listen = f"127.0.0.1:{next(ports)}"
            manager.agents = f"{address}:{next(ports)}"
            if programs:
                manager.program = programs[number]
            made.managers.append(manager)
            made.database_doors[name] = doors[name]
        door, made.agents = f"127.0.0.1:{next(ports)}", f"{address}:{next(ports)}"
        try:
            first = await made.start(made.managers[0])
            await asyncio.gather(*(made.start(one) for one in made.managers[1:]))
            # Not before: a balancer that finds nobody takes all for dead for a while.
            stack.enter_context(_balancer(folder / "balancer", made, door))
            made.api = Client(first.credentials | {"url": f"http://{door}/client/api"})
            yield made
        finally:
            for manager in made.managers:
                if manager.alive:
                    await manager.end(signal.SIGKILL)


@contextlib.contextmanager
def _balancer(folder: Path, cluster: Cluster, door: str) -> Iterator[None]:
    """nginx in front of the managers: *door* for the API, ``cluster.agents`` for agents."""
    module = next((m for m in _MODULES if (m / "ngx_stream_module.so").exists()), None)
    if lab.find() is None or module is None:
        pytest.skip("nginx with its stream module is not installed")
    folder.mkdir()
    rule = "max_fails=1 fail_timeout=3s"
    main = _STREAM.format(
        module=f"load_module {module}/ngx_stream_module.so;",
        api=" ".join(f"server {one.listen} {rule};" for one in cluster.managers),
        agents=" ".join(f"server {one.agents} {rule};" for one in cluster.managers),
        api_listen=door,
        agents_listen=cluster.agents,
    )
    doors = [one.rpartition(":") for one in (door, cluster.agents)]
    with lab.running(folder, "", listens=[(host, int(port)) for host, _, port in doors], main=main):
        yield
