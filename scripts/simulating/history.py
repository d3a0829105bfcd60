# SPDX-License-Identifier: Apache-2.0
"""What a seed stands for: a zone, and what happens in it. Drawn beforehand, so that a shorter
history can be tried on the same zone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Final

HAPPENS_S: Final = 300.0
"""The last step comes before this many seconds; then everything heals."""
CLUSTER: Final = 16
"""Hosts that share a cluster's pools, in a large zone."""


@dataclass(frozen=True, slots=True)
class HostPlan:
    """A host with its pools, and how many downloads it runs at once at most."""

    id: str
    pools: tuple[str, ...]
    most: int


@dataclass(frozen=True, slots=True)
class ZonePlan:
    """A zone. *shared*: the pools that several hosts reach; *limits*: kind of a slot → how many
    downloads at once; *origins*: that of each template; *failure*, *reset*, *twice*, *cut_short*:
    how likely a download fails, a message is the last one of its connection, a result arrives
    twice, a message arrives in part."""

    hosts: tuple[HostPlan, ...]
    shared: frozenset[str]
    limits: Mapping[str, int]
    origins: Mapping[str, str]
    failure: float
    reset: float
    twice: float
    cut_short: float

    @property
    def pools(self) -> list[str]:
        """Every pool, in order."""
        return sorted({pool for host in self.hosts for pool in host.pools})


@dataclass(frozen=True, slots=True)
class Step:
    """*what* happens at *at* seconds to *to* (hosts, templates, pools, an alias), for *lasts*."""

    at: float
    what: str
    to: tuple[str, ...] = ()
    lasts: float = 0.0

    def __str__(self) -> str:
        lasts = f"for {self.lasts:.1f} s" if self.lasts else ""
        words = (f"{self.at:7.1f} s ", self.what, *self.to, lasts)
        return " ".join(word for word in words if word)


def drawn_zone(rng: Random, most: int) -> ZonePlan:
    """Return a zone of up to *most* hosts, at least half of it."""
    count = rng.randint(max(1, most // 2), most)
    clusters = max(1, count // CLUSTER)
    shared = [f"s{c}.{n}" for c in range(clusters) for n in range(rng.randint(0, 2))]
    hosts = []
    for i in range(count):
        local = [f"l{i}.{n}" for n in range(rng.randint(0 if shared else 1, 2))]
        reached = [pool for pool in shared if pool.startswith(f"s{i % clusters}.")]
        hosts.append(HostPlan(f"h{i}", (*local, *reached), rng.randint(1, 4)))
    origins = [f"origin{i}" for i in range(rng.randint(1, 3))]
    return ZonePlan(
        hosts=tuple(hosts),
        shared=frozenset(shared),
        limits={
            "origin": rng.randint(1, max(4, count // 50)),
            "host": rng.randint(1, 4),
            "pool": rng.randint(1, 4),
        },
        origins={f"t{n}": rng.choice(origins) for n in range(rng.randint(1, 4))},
        failure=rng.choice([0.0, 0.05, 0.3]),
        reset=rng.choice([0.0, 0.001, 0.02]),
        twice=rng.choice([0.0, 0.1]),
        cut_short=rng.choice([0.0, 0.0, 0.01]),
    )


def drawn_history(rng: Random, zone: ZonePlan) -> tuple[Step, ...]:
    """Return what happens in *zone*: something is asked for, then anything."""
    pools, hosts = zone.pools, [host.id for host in zone.hosts]
    most = min(len(pools), 500)
    aliases = ["a", "b", "c"]

    def some(of: list[str], count: int) -> tuple[str, ...]:
        return tuple(rng.sample(of, min(len(of), count)))

    def prepare() -> Step:
        rank = rng.choice(["urgent", "bulk"])
        what = some(list(zone.origins), 1) + some(pools, rng.randint(1, most))
        return Step(0.0, f"prepare {rank}", what)

    def to_hosts(what: str, longest: float) -> Callable[[], Step]:
        few = max(3, len(hosts) // 20)
        return lambda: Step(0.0, what, some(hosts, rng.randint(1, few)), rng.uniform(0.0, longest))

    def limit() -> Step:
        kind = rng.choice(sorted(zone.limits))
        return Step(0.0, "limit", (kind, str(rng.randint(1, 4))))

    kinds: list[tuple[int, Callable[[], Step]]] = [
        (6, prepare),
        (3, lambda: Step(0.0, "cancel", (str(rng.randrange(1 << 16)),))),
        (1, lambda: Step(0.0, "delete", some(list(zone.origins), 1))),
        (2, lambda: Step(0.0, "upload", some(aliases, 1))),
        (2, lambda: Step(0.0, "revoke", some(aliases, 1))),
        (2, lambda: Step(0.0, "revoke there", some(aliases, 1) + some(hosts, 1))),
        (2, lambda: Step(0.0, "upload there", some(aliases, 1) + some(hosts, 1))),
        (2, limit),
        (2, to_hosts("maintain", 90.0)),
        (1, to_hosts("disable", 90.0)),
        (1, lambda: Step(0.0, "wipe keystore of", some(hosts, 1))),
        (4, to_hosts("die", 120.0)),
        (3, to_hosts("freeze", 80.0)),
        (3, to_hosts("cut", 80.0)),
        (2, to_hosts("break connection of", 0.0)),
        (1, lambda: Step(0.0, "cut", tuple(hosts), rng.uniform(0.0, 80.0))),
        (1, lambda: Step(0.0, "restart manager", (), rng.uniform(0.1, 60.0))),
    ]
    made = [prepare(), Step(0.0, "upload", some(aliases, 1))]
    weights = [weight for weight, _ in kinds]
    chosen = rng.choices([make for _, make in kinds], weights, k=rng.randint(2, 24))
    made += [make() for make in chosen]
    ends = rng.uniform(10.0, HAPPENS_S)
    times = sorted(rng.uniform(0.0, ends) for _ in made)
    return tuple(
        Step(at, step.what, step.to, step.lasts) for at, step in zip(times, made, strict=True)
    )
