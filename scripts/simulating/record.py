# SPDX-License-Identifier: Apache-2.0
"""What the simulated hosts did, by their own account, and whether they were allowed to.

The manager's ledger is not asked: it is what is being tested.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from fastdl.manager.hosts.waits import SILENT_S

LOWERED_S: Final = 180.0
"""So long after a limit was lowered may downloads begin that were granted under the higher one:
they take a minute, and some begin again after their agent died."""
OUT_OF_TOUCH_S: Final = SILENT_S - 10.0
"""A host that nobody hears for so long is soon taken for lost, and its places are given to others:
its downloads do not count against limits any more (nobody can stop them)."""


@dataclass(slots=True, eq=False)
class Run:
    """A download that runs: from the first byte to the last."""

    host: str
    keys: tuple[tuple[str, str], ...]
    counts: bool = True


@dataclass
class Record:
    """Everything that happened. *limits*: kind of a slot → how many at once; *most*: host → its
    own limit."""

    limits: dict[str, int]
    most: Mapping[str, int]
    violations: list[str] = field(default_factory=list)
    running: dict[tuple[str, str], list[Run]] = field(default_factory=lambda: defaultdict(list))
    peak: Counter[str] = field(default_factory=Counter)
    started: dict[tuple[str, int], str] = field(default_factory=dict)
    """(job, fence) → the host that started it."""
    done: set[tuple[str, int]] = field(default_factory=set)
    """(job, fence) of what hosts reported as done."""
    files: dict[tuple[str, str], str] = field(default_factory=dict)
    """(pool, volume) → template, of what lies in the pools."""
    strays: set[tuple[str, str]] = field(default_factory=set)
    """What a host finished that had been taken for lost."""
    effective: int = 0
    commands: int = 0
    out_since: dict[str, float] = field(default_factory=dict)
    lowered: list[tuple[float, str, int]] = field(default_factory=list)
    """(when, kind, from how many)."""
    heard: Any = field(default_factory=hashlib.sha256)
    """Of every message that a host sent or got, and when: two runs with the same are the same."""

    def violated(self, what: str) -> None:
        """Note that something happened that must not."""
        now = asyncio.get_running_loop().time()
        self.violations.append(f"at {now:.3f} s: {what}")

    def message(self, host: str, text: str) -> None:
        """*host* sends *text*, or gets it."""
        self.heard.update(f"{asyncio.get_running_loop().time()} {host} {text}\n".encode())

    # --- touch -----------------------------------------------------------------------------

    def out_of_touch(self, host: str) -> None:
        """Nothing reaches *host*, or comes from it, from now on."""
        self.out_since.setdefault(host, asyncio.get_running_loop().time())

    def in_touch(self, host: str) -> None:
        """*host* is connected, and works."""
        if self.is_lost(host):
            for runs in self.running.values():
                for run in runs:
                    run.counts = run.counts and run.host != host
        self.out_since.pop(host, None)

    def is_lost(self, host: str) -> bool:
        """Whether *host* has been out of touch for so long that others may get its work."""
        since = self.out_since.get(host)
        return since is not None and asyncio.get_running_loop().time() - since >= OUT_OF_TOUCH_S

    # --- jobs ------------------------------------------------------------------------------

    def command(self, host: str, reaches: frozenset[str], job: str, fence: int, pool: str) -> None:
        """*host* starts a command about *pool*."""
        self.commands += 1
        if pool not in reaches:
            self.violated(f"{host} acts on a command for pool {pool}, which is another host's")
        other = self.started.setdefault((job, fence), host)
        if other != host:
            self.violated(f"{host} acts on job {job} under fence {fence}, which {other} has")

    def limit(self, kind: str, most: int) -> None:
        """From now on *most* downloads at once may run for each of *kind*."""
        if most < self.limits[kind]:
            now = asyncio.get_running_loop().time()
            self.lowered.append((now, kind, self.limits[kind]))
        self.limits[kind] = most

    def _most(self, kind: str, host: str) -> int:
        now = asyncio.get_running_loop().time()
        before = (
            most for when, what, most in self.lowered if what == kind and now - when < LOWERED_S
        )
        most = max(self.limits[kind], *before, 0)
        return min(most, self.most[host]) if kind == "host" else most

    def begin(self, host: str, origin: str, pool: str) -> Run:
        """A download begins; it is counted until ``end``."""
        run = Run(host, (("origin", origin), ("host", host), ("pool", pool)))
        for key in run.keys:
            self.running[key].append(run)
            for other in self.running[key]:
                other.counts = other.counts and not self.is_lost(other.host)
            count = sum(other.counts for other in self.running[key])
            kind, name = key
            most = self._most(kind, host)
            self.peak[kind] = max(self.peak[kind], count)
            if count > most:
                self.violated(f"{count} downloads run for {kind} {name}, {most} may")
        return run

    def end(self, run: Run) -> None:
        """A download ended, however."""
        for key in run.keys:
            self.running[key].remove(run)

    def publish(self, host: str, pool: str, volume: str, template: str) -> None:
        """*host* completes a copy."""
        self.effective += 1
        if (pool, volume) in self.files:
            self.violated(f"{host} completes {volume} in {pool}, which was complete")
        self.files[pool, volume] = template
        if self.is_lost(host):
            self.strays.add((pool, volume))
