# SPDX-License-Identifier: Apache-2.0
"""Where results are kept, and what their names say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

RESULTS: Final = Path(__file__).parent / "results"
DECISIONS: Final = "decisions"
"""The name of what decisions cost, in zones of different sizes."""


def save(result: dict[str, Any], *what: str) -> Path:
    """Store *result*, measured at ``result["when"]``; the name says when, *what*, which commit."""
    day = re.sub(r"\D", "", result["when"][:19])
    return _write("-".join((day, *what, result["commit"])), result)


def save_sweep(name: str, result: dict[str, Any]) -> Path:
    """Store a sweep; its newest result replaces the previous one."""
    return _write(f"sweep-{name}", result)


def save_decisions(result: dict[str, Any]) -> Path:
    """Store what decisions cost; the newest result replaces the previous one."""
    return _write(DECISIONS, result)


def latest() -> dict[str, dict[str, Any]]:
    """Return the newest stored result of each scenario."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(RESULTS.glob("*.json")):
        result = json.loads(path.read_text())
        if "scenario" in result:
            found[result["scenario"]] = result
    return found


def _write(name: str, result: dict[str, Any]) -> Path:
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    return path
