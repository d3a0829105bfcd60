# SPDX-License-Identifier: Apache-2.0
"""A manager from nothing to serving, and back: state folder, parts, loops, servers."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from aiohttp import web
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.errors import FastdlError, UsageError
from fastdl.manager import admin, sealed
from fastdl.manager import state as state_folder
from fastdl.manager.access.logins import Logins
from fastdl.manager.access.sessions import Sessions
from fastdl.manager.api.connections import Connections as ApiConnections
from fastdl.manager.api.context import ApiContext
from fastdl.manager.api.headers import secure
from fastdl.manager.api.request import BODY_MAX, LINE_MAX
from fastdl.manager.api.server import ApiServer
from fastdl.manager.api.tls import ApiTls, own_names
from fastdl.manager.certificates.background import BackgroundTask
from fastdl.manager.certificates.expiry import ExpiryWatch
from fastdl.manager.certificates.sync import CertificateSync
from fastdl.manager.clock import Clock, SystemClock
from fastdl.manager.config import (
    ManagerConfig,
    address,
    agent_servers,
    nats_servers,
    speaks_tls,
)
from fastdl.manager.downloads import transfers
from fastdl.manager.downloads.copy_watch import CopyWatch
from fastdl.manager.downloads.dispatch import Dispatcher
from fastdl.manager.downloads.drift_watch import DriftWatch
from fastdl.manager.downloads.following import Follower
from fastdl.manager.downloads.piece_lists import PieceLists
from fastdl.manager.downloads.probing import Probing
from fastdl.manager.downloads.unreachable import Unreached
from fastdl.manager.events import Events
from fastdl.manager.fabric import SharedFabric
from fastdl.manager.hosts import known_ca
from fastdl.manager.hosts.ca import Authority
from fastdl.manager.hosts.delivery import Connections, Delivery
from fastdl.manager.hosts.enrolment import Enrolment
from fastdl.manager.hosts.fleet import Fleet
from fastdl.manager.hosts.handler import HostHandler
from fastdl.manager.hosts.host_events import HostEvents
from fastdl.manager.hosts.inbox import Inbox
from fastdl.manager.hosts.parts import HostParts
from fastdl.manager.hosts.progress import ProgressBoard
from fastdl.manager.hosts.requests import HostRequests
from fastdl.manager.hosts.server import HostServer
from fastdl.manager.ledger import jobs, pruning, records
from fastdl.manager.ledger.claim import claimed
from fastdl.manager.ledger.engine import Ledger, check_url, default_url, open_ledger
from fastdl.manager.ledger.listening import PostgresqlFabric
from fastdl.manager.machines.service import Machines
from fastdl.manager.metrics import Metrics
from fastdl.manager.notices import Notices
from fastdl.manager.origins import Origins
from fastdl.manager.peers import Peers
from fastdl.manager.settings import Settings
from fastdl.manager.vault import Vault
from fastdl.tasks import end

if TYPE_CHECKING:
    from fastdl.manager.hosts.nats_hosts import NatsHosts

log = logging.getLogger(__name__)

SNAPSHOT_S: Final = 10.0
PRUNE_S: Final = 3600.0
RENEW_S: Final = 24 * 3600.0

AddRoutes = Callable[[web.Application, ApiContext], None]


class Manager:
    """One running manager. Use ``running`` rather than the parts."""

    def __init__(
        self,
        config: ManagerConfig,
        context: ApiContext,
        server: HostServer,
        *,
        name: str,
        fabric: SharedFabric | None,
        nats_hosts: NatsHosts | None = None,
    ) -> None:
        """*name*: its own, unique among those of one ledger; *fabric*: reaches the others, None =
        there can be none; *nats_hosts*: serves hosts on NATS, too."""
        self.config = config
        self.name = name
        self._fabric = fabric
        self._nats_hosts = nats_hosts
        self.context = context
        self.handler = context.handler
        self.server = server
        self.url = ""
        self.lost = asyncio.Event()
        """Set when another manager took the ledger over: this one has to end."""
        self._runner: web.AppRunner | None = None
        self._loops: list[asyncio.Task[None]] = []

    async def start(self, add_routes: AddRoutes | None) -> None:
        """Serve agents first, then the API, so that API clients see the hosts."""
        await self.handler.adopt()
        host, port = address(self.config.agent_listen)
        with _listening("--agent-listen", self.config.agent_listen):
            await self.server.start(host, port)
        self.context.agent_port = self.server.address[1]
        if self._fabric is not None:
            await self._join(self._fabric)
        if self._nats_hosts is not None:
            run = self._nats_hosts.run
            self._loops.append(asyncio.create_task(_supervise(run), name=run.__qualname__))
        self._start_loops()
        await self._serve_api(add_routes)
        log.info(
            "manager serves",
            extra={"url": self.url, "agents": "{}:{}".format(*self.server.address)},
        )

    async def _join(self, fabric: SharedFabric) -> None:
        """Become one of the managers of the ledger, and see the hosts of the others."""
        peers = Peers(
            self.context,
            self.server.connections,
            name=self.name,
            address="{}:{}".format(*self.server.address),
        )
        fabric.receive = peers.receive
        self.context.metrics.watch_messages(lambda: fabric.hears)
        await peers.round()
        for loop in (fabric.run, peers.run, peers.run_progress):
            self._loops.append(asyncio.create_task(_supervise(loop), name=loop.__qualname__))

    async def _serve_api(self, add_routes: AddRoutes | None) -> None:
        api = ApiServer(self.context)
        connections = ApiConnections()
        app = web.Application(client_max_size=BODY_MAX, middlewares=[connections.middleware])
        secure(app)
        app.router.add_get("/client/api", api.handle)
        app.router.add_post("/client/api", api.handle)
        if add_routes is not None:
            add_routes(app, self.context)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            shutdown_timeout=20.0,
            keepalive_timeout=30.0,
            max_line_size=LINE_MAX,
            max_field_size=16 << 10,
            auto_decompress=False,
        )
        await self._runner.setup()
        server = self._runner.server
        assert server is not None
        watch = _supervise(lambda: connections.run(server))
        self._loops.append(asyncio.create_task(watch, name="connections"))
        host, port = address(self.config.listen)
        context = None
        if speaks_tls(self.config):
            tls = self.context.api_tls = self._open_tls(host)
            context = tls.context
            self._loops.append(asyncio.create_task(_supervise(tls.run), name="api-tls"))
        site = web.TCPSite(self._runner, host, port, backlog=1024, ssl_context=context)
        with _listening("--listen", self.config.listen):
            await site.start()
        bound = self._runner.addresses[0]
        self.url = _url(bound[0], bound[1], self.context.api_tls)

    def _open_tls(self, host: str) -> ApiTls:
        config, authority = self.config, self.context.authority
        return ApiTls(
            cert=Path(config.tls_cert) if config.tls_cert else None,
            key=Path(config.tls_key) if config.tls_key else None,
            authority=authority,
            names=own_names(host, config.tls_names),
        )

    def _start_loops(self) -> None:
        c = self.context
        ledger, clock, settings, events = c.ledger, c.clock, c.settings, c.events
        for loop in (
            c.dispatcher.run,
            c.sync.run,
            c.sync.run_retries,
            c.background.run,
            ExpiryWatch(ledger=ledger, clock=clock, events=events).run,
            c.handler.run,
            c.copy_watch.run,
            c.machines.run,
            c.follower.run,
            self._snapshots,
            self._prune,
            self._renew,
            DriftWatch(
                c.dispatcher,
                c.probing,
                ledger=ledger,
                clock=clock,
                settings=settings,
                name=self.name,
            ).run,
            Unreached(
                c.dispatcher, ledger=ledger, clock=clock, settings=settings, events=events
            ).run,
        ):
            self._loops.append(asyncio.create_task(_supervise(loop), name=loop.__qualname__))

    async def stop(self) -> None:
        """Finish current requests, close connections, release the lease, close the ledger."""
        log.info("manager stops")
        self.context.ready = False
        self.context.sessions.forget_all()  # it would wait for the pages' streams
        if self._runner is not None:
            await self._runner.cleanup()
        await self.server.stop()
        if self._nats_hosts is not None:
            await self._nats_hosts.stop()
        await end(self._loops)
        await self._save_progress()
        self.context.logins.close()
        await self.context.dispatcher.stop()
        if self._fabric is not None:
            await self._fabric.close()
        await self.context.ledger.close()

    # --- chores --------------------------------------------------------------------------

    async def _save_progress(self) -> None:
        percents = self.context.progress.take_unsaved()
        if percents:
            with contextlib.suppress(FastdlError):
                await self.context.ledger.write(lambda tx: jobs.save_percent(tx, percents))

    async def _snapshots(self) -> None:
        while True:
            await self.context.clock.sleep(SNAPSHOT_S)
            await self._save_progress()

    async def _prune(self) -> None:
        s = self.context
        while True:
            # The earlier of the two: a wall clock that jumped ahead must not empty the tables.
            now = min(s.clock.time(), s.clock.steady())
            before = now - 86400 * s.settings.whole("event.purge.delay")
            work = functools.partial(pruning.prune, now=now, before=before)
            await s.ledger.write(work)
            await s.clock.sleep(PRUNE_S)

    async def _renew(self) -> None:
        """A fresh server certificate every day, for new connections."""
        while True:
            await self.context.clock.sleep(RENEW_S)
            self.context.authority.renew_server()


@contextlib.contextmanager
def _listening(option: str, value: str) -> Iterator[None]:
    """UsageError if the address of *option* cannot be listened on."""
    try:
        yield
    except OSError as exc:
        raise UsageError(f"{option} {value}: {exc.strerror or exc}") from exc


async def _supervise(loop: Callable[[], Awaitable[None]]) -> None:
    """Keep a loop running: a bug in one round must not prevent later rounds."""
    while True:
        try:
            await loop()
        except FastdlError as exc:  # no bug: the ledger is away, above all
            log.error(
                "a loop failed and starts again",
                extra={"loop": loop.__qualname__, "error": str(exc)},
            )
            await asyncio.sleep(1.0)
        except Exception:
            log.exception("a loop failed and starts again", extra={"loop": loop.__qualname__})
            await asyncio.sleep(1.0)


@contextlib.asynccontextmanager
async def running(
    config: ManagerConfig,
    *,
    add_routes: AddRoutes | None = None,
    clock: Clock | None = None,
    accept_new_ca: bool = False,
) -> AsyncIterator[Manager]:
    """A serving manager; it stops gracefully when the context ends."""
    async with contextlib.AsyncExitStack() as held:
        state = held.enter_context(state_folder.held(config.state))
        url = config.database or default_url(state)
        check_url(url)
        name = state_folder.instance(state)
        claim = await held.enter_async_context(claimed(url, name))
        ledger = await asyncio.to_thread(open_ledger, url)
        manager: Manager | None = None
        try:
            manager = await _assemble(
                config, state, ledger, clock or SystemClock(), accept_new_ca=accept_new_ca
            )
            await manager.start(add_routes)
            await admin.write(state, manager.url, manager.context, anew=accept_new_ca)
            manager.lost = claim.lost
            manager.context.ready = True
        except BaseException:
            await (manager.stop() if manager is not None else ledger.close())
            raise
        try:
            yield manager
        finally:
            await manager.stop()


async def _assemble(
    config: ManagerConfig, state: Path, ledger: Ledger, clock: Clock, *, accept_new_ca: bool
) -> Manager:
    vault, name = state_folder.open_vault(state), state_folder.instance(state)
    authority = await known_ca.open_known(ledger, vault, state / "ca", accept_new=accept_new_ca)
    fabric = _open_fabric(config, ledger, vault, name)
    if fabric is not None:
        await fabric.check()
    settings = await _open_settings(ledger, vault, Origins(config.origins))
    await sealed.seal_all(ledger, vault)
    notices = Notices(fabric)
    connections = Connections(notices)
    context = compose(
        ledger=ledger,
        settings=settings,
        vault=vault,
        clock=clock,
        authority=authority,
        delivery=connections,
        notices=notices,
        name=name,
    )
    server = HostServer(
        context.handler,
        connections,
        ledger=ledger,
        progress=context.progress,
        authority=authority,
        complete=functools.partial(transfers.complete, settings, vault),
    )
    nats_hosts = _open_nats_hosts(config, context, server)
    if nats_hosts is not None:
        await nats_hosts.check()
    return Manager(config, context, server, name=name, fabric=fabric, nats_hosts=nats_hosts)


def _open_nats_hosts(
    config: ManagerConfig, context: ApiContext, server: HostServer
) -> NatsHosts | None:
    """Return what serves hosts on NATS; None = they all use WebSockets."""
    if (servers := agent_servers(config)) is None or config.agent_nats is None:
        return None
    from fastdl.manager.hosts.nats_callout import Callout  # noqa: PLC0415 - an extra's package
    from fastdl.manager.hosts.nats_hosts import NatsHosts  # noqa: PLC0415
    from fastdl.manager.hosts.nats_results import ResultForwarder  # noqa: PLC0415

    tls, derive = config.agent_nats.startswith("tls:"), context.vault.derive
    forwarder = ResultForwarder(
        context.handler,
        ledger=context.ledger,
        delivery=context.delivery,
        derive=derive,
    )
    # Without TLS nobody shows a certificate, and whoever is there could ask.
    callout = Callout(context.authority, ledger=context.ledger, derive=derive) if tls else None
    return NatsHosts(
        servers,
        server,
        forwarder,
        tls=tls,
        authority=context.authority,
        derive=derive,
        callout=callout,
    )


def _open_fabric(
    config: ManagerConfig, ledger: Ledger, vault: Vault, name: str
) -> SharedFabric | None:
    """Return what reaches the other managers of the ledger; None = there can be none."""
    if ledger.sqlite:
        return None
    if (servers := nats_servers(config)) is None:
        return PostgresqlFabric(config.database or "", name)
    from fastdl.manager.fabric.nats_fabric import NatsFabric  # noqa: PLC0415 - an extra's package

    return NatsFabric(servers, name, vault.derive)


def compose(
    *,
    ledger: Ledger,
    settings: Settings,
    vault: Vault,
    clock: Clock,
    authority: Authority,
    delivery: Delivery,
    notices: Notices,
    name: str,
) -> ApiContext:
    """Construct the parts of a manager, each with its collaborators; starts nothing.

    *name*: this manager's own, unique among those of one ledger.
    """
    fleet, progress, metrics = Fleet(), ProgressBoard(), Metrics()
    events = Events(ledger, clock, notices)
    requests = HostRequests(ledger=ledger, clock=clock, delivery=delivery, notices=notices)
    dispatcher = Dispatcher(
        ledger=ledger,
        clock=clock,
        settings=settings,
        fleet=fleet,
        delivery=delivery,
        events=events,
        notices=notices,
        progress=progress,
        metrics=metrics,
        name=name,
    )
    sync = CertificateSync(
        ledger=ledger, clock=clock, fleet=fleet, delivery=delivery, notices=notices
    )
    machines = Machines(
        dispatcher,
        ledger=ledger,
        clock=clock,
        settings=settings,
        delivery=delivery,
        events=events,
        notices=notices,
    )
    parts = HostParts(
        ledger=ledger,
        clock=clock,
        settings=settings,
        fleet=fleet,
        delivery=delivery,
        events=events,
        host_events=HostEvents(events, clock),
        notices=notices,
        enrolment=Enrolment(authority, ledger=ledger, clock=clock, events=events),
        downloads=dispatcher,
        certificates=sync,
        machines=machines,
        pieces=PieceLists(ledger=ledger, clock=clock, events=events),
    )
    inbox = Inbox(parts, name=name, progress=progress, metrics=metrics)
    probing = Probing(requests, settings=settings, clock=clock, fleet=fleet)
    return ApiContext(
        ledger=ledger,
        settings=settings,
        vault=vault,
        clock=clock,
        events=events,
        notices=notices,
        metrics=metrics,
        fleet=fleet,
        delivery=delivery,
        progress=progress,
        requests=requests,
        authority=authority,
        dispatcher=dispatcher,
        sync=sync,
        logins=Logins(clock),
        sessions=Sessions(ledger, notices),
        background=BackgroundTask(
            sync, ledger=ledger, clock=clock, settings=settings, fleet=fleet, delivery=delivery
        ),
        handler=HostHandler(parts, inbox, authority=authority, name=name),
        probing=probing,
        follower=Follower(
            dispatcher,
            probing,
            ledger=ledger,
            clock=clock,
            settings=settings,
            fleet=fleet,
            events=events,
            name=name,
        ),
        machines=machines,
        copy_watch=CopyWatch(
            requests,
            ledger=ledger,
            clock=clock,
            settings=settings,
            fleet=fleet,
            events=events,
            name=name,
        ),
    )


async def _open_settings(ledger: Ledger, vault: Vault, origins: Origins) -> Settings:
    """Return the settings in force; encrypts secrets that were stored in plain text."""
    async with ledger.read() as tx:
        stored = await records.settings(tx)
    settings = Settings(stored, vault, origins)

    async def seal(tx: AsyncConnection) -> None:
        for name in settings.in_clear(stored):
            await records.set_setting(tx, name, settings.to_store(name, settings.text(name)))

    if settings.in_clear(stored):
        await ledger.write(seal)
    return settings


def _url(host: str, port: int, tls: ApiTls | None) -> str:
    """Return the URL of the API for clients on this machine, with a name in its certificate."""
    if tls is None:
        name = f"[{host}]" if ":" in host else host
        return f"http://{name}:{port}/client/api"
    name = tls.name_for({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host))  # noqa: S104
    return f"https://{f'[{name}]' if ':' in name else name}:{port}/client/api"
