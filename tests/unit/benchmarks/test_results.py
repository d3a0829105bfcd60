# SPDX-License-Identifier: Apache-2.0
"""From runs to figures: ratios are paired, disturbed runs do not count, losses are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks import report, runner, stats
from benchmarks.meter import Cost
from benchmarks.payload import Payload
from benchmarks.scenarios import parse_scenario

_IMAGE = Payload(
    name="raw", source_bytes=10**9, virtual_bytes=10**9, sha256="", source_content="", content=""
)


def _run(name: str, turn: int, durable: float, **extra: Any) -> runner.Run:
    cost = Cost(user_s=durable / 2, peak_bytes=extra.pop("peak", 1 << 20))
    values = {"origin_cpu_s": 0.0, "kthread_cpu_s": 0.0, "disturbed": 0.0, "requests": 1}
    values |= {"sent_bytes": 0, "cached_bytes": 0, **extra}
    return runner.Run(contestant=name, turn=turn, durable_s=durable, cost=cost, **values)


def _result(*runs: runner.Run, folder: Path) -> dict[str, Any]:
    outcome = runner.Outcome(
        scenario=parse_scenario("http-1GiB-raw-file-sha256"), image=_IMAGE, runs=list(runs)
    )
    for run in runs:
        outcome.versions[run.contestant] = {}
        outcome.flags[run.contestant] = []
    return runner.as_dict(outcome, folder)


def test_ratios_compare_runs_of_the_same_round(tmp_path: Path) -> None:
    """A machine that slows down over time must not favour who ran early."""
    runs = [_run("fastdl", t, 1.0 * 2**t) for t in range(4)]
    runs += [_run("curl", t, 3.0 * 2**t) for t in range(4)]
    ratio = _result(*runs, folder=tmp_path)["ratios"]["curl"]["durable"]
    assert (ratio["median"], ratio["p25"], ratio["p75"]) == (3.0, 3.0, 3.0)


def test_a_disturbed_run_counts_neither_alone_nor_in_a_pair(tmp_path: Path) -> None:
    """Somebody else's work is not the contestant's slowness."""
    result = _result(
        _run("fastdl", 0, 1.0),
        _run("fastdl", 1, 1.0),
        _run("curl", 0, 2.0),
        _run("curl", 1, 50.0, disturbed=0.6),
        folder=tmp_path,
    )
    assert result["contestants"]["curl"]["durable_s"]["median"] == 2.0
    assert result["contestants"]["curl"]["disturbed_runs"] == 1
    assert result["ratios"]["curl"]["durable"]["n"] == 1


def test_figures_of_a_wholly_disturbed_machine_are_marked(tmp_path: Path) -> None:
    """A number that should not be quoted must say so itself."""
    result = _result(_run("fastdl", 0, 1.0, disturbed=0.9), folder=tmp_path)
    assert result["contestants"]["fastdl"]["only_disturbed"]
    assert "fastdl *" in report.table(result)


def test_every_loss_is_listed(tmp_path: Path) -> None:
    """A table that hides what a rival does better is an advertisement."""
    result = _result(
        _run("fastdl", 0, 2.0, peak=100 << 20),
        _run("curl", 0, 1.0, peak=10 << 20),
        folder=tmp_path,
    )
    text = report.table(result)
    assert "to curl in time (0.50)" in text
    assert "to curl in processor time (0.50)" in text
    assert "to curl in memory (10 MiB)" in text


def test_a_summary_gives_quartiles_and_no_value_for_nothing() -> None:
    """The medians of the report come from here alone."""
    assert stats.summary([1, 2, 3, 4, 5]) == {"n": 5, "median": 3, "p25": 2, "p75": 4}
    assert stats.summary([])["median"] is None


def test_the_report_replaces_only_its_own_part(tmp_path: Path) -> None:
    """What people wrote around the figures stays."""
    page = f"before\n{report._BEGIN}\nold\n{report._END}\nafter\n"
    text = report._replace(page, "new")
    assert "old" not in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert report._replace(text, "new") == text


def test_losses_stand_first_and_sweeps_on_a_page_of_their_own(tmp_path: Path) -> None:
    """What rivals do better must be found without reading every table."""
    result = _result(_run("fastdl", 0, 2.0), _run("curl", 0, 1.0), folder=tmp_path)
    page = report._scenarios({result["scenario"]: result}, {})
    assert page.index("### Losses") < page.index(f"### {result['scenario']}")
    assert f"- {result['scenario']}: to curl in time (0.50)" in page
    assert report._sweeps({}, {}) == "No sweep is stored."
