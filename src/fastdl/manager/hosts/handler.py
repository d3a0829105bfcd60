# SPDX-License-Identifier: Apache-2.0
"""What the manager does when hosts enrol, connect, fall silent and disconnect.

``server`` calls this; hosts' messages go to ``inbox``.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.errors import AgentRefusedError, FastdlError
from fastdl.manager.batch import Batch
from fastdl.manager.events import Event
from fastdl.manager.hosts.ca import Authority, Peer
from fastdl.manager.hosts.fleet import ConnectedHost
from fastdl.manager.hosts.inbox import Inbox, unproven_may_join
from fastdl.manager.hosts.parts import HostParts
from fastdl.manager.hosts.presence import Instances, Presence
from fastdl.manager.hosts.refusal import TwoAgentsError, UnknownHostError, refused
from fastdl.manager.hosts.waits import BEAT_S, LEASE_S, QUIET_S, SILENT_S
from fastdl.manager.ledger import hosts
from fastdl.wire import messages as m
from fastdl.wire.version import negotiate

log = logging.getLogger(__name__)

TOGETHER: Final = 64
"""Hosts that are declared lost concurrently."""
SKEW_WARN_S: Final = 60.0

_Answer = hosts.Admitted | bool | None
"""The result of an arrival (admitted or not) or a departure (a change or not)."""


class HostHandler:
    """Handles enrolment, connections and results of agents."""

    def __init__(self, parts: HostParts, inbox: Inbox, *, authority: Authority, name: str) -> None:
        """*name*: this manager's own, unique among those of one ledger."""
        self._parts = parts
        self._inbox = inbox
        self._authority = authority
        self._name = name
        self._presence: dict[str, Presence] = {}
        self._instances: dict[str, Instances] = {}
        self._transitions = Batch(self._store_transitions)
        self._arriving: Counter[str] = Counter()
        self._evicted: dict[str, set[str]] = {}
        """Host → hashes of the keys that it lost while it was being admitted."""
        self._alive_at = math.inf

    # --- identity ------------------------------------------------------------------------

    async def enrol(self, request: m.EnrolRequest) -> m.EnrolReply:
        """Exchange a token for a host's certificate; AgentRefusedError gives the reason."""
        reply, ended = await self._parts.enrolment.enrol(request)
        if ended is not None:
            self.evict(reply.host_id, ended)
        return reply

    def evict(self, host: str, key_hash: str) -> None:
        """Immediately end the access of *host* with the key of this hash: the host was deleted, or
        another key replaced this one in the ledger. At every manager.
        """
        self._parts.notices.tell("evict", host, key_hash)
        self.evict_here(host, key_hash)

    def evict_here(self, host: str, key_hash: str) -> None:
        """``evict`` at this manager."""
        if host in self._arriving:  # its row may have been read before the change
            self._evicted.setdefault(host, set()).add(key_hash)
        self._instances.pop(host, None)
        self._inbox.forget(host)
        presence = self._presence.get(host)
        if presence is not None and presence.key_hash in {key_hash, ""}:
            del self._presence[host]
            self._parts.fleet.leave(host)
            self._parts.delivery.drop(
                host, "not enrolled any more", refusal=refused(UnknownHostError())
            )
            self._changed(host, hosts.REMOVED)

    async def admit(self, peer: Peer, hello: m.Hello) -> m.Welcome:
        """Admit a host, whose identity TLS has proved."""
        host = peer.host
        version = negotiate(hello.wire_oldest, hello.wire_newest)
        if hello.host_id != host:
            await self._parts.host_events.record(
                "HOST.IMPERSONATION",
                f"host {host} said that it is {hello.host_id}",
                level="ERROR",
                host=host,
            )
            raise AgentRefusedError("the client certificate belongs to another host")
        await self._refuse_second_agent(host, hello)
        now = self._parts.clock.time()
        skew = hello.clock - now if hello.clock else 0.0
        ready = peer.ca == self._authority.newest.sha256 and peer.ca in hello.authorities

        arrival = hosts.Arrival(
            host=host,
            key_hash=peer.key_hash,
            hello=hello,
            skew=skew,
            ca=peer.ca if ready else None,
            until=peer.until,
        )
        self._arriving[host] += 1
        try:
            admitted = await self._transitions(arrival)
            evicted = peer.key_hash in self._evicted.get(host, ())
        finally:
            self._arriving[host] -= 1
            if not self._arriving[host]:
                del self._arriving[host]
                self._evicted.pop(host, None)
        if not isinstance(admitted, hosts.Admitted) or evicted:
            raise UnknownHostError
        row = admitted.row
        self._presence[host] = Presence.of(peer, hello, now=self._parts.clock.steady())
        self.arrived(host, hello.instance)
        self._parts.notices.tell("arrived", host, hello.instance)
        name = row.name if row.renamed else hello.name or row.name
        self._parts.fleet.join(
            ConnectedHost(
                id=host,
                zone=row.zone,
                name=name,
                kinds=frozenset(hello.kinds),
                pools=admitted.pools.usable,
                most=hello.max_downloads,
                machine_pools=frozenset(hello.inventory.machine_pools),
                resource_state=row.resource_state,
            )
        )
        log.info("host is up", extra={"host": host, "host_name": name, "wire": version})
        if abs(skew) > SKEW_WARN_S:
            await self._parts.host_events.record(
                "HOST.CLOCK",
                f"the clock of host {hello.name} is {skew:+.0f} s off: certificates may be "
                f"refused as expired or not yet valid there",
                level="WARN",
                host=host,
            )
        # Machines that went off while the host was away: it may have started anew.
        await self._parts.machines.reported(host, hello.inventory.machines)
        self._changed(host, hosts.UP)
        return m.Welcome(
            wire=version,
            host_id=host,
            zone_id=row.zone,
            zone_name=row.zone_name,
            clock=now,
            beat_s=BEAT_S,
            lease_s=LEASE_S,
            sole=self._parts.ledger.sqlite,
        )

    async def _refuse_second_agent(self, host: str, hello: m.Hello) -> None:
        """TwoAgentsError (and an event) if another agent is connected as this host."""
        known = self._instances.get(host)
        if known is None or not known.is_second(hello.instance) or not self._connected(host):
            return
        if known.due_report(self._parts.clock.steady()):
            name = self._parts.fleet.hosts[host].name if host in self._parts.fleet.hosts else host
            text = (
                f"two agents say that they are host {name}, each with its key: its state folder "
                f"was copied, or its key was stolen. Stop the wrong one, or give the host a new "
                f"key by a token made for it (createHostToken hostid=…): whatever has the old one "
                f"is out then"
            )
            await self._parts.events.record("HOST.TWO.AGENTS", text, level="ERROR", resource=host)
        raise TwoAgentsError(
            "another agent that is this host is connected: the state folder was copied (start "
            "this one with an empty one and a token of its own), or the key was stolen"
        )

    def _connected(self, host: str) -> bool:
        """Whether *host* is connected, to this manager or another."""
        presence, seen = self._presence.get(host), self._parts.fleet.hosts.get(host)
        return (presence is not None and presence.connected) or (seen is not None and not seen.here)

    def arrived(self, host: str, instance: str) -> None:
        """Note which agent connected as *host*, here or at another manager."""
        self._instances.setdefault(host, Instances()).arrived(instance)

    async def _store_transitions(
        self, steps: list[hosts.Arrival | hosts.Departure]
    ) -> list[_Answer]:
        """Arrivals and departures in one transaction; the last one of each host counts."""
        now, unproven = self._parts.clock.time(), unproven_may_join(self._parts.settings)
        last = {step.host: step for step in steps}
        coming = [step for step in steps if isinstance(step, hosts.Arrival)]
        going = [step for step in last.values() if isinstance(step, hosts.Departure)]

        async def work(tx: AsyncConnection) -> tuple[list[_Answer], list[Event]]:
            came: Sequence[hosts.Admitted | None] = ()
            if coming:
                came = await hosts.arrive(
                    tx, coming, gateway=self._name, now=now, unproven=unproven
                )
            went = await hosts.depart(tx, going, gateway=self._name, now=now) if going else []
            answers: dict[int, _Answer] = {}
            answers.update((id(step), answer) for step, answer in zip(coming, came, strict=True))
            answers.update((id(step), answer) for step, answer in zip(going, went, strict=True))
            events = [
                e
                for a in came
                if a is not None
                for e in self._parts.host_events.pool_refusals(a.row, a.pools)
            ]
            await self._parts.events.store(tx, *events)
            return [answers.get(id(step), False) for step in steps], events

        found, events = await self._parts.ledger.write(work)
        self._parts.events.publish(*events)
        return found

    def _changed(self, host: str, state: str) -> None:
        self._parts.notices.tell("host", host)
        self._parts.notices.publish("host", host=host, state=state)
        if state == hosts.UP:
            self._parts.certificates.mark(host)
        self._parts.downloads.wake()

    async def receive(self, host: str, message: m.Message) -> m.Message | None:
        """Process one message; return the reply, if it has one.

        AgentRefusedError ends the connection: the host claimed what belongs to another.
        """
        presence = self._presence.get(host)
        if presence is None:
            raise UnknownHostError  # evicted, or declared lost: its messages do not count
        presence.last_beat = self._parts.clock.steady()
        return await self._inbox.receive(host, message)

    async def stored(self, host: str, result: m.JobResult) -> m.Message | None:
        """Process a result that came without a connection: *host*, whose key the ledger has, need
        not be connected, to this manager or any.

        AgentRefusedError: the host claimed what belongs to another.
        """
        return await self._inbox.receive(host, result)

    # --- presence ------------------------------------------------------------------------

    def noted_alive(self, at: float, *, others: bool) -> None:
        """Note that the ledger has this manager as alive at *at*, and whether it has *others*."""
        self._alive_at = at if others else math.inf

    @property
    def counts(self) -> bool:
        """Whether other managers, if there are any, certainly take this one for alive.

        Otherwise they may give its hosts' work to others, and hosts get no sign of life from here:
        it would prolong their leases.
        """
        return self._parts.clock.steady() - self._alive_at <= QUIET_S

    async def gone(self, host: str, *, reason: str) -> None:
        """The connection ended. The host keeps its jobs until it counts as Down."""
        presence = self._presence.get(host)
        if presence is None or not presence.connected:
            return
        presence.connected = False
        presence.last_beat = self._parts.clock.steady()
        if self._arriving[host]:
            return  # its next connection is being admitted: that is the later event
        await self._leave(host, hosts.DISCONNECTED, reason)

    async def _leave(self, host: str, state: str, reason: str) -> None:
        if self._parts.fleet.is_here(host):
            self._parts.fleet.leave(host)
        if await self._transitions(hosts.Departure(host=host, state=state)):
            log.warning("host left", extra={"host": host, "state": state, "reason": reason})
            self._changed(host, state)

    async def adopt(self) -> None:
        """At the start: hosts of the last run have as long to reconnect as any lost host."""
        now = self._parts.clock.time()
        since = self._parts.clock.steady()
        mine = (self._name, "")
        await self._parts.ledger.write(lambda tx: hosts.all_lost(tx, gateways=mine, now=now))
        async with self._parts.ledger.read() as tx:
            for row in await hosts.of_zone(tx):
                if row.state == hosts.DISCONNECTED and row.gateway in mine:
                    self._presence[row.id] = Presence(last_beat=since, connected=False)

    async def run(self) -> None:
        """Watch for silent hosts until cancelled."""
        while True:
            await self._parts.clock.sleep(BEAT_S / 2)
            try:
                await self.sweep()
                await self.watch()
            except FastdlError as exc:
                log.error("presence round failed", extra={"error": str(exc)})

    async def watch(self) -> None:
        """Check every host's silence once."""
        now = self._parts.clock.steady()
        due: list[Callable[[], Awaitable[None]]] = []
        for host, presence in list(self._presence.items()):
            silent = now - presence.last_beat > SILENT_S
            if presence.connected and silent and not presence.alert:
                presence.alert = True
                due.append(partial(self._leave, host, hosts.ALERT, "connected but silent"))
            elif presence.connected and presence.alert and not silent:
                # It is heard again; a new connection is the simplest way to get its whole state.
                self._parts.delivery.drop(host, "silent for too long, please connect again")
            elif not presence.connected and silent:
                due.append(partial(self._lost, host, presence))
        # Concurrently, so that they share commits: a failed switch disconnects many hosts at once.
        for start in range(0, len(due), TOGETHER):
            steps = [step() for step in due[start : start + TOGETHER]]
            for outcome in await asyncio.gather(*steps, return_exceptions=True):
                if isinstance(outcome, FastdlError):
                    log.error("cannot store presence", extra={"error": str(outcome)})
                elif isinstance(outcome, BaseException):
                    raise outcome

    async def sweep(self) -> None:
        """Check connections against the ledger: a host that is no longer enrolled is disconnected,
        whichever manager deleted it; one without a certificate of the newest CA is asked to renew;
        one that prepared for maintenance and has finished its work enters it.
        """
        async with self._parts.ledger.read() as tx:
            keys, draining = await hosts.keys(tx), await hosts.draining(tx)
        now, authority = self._parts.clock.steady(), self._authority
        for host, presence in list(self._presence.items()):
            if presence.key_hash and keys.get(host) != presence.key_hash:
                self.evict_here(host, presence.key_hash)
            elif presence.ca and presence.ca not in authority.fingerprints:
                self._parts.delivery.drop(host, "its certificate comes from a CA that was replaced")
            elif presence.due_renewal(authority, now):
                self._parts.delivery.send(host, m.RenewWanted())
        if draining:
            await self.end_drains()

    async def end_drains(self) -> None:
        """Move hosts that prepared for it and have nothing left to do into maintenance."""

        async def work(tx: AsyncConnection) -> list[Event]:
            events = [
                Event(
                    type="MAINT.PREPARE",
                    description=f"host {row.name} is in maintenance",
                    resource=row.id,
                )
                for row in await hosts.end_drains(tx)
            ]
            await self._parts.events.store(tx, *events)
            return events

        for event in await self._parts.ledger.write(work):
            self._parts.events.publish(event)
            assert event.resource is not None
            self.allocate(event.resource, hosts.MAINTENANCE)

    def allocate(self, host: str, resource_state: str) -> None:
        """Note that an operator changed what *host* may be given (already in the ledger)."""
        if host in self._parts.fleet.hosts:
            self._parts.fleet.hosts[host].resource_state = resource_state
        self._parts.notices.tell("host", host)
        self._parts.downloads.wake()

    async def moved(self, host: str) -> bool:
        """Let go of a host that is, by the ledger, not connected here: whether it was.

        Another manager admitted it later, or buried this one. If it is connected here after all,
        a new connection is the simplest way to get its whole state into the ledger.
        """
        presence = self._presence.get(host)
        if presence is None or presence.alert or host in self._arriving:
            return False
        async with self._parts.ledger.read() as tx:
            row = await hosts.get(tx, host)
        if row is None or self._presence.get(host) is not presence or host in self._arriving:
            return False
        if row.gateway == self._name and (row.state == hosts.UP or not presence.connected):
            return False
        del self._presence[host]
        if self._parts.fleet.is_here(host):
            self._parts.fleet.leave(host)
        self._parts.delivery.drop(host, "it is connected to another manager")
        return True

    async def _lost(self, host: str, presence: Presence) -> None:
        await self._parts.downloads.host_lost(host, gateway=self._name)
        if self._presence.get(host) is presence:
            del self._presence[host]
        else:  # it has just connected
            self._parts.delivery.drop(host, "taken for lost, please connect again")
