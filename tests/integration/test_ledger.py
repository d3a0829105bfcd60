# SPDX-License-Identifier: Apache-2.0
"""Does the ledger keep its promises, equally on SQLite and on a real PostgreSQL?"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import random
import sqlite3
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Connection, insert, select, text, update
from sqlalchemy.exc import IntegrityError

from fastdl.errors import InternalError, UsageError
from fastdl.manager.downloads.scheduler import Limits, decide
from fastdl.manager.hosts.fleet import ConnectedHost
from fastdl.manager.ledger import job_list, jobs, queue, records, slots, tables, zones
from fastdl.manager.ledger.engine import Ledger, default_url, open_ledger
from fastdl.manager.ledger.jobs import HELD, LIVE, NewJob, State
from fastdl.manager.ledger.text import dumps
from fastdl.wire import messages as m
from tests.env import postgresql


@pytest.fixture
def url(database: str | None, tmp_path: Path) -> str:
    """The URL of an empty database of each engine."""
    return database or default_url(tmp_path)


@pytest.fixture
async def ledger(url: str) -> AsyncIterator[Ledger]:
    """An open, empty ledger."""
    opened = await asyncio.to_thread(open_ledger, url)
    yield opened
    await opened.close()


ORIGINS = ("https://a:443", "https://b:443")
HOSTS = ("h0", "h1", "h2")
POOLS = ("p0", "p1", "p2", "p3")
VIEWS = [
    ConnectedHost(
        id=h, zone="z", name=h, kinds=frozenset({"download"}), pools=frozenset(POOLS), most=3
    )
    for h in HOSTS
]
"""Every pool is reached by all of them."""
LIMITS = Limits(origin=2, host=3, pool=1)


async def add_hosts(ledger: Ledger, zone: str = "z") -> None:
    """A zone and three hosts."""

    async def work(tx: Any) -> None:
        await tx.execute(insert(tables.zone).values(id=zone, name=zone, enabled=True, created=0.0))
        for host in HOSTS:
            await tx.execute(
                insert(tables.host).values(
                    id=host,
                    zone=zone,
                    cluster="c",
                    name=host,
                    state="Up",
                    key_hash="k",
                    changed=0.0,
                    created=0.0,
                )
            )

    await ledger.write(work)


def download(template: str, pool: str, origin: str = ORIGINS[0], rank: int = 10) -> NewJob:
    """A download job."""
    args = m.DownloadArgs(
        template=template, pool=pool, volume="v", transfer=m.Transfer(sources=(f"{origin}/x",))
    )
    return NewJob(
        kind=m.Kind.DOWNLOAD,
        zone="z",
        template=template,
        pool=pool,
        lane=origin,
        origins=(origin,),
        single=f"{template}:{pool}",
        rank=rank,
        args=args,
    )


async def grant_round(ledger: Ledger, *, now: float = 1.0) -> int:
    """What the dispatcher does in a round: read, decide, grant; returns how many."""
    async with ledger.read() as tx:
        in_use, caps = await slots.usage(tx)
        page, _ = await queue.page(tx, now=now, among=await queue.lanes(tx))
    limits = Limits(origin=LIMITS.origin, host=LIMITS.host, pool=LIMITS.pool, caps=caps)
    grants = decide(map(queue.waiting_of, page), lambda _: VIEWS, in_use, limits)
    if not grants:
        return 0

    async def work(tx: Any) -> bool:
        if not await jobs.grant(tx, grants, now=now):
            raise _LostRaceError
        return True

    try:
        await ledger.write(work)
    except _LostRaceError:
        return 0
    return len(grants)


class _LostRaceError(Exception):
    pass


async def test_all_queries_of_a_read_see_one_state(ledger: Ledger) -> None:
    """An answer is made from several queries: what is written meanwhile is in none of them."""
    await add_hosts(ledger)
    query = select(tables.host.c.name).order_by(tables.host.c.name)
    async with ledger.read() as tx:
        (zone,) = (await tx.execute(select(tables.zone.c.name))).scalars()
        await ledger.write(lambda tx: tx.execute(update(tables.zone).values(name="new")))
        await ledger.write(lambda tx: tx.execute(update(tables.host).values(name="new")))
        assert [zone, *(await tx.execute(query)).scalars()] == ["z", *HOSTS]
    async with ledger.read() as tx:
        assert set((await tx.execute(query)).scalars()) == {"new"}


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
async def test_a_read_takes_no_lock_that_a_writer_waits_for(ledger: Ledger) -> None:
    """PostgreSQL itself refuses what would: SQLite's readers have connections of their own."""
    with pytest.raises(InternalError, match="read-only transaction"):
        async with ledger.read() as tx:
            await tx.execute(update(tables.zone).values(name="new"))


async def test_migrations_make_exactly_the_declared_tables(ledger: Ledger) -> None:
    """The statements are written against the declarations; the database is made by migrations."""

    def compare(connection: Connection) -> Any:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return compare_metadata(context, tables.metadata)

    async with ledger.read() as tx:
        assert await tx.run_sync(compare) == []


async def test_reopening_keeps_everything(url: str) -> None:
    """A second start finds what the first one stored, and migrates nothing."""
    for _ in range(2):
        ledger = await asyncio.to_thread(open_ledger, url)
        async with ledger.read() as tx:
            found = await zones.all_zones(tx)
        if not found:
            await ledger.write(lambda tx: zones.create(tx, "z1", now=1.0))
        await ledger.close()
    assert [zone.name for zone in found] == ["z1"]


async def test_ledger_of_a_newer_version_is_refused(url: str) -> None:
    """An old manager must not write into a schema it does not know."""
    ledger = await asyncio.to_thread(open_ledger, url)

    async def age(tx: Any) -> None:
        await tx.execute(text("UPDATE alembic_version SET version_num = '9999'"))

    await ledger.write(age)
    await ledger.close()
    with pytest.raises(UsageError, match="newer fastdl"):
        await asyncio.to_thread(open_ledger, url)


async def test_a_failing_call_leaves_its_neighbours_alone(ledger: Ledger) -> None:
    """Calls that share a commit must not share their errors."""

    async def boom(tx: Any) -> None:
        await zones.create(tx, "lost", now=1.0)
        raise RuntimeError("boom")

    async def make(index: int) -> None:
        await ledger.write(lambda tx: zones.create(tx, f"z{index}", now=float(index)))

    outcomes = await asyncio.gather(
        *(ledger.write(boom) if i % 3 == 0 else make(i) for i in range(30)), return_exceptions=True
    )
    assert sum(isinstance(o, RuntimeError) for o in outcomes) == 10
    async with ledger.read() as tx:
        assert {z.name for z in await zones.all_zones(tx)} == {f"z{i}" for i in range(30) if i % 3}


async def test_callers_that_give_up_disturb_nobody(ledger: Ledger) -> None:
    """Cancelled at any point, a call happened whole or not at all, and the others go on."""
    rng, made = random.Random(11), set[str]()

    async def call(index: int) -> None:
        name = f"z{index}"

        async def work(tx: Any) -> None:
            await zones.create(tx, name, now=1.0)
            await tx.execute(
                insert(tables.event).values(
                    id=name, type="t", level="INFO", description="x", created=1.0
                )
            )

        await ledger.write(work)
        made.add(name)
        async with ledger.read() as tx:
            await zones.all_zones(tx)

    for start in range(0, 200, 40):
        calls = [asyncio.create_task(call(index)) for index in range(start, start + 40)]
        for victim in rng.sample(calls, 20):
            await asyncio.sleep(rng.choice([0, 0, 0.001, 0.003]))
            victim.cancel()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(o) for o in outcomes if o is not None} <= {asyncio.CancelledError}
    await ledger.write(lambda tx: zones.create(tx, "last", now=1.0))
    async with ledger.read() as tx:
        found = {zone.name for zone in await zones.all_zones(tx)} - {"last"}
        events = set((await tx.execute(select(tables.event.c.id))).scalars())
    assert made <= found == events
    assert len(made) >= 100


async def test_a_transaction_that_sqlite_gives_up_is_told_by_its_cause(tmp_path: Path) -> None:
    """SQLite may roll back by itself, savepoints too; the calls beside must still happen (A10)."""
    ledger = await asyncio.to_thread(open_ledger, default_url(tmp_path))

    async def interrupted(tx: Any) -> None:
        await zones.create(tx, "lost", now=1.0)
        raw = (await tx.get_raw_connection()).driver_connection
        await raw.set_progress_handler(lambda: 1, 1)  # every statement is interrupted at once
        try:
            await zones.create(tx, "lost too", now=1.0)
        finally:
            await raw.set_progress_handler(None, 1)

    for round_ in range(5):
        names = [f"z{round_}.{i}" for i in range(10)]
        outcomes = await asyncio.gather(
            ledger.write(lambda tx, n=round_: zones.create(tx, f"first{n}", now=1.0)),
            ledger.write(interrupted),
            *(ledger.write(lambda tx, n=n: zones.create(tx, n, now=1.0)) for n in names),
            return_exceptions=True,
        )
        (error,) = [o for o in outcomes if isinstance(o, BaseException)]
        assert str(error) == "the ledger cannot be used now: interrupted"
    async with ledger.read() as tx:
        found = [zone.name for zone in await zones.all_zones(tx)]
    assert len(found) == 55
    assert not [name for name in found if name.startswith("lost")]
    await ledger.close()


async def test_one_live_job_per_template_and_pool(ledger: Ledger) -> None:
    """However many ask at once, one job; a more urgent asker makes it more urgent."""
    await add_hosts(ledger)

    async def ask(rank: int) -> str:
        new = [download("t", "p0", rank=rank)]
        (id_,) = await ledger.write(lambda tx: jobs.submit(tx, new, now=1.0))
        return id_

    ids = await asyncio.gather(*(ask(10 if i else 0) for i in range(20)))
    assert len(set(ids)) == 1
    async with ledger.read() as tx:
        row = await jobs.get(tx, ids[0])
    assert row is not None
    assert row.rank == 0


async def test_of_a_template_only_the_newest_download_of_each_pool_is_read(ledger: Ledger) -> None:
    """Its history may be long; what is live of it are all that have not ended."""
    await add_hosts(ledger)
    async with ledger.read() as tx:
        assert await job_list.latest_of_template(tx, "t") == {}
    newest = {}
    for now, pool in ((1.0, "p0"), (2.0, "p0"), (3.0, "p1"), (4.0, "p0")):
        new = [download("t", pool), download("other", pool)]
        if pool in newest:
            old = newest[pool]
            await ledger.write(lambda tx, old=old, now=now: jobs.cancel(tx, old, now=now))
        made = await ledger.write(lambda tx, new=new, now=now: jobs.submit(tx, new, now=now))
        newest[pool] = made[0]
    async with ledger.read() as tx:
        latest = await job_list.latest_of_template(tx, "t")
        live = await job_list.live_of_template(tx, "t")
    assert {pool: row.id for pool, row in latest.items()} == newest
    assert {row.id for row in live} == set(newest.values())


async def test_slots_are_never_taken_beyond_their_limit(ledger: Ledger) -> None:
    """Two dispatchers at once: the guarded update decides, not what they read before (C06)."""
    await add_hosts(ledger)
    new = [download(f"t{i}", POOLS[i % 4], ORIGINS[i % 2]) for i in range(24)]
    await ledger.write(lambda tx: jobs.submit(tx, new, now=1.0))
    finished = 0
    while finished < 24:
        await asyncio.gather(*(grant_round(ledger) for _ in range(3)))
        async with ledger.read() as tx:
            in_use, _ = await slots.usage(tx)
            held = [row for host in HOSTS for row in await job_list.held_by(tx, host)]
        assert all(n <= {"origin": 2, "host": 3, "pool": 1}[k] for (k, _), n in in_use.items())
        assert held, "nothing runs and something waits"
        for row in held:
            ended = await ledger.write(
                lambda tx, row=row: jobs.finish(
                    tx, row.id, fence=row.fence, host_id=row.host, state=State.DONE, now=2.0
                )
            )
            assert ended is not None
            finished += 1
    async with ledger.read() as tx:
        assert (await slots.usage(tx))[0] == {}


async def take(ledger: Ledger, owner: str, now: float = 0.0) -> int | None:
    """Take or renew a lease of ten seconds (*now* counts on SQLite only)."""
    return await ledger.write(lambda tx: records.take_lease(tx, "dispatch", owner, now=now, ttl=10))


async def age_lease(ledger: Ledger, seconds: float) -> None:
    """Make every lease older, as if so many seconds had passed (less than 0: younger)."""
    older = update(tables.lease).values(until=tables.lease.c.until - seconds)
    await ledger.write(lambda tx: tx.execute(older))


async def test_lease_has_one_owner_and_its_fence_grows(ledger: Ledger) -> None:
    """A manager that was asleep past its lease must see that another one took over."""
    assert await take(ledger, "a") == 1
    await age_lease(ledger, 5)
    assert await take(ledger, "b") is None
    assert await take(ledger, "a") == 1
    await age_lease(ledger, 11)
    assert await take(ledger, "b") == 2
    assert await take(ledger, "a") is None


@pytest.mark.parametrize("jump", [3600.0, 10 * 365.25 * 86400])
async def test_lease_is_never_believed_beyond_its_length(ledger: Ledger, jump: float) -> None:
    """A clock that was set back must not leave a lease that nobody holds for years (G04)."""
    assert await take(ledger, "a") == 1
    await age_lease(ledger, -jump)
    assert await take(ledger, "b") == 2
    await age_lease(ledger, jump)
    assert await take(ledger, "a") == 3


async def test_lease_goes_by_the_servers_clock(postgres: str) -> None:
    """Managers on several machines need one clock: their own may be years apart (G04)."""
    url = postgresql.fresh_database(postgres, "lease")
    ledger = await asyncio.to_thread(open_ledger, url)
    assert await take(ledger, "a", now=0.0) == 1
    for clock in (-1e9, 0.0, 3600.0, 1e10):
        assert await take(ledger, "b", now=clock) is None
    await ledger.close()


async def test_parts_that_end_at_one_moment_end_their_api_job(ledger: Ledger) -> None:
    """Each of two transactions sees the other's part as live, unless one waits (PostgreSQL)."""
    await add_hosts(ledger)
    for n in range(10):
        new = [download(f"t{n}", p) for p in POOLS]

        async def start(tx: Any, new: list[NewJob] = new) -> list[str]:
            ids = await jobs.submit(tx, new, now=1.0)
            await records.add_api_job(tx, owner="u", command="c", now=1.0, parts=ids)
            return ids

        async def end(tx: Any, id_: str) -> None:
            await jobs.cancel(tx, id_, now=2.0)
            await asyncio.sleep(0)
            for row in await records.finished_api_jobs(tx, [id_]):
                await records.complete_api_job(tx, row.id, status=1, result={}, now=2.0)

        ids = await ledger.write(start)
        await asyncio.gather(*(ledger.write(lambda tx, i=i: end(tx, i)) for i in ids))
        async with ledger.read() as tx:
            assert not await records.finished_api_jobs(tx), "left open by all its parts"


async def test_api_job_ends_with_its_last_part(ledger: Ledger) -> None:
    """A seed of many pools is done when all are, and only then."""
    await add_hosts(ledger)

    async def start(tx: Any) -> tuple[str, list[str]]:
        ids = await jobs.submit(tx, [download("t", p) for p in POOLS], now=1.0)
        return await records.add_api_job(tx, owner="u", command="c", now=1.0, parts=ids), ids

    _, ids = await ledger.write(start)
    for id_ in ids:
        assert not await ledger.write(lambda tx, id_=id_: records.finished_api_jobs(tx, [id_]))
        await ledger.write(lambda tx, id_=id_: jobs.cancel(tx, id_, now=2.0))
    async with ledger.read() as tx:
        assert len(await records.finished_api_jobs(tx)) == 1


class LedgerMachine(RuleBasedStateMachine):
    """Any order of submissions, grants, results (right, stale, foreign), cancels and losses.

    A model beside the ledger knows which jobs are live and what they hold; after every step
    the ledger must agree with it.
    """

    url = ""

    @initialize()
    def open(self) -> None:
        """A fresh ledger for this history."""
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.ledger = open_ledger(self.make_url())
        self.run(add_hosts(self.ledger))
        self.ended: dict[str, str] = {}
        self.now = 1.0

    def make_url(self) -> str:
        """Where this history's ledger is."""
        return default_url(Path(self.folder.name))

    def run(self, coroutine: Any) -> Any:
        """Run to the end."""
        return self.runner.run(coroutine)

    def teardown(self) -> None:
        """Close the ledger."""
        if hasattr(self, "ledger"):
            self.run(self.ledger.close())
            self.runner.close()
            self.folder.cleanup()

    async def rows(self) -> list[Any]:
        """Every job."""
        async with self.ledger.read() as tx:
            return list((await tx.execute(select(tables.job).order_by(tables.job.c.id))).all())

    def pick(self, index: int, states: tuple[State, ...]) -> Any:
        """Some job in one of *states*."""
        found = [row for row in self.run(self.rows()) if row.state in states]
        return found[index % len(found)] if found else None

    @rule(
        t=st.integers(0, 5),
        p=st.sampled_from(POOLS),
        o=st.sampled_from(ORIGINS),
        rank=st.sampled_from([0, 10]),
    )
    def submit(self, t: int, p: str, o: str, rank: int) -> None:
        """Ask for a download."""
        new = [download(f"t{t}", p, o, rank)]
        cancelling = [
            row
            for row in self.run(self.rows())
            if row.state == State.CANCELLING and row.single == new[0].single
        ]
        if not cancelling:
            self.run(self.ledger.write(lambda tx: jobs.submit(tx, new, now=self.now)))

    @rule()
    def grant(self) -> None:
        """A round of the dispatcher."""
        self.now += 1
        self.run(grant_round(self.ledger, now=self.now))

    @rule(i=st.integers(0, 50), ok=st.booleans(), wrong=st.sampled_from(["", "fence", "host"]))
    def result(self, i: int, ok: bool, wrong: str) -> None:
        """A result arrives; a stale or foreign one changes nothing."""
        row = self.pick(i, (*HELD, State.CANCELLING))
        if row is None:
            return
        fence = row.fence - 1 if wrong == "fence" else row.fence
        host = "h9" if wrong == "host" else row.host
        state = State.DONE if ok else State.FAILED
        ended = self.run(
            self.ledger.write(
                lambda tx: jobs.finish(
                    tx, row.id, fence=fence, host_id=host, state=state, now=self.now
                )
            )
        )
        assert (ended is None) == bool(wrong)
        if ended is not None:
            self.ended[row.id] = ended

    @rule(i=st.integers(0, 50))
    def late_result(self, i: int) -> None:
        """A result for a job that has ended."""
        row = self.pick(i, (State.DONE, State.FAILED, State.CANCELLED))
        if row is not None:
            ended = self.run(
                self.ledger.write(
                    lambda tx: jobs.finish(
                        tx,
                        row.id,
                        fence=row.fence,
                        host_id=row.host or "h0",
                        state=State.DONE,
                        now=self.now,
                    )
                )
            )
            assert ended is None

    @rule(i=st.integers(0, 50), delay=st.sampled_from([0.0, 5.0]))
    def requeue(self, i: int, delay: float) -> None:
        """A retryable failure, or a lost host."""
        row = self.pick(i, HELD)
        if row is not None:
            due = self.now + delay if delay else 0.0
            self.run(
                self.ledger.write(lambda tx: jobs.requeue(tx, row, now=self.now, not_before=due))
            )

    @rule(i=st.integers(0, 50))
    def cancel(self, i: int) -> None:
        """Somebody cancels."""
        row = self.pick(i, LIVE)
        if row is not None:
            before = self.run(self.ledger.write(lambda tx: jobs.cancel(tx, row.id, now=self.now)))
            if before is not None and before.waiting:
                self.ended[row.id] = State.CANCELLED

    @invariant()
    def the_ledger_agrees(self) -> None:
        """What must hold after every step."""
        if not hasattr(self, "ledger"):
            return
        rows = self.run(self.rows())
        live = [row for row in rows if row.state in LIVE]
        places = [(row.template, row.pool) for row in live]
        assert len(places) == len(set(places)), "two live downloads of one place"
        assert {r.id: r.state for r in rows if r.ended is not None} == self.ended
        expected: dict[tuple[str, str], int] = {}
        for row in live:
            assert row.waiting == (row.state in {State.QUEUED, State.RETRY_WAIT})
            assert (row.host is None) == row.waiting
            if not row.waiting:
                for slot in jobs.held_slots(row):
                    expected[slot] = expected.get(slot, 0) + 1

        async def usage() -> dict[tuple[str, str], int]:
            async with self.ledger.read() as tx:
                return (await slots.usage(tx))[0]

        assert self.run(usage()) == expected
        assert all(n <= {"origin": 2, "host": 3, "pool": 1}[k] for (k, _), n in expected.items())


SMALL = settings(
    max_examples=12,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def test_any_history_on_sqlite() -> None:
    """No order of events breaks an invariant."""
    run_state_machine_as_test(LedgerMachine, settings=SMALL)


def test_any_history_on_postgresql(postgres: str) -> None:
    """The same histories on the other engine."""

    class OnPostgres(LedgerMachine):
        def make_url(self) -> str:
            return postgresql.fresh_database(postgres, "machine")

    run_state_machine_as_test(OnPostgres, settings=settings(SMALL, max_examples=5))


def _hammer(path: str, seed: int) -> None:
    """Submit, grant and finish until killed."""

    async def work() -> None:
        ledger = await asyncio.to_thread(open_ledger, default_url(Path(path)))
        rng = random.Random(seed)
        while True:
            new = [download(f"t{rng.random()}", rng.choice(POOLS), rng.choice(ORIGINS))]

            async def both(tx: Any, new: list[NewJob] = new) -> None:
                ids = await jobs.submit(tx, new, now=1.0)
                await records.add_api_job(tx, owner="u", command="c", now=1.0, parts=ids)

            await ledger.write(both)
            await grant_round(ledger)
            async with ledger.read() as tx:
                held = [row for host in HOSTS for row in await job_list.held_by(tx, host)]
            for row in held:
                await ledger.write(
                    lambda tx, row=row: jobs.finish(
                        tx, row.id, fence=row.fence, host_id=row.host, state=State.DONE, now=2.0
                    )
                )

    asyncio.run(work())


def test_kill_at_any_moment_leaves_no_half_of_anything(tmp_path: Path) -> None:
    """Each transaction is there whole or not at all, whenever the process dies (A08)."""
    ledger = open_ledger(default_url(tmp_path))
    asyncio.run(_with(ledger, add_hosts(ledger)))
    rng = random.Random(7)
    for seed in range(5):
        before = _counts(tmp_path)[0]
        process = multiprocessing.get_context("spawn").Process(
            target=_hammer, args=(str(tmp_path), seed)
        )
        process.start()
        for _ in range(600):  # until it works, then a moment that nobody chose
            if _counts(tmp_path)[0] > before:
                break
            process.join(0.05)
        process.join(rng.random() / 4)
        process.kill()
        process.join()
        counts = _counts(tmp_path)
        assert counts[0] > before
        assert counts[0] == counts[1], "a job without the API job it was made with"
        assert counts[3] == 3 * counts[2], "slots and running jobs disagree"
    with contextlib.closing(sqlite3.connect(tmp_path / "manager.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def _counts(folder: Path) -> tuple[int, ...]:
    """(jobs, parts of API jobs, jobs that hosts hold, slots taken), in one snapshot."""
    with contextlib.closing(sqlite3.connect(folder / "manager.db", timeout=10)) as connection:
        counts: tuple[int, ...] = connection.execute(
            "SELECT (SELECT count(*) FROM job), (SELECT count(*) FROM api_job_part), "
            "(SELECT count(*) FROM job WHERE state IN ('GRANTED','RUNNING')), "
            "(SELECT coalesce(sum(active), 0) FROM slot)"
        ).fetchone()
    return counts


async def _with(ledger: Ledger, coroutine: Any) -> None:
    await coroutine
    await ledger.close()


def test_damaged_database_is_refused_with_instructions(tmp_path: Path) -> None:
    """Going on with a damaged ledger would make the damage worse (A10)."""
    ledger = open_ledger(default_url(tmp_path))
    asyncio.run(_with(ledger, add_hosts(ledger)))
    path = tmp_path / "manager.db"
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(8192))
    with pytest.raises(UsageError, match="restore the last backup"):
        open_ledger(default_url(tmp_path))


async def test_full_disk_is_an_error_and_no_partial_state(tmp_path: Path) -> None:
    """A commit that cannot be written fails as a whole, and the next one may succeed (A10)."""
    ledger = await asyncio.to_thread(open_ledger, default_url(tmp_path))
    await add_hosts(ledger)

    async def limit(tx: Any) -> None:
        pages = await tx.scalar(text("PRAGMA page_count"))
        await tx.execute(text(f"PRAGMA max_page_count={pages + 4}"))

    await ledger.write(limit)

    async def big(tx: Any) -> None:
        await zones.create(tx, "first", now=1.0)
        await tx.execute(
            insert(tables.event).values(
                id="e", type="t", level="INFO", description="x" * 200_000, created=1.0
            )
        )

    with pytest.raises(InternalError, match="cannot be used now"):
        await ledger.write(big)
    await ledger.write(lambda tx: zones.create(tx, "second", now=1.0))
    async with ledger.read() as tx:
        assert {zone.name for zone in await zones.all_zones(tx)} == {"z", "second"}
    await ledger.close()


async def test_constraints_are_the_last_line(ledger: Ledger) -> None:
    """Even a bug in a statement cannot make a count negative."""
    await add_hosts(ledger)
    await ledger.write(lambda tx: slots.acquire(tx, {("origin", "o"): (1, 1)}))

    async def below(tx: Any) -> None:
        await tx.execute(update(tables.slot).values(active=-1))

    with pytest.raises(IntegrityError):
        await ledger.write(below)
    assert dumps({"a": 1}) == '{"a":1}'
