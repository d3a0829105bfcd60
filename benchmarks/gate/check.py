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
from benchmarks.gate import instructions, transfer, validity
from benchmarks.options import say

BASELINE: Final = Path(__file__).parent / "baseline.json"
PARTS: Final = ("instructions", "transfer")
_COUNTED_APART: Final = ("instructions.", "hash.")


@dataclass(frozen=True, slots=True)
class Limit:
    """How far above its baseline a metric may be: a share of it plus an absolute part."""

    share: float
    absolute: float

    def of(self, value: float) -> float:
        return value * (1 + self.share) + self.absolute


# The first pattern that fits counts. A limit lies above the noise of many runs on a busy machine
# and below what a mistake would cost: a block (1 MiB) more or less is 954 calls a GB.
LIMITS: Final[tuple[tuple[str, Limit], ...]] = (
    ("instructions.start", Limit(0.03, 0)),  # thousands; runs differ by a tenth of a per mille
    ("instructions.*", Limit(0.05, 2)),  # the same compiler gives the same; small changes may cost
    ("*.requests", Limit(0.25, 2)),  # ranges follow the measured rate
    ("*.sent_per_byte", Limit(0.0, 0.05)),  # hedged ranges come twice
    ("*.allocations_per_gb", Limit(0.35, 5000)),  # one each 64 KiB would be 15000
    # What TLS moves depends on where reads cut its records, 2.1 to 2.4; a further copy adds 1.
    ("https.copied_per_byte", Limit(0.10, 0.25)),
    ("*.copied_per_byte", Limit(0.05, 0.05)),
    ("*.write_calls_per_gb", Limit(0.10, 100)),
    ("*.read_calls_per_gb", Limit(0.50, 20000)),  # how full the socket is: 64 KiB at its worst
    ("*.other_calls_per_gb", Limit(0.50, 1000)),
    ("*.flush_calls", Limit(1.0, 60)),  # checkpoints come by time too; one a block would be 960
    ("*.written_per_byte", Limit(0.02, 0.02)),
    ("*.read_per_byte", Limit(0.02, 0.02)),
    ("*.cached_per_byte", Limit(0.0, 0.02)),
    ("*.peak_mib", Limit(0.10, 12)),  # how much of the window of 16 MiB was in use
    ("hash.*", Limit(0.15, 0.1)),  # the shortest of 400; two chains that do not pair take 2
    ("lanes.*", Limit(0.0, 0.25)),  # with a block a pass it is 0.875
    ("start.modules", Limit(0.0, 1)),
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


def evaluate(baseline: dict[str, float], now: dict[str, float], parts: list[str]) -> list[Verdict]:
    """A verdict for every metric of *parts* that is in either."""
    wanted = {
        metric
        for metric in baseline.keys() | now.keys()
        if ("instructions" if metric.startswith(_COUNTED_APART) else "transfer") in parts
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
    """Count, compare, print; 1 where something regressed, also when counted a second time."""
    parts = args.only.split(",") if args.only else list(PARTS)
    if unknown := set(parts) - set(PARTS):
        raise ValueError(f"no part of the gate is called {', '.join(sorted(unknown))}")
    record: dict[str, Any] = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    stored = validity.from_file(record)
    if not (stored or args.update_baseline):
        raise ValueError(f"there is no baseline {BASELINE}: store one with --update-baseline")
    keys = validity.here(args.work)
    baseline = validity.select(stored, keys)
    now = _count(args, parts)
    if args.update_baseline or _regressed(evaluate(baseline, now, parts)):
        say("counting once more: what else the machine does only ever adds")
        now = lower(now, _count(args, parts))
    left_out = validity.left_out(stored, keys, now)
    aside = {metric for metrics in left_out.values() for metric in metrics}
    verdicts = [v for v in evaluate(baseline, now, parts) if v.metric not in aside]
    if args.json:
        print(json.dumps([{"verdict": v.word, **_fields(v)} for v in verdicts]))
    else:
        print(_table(verdicts))
    if args.update_baseline:
        _store(validity.merged(stored, keys, now), args.work)
        say(f"stored {BASELINE}")
        return 0
    for sentence, metrics in left_out.items():
        say(f"not compared ({sentence}): {', '.join(metrics)}")
    regressed = _regressed(verdicts)
    if regressed:
        say(f"fastdl bench: regressed: {', '.join(regressed)}")
    return int(bool(regressed))


def _regressed(verdicts: list[Verdict]) -> list[str]:
    return [verdict.metric for verdict in verdicts if verdict.regressed]


def lower(first: dict[str, float], second: dict[str, float]) -> dict[str, float]:
    """The lower of two counts of each metric; one that is missing in either stays missing."""
    return {metric: min(first[metric], second[metric]) for metric in first.keys() & second.keys()}


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
            now |= instructions.count(tree, Path(name))
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


def _store(counts: validity.Stored, folder: Path) -> None:
    record = {"commit": machine.commit(), "machine": machine.describe(folder), "counts": counts}
    BASELINE.write_text(json.dumps(record, indent=1) + "\n")
