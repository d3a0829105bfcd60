# SPDX-License-Identifier: Apache-2.0
"""Does the bulk benchmark bring templates through the real manager, and tell what it cost?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import bulk, options, origin
from benchmarks.manager import page
from benchmarks.provisioning import Provisioning

_MIB = 1 << 20


def _bulk(capsys: pytest.CaptureFixture[str], tmp_path: Path, *words: str) -> dict[str, Any]:
    if reason := origin.missing():
        pytest.skip(reason)
    status = options.main(["--rounds", "1", "--json", "--work", str(tmp_path), *words])
    output = capsys.readouterr()
    assert status == 0, output.err
    summary: dict[str, Any] = json.loads(output.out)
    return summary


def test_templates_reach_hosts_through_the_manager(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A pool a host: each gets its copy; one pool for all: the origin serves each once."""
    summary = _bulk(
        capsys,
        tmp_path,
        "--bulk",
        "2x2",
        "https-8MiB-raw-file-sha256",
        "--rivals",
        "manager,manager-shared",
    )
    runs = {entry["contestant"]: entry for entry in summary["runs"]}
    own, shared, alone = runs["manager"], runs["manager-shared"], runs["fastdl"]
    assert [own["copies"], shared["copies"], alone["copies"]] == [4, 2, 4]
    assert len(own["host_done_s"]) == 2
    assert len(shared["host_done_s"]) == 1
    for entry, images in ((own, 4), (shared, 2), (alone, 4)):
        # The head is looked at before a download: a little more than the image each time.
        assert images * 8 * _MIB <= entry["sent_bytes"] < (images * 9 + 1) * _MIB
        assert entry["all_done_s"] >= max(entry["host_done_s"]) - 0.5
    assert all(peak > 16 * _MIB for peak in own["peak_bytes"])
    assert own["cpu_s"] > own["manager_cpu_s"] > 0


def _entry(name: str, **values: Any) -> dict[str, Any]:
    result = Provisioning(contestant=name, copies=4, host_done_s=[1.0, 2.0], all_done_s=2.5)
    return {**result.as_dict(), **values}


def test_fairness_is_jains_index() -> None:
    """1 where all hosts were served alike, 1/n where one got everything."""
    assert Provisioning(contestant="x", host_done_s=[2.0, 2.0]).fairness == 1
    assert Provisioning(contestant="x", host_done_s=[1.0, 1e9]).fairness == pytest.approx(0.5)


def test_what_is_lost_to_the_naive_way_is_said_too() -> None:
    """A ratio above 1 stands there like one below."""
    runs = [
        _entry("manager", all_done_s=4.0, cpu_s=5.0, sent_bytes=400),
        _entry("cloudstack", all_done_s=2.0, cpu_s=10.0, sent_bytes=400),
    ]
    assert bulk.table({"runs": runs}).endswith(
        "manager: 2.00 of the naive way's time, 0.50 of its processor time, "
        "1.00 of the origin's bytes."
    )


def test_the_page_shows_the_newest_of_each_kind(tmp_path: Path) -> None:
    """The reader sees one table a question, from the last time it was asked."""
    box = {"cores": 2, "cpu": "any"}
    for when, seconds in (("2026-01-01", 9.0), ("2026-01-02", 2.5)):
        stored = {
            "bulk": "2x2",
            "of": "http-64MiB-raw-file-sha256",
            "when": when,
            "commit": "abc",
            "machine": box,
            "runs": [_entry("manager", all_done_s=seconds)],
        }
        (tmp_path / f"{when}-bulk-2x2.json").write_text(json.dumps(stored))
    measured = {
        "what": "jobs admitted",
        "promised": "at least 300",
        "found": 1490.0,
        "unit": "a second",
        "kept": True,
    }
    stored = {"manager": [measured], "when": "2026-01-01", "commit": "abc", "machine": box}
    (tmp_path / "2026-01-01-manager-abc.json").write_text(json.dumps(stored))
    text = page.section(tmp_path)
    assert text.index("### The manager") < text.index("### Bulk provisioning: 2 templates to 2")
    assert "| jobs admitted | 1,490 a second | at least 300 |" in text
    assert "| manager | 4 | 2.50 | 1.00-2.00 |" in text
    assert "9.00" not in text
    assert page.section(tmp_path / "nowhere") == ""


def test_only_ways_that_there_are_can_be_chosen() -> None:
    """A misspelt name is an error, not a shorter comparison."""
    with pytest.raises(ValueError, match="managr"):
        bulk._contestants("managr")
