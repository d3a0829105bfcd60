# SPDX-License-Identifier: Apache-2.0
"""By which way hosts are reached: for tests and odd networks."""

from __future__ import annotations

import argparse
from typing import Any


def add_route_options(parser: argparse.ArgumentParser) -> None:
    """``--interface``, ``-4``, ``-6`` and ``--resolve``."""
    way = parser.add_argument_group("route: by which way hosts are reached")
    way.add_argument(
        "--interface", metavar="NAME", help="a network interface, or an own address, to use"
    )
    family = way.add_mutually_exclusive_group()
    for number in (4, 6):
        family.add_argument(
            f"-{number}",
            f"--ipv{number}",
            f"--inet{number}-only",
            dest="ip_version",
            action="store_const",
            const=number,
            help=f"IPv{number} only",
        )
    way.add_argument(
        "--resolve",
        action="append",
        metavar="HOST:PORT:ADDRESS",
        help="what a name resolves to, several addresses with commas; may be repeated",
    )


def route_options_from(args: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments of ``fetch_sync`` that these options mean."""
    out = {
        name: value
        for name in ("interface", "ip_version")
        if (value := getattr(args, name)) is not None
    }
    return {**out, "resolve": tuple(args.resolve)} if args.resolve else out
