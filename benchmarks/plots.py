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
    if result["floor"]:
        axes.axvline(max(result["floor"].values()), color=_FLOOR, linestyle="--", linewidth=1)
    axes.set_xlabel("seconds until durable (bar: median, whisker: quartiles, dashed: floor)")
    axes.set_title(result["scenario"], fontsize=9)
    return _save(figure, folder / f"{result['scenario']}.svg")


def lines(name: str, sweep: dict[str, Any], folder: Path) -> str:
    """Rate over the swept axis, one line a contestant; returns the file's name."""
    figure, axes = pyplot.subplots(figsize=(7, 3.2))
    for contestant in dict.fromkeys(point["contestant"] for point in sweep["points"]):
        points = [point for point in sweep["points"] if point["contestant"] == contestant]
        axes.plot(
            [point["label"] for point in points],
            [point["rate_mb_s"] for point in points],
            marker="o",
            label=contestant,
            color=_MINE if contestant == "fastdl" else None,
        )
    axes.set_ylim(bottom=0)
    axes.set_xlabel(sweep["axis"])
    axes.set_ylabel("MB/s until durable")
    axes.set_title(sweep["title"], fontsize=9)
    axes.legend(fontsize=8)
    return _save(figure, folder / f"{name}.svg")


def _save(figure: Any, path: Path) -> str:
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    return path.name
