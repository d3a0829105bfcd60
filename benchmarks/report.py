# SPDX-License-Identifier: Apache-2.0
"""Turns stored results into Markdown tables and SVG plots.

No figure is typed by hand: the parts of docs/performance.md and docs/scaling.md between their two
markers are replaced.
"""

from __future__ import annotations

import argparse
import json
from typing import Any, Final

from benchmarks.machine import CHECKOUT
from benchmarks.manager.page import section
from benchmarks.options import say
from benchmarks.scenarios import SETS
from benchmarks.stored import DECISIONS, RESULTS, latest

PAGE: Final = CHECKOUT / "docs" / "performance.md"
SCALING: Final = CHECKOUT / "docs" / "scaling.md"
PLOTS: Final = CHECKOUT / "docs" / "performance"
_BEGIN: Final = "<!-- results: written by `fastdl bench --report` -->"
_END: Final = "<!-- end of results -->"


def table(result: dict[str, Any]) -> str:
    """One scenario as a Markdown table with its losses, skips and failures below."""
    rows = [
        "| contestant | durable s | q1-q3 | CPU s/GB | peak MiB | time ratio | CPU ratio | n |",
        "|---|---|---|---|---|---|---|---|",
    ]
    contestants = result["contestants"]
    for name in sorted(contestants, key=lambda key: _median(contestants[key]["durable_s"])):
        entry = contestants[name]
        ratio = result["ratios"].get(name)
        mark = " *" if entry["only_disturbed"] else ""
        wall, cpu = entry["durable_s"], entry["cpu_s_per_gb"]
        rows.append(
            f"| {name}{mark} | {_number(wall['median'])} | {_spread(wall)} "
            f"| {_number(cpu['median'])} | {entry['peak_bytes'] >> 20} "
            f"| {_ratio(ratio, 'durable')} | {_ratio(ratio, 'cpu')} | {wall['n']} |"
        )
    return "\n".join([*rows, "", *_notes(result)])


def _median(values: dict[str, Any]) -> float:
    return float("inf") if values["median"] is None else values["median"]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _spread(values: dict[str, Any]) -> str:
    return f"{_number(values['p25'])}-{_number(values['p75'])}"


def _ratio(ratio: dict[str, Any] | None, key: str) -> str:
    if ratio is None:
        return "-"
    values = ratio[key]
    return f"{_number(values['median'])} ({_spread(values)})"


def _notes(result: dict[str, Any]) -> list[str]:
    notes = []
    if floor := floor_of(result):
        every = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in floor.items())
        above = result["floor"]["ratio"]
        notes.append(
            f"Floors of this machine: {every}; fastdl takes {above['median']:.2f} "
            f"({_spread(above)}) times the highest, in the same round."
        )
    if lost := losses(result):
        notes.append("fastdl loses: " + "; ".join(lost) + ".")
    if any(entry["only_disturbed"] for entry in result["contestants"].values()):
        notes.append("`*`: others used the machine in every round; read the ratios only.")
    for key in ("failed", "skipped"):
        if result[key]:
            said = "; ".join(f"{name} ({reason})" for name, reason in result[key].items())
            notes.append(f"{key.capitalize()}: {said}.")
    return notes


def floor_of(result: dict[str, Any]) -> dict[str, float]:
    """Seconds of each floor by its name, the highest first."""
    found = result["floor"]
    names = [name for name in found if name.endswith("_s")]
    names.sort(key=lambda name: -found[name])
    return {name.removesuffix("_s"): found[name] for name in names}


def losses(result: dict[str, Any]) -> list[str]:
    """What a rival does better than fastdl, in words: durable time, processor time, memory."""
    found = []
    contestants = result["contestants"]
    for name, ratio in result["ratios"].items():
        for key, what in (("durable", "time"), ("cpu", "processor time")):
            median = ratio[key]["median"]
            if median is not None and median < 1:
                found.append(f"to {name} in {what} ({median:.2f})")
        if "fastdl" in contestants and (
            contestants[name]["peak_bytes"] < contestants["fastdl"]["peak_bytes"]
        ):
            found.append(f"to {name} in memory ({contestants[name]['peak_bytes'] >> 20} MiB)")
    return found


def run(args: argparse.Namespace) -> int:
    """Write plots and the generated part of the page."""
    results = latest()
    sweeps = {
        path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("sweep-*.json"))
    }
    if not results:
        raise ValueError("no stored results: run `fastdl bench headline --save` first")
    PLOTS.mkdir(exist_ok=True)
    decisions = json.loads((RESULTS / f"{DECISIONS}.json").read_text())
    drawn = _plot(results, sweeps, decisions)
    figures = f"{_scenarios(results, drawn)}\n\n{section(RESULTS)}"
    for page, text in (
        (PAGE, figures),
        (SCALING, f"{_sweeps(sweeps, drawn)}\n\n{_decisions(decisions, drawn)}"),
    ):
        page.write_text(_replace(page.read_text(), text))
    say(f"wrote {PAGE}, {SCALING} and {len(drawn)} plots")
    return 0


def _replace(page: str, text: str) -> str:
    before, begin, rest = page.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (begin and end):
        raise ValueError(f"a page lacks the markers {_BEGIN} and {_END}")
    return f"{before}{_BEGIN}\n\n{text.rstrip()}\n\n{_END}{after}"


def _scenarios(results: dict[str, dict[str, Any]], drawn: dict[str, str]) -> str:
    parts = [
        _where(next(iter(results.values()))["machine"])
        + " Ratios are the contestant's over fastdl's in the same round: above 1, fastdl needs "
        "less.",
        "### Losses\n\n" + _all_losses(results),
    ]
    for name in _in_order(results):
        result = results[name]
        path = result.get("path", "loopback")
        over = "" if path == "loopback" else f" Path: {path}."
        parts.append(f"### {name}\n\nCommit {result['commit']}, {result['when']}.{over}")
        if name in drawn:
            parts.append(f"![durable time of {name}](performance/{drawn[name]})")
        parts.append(table(result))
    return "\n\n".join(parts)


def _all_losses(results: dict[str, dict[str, Any]]) -> str:
    """What rivals do better, over all scenarios: time and processor time for each, memory once."""
    found = []
    for name in _in_order(results):
        lost = [text for text in losses(results[name]) if " in memory " not in text]
        if lost:
            found.append(f"- {name}: {'; '.join(lost)}")
    memory = [
        name
        for name, result in results.items()
        if any(" in memory " in text for text in losses(result))
    ]
    if memory:
        found.append(
            f"- memory, in {len(memory)} of {len(results)} scenarios: tools that write what they "
            "get need less than fastdl, which fetches ahead of an ordered digest"
        )
    return "\n".join(found) or "None in what is stored."


def _sweeps(sweeps: dict[str, Any], drawn: dict[str, str]) -> str:
    parts = []
    for name, sweep in sweeps.items():
        parts.append(f"### {sweep['title']}\n\n{sweep['question']}")
        if name in drawn:
            parts.append(f"![{sweep['title']}](performance/{drawn[name]})")
        parts.append(f"Commit {sweep['commit']}. {_where(sweep['machine'])}")
        parts.append(_sweep_table(sweep))
    return "\n\n".join(parts) or "No sweep is stored."


def _where(box: dict[str, Any]) -> str:
    return (
        f"Machine: {box['cores']} cores of {box['cpu']}, {box['memory_bytes'] >> 30} GiB, kernel "
        f"{box['kernel']}, {box['filesystem']}, {box['openssl']}."
    )


def _in_order(results: dict[str, Any]) -> list[str]:
    known = [scenario.name for group in SETS.values() for scenario in group]
    return sorted(results, key=lambda name: (known.index(name) if name in known else 999, name))


def _sweep_table(sweep: dict[str, Any]) -> str:
    rows = [
        f"| {sweep['axis']} | contestant | durable s | MB/s | CPU s/GB | peak MiB | n |",
        "|---|---|---|---|---|---|---|",
    ]
    rows += [
        f"| {point['label']} | {point['contestant']} | {_number(point['durable_s']['median'])} "
        f"| {point['rate_mb_s']:.0f} | {_number(point['cpu_s_per_gb']['median'])} "
        f"| {point['peak_bytes'] >> 20} | {point['durable_s']['n']} |"
        for point in sweep["points"]
    ]
    return "\n".join(rows)


def _decisions(result: dict[str, Any], drawn: dict[str, str]) -> str:
    parts = [
        "### The manager's decisions, by the number of hosts",
        (
            "What does one job cost the manager, from its submission to its end, in a larger "
            "zone? The same jobs, and a round of decisions for each end; a tenth of them fail "
            "once. Counted (statements of SQL, steps of SQLite for them, calls of Python "
            "functions), so that a test compares them (tests/simulation/test_decisions.py); "
            "the processor time is this machine's."
        ),
    ]
    if DECISIONS in drawn:
        parts.append(f"![Cost of a job by the number of hosts](performance/{drawn[DECISIONS]})")
    parts.append(f"Commit {result['commit']}. {_where(result['machine'])}")
    rows = [
        "| hosts | statements a job | steps of SQLite | calls of Python | CPU ms |",
        "|---|---|---|---|---|",
    ]
    rows += [
        f"| {p['hosts']:,} | {p['statements']:.1f} | {p['steps']:,} | {p['calls']:,} "
        f"| {p['cpu_ms']:.1f} |"
        for p in result["points"]
    ]
    return "\n\n".join([*parts, "\n".join(rows)])


def _plot(
    results: dict[str, dict[str, Any]], sweeps: dict[str, Any], decisions: dict[str, Any]
) -> dict[str, str]:
    """Draw one SVG per scenario, per sweep and of the manager's decisions; {} if matplotlib is
    not installed."""
    try:
        from benchmarks import plots  # noqa: PLC0415 - matplotlib is an extra
    except ImportError:
        say("matplotlib is not installed (pip install '.[bench]'): no plots")
        return {}
    drawn = {name: plots.bars(result, PLOTS) for name, result in results.items()}
    drawn |= {name: plots.lines(name, sweep, PLOTS) for name, sweep in sweeps.items()}
    return drawn | {DECISIONS: plots.decisions(DECISIONS, decisions, PLOTS)}
