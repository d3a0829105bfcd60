# SPDX-License-Identifier: Apache-2.0
"""``fastdl bench``: the performance suite, which lives in the source checkout."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any, Final

from fastdl.errors import UsageError

_HELP: Final = """usage: fastdl bench [SCENARIO ...] [options]

Measure fastdl against other tools, or check it against its own baseline. The suite lives in
the source checkout: run this from its folder to see and use its options.

examples:
  fastdl bench --list
  fastdl bench http-1GiB-raw-block-sha256
  fastdl bench --gate"""

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
    summary = "measure fastdl against other tools (needs the source checkout)"
    suite = _suite()
    if suite is not None:
        suite.add_arguments(subparsers.add_parser("bench", help=summary))
        return
    # No option of this parser begins with NUL, so whatever follows is a word and run() answers.
    parser = subparsers.add_parser("bench", help=summary, prefix_chars="\0", add_help=False)
    parser.add_argument("words", nargs="*")


def run(args: argparse.Namespace) -> int:
    """Run the suite; ``UsageError`` where fastdl was installed without it."""
    suite = _suite()
    if suite is None and {"-h", "--help"} & set(args.words):
        print(_HELP)
        return 0
    if suite is None:
        raise UsageError(
            "fastdl bench needs the source checkout: clone the repository, "
            "`pip install '.[bench]'` there and run it from its folder"
        )
    return int(suite.run(args))
