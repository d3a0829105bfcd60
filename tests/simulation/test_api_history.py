# SPDX-License-Identifier: Apache-2.0
"""Upload, revoke, rotate, delete, list and sync at the same time: does anybody see nonsense?

Random histories (A05) of calls on one alias, over hosts that crash, come back and lose
messages, in virtual time. The API's own handlers answer; a checker that knows nothing of the
manager then looks for an order of events that explains what callers saw of (alias, host).
``FASTDL_FULL_SWEEP=1`` plays a thousand of them (some three minutes) on SQLite and 400 on
PostgreSQL, where transactions really run at the same time; otherwise 160 and 20.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
from sqlalchemy import func, select

from fastdl.errors import AliasConflictError, ApiParamError, CertRejectedError
from fastdl.lab.certs import self_signed
from fastdl.manager.api.context import ApiContext
from fastdl.manager.api.envelope import plain
from fastdl.manager.api.registry import COMMANDS
from fastdl.manager.api.spec import Call, User
from fastdl.manager.certificates import x509text
from fastdl.manager.ledger import tables
from fastdl.manager.notices import Notices
from tests.env.history import Event, explain
from tests.simulation.virtual import START, VirtualClock
from tests.simulation.zone import Simulation, simulation

FULL = os.environ.get("FASTDL_FULL_SWEEP", "") not in ("", "0")
ALIASES, HOSTS = 20, 3
SEEDS = [("sqlite", seed) for seed in range(50 if FULL else 8)]
SEEDS += [("postgresql", seed) for seed in range(20 if FULL else 1)]
SPAN_S = 12.0
PEMS = [self_signed(f"m{n}.example", start=-3650, days=36500) for n in range(3)]
FINGERPRINTS = {pem: x509text.read_upload(pem, now=START).sha256 for pem in PEMS}
ZONE = "z"
ADMIN = User(id="u", username="admin", account="admin", admin=True)

T = TypeVar("T")


class VirtualNotices(Notices):
    """Waits in virtual time, so that a call takes as long as its hosts do."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__()
        self._clock = clock

    async def until(
        self, key: str, check: Callable[[], Awaitable[T | None]], *, timeout_s: float
    ) -> T | None:
        """As ``Notices.until``."""
        deadline, event = self._clock.time() + timeout_s, asyncio.Event()
        self._waiting[key].add(event)
        try:
            while (answer := await check()) is None and self._clock.time() < deadline:
                event.clear()
                waits = {
                    asyncio.ensure_future(event.wait()),
                    asyncio.ensure_future(self._clock.sleep(1.0)),
                }
                _, late = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                for wait in late:
                    wait.cancel()
            return answer
        finally:
            self._waiting[key].discard(event)


class Keystore(dict[str, str]):
    """A host's keystore that remembers what it held when."""

    def __init__(self, moments: itertools.count[int]) -> None:
        super().__init__()
        self._moments = moments
        self.past: dict[str, list[tuple[int, str | None]]] = defaultdict(lambda: [(-1, None)])

    def __setitem__(self, alias: str, fingerprint: str) -> None:
        super().__setitem__(alias, fingerprint)
        self.past[alias].append((next(self._moments), fingerprint))

    def pop(self, alias: str, *default: Any) -> Any:
        """Forget an alias."""
        self.past[alias].append((next(self._moments), None))
        return super().pop(alias, *default)

    def during(self, alias: str, first: int, last: int) -> set[str | None]:
        """What was held under *alias* at some moment from *first* to *last*."""
        past = self.past[alias]
        before = [value for moment, value in past if moment <= first][-1]
        return {before} | {value for moment, value in past if first < moment <= last}


@dataclass
class Story:
    """What happened to one alias: the calls, seen from each host."""

    sim: Simulation
    context: ApiContext
    alias: str
    rng: random.Random
    moments: itertools.count[int]
    ids: list[str] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    """When an upload was sent."""
    made: dict[str, int] = field(default_factory=dict)
    """When a certificate's upload was answered."""
    seen: dict[str, list[Event]] = field(default_factory=lambda: defaultdict(list))
    lies: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{self.alias}:"]
        for host_id, events in self.seen.items():
            held = self.sim.fleet.hosts[host_id].keystore
            assert isinstance(held, Keystore)
            lines += [f"{host_id} held {held.past[self.alias]}", *map(str, events)]
        return "\n".join(lines)

    async def call(self, command: str, **args: Any) -> Any:
        """Carry out a command as the server would; return its answer's body."""
        spec = COMMANDS[command.lower()]
        call = Call(context=self.context, user=ADMIN, command=spec, args=args)
        return plain(await spec.handler(call))

    def note(self, hosts: list[str], what: str, sent: int, **fields: Any) -> None:
        """Write down one call for each of *hosts*."""
        event = Event(what, sent, next(self.moments), **fields)
        for host in hosts:
            self.seen[host].append(event)

    def check_claims(self, cert: str, sent: int, statuses: list[dict[str, Any]]) -> None:
        """UPLOADED and REVOKED in an answer are what the keystore was during the call.

        Except that a deleted certificate is rightly REVOKED where its successor under the
        same alias is held.
        """
        succeeded = self.asked[-1] > self.made[cert]
        for status in statuses:
            host = self.sim.fleet.hosts[status["hostid"]]
            assert isinstance(host.keystore, Keystore)
            held = host.keystore.during(self.alias, sent, next(self.moments))
            if status["status"] == "UPLOADED" and held == {None}:
                self.lies.append(f"{host.id} never held it from {sent}")
            if status["status"] == "REVOKED" and None not in held and not succeeded:
                self.lies.append(f"{host.id} held it from {sent} on")

    async def live(self) -> list[Event]:
        """Ask for the alias with its hosts; note what each of them is said to hold."""
        sent = next(self.moments)
        answer = await self.call("listTemplateDirectDownloadCertificates", listhosts=True)
        rows = [
            row for row in answer.get("directdownloadcertificate", []) if row["alias"] == self.alias
        ]
        assert len(rows) <= 1, "one alias, two certificates"
        everyone = list(self.sim.fleet.hosts)
        if not rows:
            self.note(everyone, "list", sent)
        for row in rows:
            status = {h["hostid"]: h["status"] for h in row["hostsmap"]}
            for host in everyone:
                self.note(
                    [host],
                    "list",
                    sent,
                    cert=row["id"],
                    fingerprint=row["fingerprint"],
                    status=status[host],
                )
        return [events[-1] for events in self.seen.values()]

    async def upload(self) -> None:
        """A new certificate under the alias."""
        sent, pem = next(self.moments), self.rng.choice(PEMS)
        everyone = list(self.sim.fleet.hosts)
        self.asked.append(sent)
        try:
            body = await self.call(
                "uploadTemplateDirectDownloadCertificate",
                name=self.alias,
                certificate=pem,
                hypervisor="KVM",
                zoneid=ZONE,
            )
        except AliasConflictError:
            self.note(everyone, "upload", sent, refused=True)
            return
        row = body["uploadtemplatedirectdownloadcertificate"]
        self.ids.append(row["id"])
        self.made[row["id"]] = next(self.moments)
        self.check_claims(row["id"], sent, row["hostsmap"])
        self.note(everyone, "upload", sent, cert=row["id"], fingerprint=FINGERPRINTS[pem])

    async def by_id(self, what: str, command: str, hosts: list[str], **params: str) -> None:
        """A command on one of the certificates that the alias has had."""
        if not self.ids:
            return
        sent, id_ = next(self.moments), self.rng.choice(self.ids[-2:])
        fingerprint = FINGERPRINTS.get(params.get("certificate", ""))
        try:
            body = await self.call(command, id=id_, **params)
        except (ApiParamError, CertRejectedError) as exc:
            if id_ not in exc.message:
                raise
            self.note(hosts, what, sent, cert=id_, refused=True)
            return
        self.check_claims(id_, sent, _statuses(body))
        self.note(hosts, what, sent, cert=id_, fingerprint=fingerprint)

    async def step(self) -> None:
        """One random call."""
        hosts = list(self.sim.fleet.hosts)
        one = self.rng.choice(hosts)
        kind = self.rng.choices(
            ("upload", "revoke", "revoke one", "provision", "update", "delete", "list"),
            (4, 3, 2, 3, 2, 2, 4),
        )[0]
        name = "TemplateDirectDownloadCertificate"
        match kind:
            case "upload":
                await self.upload()
            case "revoke":
                await self.by_id("revoke", f"revoke{name}", hosts, zoneid=ZONE)
            case "revoke one":
                await self.by_id("revoke", f"revoke{name}", [one], zoneid=ZONE, hostid=one)
            case "provision":
                await self.by_id("provision", f"provision{name}", [one], hostid=one)
            case "update":
                pem = self.rng.choice(PEMS)
                await self.by_id("update", f"update{name}", hosts, certificate=pem)
            case "delete":
                await self.by_id("delete", f"delete{name}", hosts)
            case "list":
                await self.live()

    async def play(self) -> None:
        """Begin with an upload, then a few calls at random moments, many of them at once."""
        await self.upload()

        async def later(delay: float) -> None:
            await self.sim.clock.sleep(delay)
            await self.step()

        count = self.rng.randint(4, 9)
        await asyncio.gather(*(later(self.rng.uniform(0, SPAN_S)) for _ in range(count)))


def _statuses(body: dict[str, Any]) -> list[dict[str, Any]]:
    """What a command said of each host, wherever its answer says it."""
    found = body.get("directdownloadcertificatehoststatus")
    if found is not None:
        return found if isinstance(found, list) else [found]
    inner = body.get("updatetemplatedirectdownloadcertificate", {})
    return list(inner.get("hostsmap", []))


async def disturb(sim: Simulation, rng: random.Random, until: asyncio.Event) -> None:
    """Background rounds, and hosts that crash and return."""
    while not until.is_set():
        await sim.clock.sleep(rng.uniform(0.5, 4))
        if rng.random() < 0.5:
            await sim.context.background.round()
        else:
            host = rng.choice(list(sim.fleet.hosts.values()))
            if host.up:
                await host.crash()
                await sim.clock.sleep(rng.uniform(0.1, 3))
                await host.connect()


async def settled(sim: Simulation) -> bool:
    """Whether the outcome of every wish is known, and nothing is under way."""
    async with sim.context.ledger.read() as tx:
        t = tables.cert_host.c
        query = select(func.count()).where((t.done_rev < t.want_rev) | (t.failures > 0))
        pending = await tx.scalar(query)
    return not pending and not await sim.live_jobs()


@pytest.mark.parametrize(("database", "seed"), SEEDS, indirect=["database"])
async def test_what_callers_see_has_an_order_that_explains_it(
    folder: Path, database: str | None, seed: int
) -> None:
    """Twenty aliases at once; each must be linearizable on each host (A05)."""
    rng, moments = random.Random(seed), itertools.count()
    async with simulation(
        folder, hosts=HOSTS, seed=seed, database=database, notices=VirtualNotices
    ) as sim:
        for host in sim.fleet.hosts.values():
            host.keystore = Keystore(moments)
        stories = [
            Story(sim, sim.context, f"a{n}", random.Random(f"{seed}/{n}"), moments)
            for n in range(ALIASES)
        ]
        over = asyncio.Event()

        async def everything() -> None:
            while not all(h.id in sim.context.fleet.hosts for h in sim.fleet.hosts.values()):
                await sim.clock.sleep(0.1)
            troubles = asyncio.create_task(disturb(sim, rng, over))
            await asyncio.gather(*(story.play() for story in stories))
            over.set()
            await troubles
            await sim.context.background.round()

        playing = sim.fleet.spawn(everything())

        async def done() -> bool:
            return playing.done() and (playing.exception() is not None or await settled(sim))

        await sim.until(done, most=7200)
        playing.result()
        for story in stories:
            await story.live()
            for host in sim.fleet.hosts.values():
                story.note(
                    [host.id], "keystore", next(moments), fingerprint=host.keystore.get(story.alias)
                )
        for story in stories:
            assert not story.lies, f"seed {seed}: {story.lies}\n{story}"
            for host_id, events in story.seen.items():
                assert explain(events), f"seed {seed}: no order explains {host_id}\n{story}"
