# SPDX-License-Identifier: Apache-2.0
"""The figures as a table for people, as Markdown for a ticket, and as JSON."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from fastdl import __version__
from fastdl.cli.measure.limit import Limit
from fastdl.cli.measure.rates import Rates
from fastdl.cli.measure.runs import Run
from fastdl.model.units import format_rate, format_size
from fastdl.named_tuple import NamedTuple


class Measured(NamedTuple):
    """All that was measured. *urls* as they may be shown; *skipped*: tool → why."""

    urls: tuple[str, ...]
    target: str
    size: int
    sha256: str
    known_before: bool
    rounds: int
    runs: Mapping[str, Sequence[Run]]
    skipped: Mapping[str, str]
    rates: Rates
    limit: Limit


def as_dict(found: Measured) -> dict[str, Any]:
    """The object of ``--json``."""
    return {
        "fastdl": __version__,
        "urls": list(found.urls),
        "target": found.target,
        "size": found.size,
        "sha256": found.sha256,
        "digest_known_before": found.known_before,
        "rounds": found.rounds,
        "tools": {
            name: [run._asdict() | {"output": None} for run in runs]
            for name, runs in found.runs.items()
        },
        "skipped": dict(found.skipped),
        "rates": found.rates._asdict(),
        "limit": found.limit.what,
        "why": list(found.limit.why),
    }


def as_text(found: Measured) -> str:
    """For the terminal."""
    rows = [("tool", "until durable", "rate", "digest", "processor", ""), *_rows(found)]
    widths = [max(len(row[at]) for row in rows) for at in range(5)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, (*widths, 0), strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([*_head(found), "", *lines, "", *_parts(found), "", *found.limit.why])


def as_markdown(found: Measured) -> str:
    """For a ticket."""
    rows = ["| " + " | ".join(row) + " |" for row in _rows(found)]
    return "\n".join(
        [
            "# fastdl bench",
            "",
            *(f"- {line}" for line in (*_head(found), *_machine())),
            "",
            "| tool | until durable | rate | digest | processor | remark |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
            *(f"- {line}" for line in _parts(found)),
            "",
            *found.limit.why,
            "",
        ]
    )


def _head(found: Measured) -> list[str]:
    proven = "given" if found.known_before else "of fastdl's own first download"
    return [
        f"source: {' '.join(found.urls)}, {format_size(found.size)}",
        f"target: {found.target}",
        f"SHA-256 {found.sha256} ({proven}); every copy was compared with it",
        f"rounds: {found.rounds}" + (", medians" if found.rounds > 1 else ""),
    ]


def _rows(found: Measured) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for name, runs in found.runs.items():
        good = [run for run in runs if run.failure is None]
        failures = sorted({run.failure for run in runs if run.failure is not None})
        remark = "; ".join(failures)
        if not good:
            rows.append((name, "-", "-", "-", "-", f"failed: {remark}"))
            continue
        seconds = statistics.median(run.seconds for run in good)
        check = statistics.median(run.check_s for run in good)
        cpu = statistics.median(run.cpu_s for run in good)
        digest = "in it" if name == "fastdl" else f"+{check:.2f} s"
        whole = found.size / max(seconds + check, 1e-9)
        cells = (f"{seconds:.2f} s", format_rate(whole), digest, f"{cpu:.2f} s")
        rows.append((name, *cells, f"failed at times: {remark}" if remark else ""))
    rows += [(name, "-", "-", "-", "-", f"left out: {why}") for name, why in found.skipped.items()]
    return rows


def _parts(found: Measured) -> list[str]:
    def shown(rate: float | None) -> str:
        return "not measured" if rate is None else format_rate(rate)

    rates = found.rates
    return [
        f"one connection, to nowhere: {shown(rates.one_connection)}",
        f"several connections, to nowhere: {shown(rates.connections)}",
        f"the storage alone: {shown(rates.storage)}",
        f"SHA-256 on one processor: {shown(rates.digest)}",
        f"the network interface: {shown(rates.interface)}",
    ]


def _machine() -> list[str]:
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    return [f"fastdl {__version__}, {len(os.sched_getaffinity(0))} processors, {system}"]
