# SPDX-License-Identifier: Apache-2.0
"""``fastdl exec``: execute one command of CloudStack's agent."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastdl.agent.config import HostConfig
from fastdl.agent.exec import Reply, answer
from fastdl.cli import streams
from fastdl.wire.cloudstack import MAX_REQUEST

if TYPE_CHECKING:
    from collections.abc import Mapping

_DESCRIPTION = """\
Read CloudStack's JSON array of one agent command from standard input, execute it, and
print the answer array. There is always an answer; the exit code repeats its outcome (0, or
the error's class). Progress goes to standard error, one JSON object per line."""

_EPILOG = """\
commands: Http-, Https-, Metalink- and NfsDirectDownloadCommand, CheckUrlCommand,
SetupDirectDownloadCertificateCommand, RevokeDirectDownloadCertificateCommand

example:
  fastdl exec --config-dir /etc/cloudstack/agent < command.json > answer.json"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        "exec",
        help="carry out one command of CloudStack's agent",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config-dir",
        type=Path,
        default=Path("/etc/cloudstack/agent"),
        metavar="DIR",
        help="holds agent.properties and cloud.jks (default: %(default)s)",
    )
    parser.add_argument(
        "--libvirt",
        default="qemu:///system",
        metavar="URI",
        help="libvirt, for pools of block volumes (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Print the answer to the command on standard input; its outcome is the exit code."""
    reply = asyncio.run(_answer(args))
    streams.say(reply.text)
    return reply.exit_code


async def _answer(args: argparse.Namespace) -> Reply:

    command = sys.stdin.buffer.read(MAX_REQUEST + 1)
    job = asyncio.current_task()
    assert job is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, job.cancel)
    return await answer(
        command,
        lambda: HostConfig.load(args.config_dir),
        libvirt=args.libvirt,
        progress=_report,
    )


def _report(progress: Mapping[str, Any]) -> None:
    streams.note(json.dumps({"progress": dict(progress)}))
