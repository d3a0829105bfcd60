# SPDX-License-Identifier: Apache-2.0
"""``fastdl cert``: the certificates that a zone's hosts trust for direct downloads."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

from fastdl import fs
from fastdl.cli import streams
from fastdl.cli import zone_options as zo
from fastdl.cli.api_client import ApiClient
from fastdl.errors import AgentLostError, UsageError

_EPILOG = """\
examples:
  fastdl cert upload mirror1 mirror.pem
  fastdl cert list --hosts
  fastdl cert revoke mirror1
  fastdl cert revoke mirror1 --host kvm7              from this host only

A host that is not Up gets or loses the certificate when it is again. Uploading another
certificate under a name replaces the first one."""

_COLUMNS = (
    ("NAME", "alias"),
    ("ZONE", "zonename"),
    ("SUBJECT", "subject"),
    ("EXPIRES", "expires"),
    ("HOSTS", "hosts"),
    ("ID", "id"),
)
_ON_HOSTS = (("NAME", "alias"), ("HOST", "hostname"), ("STATUS", "status"), ("DETAILS", "details"))


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb and its actions."""
    parser = subparsers.add_parser(
        "cert",
        help="list, upload and revoke the certificates of mirrors",
        description="List, upload and revoke the certificates that a zone's hosts trust.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = zo.action(actions, "list", "List certificates, and when they expire.", _list)
    zo.add_zone(listing, default="all")
    listing.add_argument("--hosts", action="store_true", help="one line for each host")
    upload = zo.action(actions, "upload", "Trust a certificate on every host of a zone.", _upload)
    upload.add_argument("name", metavar="NAME", help="its alias in the hosts' keystores")
    upload.add_argument("file", metavar="PEM", help="the certificate; - for standard input")
    zo.add_zone(upload)
    revoke = zo.action(actions, "revoke", "Stop trusting a certificate.", _revoke)
    revoke.add_argument("name", metavar="NAME", help="its alias or id")
    revoke.add_argument("--host", metavar="HOST", help="on this host only (default: on all)")
    zo.add_zone(revoke)


def run(args: argparse.Namespace) -> int:
    """Carry out the action."""
    return zo.run_action(args)


def _list(args: argparse.Namespace, api: ApiClient) -> int:
    zone = zo.zone_id(api, args.zone)
    rows = _certificates(api, zone)
    if args.hosts and not args.json:
        return zo.show(args, [row for cert in rows for row in _on_hosts(cert)], _ON_HOSTS)
    if not args.json:
        rows = [row | {"hosts": _summary(row)} for row in rows]
    return zo.show(args, rows, _COLUMNS)


def _certificates(api: ApiClient, zone: str | None) -> list[zo.Row]:
    return api.rows(
        "listTemplateDirectDownloadCertificates",
        "directdownloadcertificate",
        zoneid=zone,
        listhosts="true",
    )


def _on_hosts(cert: zo.Row) -> list[zo.Row]:
    return [{"alias": cert["alias"]} | host for host in cert.get("hostsmap", [])]


def _summary(cert: zo.Row) -> str:
    """``3 uploaded, 1 skipped``: on how many hosts."""
    counts = Counter(host["status"].lower() for host in cert.get("hostsmap", []))
    return ", ".join(f"{count} {status}" for status, count in counts.most_common())


def _upload(args: argparse.Namespace, api: ApiClient) -> int:
    answer = api(
        "uploadTemplateDirectDownloadCertificate",
        name=args.name,
        hypervisor="KVM",
        zoneid=zo.one_zone(api, args.zone)["id"],
        certificate=_read(args.file),
    )
    return _outcome(args, answer["uploadtemplatedirectdownloadcertificate"])


def _revoke(args: argparse.Namespace, api: ApiClient) -> int:
    zone = zo.one_zone(api, args.zone)["id"]
    cert = zo.pick(_certificates(api, zone), args.name, "certificate", key="alias")
    host = None
    if args.host is not None:
        hosts = api.rows("listHosts", "host", zoneid=zone)
        host = zo.pick(hosts, args.host, "host")["id"]
    answer = api("revokeTemplateDirectDownloadCertificate", id=cert["id"], zoneid=zone, hostid=host)
    hosts = answer["directdownloadcertificatehoststatus"]
    return _outcome(args, {"alias": cert["alias"], "hostsmap": hosts})


def _read(source: str) -> str:
    try:
        return sys.stdin.read() if source == "-" else Path(source).read_text()
    except (OSError, UnicodeDecodeError) as exc:
        raise UsageError(f"the certificate file {source} cannot be read: {fs.why(exc)}") from None


def _outcome(args: argparse.Namespace, answer: zo.Row) -> int:
    """Show what each host did; AgentLostError if one of them failed."""
    if args.json:
        streams.say(json.dumps(answer, indent=2, ensure_ascii=False))
    else:
        zo.show(args, _on_hosts(answer), _ON_HOSTS)
    failed = [row["hostname"] for row in answer.get("hostsmap", []) if row["status"] == "FAILED"]
    if failed:
        raise AgentLostError(f"not done yet on {', '.join(failed)}; the manager tries again")
    return 0
