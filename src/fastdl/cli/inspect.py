# SPDX-License-Identifier: Apache-2.0
"""``fastdl inspect``: is this image safe, and why not?"""

from __future__ import annotations

import argparse
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastdl.cli import streams
from fastdl.engine.inspection import FdReader, inspect_image
from fastdl.engine.landing.head import FORMATS
from fastdl.errors import UsageError
from fastdl.model.units import parse_size

_DESCRIPTION = """\
Show what a disk image is and whether it is safe: a single format, no references to
other files, tables consistent and inside the file. Reads header and tables, not the
data; changes nothing and needs no other program."""

_EPILOG = """\
examples:
  fastdl inspect debian-12.qcow2
  fastdl inspect --json template.vmdk
  fastdl inspect --source-format raw disk.img     refused if it hides another format

exit codes: 0 safe; 23 malformed or not supported; 24 unsafe (backing file, data file,
encryption, hidden format); 25 above a limit."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        "inspect",
        help="say whether an image is safe, and why not",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", metavar="FILE", help="an image file or a block device")
    parser.add_argument(
        "--source-format",
        default="auto",
        metavar="FORMAT",
        help="the format that you expect (default: auto)",
    )
    parser.add_argument(
        "--max-virtual-size", metavar="SIZE", help="refuse larger disks (K, M, G, T suffixes)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


@contextmanager
def _opened(path: str) -> Iterator[FdReader]:
    """A file or block device as an image reader."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as exc:
        raise UsageError(f"cannot open {path}: {exc.strerror}") from None
    try:
        if not _seekable(os.fstat(fd).st_mode):
            raise UsageError(f"{path} is neither a file nor a block device")
        yield FdReader(fd, os.lseek(fd, 0, os.SEEK_END))
    finally:
        os.close(fd)


def _seekable(mode: int) -> bool:
    return stat.S_ISREG(mode) or stat.S_ISBLK(mode)


def run(args: argparse.Namespace) -> int:
    """Print the result; the exit code is that of the refusal, or 0."""
    limit = parse_size(args.max_virtual_size) if args.max_virtual_size else None
    if args.source_format not in FORMATS:
        raise UsageError(f"there is no source format {args.source_format!r}")
    with _opened(args.file) as reader:
        info = inspect_image(reader, declared=args.source_format, max_virtual_size=limit)
        size = reader.size
    report: dict[str, Any] = {"file": args.file, "file_size": size, **info.to_dict()}
    if args.json:
        streams.say(json.dumps(report))
    else:
        _print(report)
    return int(report["exit_code"])


def _print(report: dict[str, Any]) -> None:
    streams.say(f"file:          {report['file']}")
    streams.say(f"format:        {report['format']}")
    streams.say(f"file size:     {report['file_size']}")
    if report["virtual_size"] is not None:
        streams.say(f"virtual size:  {report['virtual_size']}")
    for name, value in report["details"].items():
        streams.say(f"{name.replace('_', ' ') + ':':14} {value}")
    streams.say(f"safe:          {'yes' if report['safe'] else 'no'}")
    for warning in report["warnings"]:
        streams.warn(warning)
    for reason in report["reasons"]:
        streams.note(f"fastdl: {report['error']}: {reason}")
