# SPDX-License-Identifier: Apache-2.0
"""``fastdl api``: call the manager (or any CloudStack) in the grammar of its command line."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from fastdl import fs
from fastdl.cli import api_client, streams
from fastdl.errors import UsageError

EPILOG = """examples:
  fastdl api list zones
  fastdl api create zone name=z1
  fastdl api create hosttoken zoneid=ZONE_ID
  fastdl api upload templatedirectdownloadcertificate hypervisor=KVM name=mirror1 \\
      zoneid=ZONE_ID certificate=@mirror.pem
  fastdl api revoke templatedirectdownloadcertificate hypervisor=KVM name=mirror1 zoneid=ZONE_ID
  fastdl api register template name=u24 format=QCOW2 hypervisor=KVM zoneid=ZONE_ID \\
      directdownload=true url=https://mirror.example/u24.qcow2
  fastdl api --cacert cacert.pem --credentials keys.json list hosts
  fastdl api prepare template zoneid=ZONE_ID templateid=TEMPLATE_ID --wait

VERB and NOUN together name the command (upload templatedirectdownloadcertificate =
uploadTemplateDirectDownloadCertificate); the command's own name works too. A value @FILE is
the file's content. The response is printed as JSON; errors go to standard error with the exit
code of their class. Async commands return a jobid; --wait waits for the job's result."""


def add_parser(subparsers: Any) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "api",
        help="call the manager's API in CloudStack's grammar",
        description="Call the manager's API in CloudStack's verb-noun grammar.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--credentials",
        metavar="FILE",
        default=os.environ.get("FASTDL_CREDENTIALS"),
        help="JSON with url, apikey and secretkey (default: $FASTDL_CREDENTIALS)",
    )
    parser.add_argument(
        "--cacert",
        metavar="FILE",
        type=Path,
        help="PEM: the manager's certificate or its CA (default: cacert in the credentials, "
        "otherwise the system's CAs)",
    )
    parser.add_argument(
        "--wait", action="store_true", help="wait for an async command's job to end"
    )
    parser.add_argument(
        "--timeout", metavar="SECONDS", type=float, default=60.0, help="per request (default 60)"
    )
    parser.add_argument("--get", action="store_true", help="send a GET instead of a POST")
    parser.add_argument("words", nargs="+", metavar="VERB NOUN key=value", help="see below")


def run(args: argparse.Namespace) -> int:
    """Send one command and print its answer."""
    if not args.credentials:
        raise UsageError("--credentials FILE is needed (or FASTDL_CREDENTIALS)")
    credentials = api_client.read_credentials(Path(args.credentials))
    if args.cacert is not None:
        credentials["cacert"] = api_client.read_cacert(args.cacert)
    command, params = parse_words(args.words)
    answer = api_client.call(credentials, command, params, timeout_s=args.timeout, use_get=args.get)
    if args.wait and "jobid" in answer:
        state = api_client.ended_job(credentials, answer["jobid"], timeout_s=args.timeout)
        if state["jobstatus"] != 1:
            streams.note(json.dumps(state, indent=2))
        answer = api_client.job_result(state)
    streams.say(json.dumps(answer, indent=2, ensure_ascii=False))
    return 0


def parse_words(words: list[str]) -> tuple[str, dict[str, str]]:
    """Return (command, parameters) of ``VERB NOUN key=value…`` or ``commandName key=value…``.

    The command's case does not matter to the server, so none has to be looked up here.
    """
    names = []
    while words and "=" not in words[0]:
        names.append(words[0])
        words = words[1:]
    if not 1 <= len(names) <= 2:
        raise UsageError("say VERB NOUN key=value…, as in: fastdl api list zones")
    params = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise UsageError(f"{word!r} is not key=value")
        params[key] = _value(value)
    return "".join(names), params


def _value(value: str) -> str:
    """``@FILE`` is the content of an existing file; anything else is itself."""
    if not value.startswith("@") or not Path(value[1:]).is_file():
        return value
    try:
        return Path(value[1:]).read_text()
    except (OSError, UnicodeDecodeError) as exc:
        raise UsageError(f"{value[1:]} cannot be read: {fs.why(exc)}") from exc
