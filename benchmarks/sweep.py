# SPDX-License-Identifier: Apache-2.0
"""What changes when one thing changes? One axis at a time, the rest fixed."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from benchmarks import runner
from benchmarks.machine import commit, describe
from benchmarks.options import say
from benchmarks.rivals import Rival, all_rivals
from benchmarks.rivals.fastdl import Fastdl
from benchmarks.scenarios import Scenario, parse_scenario
from benchmarks.stored import save_sweep


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One value of the axis: a scenario, options for fastdl, links of the mirrors (bytes/s)."""

    label: str
    scenario: Scenario
    options: tuple[str, ...] = ()
    link_rates: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """An axis with the question that it answers, and who is measured besides fastdl."""

    title: str
    axis: str
    question: str
    points: tuple[Point, ...]
    rivals: tuple[str, ...] = ()


def _named(names: Mapping[str, str]) -> tuple[Point, ...]:
    return tuple(Point(label=label, scenario=parse_scenario(name)) for label, name in names.items())


_UNEQUAL: Final = tuple(rate * 1_000_000 for rate in (10, 20, 40, 80, 10, 20, 40, 80))

SWEEPS: Final[Mapping[str, Sweep]] = {
    "connections": Sweep(
        title="Connections on loopback",
        axis="connections",
        question="How many connections does a path without latency need?",
        points=_named({str(n): f"http-{n}conn-256MiB-raw-file-sha256" for n in (1, 2, 4, 8, 16)}),
    ),
    "connections-far": Sweep(
        title="Connections over 50 ms",
        axis="connections",
        question="A connection moves at most a window (4 MiB) each round trip: how many fill a "
        "link of 200 MB/s?",
        points=_named(
            {str(n): f"http-{n}conn-50ms-200MBps-128MiB-raw-file-sha256" for n in (1, 2, 4, 8, 16)}
        ),
        rivals=("aria2c",),
    ),
    "window": Sweep(
        title="Memory window over 100 ms",
        axis="--window",
        question="How much memory must be in flight when the round trip is long?",
        points=tuple(
            Point(
                label=f"{mib} MiB",
                scenario=parse_scenario("http-8conn-100ms-200MBps-256MiB-raw-file-sha256"),
                options=("--window", f"{mib}M"),
            )
            for mib in (16, 32, 64, 128, 256)
        ),
    ),
    "blocks": Sweep(
        title="Size of a block",
        axis="--block-size",
        question="What does a block of memory, and so a write, cost and save?",
        points=tuple(
            Point(
                label=size,
                scenario=parse_scenario("http-4conn-256MiB-raw-file-sha256"),
                options=("--block-size", size, "--window", "128M"),
            )
            for size in ("64K", "256K", "1M", "4M", "16M")
        ),
    ),
    "rtt": Sweep(
        title="Round trip with 8 connections",
        axis="round trip, ms",
        question="What does distance cost on a link of 100 MB/s?",
        points=_named(
            {
                str(ms): f"http-8conn{f'-{ms}ms' if ms else ''}-100MBps-128MiB-raw-file-sha256"
                for ms in (0, 10, 25, 50, 100)
            }
        ),
        rivals=("aria2c", "curl"),
    ),
    "mirrors": Sweep(
        title="Mirrors with unequal links (10, 20, 40, 80 MB/s and again)",
        axis="mirrors",
        question="Do the rates of unequal mirrors add up?",
        points=tuple(
            Point(
                label=str(n),
                scenario=parse_scenario(
                    f"http-{f'{n}mirror-' if n > 1 else ''}64MiB-raw-file-sha256"
                ),
                link_rates=_UNEQUAL[:n],
            )
            for n in (1, 2, 4, 8)
        ),
        rivals=("aria2c",),
    ),
    "mirrors-cost": Sweep(
        title="Mirrors without a limit",
        axis="mirrors",
        question="Does the processor time of a byte grow with the number of mirrors?",
        points=_named(
            {
                str(n): f"http-{f'{n}mirror-' if n > 1 else ''}256MiB-raw-file-sha256"
                for n in (1, 2, 4, 8)
            }
        ),
    ),
    "size": Sweep(
        title="Size of a raw image",
        axis="size",
        question="Does the cost grow in proportion to the bytes?",
        points=_named(
            {f"{mib} MiB": f"http-{mib}MiB-raw-file-sha256" for mib in (16, 64, 256, 1024)}
        ),
    ),
    "virtual": Sweep(
        title="Virtual size with 64 MiB of data",
        axis="virtual size",
        question="Does an almost empty disk of 1 TiB cost what its data costs?",
        points=_named(
            {
                "160 MiB": "http-64MiB-qcow2plain-block-sha256",
                "10 GiB": "http-64MiB-sparse10G-block-sha256",
                "100 GiB": "http-64MiB-sparse100G-block-sha256",
                "1 TiB": "http-64MiB-sparse1T-block-sha256",
            }
        ),
        rivals=("curl+qemu-img",),
    ),
}


def run(args: argparse.Namespace) -> int:
    """Run the sweeps that ``args.sweep`` lists (``all`` for every one)."""
    names = list(SWEEPS) if args.sweep == "all" else args.sweep.split(",")
    if unknown := set(names) - set(SWEEPS):
        raise ValueError(f"no sweep is called {', '.join(sorted(unknown))}; {', '.join(SWEEPS)}")
    with runner.bench(args.work, timeout_s=args.timeout) as bench:
        for name in names:
            result = measure(bench, SWEEPS[name], rounds=args.rounds, say=say)
            result |= {"commit": commit(), "machine": describe(args.work)}
            if args.save:
                save_sweep(name, result)
            print(json.dumps(result) if args.json else _text(result), flush=True)
    return 0


def measure(
    bench: runner.Bench, sweep: Sweep, *, rounds: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """All points of *sweep* as JSON. ``RuntimeError`` if fastdl fails at one."""
    rows: list[dict[str, Any]] = []
    for point in sweep.points:
        say(f"\n{sweep.title}: {point.label}")
        outcome = runner.measure(
            bench,
            point.scenario,
            _contestants(sweep.rivals, point.options),
            rounds=rounds,
            say=say,
            link_rates=point.link_rates,
            with_floors=False,
        )
        if "fastdl" in outcome.failed:
            raise RuntimeError(f"{sweep.title}, {point.label}: {outcome.failed['fastdl']}")
        rows += _rows(point, runner.as_dict(outcome, bench.work))
    return {
        "title": sweep.title,
        "axis": sweep.axis,
        "question": sweep.question,
        "points": rows,
    }


def _contestants(names: Sequence[str], options: tuple[str, ...]) -> list[Rival]:
    return [Fastdl(*options), *(rival for rival in all_rivals() if rival.name in names)]


def _rows(point: Point, result: dict[str, Any]) -> list[dict[str, Any]]:
    scenario = point.scenario
    link = sum(point.link_rates) or scenario.link_bytes_s * scenario.mirrors
    return [
        {
            "label": point.label,
            "contestant": name,
            "durable_s": entry["durable_s"],
            "rate_mb_s": round(result["source_bytes"] / entry["durable_s"]["median"] / 1e6, 1),
            "cpu_s_per_gb": entry["cpu_s_per_gb"],
            "peak_bytes": entry["peak_bytes"],
            "link_mb_s": round(link / 1e6, 1) if link else None,
        }
        for name, entry in result["contestants"].items()
        if entry["durable_s"]["n"]
    ]


def _text(result: dict[str, Any]) -> str:
    lines = [f"{result['title']}: {result['question']}"]
    lines += [
        f"  {row['label']:>9} {row['contestant']:<14} {row['durable_s']['median']:7.2f} s "
        f"{row['rate_mb_s']:8.1f} MB/s  {row['cpu_s_per_gb']['median']:6.2f} cpu s/GB "
        f"{row['peak_bytes'] >> 20:5d} MiB"
        for row in result["points"]
    ]
    return "\n".join(lines)
