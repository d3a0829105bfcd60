# SPDX-License-Identifier: Apache-2.0
"""``fastdl get``: bring a source to a target."""

from __future__ import annotations

import argparse
from typing import Any

from fastdl.cli import streams
from fastdl.cli.parser import Help
from fastdl.cli.spellings import plain as plain  # noqa: PLC0414 - for cli.main
from fastdl.cli.target_options import add_target_options, target_of, target_options_from
from fastdl.cli.transfer_options import add_transfer_options, options_from

EPILOG = """examples:
  # a file, verified, from two mirrors
  fastdl get https://a.example/i.iso https://b.example/i.iso -o i.iso --checksum sha-256:HEX
  # a metalink brings mirrors, size and digests along
  fastdl get https://a.example/i.iso.meta4 -o /var/lib/libvirt/images
  # a qcow2 image onto a logical volume, converted while it arrives
  fastdl get https://a.example/cloud.qcow2 -o /dev/vg0/vm1 --checksum '{SHA-512}HEX'
  # interrupted? the same command resumes

exit codes: 0 verified, durable, published; 10 network, 11 status, 12 protocol, 13 source
changed, 14 trust, 15 policy, 20 metalink, 21 digest, 22 size, 23 format, 24 unsafe image,
25 limit, 26 checksum list, 30 space, 31 target I/O, 32 busy, 33 refused, 130 cancelled; all in
docs/errors.md"""


COMMON = (
    "help",
    "output",
    "dir",
    "checksum",
    "limit_rate",
    "header",
    "proxy",
    "cacert",
    "overwrite",
    "json",
)


def add_parser(subparsers: Any) -> None:
    """Declare the verb's options."""
    parser = subparsers.add_parser(
        "get",
        help="bring a source to a target",
        usage="fastdl get SOURCE... [-o TARGET] [options]",
        add_help=False,
        description="Bring SOURCE (several are mirrors of the same bytes; a metalink at any) to\n"
        "TARGET: fetched in parallel, verified in the same pass, durable, published at the end.",
        epilog=EPILOG,
    )
    parser.common = COMMON
    parser.add_argument("-h", "--help", action=Help)
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="http, https, nfs, file URL, a path, or simplestreams:URL#PRODUCT",
    )
    add_target_options(parser)
    add_transfer_options(parser)
    out = parser.add_argument_group("output: what is said meanwhile, and at the end")
    out.add_argument("--json", action="store_true", help="one result object on stdout")
    out.add_argument(
        "--progress",
        choices=("auto", "bar", "json", "none"),
        default="auto",
        help="auto: a bar on a terminal; json: one object a line on stderr",
    )


def run(args: argparse.Namespace) -> int:
    """Fetch; the result goes to stdout, progress and warnings to stderr."""
    from fastdl.cli.cancellable import run_cancellable
    from fastdl.cli.progress import make_progress
    from fastdl.engine.api import fetch_sync

    options = {**options_from(args), **target_options_from(args)}
    target = target_of(args.output, args.dir)
    with make_progress(args.progress, quiet=args.json) as progress:
        result = run_cancellable(
            lambda cancel: fetch_sync(
                args.sources, target, progress=progress, cancel=cancel, **options
            )
        )
    # Published: from here on nothing makes a failure of it.
    for warning in result.warnings:
        streams.warn(warning)
    if args.json:
        import json

        streams.report_done(json.dumps(result.to_dict()))
    else:
        from fastdl.cli.report import summary

        streams.report_done(summary(result))
    return 0
