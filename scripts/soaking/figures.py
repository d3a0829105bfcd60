# SPDX-License-Identifier: Apache-2.0
"""What a process holds, whether it has grown, and the ledger of that: docs/soak.csv."""

from __future__ import annotations

import csv
import datetime
import io
import subprocess
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple, get_type_hints

ROOT = Path(__file__).resolve().parents[2]
LEDGER = ROOT / "docs" / "soak.csv"
GROWTH_BYTES = 8 << 20
GROWTH = 0.1
ROOM = 4
ROOM_OF_FEW = 16
"""Where a fifth has fewer than a hundred samples: they show what was at work just then, too."""


class Sample(NamedTuple):
    """One look at a process. *rss* in bytes."""

    descriptors: int
    threads: int
    rss: int


class Row(NamedTuple):
    """A line of the ledger, of the second fifth (``first``) and of the last one.

    Of the memory the median, of descriptors and threads what nine tenths of the samples have: how
    many downloads are at work at a time depends on the machine's load, and a leak is always there.
    """

    date: str
    commit: str
    what: str
    minutes: float
    actions: int
    descriptors_first: int
    descriptors_last: int
    threads_first: int
    threads_last: int
    mib_first: int
    mib_last: int
    grown: str


def sample(pid: int) -> Sample:
    """Look at the process *pid*."""
    here = Path(f"/proc/{pid}")
    status = dict(
        line.split(":", 1) for line in (here / "status").read_text().splitlines() if ":" in line
    )
    return Sample(
        len(list((here / "fd").iterdir())),
        int(status["Threads"]),
        int(status["VmRSS"].split()[0]) * 1024,
    )


def verdict(what: str, samples: Sequence[Sample], actions: int, minutes: float) -> Row:
    """The figures, and what has grown."""
    part = max(1, len(samples) // 5)
    # What is compared has seen as much time: the second fifth and the last.
    first, last = samples[part : 2 * part] or samples[:1], samples[-part:]
    d0, d1 = (_always([s.descriptors for s in part]) for part in (first, last))
    t0, t1 = (_always([s.threads for s in part]) for part in (first, last))
    m0, m1 = (int(median(s.rss for s in part)) for part in (first, last))
    few = ROOM if part >= 100 else ROOM_OF_FEW
    grown = [
        name
        for name, before, after, room in (
            ("descriptors", d0, d1, few),
            ("threads", t0, t1, few),
            ("memory", m0, m1, max(GROWTH_BYTES, m0 * GROWTH)),
        )
        if after > before + room
    ]
    today, commit = str(datetime.datetime.now(datetime.UTC).date()), _commit()
    return Row(
        today, commit, what, round(minutes, 1), actions, d0, d1, t0, t1, m0 >> 20, m1 >> 20,
        " ".join(grown),
    )  # fmt: skip


def _always(counts: list[int]) -> int:
    """What nine tenths of *counts* reach."""
    return sorted(counts)[len(counts) // 10]


def _commit() -> str:
    return subprocess.run(
        ["git", "describe", "--always", "--exclude=*", "--dirty=+"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    ).stdout.strip()


def recorded() -> list[Row]:
    """The ledger."""
    if not LEDGER.exists():
        return []
    kinds = get_type_hints(Row).values()
    return [
        Row(*(kind(text) for kind, text in zip(kinds, line, strict=True)))
        for line in list(csv.reader(io.StringIO(LEDGER.read_text())))[1:]
    ]


def record(rows: Sequence[Row]) -> None:
    """Add *rows* to the ledger."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(Row._fields)
    writer.writerows([*recorded(), *rows])
    LEDGER.write_text(out.getvalue())
