# SPDX-License-Identifier: Apache-2.0
"""fastdl against its rivals: measure scenarios, print a table and store a JSON object for each."""

from __future__ import annotations

import argparse
import json

from benchmarks import runner
from benchmarks.options import say
from benchmarks.report import table
from benchmarks.rivals import chosen
from benchmarks.scenarios import resolve
from benchmarks.stored import save


def run(args: argparse.Namespace) -> int:
    """Measure ``args.scenarios``; 1 if fastdl itself failed in one of them."""
    scenarios = resolve(args.scenarios or ["smoke"])
    rivals = chosen(args.rivals)
    status = 0
    with runner.bench(args.work, timeout_s=args.timeout) as bench:
        for scenario in scenarios:
            say(f"\n{scenario.name}")
            outcome = runner.measure(bench, scenario, rivals, rounds=args.rounds, say=say)
            result = runner.as_dict(outcome, args.work)
            if args.save:
                say(f"stored {save(result, result['scenario'])}")
            print(json.dumps(result) if args.json else table(result), flush=True)
            status |= "fastdl" in outcome.failed
    return int(status)
