# SPDX-License-Identifier: Apache-2.0
"""``fastdl bench``: the performance suite, which lives in the source checkout."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any, Final

from fastdl.cli import streams
from fastdl.cli.measure import main
from fastdl.cli.parser import Parser
from fastdl.errors import UsageError

_HELP: Final = """usage: fastdl bench [SCENARIO ...] [options]

Measure fastdl against other tools, or check it against its own baseline. The suite lives in
the source checkout: run this from its folder to see and use its options.

examples:
  fastdl bench --list
  fastdl bench http-1GiB-raw-block-sha256
  fastdl bench --gate

Without the checkout, ``fastdl bench --url URL --target TARGET`` measures your own place;
fastdl bench --url --help lists its options."""

_HOME: Final = Path(__file__).resolve().parents[3]


def _checkout() -> Path | None:
    """The checkout that this module lies in, else the one that the user stands in."""
    for folder in (_HOME, Path.cwd()):
        if all((folder / part).exists() for part in ("benchmarks/options.py", "src/fastdl")):
            return folder
    return None


def _suite() -> Any | None:
    """benchmarks.options of the checkout, or None outside of one."""
    folder = _checkout()
    if folder is None:
        return None
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    return importlib.import_module("benchmarks.options")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``bench`` with the suite's own options; outside a checkout it takes any words."""
    summary = "measure fastdl against other tools"
    suite = _suite()
    if suite is not None:
        parser = subparsers.add_parser("bench", help=summary)
        suite.add_arguments(parser)
        main.add_arguments(parser)
        parser.epilog = f"{main.EXAMPLES}\n\n{parser.epilog}"
        return
    # No option of this parser begins with NUL, so whatever follows is a word and run() answers.
    parser = subparsers.add_parser("bench", help=summary, prefix_chars="\0", add_help=False)
    parser.add_argument("words", nargs="*")


def run(args: argparse.Namespace) -> int:
    """Run the suite; ``UsageError`` where fastdl was installed without it."""
    suite = _suite()
    if suite is not None:
        return main.run(args) if args.url else int(suite.run(args))
    if any(word.partition("=")[0] == "--url" for word in args.words):
        return main.run(_own_parser().parse_args(args.words))
    if {"-h", "--help"} & set(args.words):
        streams.say(_HELP)
        return 0
    raise UsageError(
        "but for --url, fastdl bench needs the source checkout: clone the repository, "
        "`pip install '.[bench]'` there and run it from its folder"
    )


def _own_parser() -> argparse.ArgumentParser:
    """The options of ``--url`` alone, where the suite is not there."""
    parser = Parser(prog="fastdl bench", epilog=main.EXAMPLES)
    main.add_arguments(parser)
    parser.add_argument("--rounds", type=int, metavar="N", help=f"default {main.ROUNDS}")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser
