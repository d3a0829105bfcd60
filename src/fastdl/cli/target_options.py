# SPDX-License-Identifier: Apache-2.0
"""Where does a file go, and under which name? In the words of curl, wget and aria2."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from fastdl.cli.parser import Once
from fastdl.errors import UsageError, shortage
from fastdl.sinks.base import sink_error


def add_target_options(parser: argparse.ArgumentParser) -> None:
    """``-o``, ``-d`` and what decides about names."""
    to = parser.add_argument_group("target: where the file goes, and under which name")
    to.add_argument(
        "-o",
        "--output",
        "--out",
        action=Once,
        metavar="TARGET",
        help="file, existing folder, block device, nbd:// or nbd+unix:// URI, null: (keep "
        "nothing), or - (standard output); without it the current folder",
    )
    to.add_argument(
        "-d",
        "-P",
        "--dir",
        "--directory-prefix",
        "--output-dir",
        action=Once,
        metavar="DIR",
        help="the folder for files, created if missing",
    )
    to.add_argument(
        "-J",
        "--content-disposition",
        "--remote-header-name",
        action="store_true",
        help="in a folder: use the name that the server proposes, if any",
    )
    to.add_argument(
        "-c",
        "--continue",
        dest="take_up",
        action="store_true",
        help="resume from what curl, wget or aria2 left there, if a checksum or pieces can "
        "prove it in the end (fastdl's own partial data is always resumed)",
    )
    to.add_argument(
        "--skip-existing",
        "--no-clobber",
        action="store_true",
        help="keep an existing file, and compare it only if there is a --checksum",
    )
    to.add_argument(
        "-R",
        "--remote-time",
        action="store_true",
        help="set the file's modification time to the server's",
    )
    to.add_argument(
        "--create-dirs", action="store_true", help="create the folders of -o as well as that of -d"
    )
    to.add_argument("--allow-overwrite", action="store_true", help="the same as --overwrite file")
    to.add_argument(
        "-O",
        "--remote-name",
        dest="remote_names",
        action="count",
        default=0,
        help=argparse.SUPPRESS,
    )
    to.add_argument(
        "--remote-name-all",
        dest="remote_names",
        action="store_const",
        const=2,
        help=argparse.SUPPRESS,
    )


def target_options_from(args: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments of ``fetch_sync`` that these options mean."""
    out: dict[str, Any] = {
        name: True
        for name in ("content_disposition", "skip_existing", "take_up", "remote_time")
        if getattr(args, name)
    }
    if args.allow_overwrite:
        out["overwrite"] = "file"
    return out


def target_of(output: str | None, folder: str | None, *, create: bool = False) -> str:
    """The target of a job with ``-o`` *output* and ``-d`` *folder*, which is made.

    *create*: so are the folders in *output*.
    """
    if output == "-" and sys.stdout.isatty():
        raise UsageError("the bytes of a file are nothing for a terminal: put a pipe behind -o -")
    if folder is not None and (output == "-" or (output is not None and ":" in output)):
        raise UsageError(f"--dir is for files: {output} is none")
    target = (folder or ".") if output is None else os.path.join(folder or "", output)  # noqa: PTH118
    above = os.path.dirname(target) if create and output is not None else folder  # noqa: PTH120
    if above and ":" not in above:
        try:
            os.makedirs(above, exist_ok=True)  # noqa: PTH103
        except OSError as error:
            raise shortage(error) or sink_error(error, f"making the folder {above}") from None
    return target
