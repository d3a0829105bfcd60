# SPDX-License-Identifier: Apache-2.0
"""Where does a new virtual machine go?"""

from __future__ import annotations

from typing import Any

from fastdl.manager.hosts.fleet import ConnectedHost
from fastdl.manager.machines.placement import Place, PoolView, choose

GIB = 1 << 30


def host(id_: str, *pools: str, **given: Any) -> ConnectedHost:
    """A host that can have machines in *pools*."""
    values: dict[str, Any] = {
        "zone": "z",
        "name": id_,
        "kinds": frozenset({"machine"}),
        "pools": frozenset(pools),
        "machine_pools": frozenset(pools),
        "most": 4,
    }
    return ConnectedHost(id=id_, **{**values, **given})


def pool(id_: str, available: int = GIB, *, thick: bool = False, has: bool = False) -> PoolView:
    """A pool."""
    return PoolView(id_, available, thick=thick, has_template=has)


def chosen(hosts: list[ConnectedHost], *pools: PoolView, **given: Any) -> Place | None:
    """The choice among them."""
    values: dict[str, Any] = {"machines": {}, "need": 1, **given}
    return choose(hosts, {view.id: view for view in pools}, **values)


def test_a_pool_with_the_template_comes_first() -> None:
    """Even on the busier host: nothing has to be downloaded."""
    hosts = [host("a", "pa"), host("b", "pb")]
    found = chosen(hosts, pool("pa"), pool("pb", has=True), machines={"b": 9})
    assert found == Place("b", "pb")


def test_then_the_host_with_the_fewest_machines() -> None:
    """And of its pools the one with the most room."""
    hosts = [host("a", "pa"), host("b", "pb", "pc")]
    pools = (pool("pa", 9 * GIB), pool("pb"), pool("pc", 2 * GIB))
    assert chosen(hosts, *pools, machines={"a": 1}) == Place("b", "pc")


def test_only_a_thick_pool_needs_the_room_at_once() -> None:
    """An overlay grows later."""
    hosts = [host("a", "pa")]
    assert chosen(hosts, pool("pa", 10, thick=True), need=11) is None
    assert chosen(hosts, pool("pa", 10), need=11) == Place("a", "pa")


def test_who_cannot_have_machines() -> None:
    """Disabled hosts, old agents, hosts without libvirt, pools that others reach."""
    view = pool("pa")
    for given in (
        {"resource_state": "Disabled"},
        {"kinds": frozenset({"download"})},
        {"machine_pools": frozenset[str]()},
        {"pools": frozenset({"px"})},
    ):
        assert chosen([host("a", "pa", **given)], view) is None
    assert chosen([], view) is None


def test_only_what_was_named() -> None:
    """A host, a pool, or neither of some."""
    hosts, pools = [host("a", "p1", "p2"), host("b", "p1")], (pool("p1", 9), pool("p2", 1))
    assert chosen(hosts, *pools, host="b") == Place("b", "p1")
    assert chosen(hosts, *pools, pool="p2") == Place("a", "p2")
    assert chosen(hosts, *pools, host="b", pool="p2") is None
