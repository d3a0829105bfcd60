# SPDX-License-Identifier: Apache-2.0
"""The short form of ``scripts/soak``: seconds instead of an hour."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from scripts import reliability
from scripts.soaking import __main__ as soak
from scripts.soaking import figures
from scripts.soaking.figures import Sample

SECONDS = 600.0 if os.environ.get("FASTDL_FULL_SWEEP") else 15.0


def test_mixed_work_leaves_nothing_behind(tmp_path: Path) -> None:
    """Downloads that end in every way, and a manager whose hosts come and go."""
    rows, wrong = soak.soaked(tmp_path, SECONDS)
    assert wrong == []
    assert [row for row in rows if row.grown] == []
    assert all(row.actions > 5 for row in rows), rows


def test_what_is_recorded_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run after the other."""
    monkeypatch.setattr(figures, "LEDGER", tmp_path / "soak.csv")
    row = figures.verdict("x", [Sample(1, 2, 3 << 20)] * 10, 4, 0.5)
    figures.record([row])
    figures.record([row])
    assert figures.recorded() == [row, row]


def test_what_grows_is_seen() -> None:
    """Of each kind; what was taken while warming up is none of it."""
    flat = [Sample(90, 40, 300 << 20)] * 20 + [Sample(20, 10, 100 << 20)] * 80
    assert figures.verdict("x", flat, 1, 1).grown == ""
    for more in (Sample(1, 0, 0), Sample(0, 1, 0), Sample(0, 0, 1 << 20)):
        grown = [
            Sample(*(a + b * n for a, b in zip(flat[-1], more, strict=True))) for n in range(100)
        ]
        assert len(figures.verdict("x", grown, 1, 1).grown.split()) == 1


def test_the_page_speaks_of_the_last_run() -> None:
    """What grew once and is mended is history; the last run's shortest part is its length."""
    flat = figures.Row("d", "c", "manager", 60.0, 1, 1, 1, 1, 1, 1, 1, "")
    grown = flat._replace(minutes=21.0, grown="memory")
    other = flat._replace(what="downloads", minutes=50.0)
    assert reliability.promised([], [grown, other, flat])[12] == "50 minutes: nothing grew"
    assert reliability.promised([], [flat, other, grown])[12] == "21 minutes: something grew"
