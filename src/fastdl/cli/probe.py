# SPDX-License-Identifier: Apache-2.0
"""``fastdl probe``: what is known about a source without fetching it."""

from __future__ import annotations

import argparse
import json
from typing import Any

from fastdl.cli import streams
from fastdl.cli.formatter import Formatter
from fastdl.cli.login_options import add_login_options, login_options_from
from fastdl.cli.publisher_options import add_publisher_options, publisher_options_from
from fastdl.cli.route_options import add_route_options, route_options_from
from fastdl.cli.transfer_options import add_network_options, network_options_from

EPILOG = """examples:
  fastdl probe https://mirror.example/image.qcow2
  fastdl probe --json https://mirror.example/image.iso.meta4 | jq .size"""


def add_parser(subparsers: Any) -> None:
    """Declare the verb's options."""
    parser = subparsers.add_parser(
        "probe",
        help="show what a source is",
        usage="fastdl probe SOURCE... [options]",
        description="Show size, ranges, validators, format, virtual size, digests and mirrors\n"
        "of SOURCE, from its first bytes. Writes nothing.",
        epilog=EPILOG,
        formatter_class=Formatter,
    )
    parser.add_argument("sources", nargs="+", metavar="SOURCE")
    parser.add_argument(
        "--source-format", default="auto", metavar="FORMAT", help="the format that you expect"
    )
    parser.add_argument("--json", action="store_true", help="one object on stdout")
    add_publisher_options(parser.add_argument_group("publishers"))
    add_network_options(parser)
    add_login_options(parser)
    add_route_options(parser)


def run(args: argparse.Namespace) -> int:
    """Probe and print."""
    from fastdl.cli.cancellable import run_cancellable
    from fastdl.engine.api import probe_sync

    options = {**network_options_from(args), "source_format": args.source_format}
    login = login_options_from(args, args.sources)
    if "headers" in login:
        login["headers"] = options.get("headers", ()) + login["headers"]
    options |= {**login, **route_options_from(args), **publisher_options_from(args)}
    found = run_cancellable(lambda cancel: probe_sync(args.sources, cancel=cancel, **options))
    for warning in found.warnings:
        streams.warn(warning)
    if args.json:
        streams.say(json.dumps(found.to_dict()))
    else:
        from fastdl.cli.report import describe

        streams.say(describe(found))
    return 0
