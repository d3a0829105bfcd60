# SPDX-License-Identifier: Apache-2.0
"""``fastdl keystore``: list, import and delete the certificates that a host trusts."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastdl.cli import streams
from fastdl.errors import UsageError

if TYPE_CHECKING:
    from fastdl.trust.keystore import Keystore

_DESCRIPTION = """\
Edit a Java keystore (JKS or PKCS#12, recognised by its content) in place: locked, atomic,
keeping every other entry byte for byte. The passphrase is read from a file, never from
the command line."""

_EPILOG = """\
examples:
  fastdl keystore list   --keystore /etc/cloudstack/agent/cloud.jks --pass-file pass
  fastdl keystore import --keystore cloud.jks --pass-file pass --alias mirror1 --cert mirror.pem
  fastdl keystore delete --keystore cloud.jks --pass-file pass --alias mirror1

The aliases cloud and cloudca* belong to CloudStack and are never changed."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb and its three actions."""
    parser = subparsers.add_parser(
        "keystore",
        help="list, import and delete trusted certificates",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _action(actions, "list", "show every entry")
    adding = _action(actions, "import", "trust a certificate, or every certificate of a bundle")
    adding.add_argument("--alias", required=True, help="the name of the entry")
    adding.add_argument(
        "--cert", required=True, metavar="PEM", help="the certificate file; - for standard input"
    )
    adding.add_argument(
        "--replace", action="store_true", help="replace another certificate under the alias"
    )
    removing = _action(actions, "delete", "stop trusting an alias; succeeds if it does not exist")
    removing.add_argument("--alias", required=True, help="the name of the entry")


def _action(
    actions: argparse._SubParsersAction[argparse.ArgumentParser], name: str, summary: str
) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=summary, description=summary)
    parser.add_argument("--keystore", required=True, metavar="FILE", help="the keystore file")
    parser.add_argument(
        "--pass-file", required=True, metavar="FILE", help="holds the passphrase on one line"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def run(args: argparse.Namespace) -> int:
    """Carry out the action; 0, or an error of the keystore's classes."""
    from fastdl.trust.keystore import Keystore, read_passphrase

    keystore = Keystore(args.keystore, read_passphrase(args.pass_file))
    if args.action == "list":
        _print_list(keystore, as_json=args.json)
        return 0
    if args.action == "import":
        changed = keystore.import_certificate(args.alias, _read(args.cert), replace=args.replace)
        outcome = "imported" if changed else "already there"
    else:
        changed = keystore.delete(args.alias)
        outcome = "deleted" if changed else "not there"
    if args.json:
        streams.report_done(json.dumps({"alias": args.alias, "changed": changed}))
    else:
        streams.report_done(f"{args.alias}: {outcome}")
    return 0


def _read(source: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except OSError as exc:
        raise UsageError(f"the certificate file {source} cannot be read: {exc.strerror}") from None


def _print_list(keystore: Keystore, *, as_json: bool) -> None:
    rows: list[dict[str, Any]] = [item.to_dict() for item in keystore.items()]
    if as_json:
        streams.say(json.dumps(rows, indent=2))
        return
    for row in rows:
        streams.say(f"{row['alias']}  ({row['kind']})")
        if row["sha256"]:
            streams.say(f"    sha256   {row['sha256']}")
            streams.say(f"    subject  {row['subject']}")
            streams.say(f"    issuer   {row['issuer']}")
            streams.say(f"    valid    {row['not_before']} to {row['not_after']}")
