# SPDX-License-Identifier: Apache-2.0
"""Does the fleet know who reaches a pool, whatever hosts come, go and change?"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fastdl.manager.hosts.fleet import ConnectedHost, Fleet

POOLS = st.frozensets(st.sampled_from("pqrs"))
STEPS = st.lists(st.tuples(st.sampled_from(["join", "leave", "reaches"]), st.integers(0, 5), POOLS))


def host(name: str, pools: frozenset[str], **fields: object) -> ConnectedHost:
    """A connected host."""
    values = {"kinds": frozenset({"download"}), "most": 4, **fields}
    return ConnectedHost(id=name, zone="z", name=name, pools=pools, **values)  # type: ignore[arg-type]


@given(STEPS)
def test_each_pool_has_the_hosts_that_reach_it(
    steps: list[tuple[str, int, frozenset[str]]],
) -> None:
    """The index says what a look at every host would."""
    fleet = Fleet()
    for step, number, pools in steps:
        name = f"h{number}"
        if step == "join":
            fleet.join(host(name, pools))
        elif step == "leave":
            fleet.leave(name)
        else:
            fleet.reaches(name, pools, frozenset())
    for pool in "pqrs":
        found = [one.id for one in fleet.of_pool(pool)]
        assert len(found) == len(set(found))
        assert set(found) == {one.id for one in fleet.hosts.values() if pool in one.pools}
        assert set(fleet.reaching(pool)) == set(found)


def test_a_host_that_operators_took_out_gets_no_downloads() -> None:
    """Disabled: removals only; in maintenance, or without the kind: nothing."""
    pools = frozenset("p")
    fleet = Fleet()
    fleet.join(host("disabled", pools, resource_state="Disabled"))
    fleet.join(host("maintained", pools, resource_state="Maintenance"))
    fleet.join(host("other", pools, kinds=frozenset({"certificates"})))
    fleet.join(host("none", pools, most=0))
    assert {one.id for one in fleet.of_pool("p") if one.takes_jobs} == {"disabled"}
    assert "disabled" not in set(fleet.reaching("p"))
