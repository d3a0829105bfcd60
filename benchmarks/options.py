# SPDX-License-Identifier: Apache-2.0
"""The command line of the suite, the same for ``fastdl bench`` and ``python -m benchmarks``."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Final

DESCRIPTION: Final = "Measure fastdl against other tools, or check it against its own baseline."
ROUNDS: Final = 5
SWEEP_ROUNDS: Final = 3  # all sweeps together then take about ten minutes
EXAMPLES: Final = """\
examples:
  fastdl bench --list                              names of scenarios, sets and rivals
  fastdl bench http-1GiB-raw-block-sha256          one scenario against every rival that can
  fastdl bench headline --rounds 7 --save          the figures of the README
  fastdl bench https-2mirror-50ms-64MiB-raw-file-none --rivals curl,aria2c
  fastdl bench --gate                              counts against the stored baseline (CI)
  fastdl bench --gate-paired                       paired ratios against one rival per scenario
  fastdl bench --explain http-1GiB-raw-block-sha256
  fastdl bench --bulk 4x3 http-256MiB-raw-file-sha256 --save
                                                   4 templates to 3 hosts: through a manager with a
                                                   pool a host and with one for all, the engine
                                                   alone, and the naive way
  fastdl bench --sweep connections,window,blocks,rtt,mirrors,virtual
  fastdl bench --report                            tables and plots from the stored results

The method is in benchmarks/README.md.
"""


def default_work() -> Path:
    """The folder of payloads and targets: FASTDL_BENCH_DIR, or a private one of this user."""
    named = os.environ.get("FASTDL_BENCH_DIR")
    return Path(named or Path(tempfile.gettempdir()) / f"fastdl-bench-{os.getuid()}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the suite's arguments to *parser*."""
    parser.description = DESCRIPTION
    parser.epilog = EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "scenarios",
        nargs="*",
        metavar="SCENARIO",
        help="names of scenarios or sets (default: smoke)",
    )
    what = parser.add_argument_group("other things to do").add_mutually_exclusive_group()
    what.add_argument("--list", action="store_true", help="list sets, scenarios and rivals")
    what.add_argument(
        "--gate",
        action="store_true",
        help="compare instruction, call and byte counts with the baseline",
    )
    what.add_argument(
        "--gate-paired",
        action="store_true",
        help="compare paired ratios with the documented guarantees",
    )
    what.add_argument("--explain", metavar="SCENARIO", help="print where the time goes, per GB")
    what.add_argument("--bulk", metavar="NxM", help="download N templates to M hosts")
    what.add_argument("--sweep", metavar="AXES", help="vary one axis after the other")
    what.add_argument("--report", action="store_true", help="write tables and plots")
    parser.add_argument("--rivals", metavar="NAMES", help="only these, besides fastdl")
    parser.add_argument(
        "--rounds",
        type=int,
        metavar="N",
        help=f"rounds after the warm-up (default: {ROUNDS}; {SWEEP_ROUNDS} for sweeps)",
    )
    parser.add_argument("--save", action="store_true", help="store results in benchmarks/results")
    parser.add_argument("--json", action="store_true", help="print results as JSON")
    parser.add_argument(
        "--work",
        type=Path,
        default=default_work(),
        metavar="DIR",
        help="folder for payloads and targets (default: $FASTDL_BENCH_DIR, or fastdl-bench-UID "
        "in the temporary folder)",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=60.0,
        metavar="S",
        help="time limit of one run (default: %(default)s)",
    )
    parser.add_argument(
        "--update-baseline", action="store_true", help="with --gate: store the counts"
    )
    parser.add_argument(
        "--only", metavar="PARTS", help="with --gate: parts to count (instructions, transfer)"
    )
    parser.add_argument(
        "--tree", type=Path, metavar="DIR", help="with --gate: count another built source tree"
    )


_MODES: Final[tuple[tuple[str, str], ...]] = (
    ("list", "listing"),
    ("gate", "gate.check"),
    ("gate_paired", "gate.paired"),
    ("explain", "explain"),
    ("bulk", "bulk"),
    ("sweep", "sweep"),
    ("report", "report"),
)


def run(args: argparse.Namespace) -> int:
    """Execute *args*; returns the exit status."""
    signal.signal(signal.SIGTERM, _end)  # nginx and loop devices must not outlive the suite
    if args.rounds is None:
        args.rounds = SWEEP_ROUNDS if args.sweep else ROUNDS
    module = next((name for flag, name in _MODES if getattr(args, flag)), "compare")
    command: Callable[[argparse.Namespace], int] = import_module(f"benchmarks.{module}").run
    try:
        args.work.mkdir(mode=0o700, parents=True, exist_ok=True)
        return command(args)
    except (ValueError, RuntimeError, OSError) as error:
        print(f"fastdl bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("fastdl bench: interrupted", file=sys.stderr)
        return 130


def _end(_number: int, _frame: object) -> None:
    raise SystemExit(143)


def say(text: str) -> None:
    """Progress for people; results go to standard output."""
    print(text, file=sys.stderr, flush=True)


def main(argv: list[str] | None = None, **defaults: Any) -> int:
    """``python -m benchmarks``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    add_arguments(parser)
    parser.set_defaults(**defaults)
    return run(parser.parse_args(argv))
