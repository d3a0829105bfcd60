# SPDX-License-Identifier: Apache-2.0
"""What does the ledger keep, and read, of certificates, on each of its engines?"""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.manager.certificates.plan import plan
from fastdl.manager.certificates.sync import desired_of
from fastdl.manager.ledger import certs, hosts, pruning, slots, tables
from fastdl.manager.ledger.certs import FAILED, REVOKED, UPLOADED, HostWant
from fastdl.manager.ledger.engine import Ledger, default_url, open_ledger
from fastdl.manager.ledger.text import new_id

HOSTS = ("h1", "h2")
NOW = 1e6


@pytest.fixture
async def ledger(database: str | None, tmp_path: Path) -> AsyncIterator[Ledger]:
    """A ledger with a zone and two hosts."""
    opened = await asyncio.to_thread(open_ledger, database or default_url(tmp_path))

    async def make(tx: Any) -> None:
        await tx.execute(insert(tables.zone).values(id="z", name="z", enabled=True, created=0.0))
        for id_ in HOSTS:
            host = {"name": id_, "state": "Up", "key_hash": "k", "changed": 0.0, "created": 0.0}
            await tx.execute(insert(tables.host).values(id=id_, zone="z", cluster="c", **host))

    await opened.write(make)
    yield opened
    await opened.close()


async def upload(tx: AsyncConnection, alias: str = "a") -> str:
    """A certificate that every host has."""
    id_ = await certs.create(
        tx, zone="z", alias=alias, pem="x" * 2000, sha256="s", not_after=NOW * 2, now=NOW
    )
    await certs.want(tx, id_, HOSTS, present=True)
    await settle(tx, id_, (1, UPLOADED, ""), *HOSTS)
    return id_


async def settle(tx: AsyncConnection, id_: str, outcome: tuple[int, str, str], *of: str) -> None:
    """What hosts say."""
    outcomes = {host: {id_: outcome} for host in of}
    await certs.settle(tx, outcomes, now=NOW, retry_delay=lambda _: 5.0)


async def wanted(ledger: Ledger) -> dict[str, dict[str, HostWant]]:
    """Host → certificate → what is wanted."""

    async def work(tx: AsyncConnection) -> dict[str, dict[str, HostWant]]:
        return await certs.desired(tx, await hosts.of_zone(tx, "z"))

    return await ledger.write(work)


async def left(ledger: Ledger) -> tuple[int, int]:
    """How many rows there are: of certificates, and of hosts that had them."""
    async with ledger.read() as tx:
        counts = [
            await tx.scalar(select(func.count()).select_from(table))
            for table in (tables.cert, tables.cert_host)
        ]
    return counts[0] or 0, counts[1] or 0


async def peak(ledger: Ledger) -> int:
    """The most bytes that Python holds while it reads what two hosts should have."""
    await wanted(ledger)  # the statements are compiled
    tracemalloc.start()
    try:
        await wanted(ledger)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


async def test_certificates_of_the_past_are_not_read(ledger: Ledger) -> None:
    """However many a zone has had: a plan costs what its certificates of today cost."""
    live = await ledger.write(upload)
    before = await peak(ledger)

    async def history(tx: AsyncConnection) -> None:
        row = (await tx.execute(select(tables.cert))).one()
        past = {**row._mapping, "live_alias": None, "removed": NOW}
        ids = [new_id() for _ in range(300)]
        await tx.execute(insert(tables.cert), [{**past, "id": id_} for id_ in ids])
        done = {"want": "absent", "want_rev": 2, "done_rev": 2, "status": REVOKED, "detail": ""}
        pairs = [{"cert": id_, "host": host, **done} for id_ in ids for host in HOSTS]
        await tx.execute(insert(tables.cert_host), pairs)

    await ledger.write(history)
    assert {host: set(found) for host, found in (await wanted(ledger)).items()} == {
        host: {live} for host in HOSTS
    }
    assert await peak(ledger) < before + (100 << 10)


async def test_a_failed_removal_is_tried_again(ledger: Ledger) -> None:
    """A host that could not remove a deleted certificate still has to."""
    id_ = await ledger.write(upload)

    async def work(tx: AsyncConnection) -> None:
        await certs.remove(tx, id_, now=NOW)
        await settle(tx, id_, (2, REVOKED, ""), "h1")
        await settle(tx, id_, (2, FAILED, "the keystore is damaged"), "h2")

    await ledger.write(work)
    async with ledger.read() as tx:
        assert await certs.due_hosts(tx, now=NOW + 6, farthest=600) == ["h2"]
    wants = await wanted(ledger)
    assert wants["h1"] == {}
    found = plan([desired_of(want) for want in wants["h2"].values()], {"a": "s"}, now=NOW + 6)
    assert found.remove == (id_,)


async def test_a_deleted_certificate_is_kept_while_a_host_has_it(ledger: Ledger) -> None:
    """When the last one has removed it nothing is left, after the time for who waits for that."""
    kept, id_ = await ledger.write(upload), await ledger.write(lambda tx: upload(tx, "b"))

    async def prune(now: float) -> None:
        await ledger.write(lambda tx: pruning.prune(tx, now=now, before=0.0))

    await ledger.write(lambda tx: certs.remove(tx, id_, now=NOW))
    await ledger.write(lambda tx: settle(tx, id_, (2, REVOKED, ""), "h1"))
    await prune(NOW + 60)
    assert await left(ledger) == (2, 4)
    await prune(NOW + 4000)
    assert await left(ledger) == (2, 3)
    assert set((await wanted(ledger))["h2"]) == {kept, id_}
    await ledger.write(lambda tx: settle(tx, id_, (2, FAILED, "damaged"), "h2"))
    await prune(NOW + 4000)
    assert await left(ledger) == (2, 3)
    await ledger.write(lambda tx: settle(tx, id_, (2, REVOKED, ""), "h2"))
    await prune(NOW + 4000)
    assert await left(ledger) == (1, 2)
    async with ledger.read() as tx:
        assert await certs.get(tx, kept) is not None


async def test_a_certificate_that_no_host_had_goes_too(ledger: Ledger) -> None:
    """Nobody has to report anything: the zone was empty, or its hosts were deleted."""
    id_ = await ledger.write(upload)
    await ledger.write(lambda tx: certs.remove(tx, id_, now=NOW))

    async def delete(tx: AsyncConnection) -> None:
        for host in HOSTS:
            await hosts.remove(tx, host)

    await ledger.write(delete)
    await ledger.write(lambda tx: pruning.prune(tx, now=NOW + 4000, before=0.0))
    assert await left(ledger) == (0, 0)


async def test_slots_that_nobody_holds_are_forgotten(ledger: Ledger) -> None:
    """Origins are what users make up; those in use, and their caps, stay."""
    held, free = ("origin", "https://a:443"), ("origin", "https://b:443")

    async def work(tx: AsyncConnection) -> None:
        assert await slots.acquire(tx, {held: (1, 4), free: (0, 4)})
        await slots.set_cap(tx, held, 2)
        await slots.set_cap(tx, free, 2)

    await ledger.write(work)
    await ledger.write(lambda tx: pruning.prune(tx, now=NOW, before=0.0))
    async with ledger.read() as tx:
        assert await tx.scalar(select(func.count()).select_from(tables.slot)) == 1
        assert await slots.usage(tx) == ({held: 1}, {held: 2})
    await ledger.write(lambda tx: slots.release(tx, [held]))
    await ledger.write(lambda tx: slots.acquire(tx, dict.fromkeys((held, free), (0, 4))))
