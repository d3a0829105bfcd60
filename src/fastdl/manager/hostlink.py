# SPDX-License-Identifier: Apache-2.0
"""What the manager does when hosts enrol, connect, speak, fall silent and go.

The fabric calls this; everything a host says is a claim about itself and about jobs it was
given, and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.errors import AgentRefusedError, FastdlError, UsageError
from fastdl.manager.batch import Batch
from fastdl.manager.certloop import CertificateSync
from fastdl.manager.dispatch import Dispatcher
from fastdl.manager.fabric.ca import Authority, csr_key
from fastdl.manager.fleet import ConnectedHost
from fastdl.manager.ledger import hosts, jobs, zones
from fastdl.manager.ledger.jobs import State
from fastdl.manager.ledger.text import dumps
from fastdl.manager.services import Event, Services
from fastdl.wire import codec
from fastdl.wire import messages as m
from fastdl.wire.token import parse_token
from fastdl.wire.version import negotiate

log = logging.getLogger(__name__)

BEAT_S: Final = 10.0
SILENT_S: Final = 35.0
"""Without a beat for so long: Alert while the connection stands, Down when it does not."""
TOGETHER: Final = 64
"""Hosts that are judged lost side by side."""
SKEW_WARN_S: Final = 60.0


@dataclass(slots=True)
class _Presence:
    """*last_beat* is steady time: neither side's wall clock decides who is silent."""

    last_beat: float
    connected: bool
    alert: bool = False


class HostLink:
    """The hosts' desk."""

    def __init__(
        self,
        services: Services,
        authority: Authority,
        dispatcher: Dispatcher,
        sync: CertificateSync,
    ) -> None:
        self._s = services
        self._authority = authority
        self._dispatcher = dispatcher
        self._sync = sync
        self._presence: dict[str, _Presence] = {}
        self._transitions = Batch(self._store_transitions)
        self._arriving: Counter[str] = Counter()

    # --- identity ------------------------------------------------------------------------

    async def enrol(self, request: m.EnrolRequest) -> m.EnrolReply:
        """Exchange a token for a host's certificate; AgentRefusedError says why not."""
        _, key_hash = csr_key(request.csr)
        try:
            token = parse_token(request.token)
        except UsageError as exc:
            raise AgentRefusedError(exc.message) from exc
        name = request.name.strip() or "host"
        now = self._s.clock.time()

        async def work(tx: AsyncConnection) -> tuple[Row[Any], Event]:
            row = await zones.use_token(tx, token, key_hash=key_hash, name=name, now=now)
            event = Event(type="HOST.ENROL", description=f"host {name} enrolled", resource=row.id)
            await self._s.store(tx, event)
            return row, event

        row, event = await self._s.ledger.write(work)
        certificate, _ = self._authority.sign_host(request.csr, row.id)
        self._s.tell(event)
        return m.EnrolReply(
            host_id=row.id, zone_id=row.zone, certificate=certificate, ca=self._authority.pem
        )

    async def _renew(self, row: Row[Any], request: m.RenewRequest) -> m.Renewed:
        certificate, key_hash = self._authority.sign_host(request.csr, row.id)
        if key_hash != row.key_hash:
            await self._s.ledger.write(
                lambda tx: hosts.set_key(tx, row.id, key_hash=key_hash, old=row.key_hash)
            )
        return m.Renewed(certificate=certificate)

    async def admit(self, host: str, key_hash: str, hello: m.Hello) -> m.Welcome:
        """Let a host in: TLS proved that it holds *key_hash*'s key and is called *host*."""
        version = negotiate(hello.wire_oldest, hello.wire_newest)
        if hello.host_id != host:
            await self._s.event(
                "HOST.IMPERSONATION",
                f"host {host} said that it is {hello.host_id}", level="ERROR", resource=host,
            )  # fmt: skip
            raise AgentRefusedError("the client certificate belongs to another host")
        now = self._s.clock.time()
        skew = hello.clock - now if hello.clock else 0.0

        arrival = hosts.Arrival(host=host, key_hash=key_hash, hello=hello, skew=skew)
        self._arriving[host] += 1
        try:
            admitted = await self._transitions(arrival)
        finally:
            self._arriving[host] -= 1
            if not self._arriving[host]:
                del self._arriving[host]
        if not isinstance(admitted, hosts.Admitted):
            raise AgentRefusedError("this host is not enrolled here: enrol it again")
        row = admitted.row
        self._presence[host] = _Presence(last_beat=self._s.clock.steady(), connected=True)
        self._s.fleet.hosts[host] = ConnectedHost(
            id=host, zone=row.zone, name=hello.name or row.name, kinds=frozenset(hello.kinds),
            pools=admitted.pools, most=hello.max_downloads,
        )  # fmt: skip
        log.info("host is up", extra={"host": host, "host_name": hello.name, "wire": version})
        if abs(skew) > SKEW_WARN_S:
            await self._s.event(
                "HOST.CLOCK",
                f"the clock of host {hello.name} is {skew:+.0f} s off: certificates may be "
                f"refused as expired or not yet valid there",
                level="WARN", resource=host,
            )  # fmt: skip
        self._changed(host, hosts.UP)
        return m.Welcome(
            wire=version, host_id=host, zone_id=row.zone, zone_name=row.zone_name, clock=now,
            beat_s=BEAT_S,
        )  # fmt: skip

    async def _store_transitions(
        self, steps: list[hosts.Arrival | hosts.Departure]
    ) -> list[hosts.Admitted | bool | None]:
        """Comings and goings in one transaction; what a host did last is what it has done."""
        now = self._s.clock.time()
        last = {step.host: step for step in steps}
        coming = [step for step in steps if isinstance(step, hosts.Arrival)]
        going = [step for step in last.values() if isinstance(step, hosts.Departure)]

        async def work(tx: AsyncConnection) -> list[hosts.Admitted | bool | None]:
            came = await hosts.arrive(tx, coming, gateway=self._s.name, now=now) if coming else []
            went = await hosts.depart(tx, going, now=now) if going else []
            answers: dict[int, hosts.Admitted | bool | None] = {}
            answers.update((id(step), answer) for step, answer in zip(coming, came, strict=True))
            answers.update((id(step), answer) for step, answer in zip(going, went, strict=True))
            return [answers.get(id(step), False) for step in steps]

        return await self._s.ledger.write(work)

    def _changed(self, host: str, state: str) -> None:
        self._s.notices.publish("host", host=host, state=state)
        if state == hosts.UP:
            self._sync.mark(host)
        self._dispatcher.wake()

    # --- what hosts say ------------------------------------------------------------------

    async def receive(self, host: str, message: m.Message) -> m.Message | None:
        """Take in one message; return the answer, if it has one.

        AgentRefusedError ends the connection: the host claimed what is not its own.
        """
        presence = self._presence.get(host)
        if presence is not None:
            presence.last_beat = self._s.clock.steady()
        match message:
            case m.Beat():
                return None
            case m.Progress():
                if self._s.progress.note(host, message):
                    self._s.notices.publish(
                        "progress", job=message.job, done=message.done, total=message.total,
                        rate=message.rate, stage=message.stage,
                    )  # fmt: skip
                return None
            case m.JobStarted():
                if not self._s.progress.holds(message.job, host):
                    return None  # short work: its result follows at once
                now = self._s.clock.time()
                await self._s.ledger.write(
                    lambda tx: jobs.started(
                        tx, message.job, fence=message.fence, host_id=host, now=now
                    )
                )
                return None
            case m.JobResult():
                return await self._result(host, message)
            case m.InventoryReport():
                await self._inventory(host, message.inventory)
                return None
            case m.RenewRequest():
                async with self._s.ledger.read() as tx:
                    row = await hosts.get(tx, host)
                if row is None:
                    raise AgentRefusedError("this host is not enrolled here: enrol it again")
                return await self._renew(row, message)
            case _:
                raise AgentRefusedError(f"{type(message).__name__} is not for a manager")

    async def _inventory(self, host: str, inventory: m.Inventory) -> None:
        now = self._s.clock.time()

        async def work(tx: AsyncConnection) -> frozenset[str] | None:
            row = await hosts.get(tx, host)
            if row is None:
                raise AgentRefusedError("this host is not enrolled here: enrol it again")
            return await hosts.store_inventory(tx, row, inventory, now=now)

        pools = await self._s.ledger.write(work)
        if pools is None:
            log.info("an inventory from before what is known", extra={"host": host})
            return
        if host in self._s.fleet.hosts:
            self._s.fleet.hosts[host].pools = pools
        self._sync.mark(host)
        self._dispatcher.wake()

    async def _result(self, host: str, result: m.JobResult) -> m.ResultAck:
        """Take in a result, or find it stale: either way the host need not repeat it."""
        if result.kind == m.Kind.CERTIFICATES:
            taken = await self._sync.ended(host, result)
        elif result.kind in {m.Kind.DOWNLOAD, m.Kind.REMOVE}:
            taken = await self._dispatcher.ended(host, result)
        else:
            taken = await self._answer(host, result)
        if not taken:
            self._s.metrics.stale_results.inc()
            await self._refuse_foreign(host, result)
        return m.ResultAck(job=result.job, fence=result.fence)

    async def _refuse_foreign(self, host: str, result: m.JobResult) -> None:
        """AgentRefusedError (and an event) where *host* never had the job."""
        async with self._s.ledger.read() as tx:
            row = await jobs.get(tx, result.job)
            if row is None or row.host == host or await jobs.was_given(tx, result.job, host):
                return
        await self._s.event(
            "HOST.FOREIGN.JOB",
            f"host {host} sent a result for job {result.job}, which it was never given",
            level="ERROR",
            resource=host,
        )
        raise AgentRefusedError("the result is for a job that this host was never given")

    async def _answer(self, host: str, result: m.JobResult) -> bool:
        """A probe or a check ended: keep the answer for whoever asked."""
        now = self._s.clock.time()

        async def work(tx: AsyncConnection) -> State | None:
            row = await jobs.get(tx, result.job)
            if row is None or row.kind != result.kind:
                return None
            return await jobs.finish(
                tx,
                result.job,
                fence=result.fence,
                host_id=host,
                now=now,
                state=State.DONE if result.done else State.FAILED,
                result=codec.done_to_json(result.done) if result.done else None,
                failure=dumps(codec.to_plain(result.failure)) if result.failure else None,
                row=row,
            )

        if await self._s.ledger.write(work) is None:
            return False
        self._s.notices.tell(f"job:{result.job}")
        self._s.fabric.post(host)
        return True

    # --- presence ------------------------------------------------------------------------

    async def gone(self, host: str, *, reason: str) -> None:
        """The connection ended. The host keeps its jobs until it counts as Down."""
        presence = self._presence.get(host)
        if presence is None or not presence.connected:
            return
        presence.connected = False
        presence.last_beat = self._s.clock.steady()
        if self._arriving[host]:
            return  # its next connection is being let in: that is the later news
        await self._leave(host, hosts.DISCONNECTED, reason)

    async def _leave(self, host: str, state: str, reason: str) -> None:
        self._s.fleet.hosts.pop(host, None)
        if await self._transitions(hosts.Departure(host=host, state=state)):
            log.warning("host left", extra={"host": host, "state": state, "reason": reason})
            self._changed(host, state)

    async def adopt(self) -> None:
        """At the start: hosts of the last run have as long as any lost host to come back."""
        now = self._s.clock.time()
        since = self._s.clock.steady()
        await self._s.ledger.write(lambda tx: hosts.all_lost(tx, gateway=self._s.name, now=now))
        async with self._s.ledger.read() as tx:
            for row in await hosts.of_zone(tx):
                if row.state == hosts.DISCONNECTED and row.gateway in {self._s.name, ""}:
                    self._presence[row.id] = _Presence(last_beat=since, connected=False)

    async def run(self) -> None:
        """Watch for silent hosts until cancelled."""
        while True:
            await self._s.clock.sleep(BEAT_S / 2)
            try:
                await self.watch()
            except FastdlError as exc:
                log.error("presence round failed", extra={"error": str(exc)})

    async def watch(self) -> None:
        """Judge every host's silence once."""
        now = self._s.clock.steady()
        due: list[Callable[[], Awaitable[None]]] = []
        for host, presence in list(self._presence.items()):
            silent = now - presence.last_beat > SILENT_S
            if presence.connected and silent and not presence.alert:
                presence.alert = True
                due.append(partial(self._leave, host, hosts.ALERT, "connected but silent"))
            elif presence.connected and presence.alert and not silent:
                # It spoke again; a new connection is the simplest way to know all of it.
                self._s.fabric.drop(host, "silent for too long, please connect again")
            elif not presence.connected and silent:
                due.append(partial(self._lost, host, presence))
        # Side by side, so that they share commits: a switch that fails takes many hosts at once.
        for start in range(0, len(due), TOGETHER):
            steps = [step() for step in due[start : start + TOGETHER]]
            for outcome in await asyncio.gather(*steps, return_exceptions=True):
                if isinstance(outcome, FastdlError):
                    log.error("presence not noted", extra={"error": str(outcome)})
                elif isinstance(outcome, BaseException):
                    raise outcome

    async def _lost(self, host: str, presence: _Presence) -> None:
        await self._dispatcher.host_lost(host)
        if self._presence.get(host) is presence:
            del self._presence[host]
        else:  # it came in at this moment
            self._s.fabric.drop(host, "taken for lost, please connect again")
