# SPDX-License-Identifier: Apache-2.0
"""The agent: a host that executes its manager's documents, with or without the manager.

What must survive is in the journal (jobs, results), at the pool (markers) and in the
keystore. The agent can be killed at any moment and restarts from those.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import platform
import secrets
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import fastdl
from fastdl import fs
from fastdl.agent import desired, removal, work
from fastdl.agent.carrier import Carrier
from fastdl.agent.commands import KINDS, Commands
from fastdl.agent.host import LIBVIRT, Host
from fastdl.agent.identity import HostUnknownError, Identity
from fastdl.agent.jobs import Jobs, unfinished
from fastdl.agent.journal import Journal
from fastdl.agent.lease import Lease
from fastdl.agent.link import Link
from fastdl.agent.owed import REPEAT_SECONDS, Owed
from fastdl.agent.piece_lists import PieceLists
from fastdl.agent.storagewatch import StorageWatch
from fastdl.agent.websocket import WebSocketCarrier
from fastdl.errors import FastdlError
from fastdl.wire import codec
from fastdl.wire import messages as m
from fastdl.wire import version as wire
from fastdl.wire.nats.servers import NATS_NAME, parse_servers

log = logging.getLogger(__name__)

_INVENTORY_SECONDS: Final = 600.0
_INVENTORY_PAUSE: Final = 1.0
"""Between two: small downloads end faster than a manager should record what that changed."""
_PATIENCE_SECONDS: Final = 5.0
"""For so long after a connection no job is stopped that ran before it: a host that was offline is
given its jobs again, and they need not be interrupted for that.
"""
_STORAGE_SECONDS: Final = 30.0
"""The pools are checked at least this often, whatever events were missed."""
_STORAGE_SPACING: Final = 0.3
"""Events that come closer together share one check."""
_PRUNE_SECONDS: Final = 3600.0
_KEEP_SECONDS: Final = 7 * 24 * 3600.0
_RENEWAL_SECONDS: Final = 600.0
"""After so long a response is no longer expected."""
_DAY_SECONDS: Final = 24 * 3600.0
_KEYSTORE_SECONDS: Final = 1.0
"""How often the keystore's file is checked: a revocation takes effect within five seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The configuration of ``fastdl agent``. *token* is used once, and only if the manager does not
    accept the identity in *state*; *pools* empty = libvirt's.
    """

    managers: Sequence[str]
    token: str | None
    state: Path
    config_dir: Path
    pools: Sequence[str] = ()
    libvirt: str = LIBVIRT
    name: str = ""
    max_downloads: int = 4
    nats: str | None = None
    """The URL of NATS servers to reach the managers through, instead of *managers*' WebSockets."""


class Agent:
    """One running agent."""

    def __init__(self, settings: Settings, who: Identity, host: Host, journal: Journal) -> None:
        self._settings = settings
        self._instance = secrets.token_hex(16)
        self._who = who
        self._host = host
        self._journal = journal
        self._inventory_due = asyncio.Event()
        self._results_due = asyncio.Event()
        self._owed = Owed()
        self._renewal_check = asyncio.Event()
        self._renewal_wanted = False
        self._revision = 0
        self._document: m.Document | None = None
        self._following = asyncio.Lock()
        self._grace_until = 0.0
        self._brought_along: frozenset[str] = frozenset()
        self._stops_wait = asyncio.Event()
        self._lease = Lease(settings.state / "lease")
        self._acting: set[asyncio.Task[None]] = set()
        self._pieces = PieceLists(self._try_send)
        self._jobs = Jobs(
            journal,
            Commands(host, self._pieces),
            send=self._send,
            ended=self._ended,
            max_downloads=settings.max_downloads,
        )
        self._link = Link(
            who,
            _carrier(settings, who),
            hello=self._hello,
            welcomed=self._welcomed,
            received=self._received,
            active=lambda: self._jobs.active,
            lease=self._lease,
            spare=settings.token is not None,
        )

    async def run(self) -> None:
        """Work until cancelled; then interrupt the jobs, which the next start resumes.

        HostUnknownError if the manager does not know this host and an unused token may help.
        """
        async with work.forking():
            await self._run()

    async def _run(self) -> None:
        for command, stopping in await asyncio.to_thread(unfinished, self._journal):
            self._jobs.resume(command, stopping=stopping, held=not self._lease.left)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._link.run())
                group.create_task(self._watch_lease())
                group.create_task(self._repeat_results())
                group.create_task(self._report_inventory())
                group.create_task(self._watch_keystore())
                group.create_task(self._watch_storage())
                group.create_task(self._follow_later())
                group.create_task(self._prune())
                group.create_task(self._renew())
        except ExceptionGroup as group:
            # No "except*": before 3.11.4 it wraps what is raised in it, as Debian 12 has it.
            if (unknown := group.subgroup(HostUnknownError)) is not None:
                raise unknown.exceptions[0] from None
            raise
        finally:
            await asyncio.shield(self._close())

    async def _close(self) -> None:
        for acting in self._acting:
            acting.cancel()
        await asyncio.gather(*self._acting, return_exceptions=True)
        await self._jobs.close()

    def _send(self, message: m.Message) -> None:
        self._link.send(message)

    def _try_send(self, message: m.Message) -> bool:
        return self._link.send(message)

    def _ended(self, job: str) -> None:
        del job
        self._results_due.set()
        self._inventory_due.set()

    # --- messages of the manager -----------------------------------------------------------

    async def _hello(self) -> m.Hello:
        inventory = await asyncio.to_thread(self._host.inventory)
        return m.Hello(
            host_id=self._who.host_id,
            name=self._settings.name,
            wire_oldest=wire.OLDEST,
            wire_newest=wire.CURRENT,
            version=fastdl.__version__,
            arch=platform.machine()[:16],
            kinds=tuple(str(kind) for kind in KINDS),
            address=_own_address(self._settings.managers[0]),
            boot_id=fs.boot_id() or f"unknown-{os.getpid()}",
            instance=self._instance,
            authorities=await asyncio.to_thread(self._who.authorities),
            clock=time.time(),
            max_downloads=self._settings.max_downloads,
            libvirt=not self._settings.pools,
            inventory=inventory,
        )

    async def _welcomed(self, welcome: m.Welcome) -> None:
        self._document = None  # that of the last connection allows nothing any more
        if self._acting:
            await asyncio.wait(self._acting)
        self._revision = 0
        self._grace_until = time.monotonic() + _PATIENCE_SECONDS
        self._brought_along = self._jobs.running()
        skew = time.time() - welcome.clock
        if welcome.clock and abs(skew) > 300:
            log.warning("this host's clock is %+.0f s off the manager's", skew)
        self._owed.connected()
        self._results_due.set()
        self._renewal_check.set()

    async def _received(self, message: m.Message) -> None:
        """Act on *message*, to the end also if its connection ends meanwhile: nobody would finish
        what is done by half, such as a job that is in the journal and does not run."""
        acting = asyncio.create_task(self._act_on(message))
        self._acting.add(acting)
        acting.add_done_callback(self._acting.discard)
        await asyncio.shield(acting)

    async def _act_on(self, message: m.Message) -> None:
        match message:
            case m.Document():
                await self._follow(message)
            case m.ResultAck():
                await asyncio.to_thread(self._journal.acknowledged, message.job, message.fence)
                self._pieces.acknowledged(message.job, message.fence)
            case m.PiecesKnown():
                self._pieces.answered(message)
            case m.InventoryWanted():
                self._inventory_due.set()
            case m.Renewed():
                if await asyncio.to_thread(self._who.renew, message.certificate, message.ca):
                    log.info("the manager's CA changed: connecting again with its certificate")
                    self._link.reconnect()
            case m.RenewWanted():
                self._renewal_wanted = True
                self._renewal_check.set()
            case _:
                log.warning("the manager sent an unexpected %s", type(message).__name__)

    async def _follow(self, document: m.Document) -> None:
        if document.rev < self._revision:
            return
        self._revision, self._document = document.rev, document
        async with self._following:
            rows = await asyncio.to_thread(self._journal.rows)
            for action in desired.plan(document, rows):
                await self._act(action)
            if self._document is document:  # else a new connection has begun, and has its own
                self._jobs.allow(document.commands)

    async def _follow_later(self) -> None:
        """Stop jobs that are still missing from the document some seconds after a connection."""
        while True:
            await self._stops_wait.wait()
            await asyncio.sleep(max(0.0, self._grace_until - time.monotonic()))
            self._stops_wait.clear()
            if self._document is not None and self._link.connected:
                await self._follow(self._document)

    async def _watch_lease(self) -> None:
        """Interrupt the downloads when no manager is sure to count them any more."""
        while True:
            if not self._lease.left and (held := self._jobs.hold()):
                log.warning("cut off from the managers: %d downloads wait", held)
            await asyncio.sleep(min(1.0, max(0.1, self._lease.left)))

    def _in_grace(self, job: str) -> bool:
        return job in self._brought_along and time.monotonic() < self._grace_until

    async def _act(self, action: desired.Action) -> None:
        match action:
            case desired.Stop() if self._in_grace(action.job):
                self._stops_wait.set()
            case desired.Stop():
                await self._jobs.stop(action.job)
            case desired.Start():
                await self._start(action.command)
            case desired.Adopt():
                await self._jobs.adopt(action.job, action.fence)
            case desired.Report():
                await asyncio.to_thread(self._journal.ask_again, action.job, action.fence)
                self._owed.asked_for(action.job)
                self._results_due.set()
            case desired.Forget():
                await asyncio.to_thread(self._journal.forget, action.job)

    async def _start(self, command: m.Command) -> None:
        try:
            await self._jobs.start(command)
        except FastdlError as exc:
            # Not even the journal can be written: report to the manager without it.
            log.error("a job cannot be journaled: %s", exc, extra={"job": command.job})
            failure = codec.failure_of(exc)
            self._send(
                m.JobResult(
                    job=command.job, fence=command.fence, kind=command.kind, failure=failure
                )
            )

    # --- messages of the host --------------------------------------------------------------

    async def _repeat_results(self) -> None:
        """Send what has not been acknowledged: when it ended, and again after a while."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REPEAT_SECONDS):
                    await self._results_due.wait()
            self._results_due.clear()
            rows = await asyncio.to_thread(self._journal.rows)
            owed = [row.result() for row in rows.values() if row.owes_result]
            if self._link.connected:
                for result in self._owed.due(owed):
                    if self._link.send(result):
                        self._owed.sent(result)
            elif owed:
                await self._link.leave(owed)

    async def _report_inventory(self) -> None:
        """Send the inventory, even if it has not changed since: the manager may have received
        another one in the meantime, in a result or at a connection, or it requests one.
        """
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_INVENTORY_SECONDS):
                    await self._inventory_due.wait()
            self._inventory_due.clear()
            inventory = await asyncio.to_thread(self._host.inventory)
            self._send(m.InventoryReport(inventory=inventory))
            await asyncio.sleep(_INVENTORY_PAUSE)

    async def _watch_storage(self) -> None:
        """Report immediately when a pool becomes unavailable or available again."""
        loop, changed = asyncio.get_running_loop(), asyncio.Event()

        def notify() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(changed.set)

        libvirt = None if self._settings.pools else self._settings.libvirt
        watch = StorageWatch(notify, libvirt=libvirt)
        watch.start()
        try:
            seen = await asyncio.to_thread(self._host.availability)
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_STORAGE_SECONDS):
                        await changed.wait()
                await asyncio.sleep(_STORAGE_SPACING)
                changed.clear()
                now = await asyncio.to_thread(self._host.availability)
                if now != seen:
                    log.info("the pools of this host changed")
                    seen = now
                    self._inventory_due.set()
        finally:
            watch.stop()

    async def _prune(self) -> None:
        """Remove what unfinished downloads left behind and nothing has resumed for a week."""
        while True:
            await asyncio.sleep(_PRUNE_SECONDS)
            running = self._jobs.volumes()
            for pool in await asyncio.to_thread(self._host.pools):
                here = {volume for id_, volume in running if id_ == pool.id}
                with contextlib.suppress(FastdlError):
                    for volume in await asyncio.to_thread(
                        removal.prune, pool, running=here, before=time.time() - _KEEP_SECONDS
                    ):
                        log.info("an unfinished download was removed", extra={"volume": volume})

    async def _watch_keystore(self) -> None:
        """Detect every change of the keystore, including those by others."""
        path = self._host.config.keystore_path
        seen = _stamp(path)
        trusted = await asyncio.to_thread(self._anchors)
        while True:
            await asyncio.sleep(_KEYSTORE_SECONDS)
            now = _stamp(path)
            if now != seen:
                seen = now
                trusted = await asyncio.to_thread(self._anchors)
                self._inventory_due.set()
            await self._jobs.recheck(trusted)

    def _anchors(self) -> frozenset[str]:
        """The certificates trusted now; none while the keystore cannot be read."""
        try:
            return frozenset(self._host.anchors().values())
        except FastdlError as exc:
            log.error("the keystore cannot be used: %s", exc)
            return frozenset()

    async def _renew(self) -> None:
        """Ask for a new certificate when it is time, as soon as there is a connection."""
        while True:
            self._renewal_check.clear()
            due = await asyncio.to_thread(self._who.due) or self._renewal_wanted
            self._renewal_wanted = False
            if due:
                self._send(m.RenewRequest(csr=await asyncio.to_thread(self._who.csr)))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_RENEWAL_SECONDS if due else _DAY_SECONDS):
                    await self._renewal_check.wait()

    async def goodbye(self) -> None:
        """Notify the manager that the agent stops."""
        await self._link.goodbye("the agent stops")


def _carrier(settings: Settings, who: Identity) -> Carrier:
    if settings.nats is None:
        return WebSocketCarrier(who, settings.managers)
    servers = parse_servers(settings.nats, option="--nats")
    from fastdl.agent.nats import NatsCarrier

    tls = settings.nats.startswith("tls:")
    return NatsCarrier(who, replace(servers, tls_name=NATS_NAME) if tls else servers, tls=tls)


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_ino, found.st_mtime_ns, found.st_size


def _own_address(manager: str) -> str:
    """The address this host would use towards the manager; nothing is sent to learn it."""
    host, _, port = manager.partition("://")[2].rstrip("/").rpartition(":")
    with contextlib.suppress(OSError, ValueError):
        address = (host.strip("[]"), int(port))
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(address)
            return str(probe.getsockname()[0])
    return ""
