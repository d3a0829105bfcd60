# SPDX-License-Identifier: Apache-2.0
"""Who may offer which pool, and for how long does it count?"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fastdl.errors import ApiConflictError
from fastdl.manager.clock import Clock
from fastdl.manager.downloads.unreachable import Unreached
from fastdl.manager.hosts import handler
from fastdl.manager.ledger.pools import OWNED_MAX
from fastdl.wire import messages as m
from tests.env.fake_agent import FakeAgent, local_pool, shared_pool
from tests.env.host_views import (
    counted,
    downloads,
    events_of,
    given,
    held_back,
    pools,
    prepared,
    reported,
    state_is,
)
from tests.env.manager import Zone
from tests.env.manager import zone as running_zone
from tests.env.process import eventually


@pytest.fixture
async def zone(tmp_path: Path, database: str | None) -> AsyncIterator[Zone]:
    """A manager with one zone, on each database."""
    async with running_zone(tmp_path / "manager", database=database) as made:
        yield made


async def test_a_job_ends_with_the_pool_that_it_waits_for(zone: Zone) -> None:
    """Nobody waits for ever for storage that is gone."""
    _, slow = held_back()
    gone = await zone.agent("kvm1", pools=(local_pool("p1"),), work={"download": slow})
    answer = await prepared(zone, "u24")
    await eventually(lambda: given(gone, 1))
    with pytest.raises(ApiConflictError, match="reports it"):
        await zone.api("deleteStoragePool", id="p1-id", forced="true")
    await zone.api("deleteHost", id=gone.host_id, forced="true")
    await zone.api("deleteStoragePool", id="p1-id")
    state = await zone.api.job(answer)
    assert (state["jobstatus"], state["jobresult"]["errortext"]) == (
        2,
        "the storage pool was deleted",
    )


async def test_a_pool_with_copies_is_forgotten_only_by_force(zone: Zone) -> None:
    """What is known of copies is not lost by a slip."""
    agent = await zone.agent("kvm1", pools=(local_pool("p1"),))
    assert (await zone.api.job(await prepared(zone, "u24")))["jobstatus"] == 1
    await zone.api("deleteHost", id=agent.host_id, forced="true")
    with pytest.raises(ApiConflictError, match="1 copies of templates are known there"):
        await zone.api("deleteStoragePool", id="p1-id")
    await zone.api("deleteStoragePool", id="p1-id", forced="true")
    assert await pools(zone) == {}


async def test_jobs_on_a_pool_that_nobody_reaches_end_after_the_setting(zone: Zone) -> None:
    """With the reason, and not one second earlier."""
    _, slow = held_back()
    agent = await zone.agent("kvm1", pools=(local_pool("p1"),), work={"download": slow})
    answer = await prepared(zone, "u24")
    await eventually(lambda: given(agent, 1))
    context = zone.manager.context
    await agent.close()
    await eventually(lambda: state_is(zone, agent, "Disconnected"))
    await context.dispatcher.host_lost(agent.host_id)
    clock = Ahead(context.clock)
    unreached = Unreached(
        context.dispatcher,
        ledger=context.ledger,
        clock=clock,
        settings=context.settings,
        events=context.events,
    )
    assert await unreached.round() == 0
    clock.seconds = 86_399
    assert await unreached.round() == 0
    clock.seconds = 86_401
    assert await unreached.round() == 1
    state = await zone.api.job(answer)
    assert state["jobresult"]["errortext"] == (
        "nobody reached the storage pool for 86400 s: host kvm1 is Down"
    )
    assert await events_of(zone, "TEMPLATE.DIRECT.DOWNLOAD.FAILURE")


class Ahead:
    """A clock as it will be in *seconds*; the time of day stays."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.seconds = 0.0

    def time(self) -> float:
        return self._clock.time()

    def steady(self) -> float:
        return self._clock.steady() + self.seconds

    async def sleep(self, seconds: float) -> None:
        await self._clock.sleep(seconds)


def claim(pool: m.PoolInfo, **changes: Any) -> m.PoolInfo:
    """*pool* as somebody else reports it."""
    return dataclasses.replace(pool, **changes)


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        (local_pool("p"), local_pool("p")),
        (local_pool("p"), claim(local_pool("p"), shared=True)),
        (shared_pool("p"), claim(shared_pool("p"), shared=False)),
        (shared_pool("p", proof="a" * 64), shared_pool("p")),
        (shared_pool("p", proof="a" * 64), shared_pool("p", proof="b" * 64)),
    ],
    ids=["local", "called-shared", "unshared", "unproven", "wrong-proof"],
)
async def test_a_host_cannot_take_a_pool_by_naming_it(
    zone: Zone, mine: m.PoolInfo, theirs: m.PoolInfo
) -> None:
    """It gets no downloads (and no tenant's headers), and changes nothing that is known of it."""
    owner = await zone.agent("kvm1", pools=(mine,))
    before = (await pools(zone))["p-id"]
    named = claim(theirs, name="mine now", path="/evil")
    evil = await zone.agent("kvm2", pools=(claim(named, error="not mounted yet"),))
    await reported(evil)
    assert not await events_of(zone, "HOST.POOL.REFUSED")
    evil.pools = (named,)
    for _ in range(2):
        await reported(evil)
    assert (await pools(zone))["p-id"] == before
    assert len(await events_of(zone, "HOST.POOL.REFUSED")) == 1
    item = await zone.template(**{"details[0].HTTP_HEADER:Authorization": "secret"})
    where = {"zoneid": zone.id, "templateid": item["id"], "storageid": "p-id"}
    assert (await zone.api.job(await zone.api("prepareTemplate", **where)))["jobstatus"] == 1
    assert downloads(owner)
    assert not downloads(evil)
    await owner.close()
    await eventually(lambda: pool_is(zone, "p-id", "Down"))
    with pytest.raises(ApiConflictError, match="No primary storage pool"):
        await zone.api("prepareTemplate", zoneid=zone.id, templateid=item["id"])


async def pool_is(zone: Zone, pool: str, state: str) -> bool:
    """Whether listStoragePools shows *state*."""
    return bool((await pools(zone))[pool]["state"] == state)


async def test_hosts_join_a_shared_pool_by_what_only_its_readers_know(zone: Zone) -> None:
    """The proof counts across clusters; a hiccup of one host unshares nothing for the others."""
    shared = shared_pool("nfs", proof="a" * 64)
    one = await zone.agent("kvm1", pools=(shared,))
    two = FakeAgent(address=one.address, name="kvm2", pools=(shared,))
    await two.enrol(await zone.token(clustername="far"))
    await two.connect()
    zone.agents.append(two)
    context = zone.manager.context
    assert set(context.fleet.reaching("nfs-id")) == {one.host_id, two.host_id}
    two.pools = (claim(shared, name="mine", path="/x", available=5),)
    await reported(two)
    found = (await pools(zone))["nfs-id"]
    assert (found["name"], found.get("path")) == ("nfs", "")
    assert found["disksizeused"] == (1 << 40) - 5  # the room left is anybody's to tell
    one.pools = (m.PoolInfo(id="nfs-id", name="nfs", type=shared.type, error="stale handle"),)
    await reported(one)
    found = (await pools(zone))["nfs-id"]
    assert (found["scope"], found["state"]) == ("CLUSTER", "Up")
    one.pools = (claim(shared, shared=False),)
    await reported(one)
    assert (await pools(zone))["nfs-id"]["scope"] == "CLUSTER"


async def test_an_operator_lets_hosts_join_what_proves_nothing(zone: Zone) -> None:
    """Block storage: hosts of one cluster, or, where that is not enough, by the operator's word."""
    rbd = claim(shared_pool("rbd"), type=m.PoolType.RBD)
    one = await zone.agent("kvm1", pools=(rbd,))
    await zone.agent("kvm2", pools=(rbd,))
    far = FakeAgent(address=one.address, name="kvm3", pools=(rbd,))
    await far.enrol(await zone.token(clustername="far"))
    await far.connect()
    zone.agents.append(far)
    context = zone.manager.context
    assert len(list(context.fleet.reaching("rbd-id"))) == 2
    await zone.api("updateConfiguration", name="storage.pool.join.approved.only", value="true")
    four = await zone.agent("kvm4", pools=(rbd,))
    assert len(list(context.fleet.reaching("rbd-id"))) == 2  # who was in stays in
    item = await zone.api("updateStoragePool", id="rbd-id", open="true")
    assert item["storagepool"]["open"] is True
    await eventually(lambda: reached_by(zone, "rbd-id", 4))
    assert four.host_id in set(context.fleet.reaching("rbd-id"))


async def reached_by(zone: Zone, pool: str, count: int) -> bool:
    """Whether so many connected hosts have the pool."""
    return len(list(zone.manager.context.fleet.reaching(pool))) == count


async def test_a_lost_owner_leaves_its_pool_to_who_shares_it(zone: Zone) -> None:
    """And an orphan with a proof is not for whoever names it first."""
    shared = shared_pool("nfs", proof="a" * 64)
    one = await zone.agent("kvm1", pools=(shared,))
    two = await zone.agent("kvm2", pools=(shared,))
    await zone.api("deleteHost", id=one.host_id, forced="true")
    two.pools = (claim(shared, name="renamed"),)
    await reported(two)
    assert (await pools(zone))["nfs-id"]["name"] == "renamed"
    await zone.api("deleteHost", id=two.host_id, forced="true")
    await zone.agent("evil", pools=(shared_pool("nfs", proof="b" * 64),))
    assert (await pools(zone))["nfs-id"]["state"] == "Down"
    await zone.agent("kvm3", pools=(shared,))
    assert (await pools(zone))["nfs-id"]["state"] == "Up"


async def test_silent_hosts_pools_are_down(zone: Zone, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool is Up while a host that is Up can use it."""
    monkeypatch.setattr(handler, "SILENT_S", 0.3)
    monkeypatch.setattr(handler, "BEAT_S", 0.2)
    agent = await zone.agent("kvm1", pools=(local_pool("p1"),))
    await agent.close()
    await eventually(lambda: state_is(zone, agent, "Down"))
    assert (await pools(zone))["p1-id"]["error"] == "host kvm1 is Down"


async def test_a_host_makes_no_pools_without_end(zone: Zone) -> None:
    """Each report may name new ones; those that only ever had an error leave no trace."""
    evil = await zone.agent("kvm1")
    for turn in range(6):
        evil.pools = tuple(local_pool(f"p{turn}-{n}") for n in range(256))
        await reported(evil)
    assert await counted(zone, "listStoragePools") == OWNED_MAX
    assert await events_of(zone, "HOST.POOL.REFUSED")
    other = await zone.agent("kvm2")
    for turn in range(3):
        named = (local_pool(f"q{turn}-{n}") for n in range(256))
        other.pools = tuple(claim(pool, error="broken") for pool in named)
        await reported(other)
    assert await counted(zone, "listStoragePools") == OWNED_MAX + 256
