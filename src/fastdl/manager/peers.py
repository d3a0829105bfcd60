# SPDX-License-Identifier: Apache-2.0
"""What several managers of one ledger owe each other: who is alive, which hosts are where, and
what one of them changed.

Every manager sees all hosts (``Fleet``): its own by their connections, the others' here, from the
ledger. A message says what to look at; a look at everything every few seconds finds what no message
said. One of them (the lease ``presence``) looks after the hosts of a manager that died.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl import __version__
from fastdl.errors import FastdlError
from fastdl.manager.api.context import ApiContext
from fastdl.manager.chore import Chore
from fastdl.manager.fabric import GONE, PAGE, PROGRESS, RESYNC, SEND, WAKE, Message
from fastdl.manager.hosts import known_ca
from fastdl.manager.hosts.delivery import Connections
from fastdl.manager.hosts.fleet import ConnectedHost
from fastdl.manager.hosts.progress import published
from fastdl.manager.hosts.waits import ORPHANED_S, QUIET_S, SILENT_S
from fastdl.manager.ledger import hosts, managers, records
from fastdl.manager.ledger.text import loads
from fastdl.wire import codec
from fastdl.wire import messages as m

log = logging.getLogger(__name__)

ROUND_S: Final = 5.0
SPACING_S: Final = 0.05
WHOLE_S: Final = 60.0
"""How often everything is read again, whether or not anything seems to have changed."""
LEASE_S: Final = 15.0
PROGRESS_S: Final = 1.0
PROGRESS_MAX: Final = 6000
"""Bytes of a report that is relayed whole; a longer one goes without its mirrors."""


class Peers:
    """This manager among those of its ledger."""

    def __init__(
        self, context: ApiContext, connections: Connections, *, name: str, address: str
    ) -> None:
        """*name*: this manager's own; *address*: where agents find it."""
        self._context = context
        self._connections = connections
        self._name = name
        self._address = address
        self._chore = Chore(
            "presence", name, ledger=context.ledger, clock=context.clock, ttl=LEASE_S
        )
        self._dirty: set[str] = set()
        self._due: set[str] = set()
        self._gone: set[str] = set()
        """Managers that died, and whose leases others may take."""
        self._mourned: set[str] = set()
        """Those of them that the ledger took for alive when that was said."""
        self._wake = asyncio.Event()
        self._alive: set[str] = {name}
        self._began = self._looked = context.clock.steady()
        self._next = self._whole = -math.inf
        self._handlers: Mapping[str, Callable[..., object]] = {
            WAKE: self._woken,
            PAGE: self._shown,
            RESYNC: self._resync,
            GONE: self._mourn,
            "post": connections.post_here,
            SEND: self._send,
            "mark": context.sync.mark_here,
            "dispatch": context.dispatcher.woken,
            "evict": context.handler.evict_here,
            "host": self._host,
            "arrived": context.handler.arrived,
            PROGRESS: self._progress,
            "settings": lambda: self._changed("settings"),
            "ca": lambda: self._changed("ca"),
            "logout": context.sessions.forget,
        }

    def receive(self, message: Message) -> None:
        """Act on what another manager said."""
        topic, *words = message
        handler = self._handlers.get(topic)
        if handler is None:
            return  # of a newer manager
        try:
            handler(*words)
        except (TypeError, ValueError, FastdlError) as exc:
            log.warning("a message is not understood", extra={"topic": topic, "why": str(exc)})

    async def run(self) -> None:
        """Look after the others until cancelled."""
        while True:
            now = self._context.clock.steady()
            try:
                await self._take_over()
                await self._read_changed()
                if now >= self._next:
                    self._next = now + ROUND_S
                    await self.round()
                elif self._dirty:
                    await self._mirror(self._take())
            except FastdlError as exc:
                log.error("other managers were not looked after", extra={"error": str(exc)})
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ROUND_S):
                    await self._wake.wait()
            self._wake.clear()
            await asyncio.sleep(SPACING_S)

    async def round(self) -> None:
        """Say that this manager is alive, and look at everything once."""
        c, clock = self._context, self._context.clock
        now, began = clock.time(), clock.steady()

        async def beat(tx: AsyncConnection) -> tuple[set[str], bool]:
            await managers.beat(tx, self._name, address=self._address, version=__version__, now=now)
            alive = await managers.alive(tx, within=QUIET_S, now=now)
            return alive, await managers.has_others(tx, self._name)

        alive, others = await c.ledger.write(beat)
        c.handler.noted_alive(began, others=others)
        if clock.steady() - self._looked > QUIET_S:
            # The ledger was away, or this manager stood still: that others were not seen alive
            # meanwhile proves nothing.
            self._began, self._alive = clock.steady(), alive
        self._looked = clock.steady()
        died, self._alive = self._alive - alive - self._mourned, alive
        for name in sorted(died):
            self._mourn(name)
        self._mourned &= alive
        await self._take_over()
        if clock.steady() >= self._whole:
            self._whole = clock.steady() + WHOLE_S
            self._due |= {"settings", "ca"}
            await self._read_changed()
            self._take()
            await self._mirror(None)
        else:
            await self._mirror(self._take())
        if await self._chore.is_ours():
            await self._bury(alive)

    # --- what the others say ---------------------------------------------------------------

    def _woken(self, key: str) -> None:
        kind, _, id_ = key.partition(":")
        if kind == "job":
            self._context.progress.drop_relayed(id_)
        self._context.notices.wake(key)

    def _shown(self, text: str) -> None:
        item = json.loads(text)
        if isinstance(item, dict) and "topic" in item:
            self._context.notices.show(item)

    def _send(self, host: str, text: str) -> None:
        message = codec.decode(text, limit=m.TO_AGENT_MAX)
        if message is None:
            return
        if isinstance(message, m.ResultAck):  # another manager stored the result
            self._context.progress.drop(message.job)
        self._connections.send_here(host, message)

    def _progress(self, host: str, text: str) -> None:
        message, board = codec.decode(text, limit=m.TO_MANAGER_MAX), self._context.progress
        if isinstance(message, m.Progress) and board.relay(host, message):
            self._context.notices.show({"topic": "progress", **published(board, message)})

    def _host(self, id_: str) -> None:
        self._dirty.add(id_)
        self._wake.set()

    def _changed(self, what: str) -> None:
        self._due.add(what)
        self._wake.set()

    def _resync(self) -> None:
        """Look at everything: messages may have been missed."""
        c = self._context
        c.notices.wake_all()
        c.progress.drop_all_relayed()
        c.sessions.forget_all()
        c.sync.mark_here(*(host.id for host in c.fleet.hosts.values() if host.here))
        c.dispatcher.woken()
        for host in list(self._connections.by_host):
            self._connections.post_here(host)
        self._next = self._whole = -math.inf
        self._wake.set()

    def _mourn(self, name: str) -> None:
        """A manager died, or was cut off: what it was about to say was never said."""
        log.warning("another manager is gone", extra={"manager": name})
        self._gone.add(name)
        self._mourned.add(name)
        self._resync()

    async def _take_over(self) -> None:
        """Let somebody do what managers did that died."""
        if not self._gone:
            return
        gone = set(self._gone)
        await self._context.ledger.write(lambda tx: records.drop_leases(tx, gone))
        self._gone -= gone
        self._context.dispatcher.stand_in()

    def _take(self) -> set[str]:
        dirty, self._dirty = self._dirty, set()
        return dirty

    async def _read_changed(self) -> None:
        due, self._due = self._due, set()
        c = self._context
        if "settings" in due:
            before = c.settings.version
            async with c.ledger.read() as tx:
                stored = await records.settings(tx)
            if c.settings.version == before and c.settings.load(stored):
                c.dispatcher.woken()
        if "ca" in due and await known_ca.follow(c.ledger, c.vault, c.authority):
            if c.api_tls is not None:
                c.api_tls.refresh()
            await c.handler.sweep()

    # --- the hosts of the others -----------------------------------------------------------

    async def _mirror(self, dirty: Iterable[str] | None) -> None:
        """Bring the view of the others' hosts up to date: *dirty* ones (None = all) in full."""
        c, fleet = self._context, self._context.fleet
        async with c.ledger.read() as tx:
            rows = await hosts.whereabouts(tx)
            there = {r.id: r for r in rows if r.state == hosts.UP and r.gateway != self._name}
            wanted = set(there) if dirty is None else {id_ for id_ in dirty if id_ in there}
            wanted |= {id_ for id_, row in there.items() if _differs(fleet.hosts.get(id_), row)}
            found = await hosts.details(tx, wanted)
        left = [id_ for id_, host in fleet.hosts.items() if not host.here and id_ not in there]
        for id_ in left:
            fleet.leave(id_)
        for row, usable in found:
            if row.gateway != self._name and not fleet.is_here(row.id):
                fleet.join(_remote(row, usable))
        for row in rows:
            if row.gateway == self._name and row.state == hosts.UP:
                self._connections.post_later(row.id, row.rev)
            elif await c.handler.moved(row.id):
                self._host(row.id)
        if left or found:
            c.dispatcher.woken()

    async def _bury(self, alive: set[str]) -> None:
        """Look after the hosts of managers that are not *alive*, until they connect elsewhere."""
        c = self._context
        now = c.clock.time()
        async with c.ledger.read() as tx:
            left = await hosts.orphaned(tx, alive)
            recent = await managers.alive(tx, within=ORPHANED_S, now=now)
        if not left or c.clock.steady() - self._began < QUIET_S:
            return
        gone = {row.gateway for row in left}
        if any(row.state != hosts.DISCONNECTED for row in left):
            await c.ledger.write(lambda tx: hosts.all_lost(tx, gateways=gone, now=now))
        if c.clock.steady() - self._began < SILENT_S:
            return  # they may be looking for this manager
        for row in left:
            if row.gateway not in recent:
                await c.dispatcher.host_lost(row.id, gateway=row.gateway)
                c.notices.tell("host", row.id)

    # --- progress --------------------------------------------------------------------------

    async def run_progress(self) -> None:
        """Relay the progress of this manager's hosts to the others until cancelled."""
        while True:
            await asyncio.sleep(PROGRESS_S)
            for host, progress in self._context.progress.take_unsent():
                text = codec.encode(progress)
                if len(text) > PROGRESS_MAX:
                    text = codec.encode(replace(progress, mirrors=()))
                self._context.notices.tell(PROGRESS, host, text)


def _differs(known: ConnectedHost | None, row: Row[Any]) -> bool:
    """Whether a host that is connected to another manager is not known as it is now."""
    if known is None:
        return True
    return not known.here and (known.gateway, known.resource_state) != (
        row.gateway,
        row.resource_state,
    )


def _remote(row: Row[Any], usable: frozenset[str]) -> ConnectedHost:
    """A host that is connected to another manager, by its *row*."""
    return ConnectedHost(
        id=row.id,
        zone=row.zone,
        name=row.name,
        kinds=frozenset(loads(row.kinds)),
        pools=usable,
        most=row.max_downloads,
        machine_pools=frozenset(loads(row.machine_pools)),
        resource_state=row.resource_state,
        gateway=row.gateway,
    )
