# SPDX-License-Identifier: Apache-2.0
"""A few points of the torture rig; ``scripts/torture`` makes as many as there is time."""

from __future__ import annotations

import json
import os
from pathlib import Path

from scripts import torturing

POINTS = 200 if os.environ.get("FASTDL_FULL_SWEEP") else 12


def test_what_is_tortured_keeps_its_promises(tmp_path: Path) -> None:
    """And a run that was interrupted goes on where its ledger ends."""
    ledger = tmp_path / "ledger"
    with torturing.site() as site:
        for seed, points in ((7, POINTS // 2), (7, POINTS)):
            rows = torturing.swept(site, ledger, seed=seed, points=points)
            assert [row for row in rows if row["found"]] == []
    lines = ledger.read_text().splitlines()
    assert sorted(json.loads(line)["number"] for line in lines) == list(range(POINTS))
    assert f"| all | | {POINTS} | 0 |" in torturing.report(rows)
