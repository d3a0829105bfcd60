# SPDX-License-Identifier: Apache-2.0
"""Writes docs/reliability.md and docs/torture.md: prose of scripts/pages, figures of the ledgers.

The table of promises is made of the page's own sections (their titles, first tests, and what they
say is not proven) and of the last full runs: docs/torture.csv and docs/soak.csv.

python -m scripts.reliability            writes the pages
python -m scripts.reliability --check    lists those that are out of date, and exits with 1
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from scripts.soaking import figures
from scripts.torturing import ledger
from scripts.torturing.ledger import Count

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "scripts" / "pages"
TORTURE = ROOT / "docs" / "torture.csv"
NAMES = ("reliability.md", "torture.md")

HEAD = """<!-- SPDX-License-Identifier: Apache-2.0 -->
<!-- Written by scripts/reliability.py from scripts/pages/{name}.in and the ledgers: edit those. -->
"""

KILLS = ("kill", "kill3", "tear")
CUTS = ("cut", "cut2")
TARGETS = ("file", "device", "NBD")


class Section(NamedTuple):
    """One promise of the page."""

    number: int
    title: str
    test: str
    open: str


def sections(text: str) -> list[Section]:
    """The numbered sections of *text*, in order."""
    found = []
    for part in re.split(r"(?m)^## ", text)[1:]:
        heading, _, body = part.partition("\n")
        if not (matched := re.fullmatch(r"(\d+)\. (.+)", heading)):
            continue
        test = re.search(r"tests/[\w/]+\.py::test_\w+", body)
        # A title says what: "Not yet", "Limit", "Not checked at all".
        gap = re.search(r"(?ms)^\*(?:Not[\w ]*|Limit):\* (.+?)(?:\n\n|\Z)", body)
        found.append(
            Section(
                int(matched[1]),
                matched[2],
                test[0] if test else "",
                " ".join(gap[1].split()).rstrip(".") if gap else "",
            )
        )
    return found


def _of(counts: Iterable[Count], experiments: Iterable[str], target: str = "") -> list[Count]:
    chosen = set(experiments)
    return [
        count
        for count in counts
        if count.experiment in chosen
        and (count.target.startswith(target) if target else count.target in TARGETS)
    ]


def _said(what: str, counts: list[Count]) -> str:
    points = sum(count.points for count in counts)
    return f"{points:,} {what}: {sum(count.violations for count in counts)} violations"


def promised(counts: list[Count], soaks: list[figures.Row]) -> dict[int, str]:
    """The figure of each promise that has one."""
    every = list(ledger.EXPERIMENTS)
    last = {row.what: row for row in soaks}.values()
    minutes = min((row.minutes for row in last), default=0)
    grown = "something grew" if any(row.grown for row in last) else "nothing grew"
    return {
        1: _said("power cuts", _of(counts, CUTS)),
        2: _said("failing and short calls", _of(counts, ("fail", "short"))),
        3: _said("kills", _of(counts, KILLS)),
        5: _said("downloads with flipped bits", _of(counts, ("flip",))),
        9: _said("kills, faults and power cuts", _of(counts, every, "keystore")),
        12: f"{minutes:.0f} minutes: {grown}" if soaks else "",
        14: _said("failing calls", _of(counts, ("fail",))),
        15: _said("kills and faults at a database", _of(counts, every, "database")),
    }


def _promises(text: str, counts: list[Count], soaks: list[figures.Row], date: str) -> str:
    said = promised(counts, soaks)
    lines = [
        "| promise | a test | figure | date | not proven |",
        "|---|---|---|---|---|",
    ]
    for section in sections(text):
        figure = said.get(section.number, "")
        when = (soaks[-1].date if soaks else "") if section.number == 12 else date
        lines.append(
            f"| {section.number}. {section.title} | {section.test} | {figure} "
            f"| {when if figure else ''} | {section.open} |"
        )
    return "\n".join(lines)


def _soak(rows: list[figures.Row]) -> str:
    lines = [
        "| what | date | minutes | actions | descriptors | threads | memory, MiB | grown |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.what} | {row.date}, {row.commit} | {row.minutes:.0f} | {row.actions:,} "
        f"| {row.descriptors_first} to {row.descriptors_last} "
        f"| {row.threads_first} to {row.threads_last} | {row.mib_first} to {row.mib_last} "
        f"| {row.grown or 'nothing'} |"
        for row in rows
    ]
    return "\n".join(lines)


def pages() -> dict[Path, str]:
    """Path → what it should hold."""
    kept = TORTURE.read_text(encoding="utf-8")
    run, counts = ledger.run_of(kept), ledger.from_csv(kept)
    soaks = figures.recorded()
    found = {}
    for name in NAMES:
        text = (PAGES / f"{name}.in").read_text(encoding="utf-8")
        values = {
            "promises": _promises(text, counts, soaks, run.partition(",")[0]),
            "torture": f"{run}:\n\n{ledger.table(counts).rstrip()}",
            "soak": _soak(soaks),
        }
        for word, value in values.items():
            text = text.replace(f"{{{word}}}", value)
        found[ROOT / "docs" / name] = HEAD.format(name=name) + text
    return found


def main(arguments: list[str]) -> int:
    """Write or check the pages."""
    wrong = 0
    for path, text in pages().items():
        if arguments != ["--check"]:
            path.write_text(text, encoding="utf-8")
        elif path.read_text(encoding="utf-8") != text:
            print(f"{path} is out of date: run python -m scripts.reliability", file=sys.stderr)
            wrong = 1
    return wrong


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
