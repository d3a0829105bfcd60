# SPDX-License-Identifier: Apache-2.0
"""fastdl against its rivals: measure scenarios, show a table each, store one JSON object each."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any, Final

from benchmarks import runner
from benchmarks.options import say
from benchmarks.report import table
from benchmarks.rivals import Rival, all_rivals
from benchmarks.scenarios import resolve

RESULTS: Final = Path(__file__).parent / "results"


def run(args: argparse.Namespace) -> int:
    """Measure ``args.scenarios``; 1 where fastdl itself failed in one of them."""
    scenarios = resolve(args.scenarios or ["smoke"])
    rivals = chosen(args.rivals)
    status = 0
    with runner.bench(args.work, timeout_s=args.timeout) as bench:
        for scenario in scenarios:
            say(f"\n{scenario.name}")
            outcome = runner.measure(bench, scenario, rivals, rounds=args.rounds, say=say)
            result = runner.as_dict(outcome, args.work)
            if args.save:
                say(f"stored {save(result)}")
            print(json.dumps(result) if args.json else table(result), flush=True)
            status |= "fastdl" in outcome.failed
    return int(status)


def chosen(names: str | None) -> list[Rival]:
    """fastdl and the rivals that *names* lists (all without a list)."""
    rivals = all_rivals()
    if names is None:
        return rivals
    wanted = {name for name in names.split(",") if name}
    if unknown := wanted - {rival.name for rival in rivals}:
        raise ValueError(f"no rival is called {', '.join(sorted(unknown))}: see --list")
    return [rival for rival in rivals if rival.name in wanted or rival.name == "fastdl"]


def save(result: dict[str, Any], folder: Path = RESULTS) -> Path:
    """Store *result*; the name says when, what and of which commit."""
    day = re.sub(r"\D", "", result["when"][:19])
    folder.mkdir(exist_ok=True)
    path = folder / f"{day}-{result['scenario']}-{result['commit']}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    return path
