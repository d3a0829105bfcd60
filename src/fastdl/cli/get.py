# SPDX-License-Identifier: Apache-2.0
"""``fastdl get``: download sources to targets."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fastdl.cli import streams
from fastdl.cli.job_options import add_job_options, jobs_from
from fastdl.cli.login_options import add_login_options
from fastdl.cli.output_options import add_output_options, call_hook
from fastdl.cli.parser import Help
from fastdl.cli.route_options import add_route_options
from fastdl.cli.spellings import plain as plain  # noqa: PLC0414 - for cli.main
from fastdl.cli.target_options import add_target_options
from fastdl.cli.transfer_options import add_transfer_options
from fastdl.errors import FastdlError

if TYPE_CHECKING:
    from fastdl.cli.job_options import Job
    from fastdl.cli.jobs import Ended
    from fastdl.cli.progress import Display
    from fastdl.engine.cancel import Cancel
    from fastdl.engine.result import Result

EPILOG = """examples:
  # a file, verified, from two mirrors
  fastdl get https://a.example/i.iso https://b.example/i.iso -o i.iso --checksum sha-256:HEX
  # a metalink provides mirrors, size and digests
  fastdl get https://a.example/i.iso.meta4 -d /var/lib/libvirt/images
  # a qcow2 image onto a logical volume, converted while it arrives
  fastdl get https://a.example/cloud.qcow2 -o /dev/vg0/vm1 --checksum '{SHA-512}HEX'
  # many files, four at once
  fastdl get -j 4 -i list.txt -d images
  # interrupted? run the same command again to resume

exit codes: 0 verified, durable, published; 10 network, 11 status, 12 protocol, 13 source
changed, 14 trust, 15 policy, 20 metalink, 21 digest, 22 size, 23 format, 24 unsafe image,
25 limit, 26 checksum list, 30 space, 31 target I/O, 32 busy, 33 refused, 130 cancelled; all in
docs/errors.md. Of several files the highest one."""

COMMON = (
    "help",
    "output",
    "dir",
    "checksum",
    "input_file",
    "max_concurrent_downloads",
    "limit_rate",
    "header",
    "netrc",
    "proxy",
    "cacert",
    "overwrite",
    "take_up",
    "json",
    "quiet",
    "verbose",
)


def add_parser(subparsers: Any) -> None:
    """Declare the verb's options."""
    parser = subparsers.add_parser(
        "get",
        help="download a source to a target",
        usage="fastdl get SOURCE... [-o TARGET] [options]",
        add_help=False,
        description="Download SOURCE (several: mirrors of the same bytes; any may be a metalink)\n"
        "to TARGET: in parallel, verified in the same pass, made durable, published at "
        "the end.",
        epilog=EPILOG,
    )
    parser.common = COMMON
    parser.set_defaults(parser=parser)
    parser.add_argument("-h", "--help", action=Help)
    parser.add_argument(
        "sources",
        nargs="*",
        metavar="SOURCE",
        help="http, https, nfs, file URL, a path, simplestreams:URL#PRODUCT, or s3://BUCKET/KEY",
    )
    add_target_options(parser)
    add_job_options(parser)
    add_transfer_options(parser)
    add_login_options(parser)
    add_route_options(parser)
    add_output_options(parser)


def run(args: argparse.Namespace) -> int:
    """Fetch; results go to stdout, progress and warnings to stderr."""
    from fastdl.cli.progress import make_display

    jobs, several = jobs_from(args)
    quiet = args.quiet or args.json
    display = make_display(args.progress, quiet=quiet, interval=args.summary_interval)
    log = display.note if args.verbose else None
    if several:
        return _run_several(args, jobs, display, log)
    return _run_one(args, jobs[0], display, log)


def _run_one(
    args: argparse.Namespace, job: Job, display: Display, log: Callable[[str], None] | None
) -> int:
    from fastdl.cli.cancellable import run_cancellable
    from fastdl.cli.jobs import expanded, run_job

    told: list[Callable[[], None]] = []

    def work(cancel: Cancel) -> Result | list[Job]:
        try:
            return run_job(job, display, cancel, log, told=told)
        except FastdlError as exc:
            if others := expanded(job, exc, cancel):
                return others
            raise

    try:
        found = run_cancellable(work, display.tick)
    finally:
        display.close()
    if isinstance(found, list):
        return _run_several(args, found, display, log)
    # Published: from here on nothing makes a failure of it.
    if _report(args, job, found):
        for tidy in told:
            tidy()
    return 0


def _report(args: argparse.Namespace, job: Job, result: Result) -> bool:
    """Whether the result was told to whom it concerns."""
    if not args.quiet:
        for warning in result.warnings:
            streams.warn(warning)
    text = None
    if args.json:
        import json

        text = json.dumps(result.to_dict())
    elif not args.quiet:
        from fastdl.cli.report import summary

        text = summary(result)
    told = True
    if text is not None and result.target == "-":
        streams.note(text)  # standard output is the file
    elif text is not None:
        told = streams.report_done(text)
    if args.on_complete:
        call_hook(args.on_complete, job, result)
    return told


def _run_several(
    args: argparse.Namespace,
    jobs: list[Job],
    display: Display,
    log: Callable[[str], None] | None,
) -> int:
    """One line a file as it ends, a summary, and the worst exit code."""
    import gc

    from fastdl.cli.cancellable import run_cancellable
    from fastdl.cli.jobs import Batch, worst
    from fastdl.cli.report import failure_line, line, total
    from fastdl.errors import Cancelled

    gc.enable()  # see main.entry: what many jobs leave would add up
    ends: list[Ended] = []

    def ended(end: Ended) -> bool:
        ends.append(end)
        told = True
        if args.json:
            import json

            told = display.say(json.dumps(_object(end)))
        elif end.error is not None:
            display.note(failure_line(end.job.sources[0], end.error))
        elif not args.quiet and end.result is not None:
            for warning in end.result.warnings:
                display.note(f"fastdl: warning: {end.result.target}: {warning}")
            told = display.say(line(end.result))
        if args.on_complete and end.result is not None:
            call_hook(args.on_complete, end.job, end.result)
        return told

    batch = Batch(jobs, args.max_concurrent_downloads, args.limit_rate, display, log, ended)
    stopped: Cancelled | None = None
    try:
        run_cancellable(batch.run, display.tick)
    except Cancelled as exc:
        stopped = exc
    finally:
        display.close()
    if not args.quiet and not args.json:
        streams.report_done(total([e.result for e in ends], batch.expected, batch.seconds))
    if stopped is not None:
        raise stopped
    return worst(ends)


def _object(end: Ended) -> dict[str, Any]:
    from fastdl.cli.report import shown_source

    shown = [shown_source(source) for source in end.job.sources]
    if end.error is not None:
        return {"sources": shown, "error": end.error.to_dict()}
    assert end.result is not None
    return {"sources": shown, **end.result.to_dict()}
