# SPDX-License-Identifier: Apache-2.0
"""The options of ``fastdl bench --url``, and the order in which things are measured."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import stat
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence

from fastdl.cli import streams
from fastdl.cli.measure import rates, report
from fastdl.cli.measure.limit import find_limit
from fastdl.cli.measure.runs import Run, digest_of, run_tool
from fastdl.cli.measure.tools import TOOLS, Task, Tool, reason_against
from fastdl.errors import BY_CODE, IntegrityError, InternalError, SinkSpaceError, UsageError
from fastdl.model.digest import parse_checksum
from fastdl.model.units import format_duration, format_size, parse_seconds
from fastdl.model.url import Url

ROUNDS = 3
RUN_S = "1800"
_ENDS = 1 << 20
_PATIENCE_S, _PATIENCE = 20.0, 20.0
"""A tool that takes longer than this, and so many times what fastdl took, is stuck."""

EXAMPLES = """\
your own mirror, network and storage, against the tools that are installed:
  fastdl bench --url https://mirror.example/image.qcow2 --target /var/lib/libvirt/images
  fastdl bench --url https://mirror.example/image.raw --target /dev/vg0/scratch \\
      --overwrite ext4 --report-file bench.md"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what ``--url`` needs to *parser*."""
    own = parser.add_argument_group("your own place: what is the limit?")
    own.add_argument(
        "--url",
        action="append",
        metavar="URL",
        help="measure with this file; again: mirrors of it. Passwords and queries are never shown",
    )
    own.add_argument(
        "--target",
        metavar="TARGET",
        help="with --url: a folder, where all is removed again, or a block device, which is "
        "overwritten",
    )
    own.add_argument("--checksum", metavar="CHECKSUM", help="with --url: as in fastdl get")
    own.add_argument("--tools", metavar="NAMES", help="with --url: only these, besides fastdl")
    own.add_argument("--cacert", metavar="FILE", help="with --url: authorities of the mirror")
    own.add_argument(
        "--overwrite", metavar="SIGNATURE", help="with --url: as in fastdl get, for a device"
    )
    own.add_argument(
        "--run-time",
        default=RUN_S,
        metavar="SECONDS",
        help="with --url: the most that one download may take; default %(default)s",
    )
    own.add_argument(
        "--report-file", metavar="FILE", help="with --url: write a report in Markdown for a ticket"
    )


def run(args: argparse.Namespace) -> int:
    """Measure; the result goes to stdout, progress to stderr."""
    old = signal.signal(signal.SIGTERM, _interrupted)
    try:
        found = _measure(args)
    finally:
        signal.signal(signal.SIGTERM, old)
    if args.report_file is not None:
        from fastdl.fs import replace_file
        from fastdl.sinks.base import sink_error

        try:
            replace_file(args.report_file, report.as_markdown(found).encode())
        except OSError as exc:
            raise sink_error(exc, f"writing {args.report_file}") from None
    streams.say(json.dumps(report.as_dict(found)) if args.json else report.as_text(found))
    return 0


def _interrupted(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _measure(args: argparse.Namespace) -> report.Measured:
    if args.target is None:
        raise UsageError("--url needs a --target: a folder or a block device")
    rounds = ROUNDS if args.rounds is None else args.rounds
    if not 1 <= rounds <= 100:
        raise UsageError("--rounds is a number from 1 to 100")
    limit_s = parse_seconds(args.run_time)
    urls = tuple(args.url)
    for url in urls:
        if not Url.parse(url).is_http:
            raise UsageError("bench --url measures http and https")
    with _place(args.target) as (path, device, folder):
        task = Task(urls, path, _size(args), device, None, args.cacert, args.overwrite)
        given = parse_checksum(args.checksum) if args.checksum else None
        if given is not None and given.algorithm != "sha-256":
            raise UsageError("bench --url compares SHA-256: give a --checksum of that kind")
        chosen, skipped = _chosen(args.tools, task)
        if not device:
            _check_room(folder, task.size)
        _say_what_comes(chosen, rounds, task)
        first, sha256 = _first(task, given.hex if given else None, limit_s)
        limit_s = min(limit_s, _PATIENCE_S + _PATIENCE * first.seconds)
        task = task._replace(digest=f"sha-256:{sha256}")
        runs: dict[str, list[Run]] = {tool.name: [] for tool in chosen}
        runs["fastdl"].append(first)
        for number in range(rounds):
            for tool in chosen:
                if tool.name == "fastdl" and number == 0 and given is not None:
                    continue  # the first one counts
                runs[tool.name].append(_one(tool, task, sha256, limit_s, f"{number + 1}/{rounds}"))
        if given is None and len(runs["fastdl"]) > 1:
            del runs["fastdl"][0]  # it knew no digest to compute in the same pass
        parts = _rates(task, folder, limit_s)
    good = [run.seconds for run in runs["fastdl"] if run.failure is None]
    took = statistics.median(good)
    return report.Measured(
        urls=tuple(Url.parse(url).display() for url in urls),
        target=args.target,
        size=task.size,
        sha256=sha256,
        known_before=given is not None,
        rounds=rounds,
        runs=runs,
        skipped=skipped,
        rates=parts,
        limit=find_limit(parts, task.size / max(took, 1e-9), seconds=took),
    )


@contextlib.contextmanager
def _place(target: str) -> Iterator[tuple[str, bool, str]]:
    """(path to write, whether it is a device, a folder of our own), which is gone afterwards."""
    try:
        mode = os.stat(target).st_mode  # noqa: PTH116
    except OSError as exc:
        raise UsageError(f"{target} cannot be used: {exc.strerror}") from None
    device = stat.S_ISBLK(mode)
    if not device and not stat.S_ISDIR(mode):
        raise UsageError("--target is a folder or a block device")
    try:
        folder = tempfile.mkdtemp(prefix=".fastdl-bench-", dir=None if device else target)
    except OSError as exc:
        raise UsageError(f"nothing can be written to {target}: {exc.strerror}") from None
    try:
        yield (target if device else os.path.join(folder, "image")), device, folder  # noqa: PTH118
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _size(args: argparse.Namespace) -> int:
    from fastdl.engine.api import probe_sync

    found = probe_sync(args.url, **({"cacert": args.cacert} if args.cacert else {}))
    if found.metalink:
        raise UsageError("bench --url measures one file: give the URLs that its metalink names")
    if not found.size:
        raise UsageError("the mirror does not say how large the file is, or it is empty")
    return found.size


def _check_room(folder: str, size: int) -> None:
    found = os.statvfs(folder)
    if found.f_bavail * found.f_frsize < size + (size >> 4):
        raise SinkSpaceError(
            f"there is no room for {format_size(size)} at the target", phase="land"
        )


def _chosen(names: str | None, task: Task) -> tuple[list[Tool], dict[str, str]]:
    """The tools that take part, fastdl first; and why others do not."""
    wanted = None if names is None else {name for name in names.split(",") if name} | {"fastdl"}
    if wanted is not None and (unknown := wanted - {tool.name for tool in TOOLS}):
        known = ", ".join(tool.name for tool in TOOLS)
        raise UsageError(f"there is no tool {sorted(unknown)[0][:40]!a}, only {known}")
    reasons = {
        tool: reason_against(tool, task) for tool in TOOLS if wanted is None or tool.name in wanted
    }
    chosen = [tool for tool, reason in reasons.items() if reason is None]
    return chosen, {tool.name: reason for tool, reason in reasons.items() if reason is not None}


def _say_what_comes(chosen: Sequence[Tool], rounds: int, task: Task) -> None:
    downloads = len(chosen) * rounds + 3
    turns = "1 round" if rounds == 1 else f"{rounds} rounds"
    _say(
        f"{downloads} downloads of {format_size(task.size)} "
        f"({', '.join(tool.name for tool in chosen)}; {turns}); Ctrl-C ends it"
    )


def _first(task: Task, given: str | None, limit_s: float) -> tuple[Run, str]:
    """The first download, fastdl's: it refuses what must not be overwritten, and gives the digest
    where none is known. Raises where it fails: then there is nothing to measure."""
    fastdl = TOOLS[0]
    first = task._replace(digest=f"sha-256:{given}" if given else None)
    run = run_tool(fastdl.call(first), first, limit_s=limit_s)
    if run.failure is not None:
        raise BY_CODE.get(run.code, InternalError)(f"nothing to measure: {run.failure}")
    sha256, _ = digest_of(task)
    if given is not None and sha256 != given:
        raise IntegrityError("the target does not hold what was downloaded", phase="verify")
    _say(f"fastdl: {format_duration(run.seconds)} (first)")
    return run, sha256


def _one(tool: Tool, task: Task, sha256: str, limit_s: float, turn: str) -> Run:
    """One run of *tool*; its copy is compared, and removed."""
    run = _clean_run(tool, task, limit_s)
    if run.failure is None:
        try:
            got, seconds = digest_of(task)
        except OSError as exc:
            run = run._replace(failure=f"left nothing: {exc.strerror}")
        else:
            wrong = None if got == sha256 else "a wrong copy: its digest differs"
            check = 0.0 if tool.name == "fastdl" else seconds
            run = run._replace(check_s=check, failure=wrong)
    _say(f"{turn} {tool.name}: {run.failure or format_duration(run.seconds)}")
    return run


def _clean_run(tool: Tool, task: Task, limit_s: float) -> Run:
    """Run *tool* onto a target on which nothing is left of the run before."""
    if task.device:
        _wipe_ends(task.target)  # it is ours: fastdl's first run was not refused
    else:
        _empty(os.path.dirname(task.target))  # noqa: PTH120
    return run_tool(tool.call(task), task, limit_s=limit_s)


def _empty(folder: str) -> None:
    for entry in os.scandir(folder):
        with contextlib.suppress(OSError):
            os.unlink(entry.path)  # noqa: PTH108


def _wipe_ends(device: str) -> None:
    """Zero the first and last MiB: signatures that the run before has left."""
    fd = os.open(device, os.O_WRONLY | os.O_CLOEXEC)
    try:
        end = os.lseek(fd, 0, os.SEEK_END)
        length = min(_ENDS, end)
        for offset in (0, end - length):
            os.pwrite(fd, bytes(length), offset)
        os.fsync(fd)
    finally:
        os.close(fd)


def _rates(task: Task, folder: str, limit_s: float) -> rates.Rates:
    _say("the parts alone: connections, storage, digest")
    _empty(folder)
    plain = task._replace(digest=None)
    one, _ = rates.network_rate(plain, connections=1, limit_s=limit_s)
    several, _ = rates.network_rate(plain, connections=None, limit_s=limit_s)
    return rates.Rates(
        one_connection=one,
        connections=several,
        storage=None if task.device else rates.storage_rate(folder, task.size),
        digest=rates.digest_rate(),
        interface=rates.interface_rate(task.urls[0]),
    )


def _say(text: str) -> None:
    print(f"fastdl bench: {text}", file=sys.stderr, flush=True)
