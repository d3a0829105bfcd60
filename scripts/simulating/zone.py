# SPDX-License-Identifier: Apache-2.0
"""A zone of simulated hosts around a real manager: its ledger, its loops, its ``HostServer``."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Coroutine, Sequence
from pathlib import Path
from random import Random
from typing import Any, Final

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.errors import ApiConflictError
from fastdl.manager.app import compose
from fastdl.manager.downloads import results, transfers
from fastdl.manager.downloads.removal import remove_copies
from fastdl.manager.hosts.ca import Authority, Peer
from fastdl.manager.hosts.delivery import Connections
from fastdl.manager.hosts.server import HostServer
from fastdl.manager.ledger import (
    certs,
    copies,
    hosts,
    job_list,
    jobs,
    records,
    tables,
    templates,
)
from fastdl.manager.ledger.engine import Ledger, Work
from fastdl.manager.ledger.jobs import NewJob
from fastdl.manager.ledger.values import BULK, URGENT
from fastdl.manager.notices import Notices
from fastdl.manager.settings import Settings
from fastdl.manager.vault import Vault
from fastdl.wire import messages as m
from scripts.simulating.agents import SimHost, Troubles
from scripts.simulating.history import ZonePlan
from scripts.simulating.link import Link, ManagerEnd
from scripts.simulating.loop import START, LoopClock
from scripts.simulating.record import Record

PART: Final = 500
"""Rows in one statement or transaction of a large zone."""


class BusyLedger:
    """A ledger that says whether anybody uses it at this moment."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.sqlite = ledger.sqlite
        self.users = 0

    @contextlib.asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """As ``Ledger.read``."""
        self.users += 1
        try:
            async with self._ledger.read() as tx:
                yield tx
        finally:
            self.users -= 1

    async def write(self, work: Work[Any]) -> Any:
        """As ``Ledger.write``."""
        self.users += 1
        try:
            return await self._ledger.write(work)
        finally:
            self.users -= 1


class SimManager:
    """One life of the manager, over a ledger that outlives it."""

    def __init__(self, ledger: Any, authority: Authority, limits: dict[str, int]) -> None:
        settings, vault = Settings(), Vault(bytes(32))
        self.settings = settings
        for kind, most in limits.items():
            self.limit(kind, most)
        connections = Connections()
        self.context = compose(
            ledger=ledger,
            settings=settings,
            vault=vault,
            clock=LoopClock(),
            authority=authority,
            delivery=connections,
            notices=Notices(),
            name="m1",
        )
        self.server = HostServer(
            self.context.handler,
            connections,
            ledger=ledger,
            progress=self.context.progress,
            authority=authority,
            complete=functools.partial(transfers.complete, settings, vault),
        )
        self._tasks: set[asyncio.Task[Any]] = set()
        self._links: set[Link] = set()
        self.loops: list[asyncio.Task[Any]] = []

    def limit(self, kind: str, most: int) -> None:
        """Let at most *most* downloads run at once for each origin, host or pool."""
        self.settings.set(f"direct.download.{kind}.max.active", str(most))

    async def start(self) -> None:
        """Start the loops that downloads and certificates need."""
        c = self.context
        await c.handler.adopt()
        for loop in (c.dispatcher.run, c.sync.run, c.sync.run_retries, c.handler.run):
            self.loops.append(self.spawn(loop()))

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run until this life ends."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def connect(self, host: str, link: Link) -> None:
        """Serve *host* over *link*."""
        self._links.add(link)
        peer = Peer(host, "k", "")
        talk = self.spawn(self.server.talk(lambda: peer, ManagerEnd(link), address=None))
        talk.add_done_callback(lambda _: self._links.discard(link))

    async def die(self) -> None:
        """End at once; hosts see their connections end."""
        tasks, links = list(self._tasks), list(self._links)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for link in links:
            link.to_manager.close()
            link.to_host.put(None)


class Zone:
    """Everything that a history happens to."""

    def __init__(
        self, plan: ZonePlan, seed: int, *, ledger: Any, authority: Authority, folder: Path
    ) -> None:
        self.plan = plan
        self.ledger = ledger
        self._authority = authority
        self.manager: SimManager | None = None
        self.troubles = Troubles(plan.failure, plan.reset, plan.twice, plan.cut_short)
        self.record = Record(dict(plan.limits), {host.id: host.most for host in plan.hosts})
        self.hosts: dict[str, SimHost] = {}
        self.jobs: list[str] = []
        self.certificates: dict[str, str] = {}
        """Alias → id, of the certificates that every host should hold."""
        self.fingerprints: dict[str, str] = {}
        self.apart: dict[tuple[str, str], bool] = {}
        """(id of a certificate, host) → whether it should hold it, whatever the zone says."""
        self.deleted: set[str] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        for host in plan.hosts:
            found = tuple(
                m.PoolInfo(id=p, name=p, type=self._type(p), shared=p in plan.shared)
                for p in host.pools
            )
            self.hosts[host.id] = SimHost(
                host.id,
                found,
                host.most,
                rng=Random(f"{seed} {host.id}"),
                record=self.record,
                storage=folder,
                troubles=self.troubles,
                spawn=self.spawn,
                dial=self._dial,
            )

    def _type(self, pool: str) -> m.PoolType:
        shared = pool in self.plan.shared
        return m.PoolType.NETWORK_FILESYSTEM if shared else m.PoolType.FILESYSTEM

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run until the zone ends; a bug in it is a violation."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None:
            self.record.violated(f"a simulated host failed: {exc!r}")

    def _dial(self, host: SimHost, link: Link) -> bool:
        if self.manager is None:
            return False
        self.manager.connect(host.id, link)
        return True

    async def start(self) -> None:
        """Create the zone in the ledger, start the manager and the hosts."""
        await self.ledger.write(self._create)
        await self.start_manager()
        for host in self.hosts.values():
            host.start()

    async def _create(self, tx: AsyncConnection) -> None:
        await tx.execute(insert(tables.zone).values(id="z", name="z", enabled=True, created=START))
        common = {"zone": "z", "cluster": "c", "created": START}
        new = {"state": "Connecting", "key_hash": "k", "changed": START}
        rows = [{"id": id_, "name": id_, **common, **new} for id_ in self.hosts]
        for start in range(0, len(rows), PART):
            await tx.execute(insert(tables.host), rows[start : start + PART])
        pools = [
            {"id": p, "name": p, "type": self._type(p), "shared": p in self.plan.shared, **common}
            for p in self.plan.pools
        ]
        for start in range(0, len(pools), PART):
            await tx.execute(insert(tables.pool), pools[start : start + PART])
        for id_ in self.plan.origins:
            values = {
                "id": id_, "owner": "u", "account": "admin", "name": id_, "display_text": id_,
                "url": "", "iso": False, "format": "RAW", "hypervisor": "KVM", "public": True,
                "featured": False, "created": START,
            }  # fmt: skip
            await tx.execute(insert(tables.template).values(**values))
            offer = {"template": id_, "zone": "z", "created": START}
            await tx.execute(insert(tables.template_zone).values(**offer))

    async def start_manager(self) -> None:
        """Start the manager, or start it again."""
        self.manager = SimManager(self.ledger, self._authority, self.record.limits)
        await self.manager.start()

    async def stop_manager(self) -> None:
        """Kill the manager."""
        manager, self.manager = self.manager, None
        if manager is not None:
            self.check_loops(manager)
            await manager.die()

    def check_loops(self, manager: SimManager) -> None:
        """Note loops of the manager that ended."""
        for loop in manager.loops:
            if loop.done() and not loop.cancelled():
                self.record.violated(f"a loop of the manager failed: {loop.exception()!r}")

    async def stop(self) -> None:
        """End everything."""
        for host in self.hosts.values():
            host.die()
        await self.stop_manager()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- what its operator does, as the API does it -------------------------------------------

    async def prepare(self, template: str, pools: Sequence[str], *, urgent: bool) -> None:
        """Bring *template* to *pools*."""
        if self.manager is None or template in self.deleted:
            return
        origin, now = self.plan.origins[template], self.manager.context.clock.time()
        rank = URGENT if urgent else BULK

        async def work(tx: AsyncConnection) -> list[str]:
            found = await copies.wanted(tx, template, pools, now=now, iso=False)
            kept = [p for p in pools if found[p].state not in {copies.REMOVING, copies.READY}]
            new = [
                NewJob(
                    kind=m.Kind.DOWNLOAD,
                    zone="z",
                    template=template,
                    pool=pool,
                    volume=found[pool].volume,
                    lane=origin,
                    origins=(origin,),
                    single=jobs.single_download(copies.key_of(found[pool])),
                    rank=rank,
                    args=m.DownloadArgs(
                        template=template,
                        pool=pool,
                        volume=found[pool].volume,
                        transfer=m.Transfer(sources=(f"https://{origin}/{template}",)),
                    ),
                )
                for pool in kept
            ]
            ids = await jobs.submit(tx, new, now=now)
            if ids:
                await records.add_api_job(
                    tx, owner="u", command="prepareTemplate", now=now, parts=ids
                )
            return ids

        with contextlib.suppress(ApiConflictError):
            self.jobs += await self.ledger.write(work)
        self.manager.context.dispatcher.wake()

    async def cancel(self, number: int) -> None:
        """Cancel some job."""
        if self.manager is None or not self.jobs:
            return
        job, now = self.jobs[number % len(self.jobs)], self.manager.context.clock.time()

        async def work(tx: AsyncConnection) -> list[Any]:
            row = await jobs.get(tx, job)
            return await results.cancel(tx, [row] if row is not None else [], now=now)

        self.manager.context.dispatcher.cancelled(await self.ledger.write(work))

    async def delete(self, template: str) -> None:
        """Delete *template* and its copies."""
        if self.manager is None or template in self.deleted:
            return
        self.deleted.add(template)
        now = self.manager.context.clock.time()

        async def work(tx: AsyncConnection) -> list[Any]:
            live = await job_list.live_of_template(tx, template)
            cancelled = await results.cancel(tx, live, now=now)
            found = await copies.of_template(tx, template)
            await templates.remove(tx, template, zone_id=None, now=now)
            await remove_copies(tx, found, now=now)
            return cancelled

        self.manager.context.dispatcher.cancelled(await self.ledger.write(work))

    async def upload(self, alias: str) -> None:
        """Have every host hold a new certificate under *alias*, unless there is one."""
        if self.manager is None or alias in self.certificates:
            return
        now, everyone = self.manager.context.clock.time(), list(self.hosts)
        sha256 = f"{alias}{len(self.fingerprints)}"

        async def work(tx: AsyncConnection) -> str:
            made = await certs.create(
                tx, zone="z", alias=alias, pem="x", sha256=sha256, not_after=now * 2, now=now
            )
            await certs.want(tx, made, everyone, present=True)
            return made

        self.certificates[alias] = await self.ledger.write(work)
        self.fingerprints[self.certificates[alias]] = sha256
        self.manager.context.sync.mark(*everyone)

    async def revoke(self, alias: str) -> None:
        """Revoke the certificate *alias* everywhere, and delete it."""
        if self.manager is None or alias not in self.certificates:
            return
        id_, everyone = self.certificates.pop(alias), list(self.hosts)
        now = self.manager.context.clock.time()

        async def work(tx: AsyncConnection) -> None:
            await certs.want(tx, id_, everyone, present=False)
            await certs.revoke_in_zone(tx, id_)
            await certs.remove(tx, id_, now=now)

        await self.ledger.write(work)
        self.manager.context.sync.mark(*everyone)

    async def want_there(self, alias: str, host: str, *, present: bool) -> None:
        """Upload the certificate *alias* to *host* again, or revoke it on that host alone."""
        if self.manager is None or alias not in self.certificates:
            return
        id_ = self.certificates[alias]
        self.apart[id_, host] = present
        await self.ledger.write(lambda tx: certs.want(tx, id_, [host], present=present))
        self.manager.context.sync.mark(host)

    def keystore(self, host: str) -> dict[str, str]:
        """What *host* should hold: what was uploaded, nothing that was revoked."""
        return {
            alias: self.fingerprints[id_]
            for alias, id_ in self.certificates.items()
            if self.apart.get((id_, host), True)
        }

    def limit(self, kind: str, most: int) -> None:
        """Change a limit while downloads run."""
        if self.manager is None:
            return
        self.record.limit(kind, most)
        self.manager.limit(kind, most)
        self.manager.context.dispatcher.wake()

    async def allocate(self, host: str, state: str) -> None:
        """Have *host* given work again, or nothing new (*state*: a resource state)."""
        if self.manager is None:
            return

        async def work(tx: AsyncConnection) -> None:
            await hosts.change(tx, host, resource_state=state)
            await hosts.end_drains(tx)

        await self.ledger.write(work)
        self.manager.context.handler.allocate(host, state)

    async def check_idle(self, host: str) -> None:
        """Note a host in maintenance that works: it was left when it had ended everything."""
        (row,) = await self.rows(tables.host, tables.host.c.id == host)
        if row.resource_state == hosts.MAINTENANCE and not self.record.is_lost(host):
            runs = [run for held in self.record.running.values() for run in held]
            if any(run.host == host and run.counts for run in runs):
                self.record.violated(f"{host} is in maintenance, and downloads")

    # --- what is known at the end --------------------------------------------------------------

    async def rows(self, table: Any, *where: Any) -> list[Any]:
        """The rows of a table of the ledger."""
        async with self.ledger.read() as tx:
            return list(await tx.execute(select(table).where(*where)))
