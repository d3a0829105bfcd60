# SPDX-License-Identifier: Apache-2.0
"""The plots of the report (needs the extra ``bench``: matplotlib)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "fastdl"  # the same data gives the same file
mpl.rcParams["svg.fonttype"] = "none"

from matplotlib import pyplot  # noqa: E402 - after the back end is chosen

_MINE, _OTHER, _FLOOR = "#1a6f4c", "#9aa5b1", "#b3261e"


def bars(result: dict[str, Any], folder: Path) -> str:
    """Durable time of every contestant with quartiles, and the floor; returns the file's name."""
    contestants = result["contestants"]
    names = sorted(
        (name for name in contestants if contestants[name]["durable_s"]["n"]),
        key=lambda name: contestants[name]["durable_s"]["median"],
        reverse=True,
    )
    walls = [contestants[name]["durable_s"] for name in names]
    figure, axes = pyplot.subplots(figsize=(7, 0.6 + 0.34 * max(3, len(names))))
    axes.barh(
        names,
        [wall["median"] for wall in walls],
        xerr=[
            [wall["median"] - wall["p25"] for wall in walls],
            [wall["p75"] - wall["median"] for wall in walls],
        ],
        color=[_MINE if name == "fastdl" else _OTHER for name in names],
        ecolor="#333333",
        capsize=2,
    )
    floors = [value for name, value in result["floor"].items() if name.endswith("_s")]
    if floors:
        axes.axvline(max(floors), color=_FLOOR, linestyle="--", linewidth=1)
    axes.set_xlabel("seconds until durable (bar: median, whisker: quartiles, dashed: floor)")
    axes.set_title(result["scenario"], fontsize=9)
    return _save(figure, folder / f"{result['scenario']}.svg")


def lines(name: str, sweep: dict[str, Any], folder: Path) -> str:
    """Rate and processor time over the swept axis, a line per contestant; returns its file name."""
    figure, (rate, cpu) = pyplot.subplots(1, 2, figsize=(9, 3.2))
    rows = sweep["points"]
    for contestant in dict.fromkeys(row["contestant"] for row in rows):
        points = [row for row in rows if row["contestant"] == contestant]
        colour = _MINE if contestant == "fastdl" else None
        labels = [point["label"] for point in points]
        rate.plot(
            labels, [p["rate_mb_s"] for p in points], marker="o", label=contestant, color=colour
        )
        cpu.plot(
            labels,
            [p["cpu_s_per_gb"]["median"] for p in points],
            marker="o",
            label=contestant,
            color=colour,
        )
    links = {row["label"]: row["link_mb_s"] for row in rows if row.get("link_mb_s")}
    if links:
        rate.plot(list(links), list(links.values()), color=_FLOOR, linestyle="--", label="link")
    for axes, unit in ((rate, "MB/s until durable"), (cpu, "CPU s/GB")):
        axes.set_ylim(bottom=0)
        axes.set_xlabel(sweep["axis"])
        axes.set_ylabel(unit)
        axes.legend(fontsize=8)
    figure.suptitle(sweep["title"], fontsize=9)
    return _save(figure, folder / f"{name}.svg")


def decisions(name: str, result: dict[str, Any], folder: Path) -> str:
    """What a job costs over the number of hosts, relative to the smallest zone; returns its file
    name."""
    figure, axes = pyplot.subplots(figsize=(7, 3.2))
    points = result["points"]
    hosts = [point["hosts"] for point in points]
    for key, label, colour in (
        ("cpu_ms", "processor time", _OTHER),
        ("calls", "calls of Python", None),
        ("steps", "steps of SQLite", None),
        ("statements", "statements of SQL", _MINE),
    ):
        values = [point[key] / points[0][key] for point in points]
        axes.plot(hosts, values, marker="o", label=label, color=colour)
    axes.set_xscale("log")
    axes.set_ylim(0, 2)
    axes.set_xlabel("hosts in the zone")
    axes.set_ylabel(f"cost of a job, {hosts[0]} hosts = 1")
    axes.legend(fontsize=8)
    return _save(figure, folder / f"{name}.svg")


def _save(figure: Any, path: Path) -> str:
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    return path.name
