# SPDX-License-Identifier: Apache-2.0
"""Output during and after a command, and the hook that it runs then."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from fastdl.cli import streams
from fastdl.cli.parser import Accepted
from fastdl.errors import UsageError
from fastdl.model.units import parse_seconds

if TYPE_CHECKING:
    from fastdl.cli.job_options import Job
    from fastdl.engine.result import Result


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """``-q``, ``-v``, ``--json``, ``--progress`` and hooks."""
    out = add_progress_options(parser)
    out.add_argument(
        "--write-metalink",
        metavar="FILE",
        help="when it is done, write a metalink of the source: size, SHA-256 of the whole and of "
        "pieces, mirrors; made on the way, at almost no price; FILE is new, or an earlier "
        "metalink, which is replaced",
    )
    out.add_argument(
        "--on-complete",
        "--on-download-complete",
        type=_words,
        metavar="COMMAND",
        help="run for each file that is done, with its path as the last argument and "
        "FASTDL_TARGET, FASTDL_SOURCE, FASTDL_SIZE, FASTDL_FORMAT, FASTDL_INTEGRITY and "
        "FASTDL_DIGEST in its environment; split like a shell's words, but no shell runs",
    )


def add_progress_options(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """``-q``, ``-v``, ``--json``, ``--progress``."""
    out = parser.add_argument_group("output: progress and result")
    out.add_argument("--json", action="store_true", help="one result object on stdout, one a file")
    out.add_argument(
        "-q", "-s", "--quiet", "--silent", action="store_true", help="nothing but errors"
    )
    out.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        help="requests, and why a mirror was left, on stderr; no secrets",
    )
    out.add_argument(
        "--progress",
        choices=("auto", "bar", "json", "none"),
        default="auto",
        help="auto: a bar on a terminal; json: one object per line on stderr",
    )
    out.add_argument(
        "--summary-interval",
        type=_seconds,
        default=0.0,
        metavar="SECONDS",
        help="without a terminal: a line about each file this often on stderr; default 0, none",
    )
    for names in (
        ("-f", "--fail"),
        ("-L", "--location"),
        ("-S", "--show-error"),
        ("-#", "--progress-bar"),
    ):
        out.add_argument(*names, action=Accepted)
    return out


def _seconds(text: str) -> float:
    try:
        return parse_seconds(text)
    except UsageError as exc:
        raise argparse.ArgumentTypeError(exc.message) from None


def _words(text: str) -> list[str]:
    import shlex

    try:
        words = shlex.split(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"the command cannot be split: {exc}") from None
    if not words:
        raise argparse.ArgumentTypeError("the command is empty")
    return words


def call_hook(command: list[str], job: Job, result: Result) -> None:
    """Run the hook and wait for it. What it does cannot make a failure of what is published."""
    import os
    import subprocess
    import sys

    from fastdl.cli.report import shown_source

    digest = next((f"{name}:{value}" for name, value in result.digests.items()), "")
    environ = {
        **os.environ,
        "FASTDL_TARGET": result.target,
        "FASTDL_SOURCE": shown_source(job.sources[0]),
        "FASTDL_SIZE": str(result.target_bytes),
        "FASTDL_FORMAT": result.format,
        "FASTDL_INTEGRITY": result.integrity,
        "FASTDL_DIGEST": digest,
    }
    try:
        # Its words are for people: stdout is ours alone.
        ended = subprocess.run(
            [*command, result.target],
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr.fileno(),
            check=False,
        )
    except OSError as error:
        streams.warn(f"--on-complete: {command[0]} cannot be run: {error.strerror}")
        return
    if ended.returncode:
        streams.warn(f"--on-complete: {command[0]} ended with {ended.returncode}")
