# SPDX-License-Identifier: Apache-2.0
"""``fastdl vol``: volumes in libvirt's pools."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

from fastdl.cli import streams
from fastdl.cli.cancellable import run_cancellable
from fastdl.cli.login_options import add_login_options, login_options_from
from fastdl.cli.output_options import add_progress_options
from fastdl.cli.parser import Help, Once
from fastdl.cli.progress import make_display
from fastdl.cli.route_options import add_route_options, route_options_from
from fastdl.cli.spellings import plain as plain  # noqa: PLC0414 - for cli.main
from fastdl.cli.transfer_options import (
    SIZE,
    add_checking_options,
    add_network_options,
    add_speed_options,
    options_from,
)
from fastdl.engine.cancel import Cancel
from fastdl.model.units import format_duration, format_rate, format_size
from fastdl.volumes import CONNECT, Made, create

_EPILOG = """examples:
  # a cloud image as a volume, fetched by this host, verified
  fastdl vol create default debian-12.qcow2 https://cloud.example/debian-12.qcow2 \\
         --checksum https://cloud.example/SHA512SUMS
  # the disk of a machine: a copy with 40 GiB
  fastdl vol create default vm1.qcow2 https://cloud.example/debian-12.qcow2 --capacity 40G
  # a logical volume, converted to raw while it arrives; two mirrors
  fastdl vol create vg0 vm2 https://a.example/x.qcow2.xz https://b.example/x.qcow2.xz
  # there already? the same command says so and ends with 0

exit codes: 0 the volume is there; 2 usage; 10 to 26 as fastdl get; 30 the pool is full, 31 the
pool or libvirt failed, 32 in use or in the making, 33 no such pool, not active, or the name is
taken; 130 cancelled; all in docs/errors.md"""

_COMMON = (
    "help", "connect", "format", "capacity", "replace", "checksum", "limit_rate", "header",
    "netrc", "proxy", "cacert", "json", "quiet", "verbose",
)  # fmt: skip


def add_parser(subparsers: Any) -> None:
    """Declare the verb and its own verbs."""
    verb = subparsers.add_parser(
        "vol",
        help="make volumes in libvirt's pools",
        description="Make volumes in libvirt's storage pools; options: fastdl vol create --help.",
        epilog="""example:
  fastdl vol create default vm1.qcow2 https://cloud.example/debian-12.qcow2 --capacity 40G""",
    )
    parser = verb.add_subparsers(dest="what", required=True, metavar="create").add_parser(
        "create",
        help="make a volume of what a source gives",
        usage="fastdl vol create POOL NAME SOURCE... [options]",
        add_help=False,
        description="Fetch SOURCE (several: mirrors of the same bytes; any may be a metalink) to\n"
        "the volume NAME of libvirt's POOL, as virsh vol-create and vol-upload would make it:\n"
        "verified, listed when it is whole, and not before.",
        epilog=_EPILOG,
    )
    parser.common = _COMMON
    parser.add_argument("-h", "--help", action=Help)
    parser.add_argument("pool", metavar="POOL", help="name or uuid; it has to be active")
    parser.add_argument("name", metavar="NAME", help="the volume's name")
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="as for fastdl get")
    to = parser.add_argument_group("volume: where it goes, and how it is made")
    to.add_argument(
        "--connect",
        default=CONNECT,
        metavar="URI",
        help="libvirt on this host; default %(default)s",
    )
    to.add_argument(
        "--format",
        choices=("same", "raw"),
        default="same",
        help="same (default): as the source has it, without compression; raw: converted. Pools "
        "of block devices (disk, logical, iscsi, rbd) take raw only",
    )
    to.add_argument(
        "--capacity", type=SIZE, metavar="SIZE", help="the disk's, at least; default: the image's"
    )
    to.add_argument(
        "--overwrite",
        dest="replace",
        action="store_true",
        help="replace a volume of that name that differs, unless a machine or process uses it",
    )
    to.add_argument(
        "--state",
        action=Once,
        metavar="DIR",
        help="what is known of volumes; default /var/lib/fastdl/volumes, for users "
        "~/.local/state/fastdl/volumes",
    )
    add_checking_options(parser.add_argument_group("source: what is fetched, and how it is proven"))
    add_speed_options(parser)
    add_network_options(parser)
    add_login_options(parser)
    add_route_options(parser)
    add_progress_options(parser)


def run(args: argparse.Namespace) -> int:
    """Make the volume; the result goes to stdout, progress and warnings to stderr."""
    options = options_from(args)
    for more in (login_options_from(args, args.sources), route_options_from(args)):
        if "headers" in more:
            more["headers"] = options.get("headers", ()) + more["headers"]
        options.update(more)
    display = make_display(
        args.progress, quiet=args.quiet or args.json, interval=args.summary_interval
    )
    slot = display.add(f"{args.pool}/{args.name}")

    def work(cancel: Cancel) -> Made:
        return create(
            args.pool,
            args.name,
            args.sources,
            format=args.format,
            capacity=args.capacity,
            overwrite=args.replace,
            connect=args.connect,
            state=args.state,
            progress=slot.show,
            cancel=cancel,
            log=display.note if args.verbose else None,
            **options,
        )

    try:
        made = run_cancellable(work, display.tick)
    finally:
        display.end(slot)
        display.close()
    if not args.quiet:
        for warning in made.warnings:
            streams.warn(warning)
    if args.json:
        streams.report_done(json.dumps(asdict(made)))
    elif not args.quiet:
        streams.report_done(_summary(made))
    return 0


def _summary(made: Made) -> str:
    what = f"{made.pool}/{made.volume}: {format_size(made.capacity)} {made.format}"
    lines = [f"{what}, {made.path}"]
    if made.already_present:
        lines[0] += ", there already"
        return lines[0]
    rate = made.fetched_bytes / made.seconds if made.seconds > 0 else 0
    signed = f", signed by {made.signed_by}" if made.signed_by else ""
    lines.append(
        f"  fetched    {format_size(made.fetched_bytes)} in {format_duration(made.seconds)} "
        f"({format_rate(rate)}), integrity {made.integrity}{signed}"
    )
    if made.resumed_bytes:
        lines.append(f"  resumed    {format_size(made.resumed_bytes)} were there already")
    if made.replaced:
        lines.append(f"  replaced   {made.replaced}")
    lines += [f"  {name:<9}  {value}" for name, value in made.digests.items()]
    return "\n".join(lines)
