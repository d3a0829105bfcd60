# SPDX-License-Identifier: Apache-2.0
"""Does each of many results that arrive at once do what it would have done alone?"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Row, delete, insert, select, text, update
from sqlalchemy.exc import IntegrityError

from fastdl.manager.api.context import ApiContext
from fastdl.manager.app import compose
from fastdl.manager.clock import SystemClock
from fastdl.manager.downloads import results
from fastdl.manager.hosts.delivery import Connections
from fastdl.manager.hosts.fleet import ConnectedHost
from fastdl.manager.ledger import copies, hosts, jobs, records, slots, tables
from fastdl.manager.ledger.engine import Ledger, Work, default_url, open_ledger
from fastdl.manager.ledger.jobs import NewJob, State
from fastdl.manager.ledger.text import dumps
from fastdl.manager.notices import Notices
from fastdl.manager.settings import Settings
from fastdl.manager.vault import Vault
from fastdl.wire import messages as m
from tests.env.process import eventually

HOSTS = [f"h{n}" for n in range(6)]
TEMPLATES = [f"t{n}" for n in range(8)]
ORIGINS = [f"https://o{n}:443" for n in range(3)]


def pool_of(host: str) -> str:
    """Each host has one of its own."""
    return host.replace("h", "p")


class Counted:
    """A ledger that counts transactions: *asked* for, and *run*, which is more where some were
    run again because they lost a race."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.read = ledger.read
        self.asked = self.run = 0

    async def write(self, work: Work[Any]) -> Any:
        """As ``Ledger.write``."""

        async def counted(tx: Any) -> Any:
            self.run += 1
            return await work(tx)

        self.asked += 1
        return await self._ledger.write(counted)


@pytest.fixture
def url(database: str | None, tmp_path: Path) -> str:
    """Where the ledger is."""
    return database or default_url(tmp_path)


@pytest.fixture
async def ledger(url: str) -> AsyncIterator[Ledger]:
    """A zone of six hosts with a pool each, and templates that are offered there."""
    opened = await asyncio.to_thread(open_ledger, url)

    async def make(tx: Any) -> None:
        place = {"zone": "z", "cluster": "c", "created": 0.0}
        await tx.execute(insert(tables.zone).values(id="z", name="z", enabled=True, created=0.0))
        of_hosts = {"state": "Up", "key_hash": "k", "changed": 0.0}
        await tx.execute(
            insert(tables.host), [{"id": h, "name": h, **place, **of_hosts} for h in HOSTS]
        )
        of_pools = {"type": m.PoolType.FILESYSTEM, "shared": False}
        await tx.execute(
            insert(tables.pool),
            [{"id": p, "name": p, **place, **of_pools} for p in map(pool_of, HOSTS)],
        )
        links = [{"host": h, "pool": pool_of(h), "error": None, "accepted": True} for h in HOSTS]
        await tx.execute(insert(tables.host_pool), links)
        values = {
            "owner": "u", "account": "a", "name": "ubuntu", "display_text": "",
            "url": "https://o/x", "iso": False, "format": "QCOW2", "hypervisor": "KVM",
            "public": False, "featured": False, "created": 0.0,
            "validators": dumps({"size": 1, "etag": '"v1"'}),
        }  # fmt: skip
        await tx.execute(insert(tables.template), [{"id": t, **values} for t in TEMPLATES])
        offers = [{"template": t, "zone": "z", "created": 0.0} for t in TEMPLATES]
        await tx.execute(insert(tables.template_zone), offers)

    await opened.write(make)
    yield opened
    await opened.close()


def manager(ledger: Any) -> ApiContext:
    """A manager of *ledger*, to which all hosts are connected."""
    made = compose(
        ledger=ledger,
        authority=None,  # type: ignore[arg-type]
        settings=Settings(),
        vault=Vault(bytes(32)),
        clock=SystemClock(),
        delivery=Connections(),
        notices=Notices(),
        name="m",
    )
    for host in HOSTS:
        pools = frozenset([pool_of(host)])
        made.fleet.join(
            ConnectedHost(
                id=host, zone="z", name=host, kinds=frozenset(["download"]), pools=pools, most=99
            )
        )
    return made


async def submit(ledger: Ledger, template: str = TEMPLATES[0]) -> list[str]:
    """One download of *template* for each host's pool, over all origins, as one API job."""

    async def work(tx: Any) -> list[str]:
        found = await copies.wanted(tx, template, [pool_of(h) for h in HOSTS], now=1.0, iso=False)
        new = []
        for number, host in enumerate(HOSTS):
            pool, origin = pool_of(host), ORIGINS[number % len(ORIGINS)]
            transfer = m.Transfer(sources=(f"{origin}/x",))
            args = m.DownloadArgs(
                template=template, pool=pool, volume=found[pool].volume, transfer=transfer
            )
            single = jobs.single_download(copies.key_of(found[pool]))
            new.append(
                NewJob(
                    kind=m.Kind.DOWNLOAD,
                    zone="z",
                    template=template,
                    pool=pool,
                    volume=args.volume,
                    lane=origin,
                    origins=(origin,),
                    single=single,
                    args=args,
                )
            )
        ids = await jobs.submit(tx, new, now=1.0)
        await records.add_api_job(tx, owner="u", command="c", now=1.0, parts=ids)
        return ids

    return await ledger.write(work)


async def running(ledger: Ledger) -> dict[str, Row[Any]]:
    """Host → its download, granted."""
    await submit(ledger)
    while await manager(ledger).dispatcher.round():
        pass
    found = {row.host: row for row in await rows(ledger, tables.job)}
    assert sorted(found) == HOSTS
    return found


async def rows(ledger: Ledger, table: Any) -> list[Row[Any]]:
    """Everything in a table."""
    async with ledger.read() as tx:
        return list(await tx.execute(select(table)))


async def active(ledger: Ledger) -> dict[str, int]:
    """How many jobs hold each slot that is held at all."""
    return {row.key: row.active for row in await rows(ledger, tables.slot) if row.active}


def done(row: Row[Any], *, fence: int | None = None, etag: str = "") -> m.JobResult:
    """The download of the job *row* succeeded."""
    seen = m.Validators(size=1, etag=etag or '"v1"')
    outcome = m.DownloadDone(install_path=row.volume, virtual_size=7, validators=seen)
    return m.JobResult(job=row.id, fence=fence or row.fence, kind=m.Kind.DOWNLOAD, done=outcome)


async def test_each_result_counts_for_its_own_job_host_and_fence(ledger: Ledger) -> None:
    """The good, the failed, the stale, the foreign and the repeated, in one transaction."""
    held = await running(ledger)
    counted = Counted(ledger)
    ended = manager(counted).dispatcher.ended
    failure = m.Failure(code=21, message="another digest")
    failed = m.JobResult(
        job=held["h2"].id, fence=held["h2"].fence, kind=m.Kind.DOWNLOAD, failure=failure
    )
    answers = await asyncio.gather(
        ended("h0", done(held["h0"])),
        ended("h1", done(held["h1"], fence=held["h1"].fence - 1)),
        ended("h2", failed),
        ended("h4", done(held["h3"])),
        ended("h0", done(held["h0"])),
        ended("h5", done(held["h5"])),
    )
    assert list(answers) == [True, False, True, False, False, True]
    assert counted.asked == counted.run == 1
    states = {row.host: row.state for row in await rows(ledger, tables.job)}
    assert states == {
        "h0": "DONE", "h1": "GRANTED", "h2": "FAILED", "h3": "GRANTED", "h4": "GRANTED",
        "h5": "DONE",
    }  # fmt: skip
    left = Counter(origin for row in held.values() for origin in [row.lane])
    left -= Counter(held[h].lane for h in ("h0", "h2", "h5"))
    busy = [name for h in ("h1", "h3", "h4") for name in (h, pool_of(h))]
    assert await active(ledger) == {**left, **dict.fromkeys(busy, 1)}
    over = {row.host for row in await rows(ledger, tables.attempt) if row.ended}
    assert over == {"h0", "h2", "h5"}
    ready = {row.pool for row in await rows(ledger, tables.copy) if row.state == copies.READY}
    assert ready == {"p0", "p5"}
    told = Counter(row.type for row in await rows(ledger, tables.event))
    assert told == {"TEMPLATE.DIRECT.DOWNLOAD.SUCCESS": 2, "TEMPLATE.DIRECT.DOWNLOAD.FAILURE": 1}


async def test_a_result_that_cannot_be_stored_fails_alone(ledger: Ledger) -> None:
    """Whoever comes with it is not told to try again for ever."""
    held = await running(ledger)
    broken = update(tables.slot).where(tables.slot.c.key == "h1").values(active=0)
    await ledger.write(lambda tx: tx.execute(broken))
    ended = manager(ledger).dispatcher.ended
    answers = await asyncio.gather(
        *(ended(host, done(held[host])) for host in HOSTS), return_exceptions=True
    )
    assert isinstance(answers.pop(1), IntegrityError)
    assert answers == [True] * 5
    states = Counter(row.state for row in await rows(ledger, tables.job))
    assert states == {State.DONE: 5, State.GRANTED: 1}
    assert len(await rows(ledger, tables.event)) == 5


async def test_what_all_wait_for_happens_once(ledger: Ledger) -> None:
    """The API job ends with its last part, a change at the origin is told once, and an origin's
    cap rises with every success."""
    held = await running(ledger)
    at = tables.slot.c.key == held["h0"].lane
    await ledger.write(lambda tx: tx.execute(update(tables.slot).where(at).values(cap=1)))
    ended = manager(ledger).dispatcher.ended
    assert all(await asyncio.gather(*(ended(h, done(held[h], etag='"v2"')) for h in HOSTS)))
    assert [row.status for row in await rows(ledger, tables.api_job)] == [records.SUCCEEDED]
    told = Counter(row.type for row in await rows(ledger, tables.event))
    assert told == {"TEMPLATE.DIRECT.DOWNLOAD.SUCCESS": 6, "TEMPLATE.DIRECT.DOWNLOAD.DRIFT": 1}
    caps = {row.key: row.cap for row in await rows(ledger, tables.slot) if row.cap is not None}
    assert caps == {held["h0"].lane: 1 + sum(r.lane == held["h0"].lane for r in held.values())}
    assert await active(ledger) == {}


async def test_copies_that_nobody_wants_any_more_are_removed(ledger: Ledger) -> None:
    """The template was deleted while hosts fetched it."""
    held = await running(ledger)
    gone = update(tables.template_zone).values(removed=2.0)
    await ledger.write(lambda tx: tx.execute(gone))
    ended = manager(ledger).dispatcher.ended
    assert all(await asyncio.gather(*(ended(h, done(held[h])) for h in HOSTS)))
    assert {row.state for row in await rows(ledger, tables.copy)} == {copies.REMOVING}
    removals = [row.pool for row in await rows(ledger, tables.job) if row.kind == m.Kind.REMOVE]
    assert sorted(removals) == [pool_of(h) for h in HOSTS]


async def test_managers_wait_for_each_other_and_never_in_a_circle(ledger: Ledger, url: str) -> None:
    """Results at two managers, for the same origins, while one of them grants: no transaction is
    the victim of a deadlock and has to be run again."""
    other = ledger if ledger.sqlite else await asyncio.to_thread(open_ledger, url)
    seats = [Counted(ledger), Counted(other)]
    a, b = (manager(seat).dispatcher for seat in seats)
    try:
        for template in TEMPLATES:
            await submit(ledger, template)
        left = len(TEMPLATES) * len(HOSTS)
        while left:
            await a.round()
            held = [row for row in await rows(ledger, tables.job) if row.state == State.GRANTED]
            assert held
            turns = [
                (a if number % 2 else b).ended(row.host, done(row))
                for number, row in enumerate(held)
            ]
            answers = await asyncio.gather(b.round(), *reversed(turns), a.round())
            assert all(answers[1:-1])
            left -= len(held)
        assert {row.state for row in await rows(ledger, tables.job)} == {State.DONE}
        assert await active(ledger) == {}
        assert [seat.run for seat in seats] == [seat.asked for seat in seats]
    finally:
        if other is not ledger:
            await other.close()


async def waiting(ledger: Ledger, count: int) -> None:
    """Returns when so many transactions wait for a lock."""
    query = text("SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted")

    async def wait() -> bool:
        async with ledger.read() as tx:
            return int(await tx.scalar(query) or 0) >= count

    await eventually(wait, within=20)


@pytest.mark.parametrize("order", ["kept", "reversed"])
async def test_two_managers_take_the_same_results_one_after_the_other(
    ledger: Ledger, url: str, order: str
) -> None:
    """Each counts once. With a row in the middle locked by a third, both are on their way at the
    same time; one that took hosts in the reverse order would meet the other."""
    held = await running(ledger)
    async with rivals(ledger, url) as (a, b):

        async def work(tx: Any) -> Sequence[Awaitable[Any]]:
            await hosts.taking(tx, ["h2"])
            first = together(a, held, HOSTS)
            await waiting(ledger, 1)
            if order == "kept":
                second = together(b, held, HOSTS[::-1])
            else:
                second = asyncio.ensure_future(b.write(lambda tx: taken(tx, HOSTS[::-1])))
            await waiting(ledger, 2)
            return first, second

        first, second = await asyncio.gather(*await ledger.write(work))
        if order == "kept":
            assert sorted(zip(first, second[::-1], strict=True)) == [(True, False)] * len(HOSTS)
        assert {row.state for row in await rows(ledger, tables.job)} == {State.DONE}
        assert await active(ledger) == {}
        assert (a.run + b.run > a.asked + b.asked) == (order == "reversed")


async def test_who_cancels_many_takes_their_hosts_as_results_do(ledger: Ledger, url: str) -> None:
    """A template is deleted while its downloads end: each of them ends in one way."""
    held = await running(ledger)
    async with rivals(ledger, url) as (a, b):

        async def work(tx: Any) -> Sequence[Awaitable[Any]]:
            await hosts.taking(tx, ["h2"])
            first = together(a, held, HOSTS[:4])
            await waiting(ledger, 1)
            live = [held[host] for host in HOSTS[::-1]]
            second = asyncio.ensure_future(b.write(lambda tx: results.cancel(tx, live, now=2.0)))
            await waiting(ledger, 2)
            return first, second

        _, cancelled = await asyncio.gather(*await ledger.write(work))
        assert sorted(row.host for row in cancelled) == HOSTS[4:]
        states = {row.host: row.state for row in await rows(ledger, tables.job)}
        assert states == {
            **dict.fromkeys(HOSTS[:4], State.DONE), **dict.fromkeys(HOSTS[4:], State.CANCELLING)
        }  # fmt: skip
        assert (a.run, b.run) == (a.asked, b.asked)


async def taken(tx: Any, ids: Sequence[str]) -> None:
    """Lock hosts in this order."""
    for one in ids:
        await hosts.taking(tx, [one])


@pytest.mark.parametrize("order", ["kept", "reversed"])
async def test_two_managers_free_the_slots_of_the_same_origins(
    ledger: Ledger, url: str, order: str
) -> None:
    """As above, for results of different hosts that used the same origins."""
    held = await running(ledger)
    async with rivals(ledger, url) as (a, b):

        async def work(tx: Any) -> Sequence[Awaitable[Any]]:
            await slots.lock(tx, [("origin", ORIGINS[1])])
            first = together(a, held, HOSTS[:3])
            await waiting(ledger, 1)
            if order == "kept":
                second = together(b, held, HOSTS[:2:-1])
            else:
                second = asyncio.ensure_future(b.write(lambda tx: freed(tx, ORIGINS[::-1])))
            await waiting(ledger, 2)
            return first, second

        await asyncio.gather(*await ledger.write(work))
        assert (a.run + b.run > a.asked + b.asked) == (order == "reversed")


async def freed(tx: Any, origins: Sequence[str]) -> None:
    """Lock origins' slots in this order."""
    for one in origins:
        await slots.lock(tx, [("origin", one)])


@pytest.mark.parametrize("what", ["record", "note_drift"])
async def test_two_managers_come_to_the_same_templates_from_both_ends(
    ledger: Ledger, url: str, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Downloads of two templates fail (which ends parts of requests), or their origins have
    changed, and one manager hears of the one first, the other of the other. Each has done what its
    first result asks for when both go on, or one waits for the other."""
    await submit(ledger, TEMPLATES[0])
    await submit(ledger, TEMPLATES[1])
    while await manager(ledger).dispatcher.round():
        pass
    held = {(row.host, row.template): row for row in await rows(ledger, tables.job)}
    result = failed
    if what == "note_drift":
        result = functools.partial(done, etag='"v2"')
        # Nobody asked for these: requests would be locked before.
        await ledger.write(lambda tx: tx.execute(delete(tables.api_job_part)))
    began, go_on, real = list[int](), asyncio.Event(), getattr(results, what)

    async def slowly(*args: Any, **options: Any) -> Any:
        answer = await real(*args, **options)
        began.append(1)
        if len(began) < 2:
            await go_on.wait()
        else:
            go_on.set()
        return answer

    monkeypatch.setattr(results, what, slowly)
    async with rivals(ledger, url) as (a, b):
        batches = [
            asyncio.gather(
                *(
                    manager_.ended(host, result(held[host, TEMPLATES[number]]))
                    for host, number in ends
                )
            )
            for manager_, ends in (
                (manager(a).dispatcher, (("h0", 0), ("h1", 1))),
                (manager(b).dispatcher, (("h2", 1), ("h5", 0))),
            )
        ]
        await waiting(ledger, 1)
        go_on.set()
        assert await asyncio.gather(*batches) == [[True, True]] * 2
        assert (a.run, b.run) == (a.asked, b.asked) == (1, 1)


def failed(row: Row[Any]) -> m.JobResult:
    """The download of the job *row* failed for good."""
    failure = m.Failure(code=21, message="another digest")
    return m.JobResult(job=row.id, fence=row.fence, kind=m.Kind.DOWNLOAD, failure=failure)


@contextlib.asynccontextmanager
async def rivals(ledger: Ledger, url: str) -> AsyncIterator[tuple[Counted, Counted]]:
    """Two managers' ledgers, with connections of their own."""
    several(ledger)
    other = await asyncio.to_thread(open_ledger, url)
    try:
        yield Counted(ledger), Counted(other)
    finally:
        await other.close()


def several(ledger: Ledger) -> None:
    """Skips where transactions do not wait for each other."""
    if ledger.sqlite:
        pytest.skip("SQLite has one writer: nothing waits in a transaction")


def together(
    seat: Counted, held: dict[str, Row[Any]], of: Sequence[str]
) -> asyncio.Future[list[bool]]:
    """The results of these hosts, at one manager, in this order and one transaction."""
    ended = manager(seat).dispatcher.ended
    return asyncio.gather(*(ended(host, done(held[host])) for host in of))


async def test_results_hold_no_slot_while_they_wait_for_a_host(ledger: Ledger) -> None:
    """A grant locks hosts before slots: results in the other order would end in a deadlock."""
    several(ledger)
    held = await running(ledger)
    seat = Counted(ledger)

    async def grant(tx: Any) -> asyncio.Future[list[bool]]:
        await hosts.taking(tx, ["h5"])
        ends = together(seat, held, HOSTS)
        await waiting(ledger, 1)
        await slots.lock(tx, [("origin", origin) for origin in ORIGINS])
        return ends

    assert all(await (await ledger.write(grant)))
    assert seat.run == seat.asked == 1
