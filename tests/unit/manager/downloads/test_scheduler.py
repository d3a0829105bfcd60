# SPDX-License-Identifier: Apache-2.0
"""Are the scheduler's decisions within every limit, fair to the urgent, and kind to origins?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastdl.manager.downloads.scheduler import (
    ATTEMPTS_MAX,
    Limits,
    adapt,
    after_failure,
    decide,
    is_overload,
)
from fastdl.manager.hosts.fleet import ConnectedHost, Fleet
from fastdl.manager.ledger.values import BULK, URGENT, Grant, Slot, Waiting
from fastdl.wire.messages import Failure


def host(name: str, *pools: str, most: int = 4) -> ConnectedHost:
    """A host in state Up."""
    return ConnectedHost(
        id=name,
        zone="z",
        name=name,
        kinds=frozenset({"download"}),
        pools=frozenset(pools),
        most=most,
    )


def decided(
    waiting: Iterable[Waiting],
    hosts: Mapping[str, ConnectedHost],
    in_use: Mapping[Slot, int],
    limits: Limits,
) -> list[Grant]:
    """What is decided for a fleet of *hosts*."""
    fleet = Fleet()
    for one in hosts.values():
        fleet.join(one)
    return decide(waiting, fleet.of_pool, in_use, limits)


def job(name: str, pool: str = "p", *, rank: int = BULK, **fields: object) -> Waiting:
    """A queued download."""
    values = {"fence": 0, "origins": ("o",), **fields}
    return Waiting(id=name, pool=pool, rank=rank, **values)  # type: ignore[arg-type]


JOBS = st.lists(
    st.builds(
        Waiting,
        id=st.uuids().map(str),
        pool=st.sampled_from("pqr"),
        rank=st.sampled_from([URGENT, BULK]),
        fence=st.integers(0, 3),
        origins=st.lists(st.sampled_from("abc"), max_size=3).map(tuple),
        tried=st.lists(st.sampled_from(["h0", "h1", "h2"]), max_size=3).map(tuple),
    ),
    max_size=40,
)
HOSTS = st.dictionaries(
    st.sampled_from(["h0", "h1", "h2"]),
    st.tuples(st.sets(st.sampled_from("pqr")), st.integers(1, 5)),
)


@given(JOBS, HOSTS, st.integers(1, 6), st.integers(1, 6), st.integers(1, 6))
def test_no_grant_ever_exceeds_a_limit(
    queue: list[Waiting],
    fleet: dict[str, tuple[set[str], int]],
    origin: int,
    per_host: int,
    pool: int,
) -> None:
    """Whatever waits and whoever is there: no slot beyond its limit, no job twice."""
    hosts = {name: host(name, *pools, most=most) for name, (pools, most) in fleet.items()}
    limits = Limits(origin=origin, host=per_host, pool=pool)
    grants = decided(queue, hosts, {}, limits)
    assert len({g.job for g in grants}) == len(grants)
    use = Counter(slot for g in grants for slot, _ in g.slots)
    by_id = {w.id: w for w in queue}
    for (kind, key), count in use.items():
        most = {"origin": origin, "host": per_host, "pool": pool}[kind]
        if kind == "host":
            most = min(most, hosts[key].most)
        assert count <= most
    for grant in grants:
        assert by_id[grant.job].pool in hosts[grant.host].pools


def test_bulk_leaves_room_for_a_vm_that_waits() -> None:
    """With every bulk place taken, the next urgent job still starts."""
    limits = Limits(origin=16, host=99, pool=99)
    hosts = {"h": host("h", "p", most=99)}
    bulk = decided([job(f"b{i}") for i in range(50)], hosts, {}, limits)
    assert len(bulk) == 14
    urgent = decided([job("u", rank=URGENT)], hosts, {("origin", "o"): 14}, limits)
    assert [g.job for g in urgent] == ["u"]


def test_a_stuck_job_does_not_hold_up_the_others() -> None:
    """The first in the queue has no host; the second starts."""
    grants = decided([job("a", "nowhere"), job("b")], {"h": host("h", "p")}, {}, Limits())
    assert [g.job for g in grants] == ["b"]


def test_load_spreads_over_equal_hosts() -> None:
    """One host of a cluster must not do all the work."""
    hosts = {f"h{i}": host(f"h{i}", *(f"p{n}" for n in range(12))) for i in range(4)}
    grants = decided([job(f"j{n}", f"p{n}") for n in range(12)], hosts, {}, Limits())
    assert set(Counter(g.host for g in grants).values()) == {3}


def test_every_mirror_of_a_download_is_counted() -> None:
    """A metalink's second mirror has a limit too."""
    grants = decided(
        [job("a", origins=("o", "busy"))], {"h": host("h", "p")}, {("origin", "busy"): 16}, Limits()
    )
    assert grants == []


def test_untried_hosts_come_before_tried_ones() -> None:
    """The next host is really the next; a tried one only when no other is left."""
    hosts = {"h0": host("h0", "p"), "h1": host("h1", "p")}
    (grant,) = decided([job("a", tried=("h0",))], hosts, {}, Limits())
    assert grant.host == "h1"
    (grant,) = decided([job("a", tried=("h0", "h1"))], hosts, {}, Limits())
    assert grant.host in {"h0", "h1"}


@pytest.mark.parametrize(
    ("failure", "attempt", "tried", "again", "delay"),
    [
        (Failure(code=21, message="digest"), 1, (), False, 0),
        (Failure(code=14, message="trust", elsewhere=True), 1, (), True, 0),
        (Failure(code=14, message="trust", elsewhere=True), 2, ("h1",), False, 0),
        (Failure(code=10, message="net", elsewhere=True, retryable=True), 1, (), True, 0),
        (Failure(code=10, message="net", elsewhere=True, retryable=True), 2, ("h1",), True, 10),
        (Failure(code=10, message="net", retryable=True), 1, (), True, 5),
        (Failure(code=10, message="net", retryable=True), ATTEMPTS_MAX, (), False, 0),
        (Failure(code=11, message="503", retryable=True, retry_after_s=77.0), 1, (), True, 77),
    ],
)
def test_what_follows_a_failure(
    failure: Failure, attempt: int, tried: tuple[str, ...], again: bool, delay: float
) -> None:
    """The error's class decides, on hosts h0 (which failed) and h1."""
    then = after_failure(failure, host="h0", attempt=attempt, tried=tried, able_hosts=["h0", "h1"])
    assert (then.again, then.delay) == (again, delay)


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 64))
def test_an_overloaded_origin_gets_less_and_recovers(history: list[bool], most: int) -> None:
    """Halved at each 429 or 503, plus one for each success, never above the setting."""
    cap: int | None = None
    for overloaded in history:
        before = most if cap is None else cap
        cap = adapt(cap, most=most, overloaded=overloaded)
        now = most if cap is None else cap
        assert 1 <= now <= most
        assert now == max(1, before // 2) if overloaded else now >= before
    for _ in range(most):
        cap = adapt(cap, most=most, overloaded=False)
    assert cap is None


def test_overload_is_told_from_other_errors() -> None:
    """Only the origin's own word counts: its status, or that it asks to wait."""
    assert is_overload(Failure(code=11, message="the server failed", http_status=503))
    assert is_overload(Failure(code=11, message="fewer, please", http_status=429))
    assert is_overload(Failure(code=11, message="busy", retry_after_s=3.0))
    assert not is_overload(Failure(code=11, message="not found", http_status=404))
    assert not is_overload(Failure(code=11, message="the origin answered 503"))
    assert not is_overload(Failure(code=10, message="connection refused on port 503"))
