# SPDX-License-Identifier: Apache-2.0
"""``fastdl inspect``: is this image safe, and why not?"""

from __future__ import annotations

import argparse
import json
import os
import stat
import sys
from typing import Any

from fastdl.cli import streams
from fastdl.core.image import inspect_qcow2, peek
from fastdl.errors import FastdlError, LimitError, UsageError
from fastdl.model.image import ImageInfo, agree, refused
from fastdl.model.image_inspect import inspect
from fastdl.model.units import parse_size

_DESCRIPTION = """\
Say what a disk image is and whether it is safe: one format only, nothing referred to
outside of it, tables inside the file and consistent. Reads header and tables, not the
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
        help="what the image is said to be (default: auto)",
    )
    parser.add_argument(
        "--max-virtual-size", metavar="SIZE", help="refuse larger disks (K, M, G, T suffixes)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


class _File:
    """A file or block device as the inspectors want it."""

    def __init__(self, path: str) -> None:
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            mode = os.fstat(self._fd).st_mode
            self.size = os.lseek(self._fd, 0, os.SEEK_END) if _seekable(mode) else -1
        except OSError as exc:
            raise UsageError(f"cannot open {path}: {exc.strerror}") from None
        if self.size < 0:
            os.close(self._fd)
            raise UsageError(f"{path} is neither a file nor a block device")

    def read_at(self, offset: int, length: int) -> bytes:
        """Up to *length* bytes at *offset*; fewer only at the end."""
        parts = []
        while length > 0:
            part = os.pread(self._fd, length, offset)
            if not part:
                break
            parts.append(part)
            offset += len(part)
            length -= len(part)
        return b"".join(parts)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._fd)


def _seekable(mode: int) -> bool:
    return stat.S_ISREG(mode) or stat.S_ISBLK(mode)


def run(args: argparse.Namespace) -> int:
    """Print the verdict; the exit code is that of the refusal, or 0."""
    limit = parse_size(args.max_virtual_size) if args.max_virtual_size else None
    file = _File(args.file)
    try:
        info = _judge(file, args.source_format, limit)
    finally:
        file.close()
    report: dict[str, Any] = {"file": args.file, "file_size": file.size, **info.to_dict()}
    if args.json:
        streams.say(json.dumps(report))
    else:
        _print(report)
    return int(report["exit_code"])


def _judge(file: _File, declared: str, limit: int | None) -> ImageInfo:
    info = inspect(
        file, qcow2=lambda reader: inspect_qcow2(reader, max_virtual_size=limit), peek=peek
    )
    if not info.safe:
        return info
    try:
        agree(declared, info.format)
        if limit is not None and info.virtual_size is not None and info.virtual_size > limit:
            raise LimitError(f"the disk has {info.virtual_size} bytes, {limit} are allowed")
    except FastdlError as exc:
        return refused(info.format, exc, virtual_size=info.virtual_size, **dict(info.details))
    return info


def _print(report: dict[str, Any]) -> None:
    streams.say(f"file:          {report['file']}")
    streams.say(f"format:        {report['format']}")
    streams.say(f"file size:     {report['file_size']}")
    if report["virtual_size"] is not None:
        streams.say(f"virtual size:  {report['virtual_size']}")
    for name, value in report["details"].items():
        streams.say(f"{name.replace('_', ' ') + ':':14} {value}")
    streams.say(f"safe:          {'yes' if report['safe'] else 'no'}")
    for reason in report["reasons"]:
        print(f"fastdl: {report['error']}: {reason}", file=sys.stderr)
