# SPDX-License-Identifier: Apache-2.0
"""`fastdl bench --gate`: counts against the stored baseline; names every regression."""

from __future__ import annotations

import argparse
import fnmatch
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks import machine, origin, runner
from benchmarks.gate import instructions, transfer
from benchmarks.options import say

BASELINE: Final = Path(__file__).parent / "baseline.json"
PARTS: Final = ("instructions", "transfer")


@dataclass(frozen=True, slots=True)
class Limit:
    """How far above its baseline a metric may be: a share of it plus an absolute part."""

    share: float
    absolute: float

    def of(self, value: float) -> float:
        return value * (1 + self.share) + self.absolute


# The first pattern that fits counts. The reasons are the noise seen over repeated runs.
LIMITS: Final[tuple[tuple[str, Limit], ...]] = (
    ("instructions.*", Limit(0.05, 2)),  # another compiler of the same age moves them by 2-3 %
    ("*.requests", Limit(0.25, 2)),  # ranges follow the measured rate
    ("*.sent_per_byte", Limit(0.0, 0.02)),
    ("*.allocations_per_gb", Limit(0.35, 15000)),  # ticks of progress by time
    ("*.copied_per_byte", Limit(0.05, 0.05)),
    ("*.write_calls_per_gb", Limit(0.10, 40)),
    ("*.read_calls_per_gb", Limit(0.50, 500)),  # how full the socket is depends on timing
    ("*.other_calls_per_gb", Limit(0.50, 500)),
    ("*.flush_calls", Limit(0.50, 4)),  # the journal flushes by time
    ("*.written_per_byte", Limit(0.02, 0.02)),
    ("*.read_per_byte", Limit(0.02, 0.02)),
    ("*.cached_per_byte", Limit(0.0, 0.02)),
    ("*.peak_mib", Limit(0.10, 8)),
    ("start.modules", Limit(0.10, 2)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One metric: what it was, what it is, what it may be."""

    metric: str
    baseline: float | None
    now: float | None
    limit: float | None

    @property
    def regressed(self) -> bool:
        """Above the limit, or no longer counted although a baseline is there."""
        if self.baseline is None:
            return False
        return self.now is None or self.limit is None or self.now > self.limit

    @property
    def word(self) -> str:
        if self.baseline is None:
            return "new"
        if self.regressed:
            return "REGRESSED"
        assert self.now is not None
        assert self.limit is not None
        better = self.now < 2 * self.baseline - self.limit
        return "better: update the baseline" if better else "ok"


def limit_of(metric: str) -> Limit:
    """The limit that applies to *metric*; ``KeyError`` where none is stated."""
    for pattern, limit in LIMITS:
        if fnmatch.fnmatchcase(metric, pattern):
            return limit
    raise KeyError(metric)


def judge(baseline: dict[str, float], now: dict[str, float], parts: list[str]) -> list[Verdict]:
    """A verdict for every metric of *parts* that is in either."""
    wanted = {
        metric
        for metric in baseline.keys() | now.keys()
        if ("instructions" if metric.startswith("instructions.") else "transfer") in parts
    }
    return [
        Verdict(
            metric=metric,
            baseline=baseline.get(metric),
            now=now.get(metric),
            limit=round(limit_of(metric).of(baseline[metric]), 4) if metric in baseline else None,
        )
        for metric in sorted(wanted)
    ]


def run(args: argparse.Namespace) -> int:
    """Count, compare, print; 1 where something regressed."""
    parts = args.only.split(",") if args.only else list(PARTS)
    if unknown := set(parts) - set(PARTS):
        raise ValueError(f"no part of the gate is called {', '.join(sorted(unknown))}")
    now = _count(args, parts)
    stored: dict[str, Any] = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    if not (stored or args.update_baseline):
        raise ValueError(f"there is no baseline {BASELINE}: store one with --update-baseline")
    verdicts = judge(stored.get("metrics", {}), now, parts)
    if args.json:
        print(json.dumps([{"verdict": v.word, **_fields(v)} for v in verdicts]))
    else:
        print(_table(verdicts))
    if args.update_baseline:
        _store(stored.get("metrics", {}) | now, args.work)
        say(f"stored {BASELINE}")
        return 0
    regressed = [verdict.metric for verdict in verdicts if verdict.regressed]
    if regressed:
        say(f"fastdl bench: regressed: {', '.join(regressed)}")
    return int(bool(regressed))


def _count(args: argparse.Namespace, parts: list[str]) -> dict[str, float]:
    """What *parts* give. A missing tool is an error: a gate that skips lets everything pass."""
    now: dict[str, float] = {}
    needed = {"instructions": instructions.missing, "transfer": transfer.missing}
    for part in parts:
        if reason := needed[part]() or (origin.missing() if part == "transfer" else None):
            raise RuntimeError(f"the gate cannot count {part}: {reason}")
    tree = args.tree.resolve() if args.tree else None
    with tempfile.TemporaryDirectory(prefix="gate-", dir=args.work) as name:
        if "instructions" in parts:
            now |= instructions.count(tree or machine.CHECKOUT, Path(name))
        if "transfer" in parts:
            with runner.bench(args.work, timeout_s=args.timeout) as bench:
                now |= transfer.count(bench, Path(name), tree=tree)
    return now


def _fields(verdict: Verdict) -> dict[str, Any]:
    return {
        "metric": verdict.metric,
        "baseline": verdict.baseline,
        "now": verdict.now,
        "limit": verdict.limit,
    }


def _table(verdicts: list[Verdict]) -> str:
    rows = [f"{'metric':<32} {'baseline':>12} {'now':>12} {'limit':>12}"]
    for verdict in verdicts:
        numbers = " ".join(
            f"{'-' if value is None else f'{value:g}':>12}"
            for value in (verdict.baseline, verdict.now, verdict.limit)
        )
        rows.append(f"{verdict.metric:<32} {numbers}  {verdict.word}")
    return "\n".join(rows)


def _store(metrics: dict[str, float], folder: Path) -> None:
    record = {
        "commit": machine.commit(),
        "machine": machine.describe(folder),
        "metrics": dict(sorted(metrics.items())),
    }
    BASELINE.write_text(json.dumps(record, indent=1) + "\n")
