# SPDX-License-Identifier: Apache-2.0
"""`fastdl bench --gate-paired`: does this machine still see what the project promises?

Ratios within a round hold on a noisy machine where seconds do not. A promise is kept where the
median says so and the worse quartile of the rounds is at least no loss; where only the better
quartile keeps it, that is said too.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from typing import Any, Final

from benchmarks import runner, stats
from benchmarks.options import say
from benchmarks.rivals import all_rivals
from benchmarks.scenarios import MiB, parse_scenario

_WINDOW: Final = 64 * MiB
_CONNECTIONS: Final = 8
MEMORY_PROMISE: Final = _WINDOW + _CONNECTIONS * 4 * MiB + 24 * MiB


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """Against the best of *rivals* in each round: at least *faster* times as fast, with at most
    *cpu* of its processor time. *link_share*: at least that much of the link's rate."""

    scenario: str
    rivals: tuple[str, ...] = ()
    faster: float | None = None
    cpu: float | None = None
    link_share: float | None = None


_TO_FILE: Final = ("hf_transfer", "aiohttp", "wget2", "curl", "aria2c")
_TO_DEVICE: Final = ("curl+dd+openssl", "aiohttp")
_CONVERT: Final = ("curl+qemu-img",)
PROMISES: Final = (
    Promise(scenario="http-1GiB-raw-file-sha256", rivals=_TO_FILE, faster=1.8, cpu=0.6),
    Promise(scenario="https-1GiB-raw-file-sha256", rivals=_TO_FILE, faster=1.8, cpu=0.85),
    Promise(scenario="http-1GiB-raw-block-sha256", rivals=_TO_DEVICE, faster=2.2, cpu=0.6),
    Promise(scenario="http-256MiB-qcow2plain-block-sha256", rivals=_CONVERT, faster=2.0),
    Promise(scenario="http-256MiB-qcow2zlib-block-sha256", rivals=_CONVERT, faster=2.0),
    Promise(scenario="http-256MiB-qcow2zstd-block-sha256", rivals=_CONVERT, faster=2.0),
    Promise(scenario="http-256MiB-qcow2plain-block-none", rivals=_CONVERT, faster=1.0),
    Promise(scenario="http-8conn-50ms-100MBps-1GiB-raw-file-sha256", link_share=0.9),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """One measured promise. ``value`` must be on the right side of ``wanted``, and the worse
    quartile on that of ``no_loss`` where there is one."""

    scenario: str
    what: str
    wanted: float
    value: float
    better_quartile: float
    worse_quartile: float
    no_loss: float | None = None
    at_most: bool = False

    @property
    def kept(self) -> bool:
        agreed = self.no_loss is None or self._right(self.worse_quartile, self.no_loss)
        return agreed and self._right(self.value, self.wanted)

    @property
    def word(self) -> str:
        if self.kept:
            return "kept"
        if self._right(self.value, self.wanted):
            return "MISSED (a quartile of the rounds loses)"
        close = self._right(self.better_quartile, self.wanted)
        return "MISSED (a quartile of the rounds keeps it)" if close else "MISSED"

    def _right(self, value: float, bound: float) -> bool:
        return value <= bound if self.at_most else value >= bound


def against_best(runs: list[runner.Run], rivals: tuple[str, ...], key: str) -> list[float]:
    """best rival / fastdl of every round, by ``durable_s`` or ``cpu_s``.

    Rounds with a disturbed run are left out, unless that leaves none.
    """

    def value(run: runner.Run) -> float:
        return run.durable_s if key == "durable_s" else run.cost.cpu_s

    for counted in (True, False):
        used = [run for run in runs if run.counts() or (not counted and not run.cost.failure)]
        mine = {run.turn: value(run) for run in used if run.contestant == "fastdl"}
        best: dict[int, float] = {}
        for run in used:
            if run.contestant in rivals:
                best[run.turn] = min(value(run), best.get(run.turn, float("inf")))
        if ratios := stats.paired(mine, best):
            return ratios
    return []


def evaluate(promise: Promise, outcome: runner.Outcome) -> list[Kept]:
    """What *promise* says, measured. ``RuntimeError`` where fastdl or all rivals failed."""
    name = promise.scenario
    if "fastdl" in outcome.failed:
        raise RuntimeError(f"{name}: fastdl failed: {outcome.failed['fastdl']}")
    mine = [run for run in outcome.runs if run.contestant == "fastdl"]
    found = []
    for wanted, key in ((promise.faster, "durable_s"), (promise.cpu, "cpu_s")):
        if wanted is None:
            continue
        ratios = against_best(outcome.runs, promise.rivals, key)
        if not ratios:
            raise RuntimeError(f"{name}: no rival took part")
        if key == "durable_s":
            values = stats.summary(ratios)
            found.append(_kept(name, "times as fast as the best rival", wanted, values, no_loss=1))
        else:
            values = stats.summary([1 / ratio for ratio in ratios])
            found.append(
                _kept(name, "of its processor time", wanted, values, no_loss=1, at_most=True)
            )
    if promise.link_share is not None:
        link = outcome.scenario.link_bytes_s
        values = stats.summary([outcome.image.source_bytes / run.durable_s / link for run in mine])
        found.append(_kept(name, "of the link's rate", promise.link_share, values))
    peaks = stats.summary([run.cost.peak_bytes / MEMORY_PROMISE for run in mine])
    found.append(_kept(name, "of the promised memory", 1.0, peaks, at_most=True))
    return found


def _kept(
    scenario: str,
    what: str,
    wanted: float,
    values: dict[str, Any],
    *,
    no_loss: float | None = None,
    at_most: bool = False,
) -> Kept:
    worse, better = ("p75", "p25") if at_most else ("p25", "p75")
    return Kept(
        scenario=scenario,
        what=what,
        wanted=wanted,
        value=values["median"],
        better_quartile=values[better],
        worse_quartile=values[worse],
        no_loss=no_loss,
        at_most=at_most,
    )


def run(args: argparse.Namespace) -> int:
    """Measure every promise; 1 where one is missed, which is named."""
    every = all_rivals()
    kept: list[Kept] = []
    only = set(args.scenarios)
    with runner.bench(args.work, timeout_s=args.timeout) as bench:
        for promise in PROMISES:
            if only and promise.scenario not in only:
                continue
            rivals = [
                rival for rival in every if rival.name == "fastdl" or rival.name in promise.rivals
            ]
            say(f"\n{promise.scenario}")
            scenario = parse_scenario(promise.scenario)
            outcome = runner.measure(
                bench, scenario, rivals, rounds=args.rounds, say=say, with_floors=False
            )
            kept += evaluate(promise, outcome)
    if args.json:
        print(json.dumps([{"kept": k.kept, "what": _sentence(k)} for k in kept]))
    else:
        print("\n".join(f"{k.word:<8} {_sentence(k)}" for k in kept))
    return int(not all(k.kept for k in kept))


def _sentence(kept: Kept) -> str:
    bound = "at most" if kept.at_most else "at least"
    return f"{kept.scenario}: {kept.value:.2f} {kept.what} ({bound} {kept.wanted:g} promised)"
