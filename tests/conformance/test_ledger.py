# SPDX-License-Identifier: Apache-2.0
"""What may the managers of a ledger rely on, whatever it is stored in?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.manager.ledger import jobs, managers, records, slots, tables
from fastdl.manager.ledger.engine import Ledger
from fastdl.manager.ledger.jobs import NewJob, State
from fastdl.manager.ledger.values import Grant
from fastdl.wire import messages as m
from tests.env.seats import Combination, unique

LIMIT = 3


@pytest.fixture
async def ledgers(combination: Combination) -> AsyncIterator[tuple[Ledger, Ledger]]:
    """Two managers' own."""
    async with combination.ledgers() as opened:
        yield opened


class Site:
    """A zone with a host, an origin and downloads that wait, all under names of their own."""

    def __init__(self) -> None:
        self.zone, self.host, self.origin = unique("z"), unique("h"), f"https://{unique('o')}:443"
        self.slot = ("origin", self.origin)
        self.jobs: list[str] = []

    async def make(self, ledger: Ledger, *, waiting: int) -> None:
        """Store it."""
        new = [self._download(unique("t")) for _ in range(waiting)]

        async def work(tx: AsyncConnection) -> list[str]:
            zone = {"id": self.zone, "name": self.zone, "enabled": True, "created": 0.0}
            host = {
                "id": self.host, "zone": self.zone, "cluster": "c", "name": self.host,
                "state": "Up", "key_hash": "k", "changed": 0.0, "created": 0.0,
            }  # fmt: skip
            await tx.execute(insert(tables.zone).values(**zone))
            await tx.execute(insert(tables.host).values(**host))
            return await jobs.submit(tx, new, now=1.0)

        self.jobs = await ledger.write(work)

    def _download(self, template: str) -> NewJob:
        transfer = m.Transfer(sources=(f"{self.origin}/x",))
        args = m.DownloadArgs(template=template, pool="p", volume="v", transfer=transfer)
        return NewJob(
            kind=m.Kind.DOWNLOAD, zone=self.zone, template=template, pool="p", lane=self.origin,
            origins=(self.origin,), single=f"{template}:p", args=args,
        )  # fmt: skip

    async def grant(self, ledger: Ledger, job: str, *, fence: int = 0) -> bool:
        """Whether this manager could give *job*, whose fence it read, to the host."""
        wanted = Grant(job=job, fence=fence, host=self.host, slots=((self.slot, LIMIT),))

        async def work(tx: AsyncConnection) -> bool:
            if not await jobs.grant(tx, [wanted], now=2.0):
                raise _RefusedError
            return True

        try:
            return await ledger.write(work)
        except _RefusedError:
            return False

    async def finish(self, ledger: Ledger, job: str, *, fence: int) -> State | None:
        """How *job* ended, None = a stale report."""
        return await ledger.write(
            lambda tx: jobs.finish(
                tx, job, fence=fence, host_id=self.host, state=State.DONE, now=3.0
            )
        )

    async def in_use(self, ledger: Ledger) -> int:
        """How many jobs the origin serves now."""
        async with ledger.read() as tx:
            return (await slots.usage(tx))[0].get(self.slot, 0)


class _RefusedError(Exception):
    pass


async def test_a_job_is_granted_once(ledgers: tuple[Ledger, Ledger]) -> None:
    """Both managers read the same queue and decide alike: one of them wins."""
    site = Site()
    await site.make(ledgers[0], waiting=1)
    (job,) = site.jobs
    won = await asyncio.gather(*(site.grant(ledger, job) for ledger in ledgers * 2))
    assert sum(won) == 1
    assert await site.in_use(ledgers[1]) == 1


async def test_an_origin_is_never_used_beyond_its_limit(ledgers: tuple[Ledger, Ledger]) -> None:
    """Admission is one semaphore for all managers: as many as its limit, then one for each end."""
    site = Site()
    await site.make(ledgers[0], waiting=10)
    attempts = [site.grant(ledgers[n % 2], job) for n, job in enumerate(site.jobs)]
    won = await asyncio.gather(*attempts)
    assert sum(won) == LIMIT == await site.in_use(ledgers[0])
    ended = site.jobs[won.index(True)]
    assert await site.finish(ledgers[1], ended, fence=1) is State.DONE
    left = [job for job, granted in zip(site.jobs, won, strict=True) if not granted]
    won = await asyncio.gather(*(site.grant(ledgers[n % 2], job) for n, job in enumerate(left)))
    assert sum(won) == 1
    assert await site.in_use(ledgers[1]) == LIMIT


async def test_a_stale_report_changes_nothing(ledgers: tuple[Ledger, Ledger]) -> None:
    """A job was taken back and granted again: what its first run reports is about nothing."""
    a, b = ledgers
    site = Site()
    await site.make(a, waiting=1)
    (job,) = site.jobs
    assert await site.grant(a, job)

    async def take_back(tx: AsyncConnection) -> None:
        row = await jobs.get(tx, job)
        assert row is not None
        await jobs.requeue(tx, row, now=3.0, count=False)

    await b.write(take_back)
    assert await site.in_use(a) == 0
    assert not await site.grant(b, job, fence=0)
    assert await site.grant(b, job, fence=1)
    assert await site.finish(a, job, fence=1) is None
    assert await site.in_use(a) == 1
    assert await site.finish(a, job, fence=2) is State.DONE
    assert await site.finish(b, job, fence=2) is None
    assert await site.in_use(b) == 0


async def test_a_hosts_document_says_all_that_it_should_do(ledgers: tuple[Ledger, Ledger]) -> None:
    """Each change has a higher revision, whichever manager makes or reads it."""
    a, b = ledgers
    site = Site()
    await site.make(a, waiting=2)
    first, second = site.jobs

    async def document(ledger: Ledger) -> m.Document:
        async with ledger.read() as tx:
            return await jobs.document(tx, site.host)

    revisions = [(await document(b)).rev]
    for ledger, job in ((a, first), (b, second)):
        assert await site.grant(ledger, job)
        found = await document(b if ledger is a else a)
        revisions.append(found.rev)
        assert job in {command.job for command in found.commands}
    assert await site.finish(a, first, fence=1)
    found = await document(b)
    assert [command.job for command in found.commands] == [second]
    revisions.append(found.rev)
    assert revisions == sorted(set(revisions))


async def test_a_chore_has_one_owner_until_it_dies(ledgers: tuple[Ledger, Ledger]) -> None:
    """A lease is one manager's; when that one is known to be dead, the next has it at once."""
    name, one, two = unique("chore"), unique("m"), unique("m")

    async def take(ledger: Ledger, owner: str) -> int | None:
        return await ledger.write(lambda tx: records.take_lease(tx, name, owner, now=1.0, ttl=60.0))

    a, b = ledgers
    assert await take(a, one) == 1
    assert await take(b, two) is None
    assert await take(a, one) == 1
    await b.write(lambda tx: records.drop_leases(tx, {one}))
    assert await take(b, two) == 2
    assert await take(a, one) is None
    await b.write(lambda tx: records.drop_leases(tx, {one}))
    assert await take(b, two) == 2, "only the dead manager's are dropped"


async def test_managers_see_who_is_alive(ledgers: tuple[Ledger, Ledger]) -> None:
    """By the database's clock, however their own are set."""
    names = {unique("m"), unique("m")}
    for ledger, name in zip(ledgers, sorted(names), strict=True):

        async def beat(tx: AsyncConnection, name: str = name) -> None:
            await managers.beat(tx, name, address="x:1", version="1", now=100.0)

        await ledger.write(beat)
    async with ledgers[1].read() as tx:
        assert names <= await managers.alive(tx, within=15.0, now=100.0)


async def test_a_failed_transaction_leaves_nothing(ledgers: tuple[Ledger, Ledger]) -> None:
    """Not even what had been stored when it failed."""
    a, b = ledgers
    name = unique("setting")

    async def fail(tx: AsyncConnection) -> None:
        await records.set_setting(tx, name, "x")
        raise _RefusedError

    with pytest.raises(_RefusedError):
        await a.write(fail)
    async with b.read() as tx:
        assert name not in await records.settings(tx)
