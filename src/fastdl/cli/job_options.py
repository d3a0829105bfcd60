# SPDX-License-Identifier: Apache-2.0
"""Which jobs does a command line mean? One, one a source, or those that a file lists."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from fastdl.cli.login_options import login_options_from
from fastdl.cli.parser import Once, Parser
from fastdl.cli.route_options import route_options_from
from fastdl.cli.target_options import target_of, target_options_from
from fastdl.cli.transfer_options import options_from
from fastdl.errors import UsageError
from fastdl.named_tuple import NamedTuple

AT_ONCE = 5
"""As aria2: more files at once gain nothing where connections are shared."""
MAX_AT_ONCE = 64


class Job(NamedTuple):
    """One file. *options*: of ``fetch_sync``; *rate*: its own limit, next to the shared one."""

    sources: tuple[str, ...]
    target: str
    options: dict[str, Any]
    rate: int | None = None


def add_job_options(parser: argparse.ArgumentParser) -> None:
    """``-i``, ``-j``, ``-Z``."""
    many = parser.add_argument_group("jobs: many files in one command")
    many.add_argument(
        "-i",
        "--input-file",
        metavar="FILE",
        help="a list in aria2's format, '-' for stdin: the URLs of one file on a line, separated "
        "by tabs, its options (out=, dir=, checksum=, header=…) indented below",
    )
    many.add_argument(
        "-j",
        "--max-concurrent-downloads",
        "--parallel-max",
        type=int,
        default=AT_ONCE,
        metavar="N",
        help=f"concurrent files; default {AT_ONCE}. They share --max-connections and --limit-rate",
    )
    many.add_argument(
        "-Z",
        "--separate",
        "--force-sequential",
        action="store_true",
        help="each SOURCE is a separate file, not a mirror of the first",
    )


def jobs_from(args: argparse.Namespace) -> tuple[list[Job], bool]:
    """The jobs of a command line, and whether it means several (one line a job, a summary)."""
    if not 1 <= args.max_concurrent_downloads <= MAX_AT_ONCE:
        raise UsageError(f"-j must lie between 1 and {MAX_AT_ONCE}")
    # As curl means it: -O for each URL, or --remote-name-all.
    separate = args.separate or (args.remote_names > 1 and len(args.sources) > 1)
    if args.write_metalink is not None and (separate or args.input_file is not None):
        raise UsageError("--write-metalink describes one file: use it without -i and -Z")
    if args.input_file is not None:
        if args.sources or args.output is not None or args.checksum is not None:
            raise UsageError(
                "with -i sources, -o and --checksum belong in the file, not on the command line"
            )
        return _listed(args), True
    if not args.sources:
        raise UsageError("a SOURCE is needed, or a list of them (-i FILE)")
    if not separate:
        return [_job(args, tuple(args.sources))], False
    if args.output not in (None, "null:") and not os.path.isdir(args.output):  # noqa: PTH112
        raise UsageError("-Z fetches several files: -o must be a folder, or use -d DIR")
    if args.checksum is not None:
        raise UsageError("--checksum is of one file: with several, list them for -i")
    return [_job(args, (source,)) for source in args.sources], True


def _job(args: argparse.Namespace, sources: tuple[str, ...]) -> Job:
    options = options_from(args)
    for more in (
        target_options_from(args),
        login_options_from(args, sources),
        route_options_from(args),
    ):
        if "headers" in more:
            more["headers"] = options.get("headers", ()) + more["headers"]
        options.update(more)
    return Job(
        sources,
        target_of(args.output, args.dir, create=args.create_dirs),
        options,
        args.max_download_limit,
    )


# ---- lists ------------------------------------------------------------------------

PER_FILE = frozenset(
    {
        "allow_overwrite",
        "bearer_file",
        "cacert",
        "cert",
        "checksum",
        "connect_timeout",
        "content_disposition",
        "cookie",
        "dir",
        "header",
        "key",
        "max_connections",
        "max_connections_per_origin",
        "max_download_limit",
        "metalink_file",
        "netrc",
        "netrc_file",
        "noproxy",
        "output",
        "overwrite",
        "proxy",
        "referer",
        "remote_time",
        "require_checksum",
        "require_whole_digest",
        "retry",
        "retry_delay",
        "retry_time",
        "skip_existing",
        "source_format",
        "stall_timeout",
        "take_up",
        "target_format",
        "user",
        "user_agent",
    }
)
"""The options, by destination, that a list may give for one file."""
IGNORED = frozenset({"gid", "file-allocation", "auto-file-renaming", "min-split-size"})
"""aria2's, which change nothing here."""


def _listed(args: argparse.Namespace) -> list[Job]:
    from fastdl.sources.input_file import parse_input

    name = args.input_file
    try:
        entries = parse_input(_read(name))
    except UsageError as exc:
        raise UsageError(f"{name}: {exc.message}") from None
    return [_entry(args, entry, f"{name}: line {entry.line}") for entry in entries]


def _entry(args: argparse.Namespace, entry: Any, where: str) -> Job:
    """The options of a file are read by the command's own parser."""
    parser: Parser = args.parser
    known = parser._option_string_actions
    words: list[str] = []
    for name, value in entry.options:
        action = known.get(f"--{name}")
        if name in IGNORED:
            continue
        if action is None or action.dest not in PER_FILE:
            raise UsageError(f"{where}: {name!r} is no option for one file of a list")
        if action.nargs != 0:
            words.append(f"--{name}={value}")
        elif value == "true":
            words.append(f"--{name}")
        elif value != "false":
            raise UsageError(f"{where}: {name} is true or false")
    own = argparse.Namespace(**vars(args))
    own.header = list(args.header)
    for name, _ in entry.options:
        if isinstance(action := known.get(f"--{name}"), Once):
            setattr(own, action.dest, None)  # what a file has of its own counts instead
    parser.where = f"{where}: "
    parser.parse_args([*words, "--", *entry.uris], own)
    try:
        return _job(own, entry.uris)
    except UsageError as exc:
        raise UsageError(f"{where}: {exc.message}") from None


def _read(name: str) -> bytes:
    from fastdl.sources.input_file import MAX_BYTES

    try:
        if name == "-":
            return sys.stdin.buffer.read(MAX_BYTES + 1)
        with open(name, "rb") as file:  # noqa: PTH123
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"it cannot be read: {error.strerror}") from None
