# SPDX-License-Identifier: Apache-2.0
"""A manager that its ledger does not reach, while its hosts do: does it let them go in time?

The others give away the work of its hosts; only a host that has no sign of a manager stops.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.errors import FastdlError
from fastdl.manager import peers
from fastdl.manager.hosts import handler, waits
from fastdl.manager.ledger import engine, records
from tests.env import postgresql
from tests.env.fake_agent import FakeAgent
from tests.env.manager import Zone, zone
from tests.env.process import eventually
from tests.env.relay import Relay, relay

QUIET_S = 3.0


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A server for the tests here."""
    with postgresql.server() as url:
        yield url


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes a quarter of a minute takes three seconds."""
    monkeypatch.setattr(handler, "QUIET_S", QUIET_S)
    monkeypatch.setattr(peers, "ROUND_S", 0.3)


@pytest.fixture
async def wire(server: str) -> AsyncIterator[Relay]:
    """Between manager A and its database."""
    address = server.partition("@")[2].partition("/")[0]
    async with relay(address) as made:
        yield made


@contextlib.asynccontextmanager
async def apart(folder: Path, server: str, wire: Relay) -> AsyncIterator[Zone]:
    """Manager A, whose database is behind *wire*."""
    url = postgresql.fresh_database(server, "fastdl")
    address = url.partition("@")[2].partition("/")[0]
    async with zone(folder / "a", database=url.replace(address, wire.address)) as made:
        try:
            yield made
        finally:
            wire.mend()


@contextlib.asynccontextmanager
async def beside(folder: Path, server: str) -> AsyncIterator[Zone]:
    """Manager B."""
    (folder / "b").mkdir(mode=0o700)
    shutil.copy(folder / "a" / "secret.key", folder / "b")
    async with zone(folder / "b", database=server.rpartition("/")[0] + "/fastdl") as made:
        yield made


async def pinged(host: FakeAgent) -> None:
    """Ask for signs of life until the connection ends or this is cancelled."""
    while host.connected:
        assert host._socket is not None
        with contextlib.suppress(ConnectionError):
            await host._socket.ping()
        await asyncio.sleep(0.1)


@pytest.mark.parametrize("how", ["cut", "silence"])
async def test_it_lets_its_hosts_go(how: str, tmp_path: Path, server: str, wire: Relay) -> None:
    """Whether connections to the ledger break or nothing arrives: its hosts get no sign of life
    any more, and no new host gets in. Those of the other manager stay; all is well afterwards."""
    async with apart(tmp_path, server, wire) as a, beside(tmp_path, server) as b:
        await peers_of(a).round()  # it knows of the other now
        mine, other = await a.agent("kvm1"), await b.agent("kvm2")
        async with asyncio.TaskGroup() as group:
            staying = group.create_task(pinged(other))
            leaving = group.create_task(pinged(mine))
            getattr(wire, how)()
            await asyncio.wait_for(leaving, 10 * QUIET_S)
            again = mine.copied()
            a.agents.append(again)
            await again.connect()
            assert not again.connected
            assert not again.refusals
            assert other.connected
            moved = mine.copied(address=b.manager.server.address)
            b.agents.append(moved)
            await moved.connect()
            assert moved.connected
            wire.mend()
            await eventually(lambda: returned(a), within=15)
            staying.cancel()


async def has_document(host: FakeAgent) -> bool:
    """Whether nothing is due to the host any more."""
    return bool(host.documents)


async def returned(zone: Zone) -> bool:
    """Whether hosts can rely on that manager."""
    return zone.manager.handler.counts


def peers_of(zone: Zone) -> peers.Peers:
    """The manager among those of its ledger."""
    receive = zone.manager._fabric.receive  # type: ignore[union-attr]
    found: peers.Peers = receive.__self__  # type: ignore[attr-defined]
    return found


async def test_the_only_manager_keeps_its_hosts(tmp_path: Path, server: str, wire: Relay) -> None:
    """There is nobody who could give their work away. One that comes is told to try again, not
    that it is refused: it would wait for a minute."""
    async with apart(tmp_path, server, wire) as a:
        host = await a.agent("kvm1")
        asking = asyncio.create_task(pinged(host))
        await eventually(lambda: has_document(host))
        wire.cut()
        await asyncio.sleep(1.5 * QUIET_S)
        assert host.connected
        assert not asking.done()
        again = host.copied()
        a.agents.append(again)
        await again.connect()
        assert not again.refusals
        assert not again.connected
        asking.cancel()


async def test_a_transaction_that_is_cut_off_keeps_nobody_waiting(
    tmp_path: Path, server: str, wire: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that a manager had locked when its connection fell silent are free again soon."""
    monkeypatch.setitem(engine._SESSION, "idle_in_transaction_session_timeout", "3000")
    async with apart(tmp_path, server, wire) as a, beside(tmp_path, server) as b:
        locked, over = asyncio.Event(), asyncio.Event()

        async def stuck(tx: AsyncConnection) -> None:
            await records.take_lease(tx, "x", "a", now=1.0, ttl=1.0)
            wire.silence()
            locked.set()
            await over.wait()

        async def work(tx: AsyncConnection) -> int | None:
            return await records.take_lease(tx, "x", "b", now=9.0, ttl=1.0)

        waiting = asyncio.create_task(a.manager.context.ledger.write(stuck))
        await asyncio.wait_for(locked.wait(), 5)
        assert await asyncio.wait_for(b.manager.context.ledger.write(work), 30)
        wire.mend()
        over.set()
        (ended,) = await asyncio.gather(waiting, return_exceptions=True)
        assert isinstance(ended, FastdlError)


def test_nothing_is_given_away_before_a_host_has_stopped() -> None:
    """A manager that the others take for dead gave its last sign of life ``QUIET_S`` later."""
    stopped = waits.QUIET_S + waits.LEASE_S
    assert stopped < waits.ORPHANED_S
    assert stopped < waits.CANCEL_S
    assert waits.LEASE_S < waits.SILENT_S
