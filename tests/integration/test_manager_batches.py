# SPDX-License-Identifier: Apache-2.0
"""Do many hosts at once get what each would have got alone? On both databases."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select

from fastdl.lab.certs import self_signed
from fastdl.manager.certificates.plan import retry_delay
from fastdl.manager.hosts.ca import Peer
from fastdl.manager.ledger import certs, hosts, jobs, pools, tables
from fastdl.manager.ledger.certs import FAILED, UPLOADED
from fastdl.manager.ledger.engine import Ledger, default_url, open_ledger
from fastdl.manager.ledger.hosts import Arrival, Departure
from fastdl.manager.ledger.jobs import End, NewJob, State
from fastdl.wire import messages as m
from fastdl.wire.version import CURRENT, OLDEST
from tests.env.fake_agent import local_pool, shared_pool
from tests.env.manager import zone as running_zone


@pytest.fixture
async def ledger(database: str | None, tmp_path: Path) -> AsyncIterator[Ledger]:
    """A ledger with two zones and four hosts, none of them Up."""
    opened = await asyncio.to_thread(open_ledger, database or default_url(tmp_path))

    async def fill(tx: Any) -> None:
        for zone in ("z1", "z2"):
            values = {"id": zone, "name": zone, "enabled": True, "created": 0.0}
            await tx.execute(insert(tables.zone).values(values))
        for name, zone in (("h1", "z1"), ("h2", "z1"), ("h3", "z1"), ("far", "z2")):
            await tx.execute(
                insert(tables.host).values(
                    id=name,
                    zone=zone,
                    cluster="c",
                    name=name,
                    state="Connecting",
                    key_hash=f"key-{name}",
                    changed=0.0,
                    created=0.0,
                )
            )

    await opened.write(fill)
    yield opened
    await opened.close()


def arrival(host: str, *pools: m.PoolInfo, **inventory: Any) -> Arrival:
    """*host* says hello with its own key."""
    hello = m.Hello(
        host_id=host,
        name=host,
        wire_oldest=OLDEST,
        wire_newest=CURRENT,
        version="1",
        kinds=("download",),
        inventory=m.Inventory(pools=pools, **inventory),
        max_downloads=4,
    )
    return Arrival(host=host, key_hash=f"key-{host}", hello=hello, skew=0.0)


async def arrive(
    ledger: Ledger, *arrivals: Arrival, now: float = 5.0
) -> list[hosts.Admitted | None]:
    """Admit them together."""
    return await ledger.write(lambda tx: hosts.arrive(tx, arrivals, gateway="g", now=now))


async def row(ledger: Ledger, host: str) -> Any:
    """The host's row."""
    async with ledger.read() as tx:
        return await hosts.get(tx, host)


async def test_of_many_arrivals_only_the_unknown_are_refused(ledger: Ledger) -> None:
    """A host that is not enrolled, or comes with another's key, keeps nobody else out."""
    stranger = dataclasses.replace(arrival("h2"), key_hash="key-h1")
    found = await arrive(ledger, arrival("h1"), arrival("nobody"), stranger, arrival("far"))
    assert [bool(admitted) for admitted in found] == [True, False, False, True]
    assert found[0] is not None
    assert (found[0].row.id, found[0].row.zone_name) == ("h1", "z1")
    states = [(await row(ledger, host)).state for host in ("h1", "h2", "h3", "far")]
    assert states == ["Up", "Connecting", "Connecting", "Up"]


async def test_a_host_that_comes_twice_in_a_round_is_as_it_said_last(ledger: Ledger) -> None:
    """Two connections of one host within a moment: both were proved, the later one counts."""
    found = await arrive(ledger, arrival("h1", local_pool("a")), arrival("h1", local_pool("b")))
    assert [admitted.pools.usable for admitted in found if admitted] == [frozenset({"b-id"})] * 2
    async with ledger.read() as tx:
        assert await pools.usable(tx, "h1") == {"b-id"}


async def test_pools_are_claimed_within_a_round_as_one_after_the_other(ledger: Ledger) -> None:
    """A local pool belongs to the host that named it first, a shared one to its zone."""
    shared, local = shared_pool("s"), local_pool("l")
    broken = dataclasses.replace(local_pool("b"), error="no room")
    found = await arrive(
        ledger,
        arrival("h1", shared, local, broken),
        arrival("h2", shared, local),
        arrival("far", shared),
    )
    assert [admitted.pools.usable for admitted in found if admitted] == [
        {"s-id", "l-id"},
        {"s-id"},
        frozenset(),
    ]
    # The same again changes nothing, in another order either.
    found = await arrive(
        ledger, arrival("far", shared), arrival("h2", shared, local), arrival("h1", shared, local)
    )
    assert [admitted.pools.usable for admitted in found if admitted] == [
        frozenset(),
        {"s-id"},
        {"s-id", "l-id"},
    ]
    async with ledger.read() as tx:
        assert (await pools.usable(tx, "h1")) == {"s-id", "l-id"}
        assert sorted(await pools.hosts_of(tx, "s-id")) == ["h1", "h2"]
        assert await pools.hosts_of(tx, "b-id") == []


async def test_a_pool_that_changed_is_stored_as_it_is_now(ledger: Ledger) -> None:
    """Free room is what a placement decides by."""
    await arrive(ledger, arrival("h1", local_pool("a")), arrival("h2", local_pool("b")))
    fuller = dataclasses.replace(local_pool("a"), available=7)
    await arrive(ledger, arrival("h1", fuller), arrival("h2", local_pool("b")))
    async with ledger.read() as tx:
        room = {pool.id: pool.available for pool in await pools.of_zone(tx)}
    assert room == {"a-id": 7, "b-id": local_pool("b").available}


async def test_an_unreadable_keystore_keeps_what_was_known(ledger: Ledger) -> None:
    """An error is not an empty keystore, in a round of many neither."""
    held = (m.CertificateInfo(alias="M1", sha256="a" * 64),)
    await arrive(ledger, arrival("h1", certificates=held), arrival("h2", certificates=held))
    await arrive(ledger, arrival("h1", keystore_error="locked"), arrival("h2"))
    one, two = await row(ledger, "h1"), await row(ledger, "h2")
    assert hosts.keystore_of(one) is None
    assert "m1" in one.keystore
    assert hosts.keystore_of(two) == {}


async def test_coming_back_while_up_is_no_transition(ledger: Ledger) -> None:
    """``changed`` is since when the host has its state."""
    await arrive(ledger, arrival("h1"), now=5.0)
    await arrive(ledger, arrival("h1"), now=9.0)
    assert (await row(ledger, "h1")).changed == 5.0


async def test_departures_note_each_transition_once(ledger: Ledger) -> None:
    """A host that was so already is no news; one that was never there neither."""
    await arrive(ledger, arrival("h1"), arrival("h2"))
    gone = [Departure(host=h, state=hosts.DISCONNECTED) for h in ("h1", "h2", "nobody")]

    async def depart(gateway: str, now: float) -> list[bool]:
        return await ledger.write(lambda tx: hosts.depart(tx, gone, gateway=gateway, now=now))

    assert await depart("another", 6.0) == [False] * 3, "it is connected elsewhere"
    assert await depart("g", 7.0) == [True, True, False]
    assert await depart("g", 8.0) == [False] * 3
    assert (await row(ledger, "h1")).changed == 7.0
    assert (await row(ledger, "h3")).state == "Connecting"


async def test_the_later_of_coming_and_going_counts(tmp_path: Path, database: str | None) -> None:
    """A host that reconnects at once is Up, however its two connections' news share a round."""
    async with running_zone(tmp_path / "m", database=database) as zone:
        agent = await zone.agent("kvm1")
        link = zone.manager.handler
        here, away = agent.host_id, hosts.Departure(host=agent.host_id, state=hosts.DISCONNECTED)
        async with zone.manager.context.ledger.read() as tx:
            found = await hosts.get(tx, here)
        assert found is not None
        back = dataclasses.replace(arrival(here), key_hash=found.key_hash)

        async def state_after(*steps: Any) -> str:
            await link._store_transitions(list(steps))
            answer = await zone.api("listHosts", id=here)
            state: str = answer["host"][0]["state"]
            return state

        assert await state_after(away, back) == "Up"
        assert await state_after(back, away) == "Disconnected"
        assert await state_after(back, away, back) == "Up"


async def test_an_old_connections_end_is_no_news_while_the_next_is_let_in(
    tmp_path: Path, database: str | None
) -> None:
    """Whoever comes back before the loss was noticed must not be shown as Disconnected."""
    async with running_zone(tmp_path / "m", database=database) as zone:
        agent = await zone.agent("kvm1")
        link, here = zone.manager.handler, agent.host_id
        async with zone.manager.context.ledger.read() as tx:
            found = await hosts.get(tx, here)
        assert found is not None
        hello = dataclasses.replace(arrival(here).hello, host_id=here)
        coming = asyncio.create_task(link.admit(Peer(here, found.key_hash, ""), hello))
        await asyncio.sleep(0)
        await link.gone(here, reason="the old connection's end")
        await coming
        assert (await zone.api("listHosts", state="Up"))["count"] == 1
        assert here in zone.manager.context.fleet.hosts


def keystore_job(host: str) -> NewJob:
    """A push of one certificate."""
    wanted = m.WantedCertificate(alias="m1", sha256="a" * 64, pem="PEM")
    return NewJob(
        kind=m.Kind.CERTIFICATES,
        zone="z1",
        host=host,
        single=f"keystore:{host}",
        args=m.CertificatesArgs(install=(wanted,)),
        context={"cert": [1, "m1", "a" * 64]},
    )


async def test_one_hosts_result_never_settles_anothers(ledger: Ledger) -> None:
    """A result counts for its own job, host and fence, whatever else is in the round."""
    first, second, third = await ledger.write(
        lambda tx: jobs.submit(tx, [keystore_job(h) for h in ("h1", "h2", "h3")], now=1.0)
    )
    ends = [
        End(job=first, fence=1, host="h2"),  # h2 speaks of h1's job
        End(job=second, fence=2, host="h2"),  # a fence that was never given
        End(job=third, fence=1, host="h3", failure='{"code": 74}'),
        End(job="no-such-job", fence=1, host="h1"),
    ]
    answers = await ledger.write(lambda tx: jobs.finish_keystores(tx, ends, now=2.0))
    assert [answer.id if answer else None for answer in answers] == [None, None, third, None]
    async with ledger.read() as tx:
        states = [(await jobs.get(tx, job)).state for job in (first, second, third)]  # type: ignore[union-attr]
    assert states == [State.GRANTED, State.GRANTED, State.FAILED]
    again = [End(job=first, fence=1, host="h1"), End(job=first, fence=1, host="h1")]
    answers = await ledger.write(lambda tx: jobs.finish_keystores(tx, again, now=3.0))
    assert [answer is not None for answer in answers] == [True, False]
    answers = await ledger.write(lambda tx: jobs.finish_keystores(tx, again, now=4.0))
    assert answers == [None, None]


async def test_documents_of_many_hosts_hold_each_its_own(ledger: Ledger) -> None:
    """What one host is to do never stands in another's document."""
    ids = await ledger.write(
        lambda tx: jobs.submit(tx, [keystore_job(h) for h in ("h1", "h2")], now=1.0)
    )
    async with ledger.read() as tx:
        documents = await jobs.documents(tx, ["h2", "h3", "h1", "nobody"])
        alone = [await jobs.document(tx, host) for host in ("h2", "h3", "h1", "nobody")]
    assert documents == alone
    assert [[c.job for c in d.commands] for d in documents] == [[ids[1]], [], [ids[0]], []]
    assert [d.rev for d in documents] == [1, 0, 1, 0]


async def test_outcomes_settle_their_own_revision(ledger: Ledger) -> None:
    """An outcome of an older wish is not the newer one's, for each (certificate, host) alone."""

    async def make(tx: Any) -> str:
        cert = await certs.create(
            tx, zone="z1", alias="m1", pem="PEM", sha256="a" * 64, not_after=9e9, now=1.0
        )
        await certs.want(tx, cert, ["h1", "h2"], present=True)
        await certs.want(tx, cert, ["h2"], present=False)
        return cert

    cert = await ledger.write(make)
    outcomes = {
        "h1": {cert: (1, FAILED, "no")},
        "h2": {cert: (1, UPLOADED, "")},
        "h3": {cert: (1, UPLOADED, "")},  # nobody wanted it there
    }
    await ledger.write(lambda tx: certs.settle(tx, outcomes, now=3.0, retry_delay=retry_delay))
    async with ledger.read() as tx:
        found = {r.host: r for r in await tx.execute(select(tables.cert_host))}
    assert sorted(found) == ["h1", "h2"]
    assert (found["h1"].status, found["h1"].failures, found["h1"].done_rev) == (FAILED, 1, 1)
    assert found["h1"].retry_at > 3.0
    assert (found["h2"].done_rev, found["h2"].want_rev) == (1, 2)
    older = {"h1": {cert: (0, UPLOADED, "late")}}
    await ledger.write(lambda tx: certs.settle(tx, older, now=4.0, retry_delay=retry_delay))
    async with ledger.read() as tx:
        (kept,) = await tx.execute(select(tables.cert_host).where(tables.cert_host.c.host == "h1"))
    assert kept.status == FAILED


async def test_a_beat_writes_nothing(tmp_path: Path, database: str | None) -> None:
    """Three hundred beats a second must not be three hundred transactions."""
    async with running_zone(tmp_path / "m", database=database) as zone:
        agent = await zone.agent("kvm1")
        ledger, link = zone.manager.context.ledger, zone.manager.handler
        written = []

        async def write(work: Any) -> Any:
            written.append(work)
            return await Ledger.write(ledger, work)

        ledger.write = write  # type: ignore[method-assign]
        for number in range(50):
            assert await link.receive(agent.host_id, m.Beat(clock=1.0, active=number)) is None
        # The dispatcher's own lease may be renewed meanwhile; no beat adds to it.
        assert len(written) <= 2


async def test_a_crowd_of_hosts_converges_from_one_upload(
    tmp_path: Path, database: str | None
) -> None:
    """Arrivals, documents and outcomes by the batch: every host is Up and holds what it should,
    and the one that fails fails alone."""
    async with running_zone(tmp_path / "m", database=database) as zone:
        made = [await zone.agent(f"kvm{n}", connect=False) for n in range(20)]

        async def fails(*_: Any) -> m.Failure:
            return m.Failure(code=74, message="the keystore is locked")

        made[7].work = {"certificates": fails}
        await asyncio.gather(*(agent.connect() for agent in made))
        assert (await zone.api("listHosts", state="Up"))["count"] == 20
        answer = await zone.api(
            "uploadTemplateDirectDownloadCertificate",
            certificate=self_signed(),
            name="m1",
            hypervisor="KVM",
            zoneid=zone.id,
        )
        found = answer["uploadtemplatedirectdownloadcertificate"]["hostsmap"]
        states = {host["hostname"]: host["status"] for host in found}
        assert states.pop("kvm7") == "FAILED"
        assert set(states.values()) == {"UPLOADED"}
        assert [("m1" in agent.keystore) for agent in made].count(True) == 19
