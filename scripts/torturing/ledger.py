# SPDX-License-Identifier: Apache-2.0
"""The ledger of the points: JSON lines while it runs, a table and a small CSV at the end."""

from __future__ import annotations

import collections
import csv
import datetime
import io
import json
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

Row = dict[str, Any]
INVARIANTS = ("wrong", "lost", "stuck", "unknown", "failed", "litter", "bug", "hang")
EXPERIMENTS = {
    "kill": "killed at a call",
    "kill3": "killed three times in a row",
    "tear": "killed in the middle of a write",
    "fail": "a call fails, once or always",
    "short": "a call does half of what it was asked for",
    "flip": "a bit flips on the wire",
    "clock": "the clock jumps",
    "cut": "the power goes",
    "cut2": "the power goes, twice",
}
COLUMNS = ("experiment", "target", "points", *INVARIANTS)


class Count(NamedTuple):
    """How often one experiment was made on one target, and how often an invariant broke."""

    experiment: str
    target: str
    points: int
    broken: dict[str, int]

    @property
    def violations(self) -> int:
        """Points that broke an invariant; each is counted under its first."""
        return sum(self.broken.values())


def rows(path: Path) -> list[Row]:
    """What the ledger holds; a last line that was cut off is none."""
    found = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


def counts(found: list[Row]) -> list[Count]:
    """The counts, in the order of :data:`EXPERIMENTS`."""
    points: collections.Counter[tuple[str, str]] = collections.Counter()
    broken: dict[tuple[str, str], collections.Counter[str]] = collections.defaultdict(
        collections.Counter
    )
    for row in found:
        key = _experiment(row), _target(row)
        points[key] += 1
        if row["found"]:
            broken[key][row["found"][0].partition(":")[0]] += 1
    order = list(EXPERIMENTS)
    return [
        Count(experiment, target, points[experiment, target], dict(broken[experiment, target]))
        for experiment, target in sorted(points, key=lambda key: (order.index(key[0]), key[1]))
    ]


def _experiment(row: Row) -> str:
    point = row["point"]
    act = str(point.get("act", "cut2" if point.get("twice") else "cut"))
    return act.partition("-")[0]


def _target(row: Row) -> str:
    point = row["point"]
    if "store" in point:
        return f"keystore ({point['store']})"
    if "engine" in point:
        return f"database ({point['engine']})"
    target = str(point["target"])
    return {"exact": "device", "nbd": "NBD"}.get(target, target)


def table(found: list[Count]) -> str:
    """The counts as Markdown."""
    lines = ["| what happens | to | points | violations |", "|---|---|---|---|"]
    for count in found:
        seen = ", ".join(f"{n} {name}" for name, n in count.broken.items()) or "0"
        lines.append(
            f"| {EXPERIMENTS[count.experiment]} | {count.target} | {count.points:,} | {seen} |"
        )
    points, violations = sum(c.points for c in found), sum(c.violations for c in found)
    return "\n".join([*lines, f"| all | | {points:,} | {violations} |", ""])


def to_csv(found: list[Count]) -> str:
    """The counts as they are kept."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for count in found:
        broken = [count.broken.get(name, 0) for name in INVARIANTS]
        writer.writerow([count.experiment, count.target, count.points, *broken])
    return out.getvalue()


def from_csv(text: str) -> list[Count]:
    """What :func:`to_csv` wrote."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return [
        Count(
            row["experiment"],
            row["target"],
            int(row["points"]),
            {name: int(row[name]) for name in INVARIANTS if int(row[name])},
        )
        for row in csv.DictReader(lines)
    ]


def run_of(text: str) -> str:
    """When and of what the run in a kept file was."""
    return text.partition("\n")[0].removeprefix("# ")


def today() -> str:
    """The date and the commit; ``+``: with changes that are in no commit."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--exclude=*", "--dirty=+"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    return f"{datetime.datetime.now(datetime.UTC).date()}, commit {commit}"
