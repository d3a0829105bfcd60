# SPDX-License-Identifier: Apache-2.0
"""``fastdl host``: the hosts of a zone, in, out and back."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from fastdl.cli import streams
from fastdl.cli import zone_options as zo
from fastdl.cli.api_client import ApiClient
from fastdl.errors import AgentLostError, ApiConflictError

_EPILOG = """\
examples:
  fastdl host list
  fastdl host token --cluster rack4                   a new host joins with this
  fastdl host token --host kvm7                       a reinstalled host becomes kvm7 again
  fastdl host disable kvm7                            no new downloads there
  fastdl host drain kvm7 --wait && fastdl host remove kvm7

A host is named by its name or its id. The manager is the one in $FASTDL_CREDENTIALS."""

_COLUMNS = (
    ("NAME", "name"),
    ("STATE", "state"),
    ("ALLOCATION", "resourcestate"),
    ("ZONE", "zonename"),
    ("CLUSTER", "clustername"),
    ("ADDRESS", "ipaddress"),
    ("AGENT", "version"),
    ("CERTIFICATES", "certificates"),
    ("ID", "id"),
)
_STATES = ("Up", "Down", "Disconnected", "Alert", "Connecting")
_POLL_S = 1.0


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb and its actions."""
    parser = subparsers.add_parser(
        "host",
        help="list, admit, disable, drain and remove hosts",
        description="List, admit, disable, drain and remove the hosts of a zone.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = zo.action(actions, "list", "List hosts.", _list)
    zo.add_zone(listing, default="all")
    listing.add_argument(
        "--state",
        metavar="STATE",
        choices=_STATES,
        type=str.capitalize,
        help=f"only those in this one of {', '.join(_STATES)}",
    )
    token = zo.action(actions, "token", "Print a token that admits one host, once.", _token)
    zo.add_zone(token)
    token.add_argument("--cluster", metavar="NAME", help="that the host joins (default: default)")
    token.add_argument(
        "--host", metavar="HOST", help="the host that was set up again, or whose key was stolen"
    )
    for name, summary, run in (
        ("disable", "Send no new downloads to a host; running ones continue.", _disable),
        ("enable", "Send downloads to a host again.", _enable),
        ("resume", "End a host's maintenance.", _resume),
    ):
        _add_hosts(zo.action(actions, name, summary, run))
    drain = zo.action(actions, "drain", "Let a host finish what runs, for maintenance.", _drain)
    _add_hosts(drain)
    drain.add_argument("--wait", action="store_true", help="until nothing runs there any more")
    removing = zo.action(actions, "remove", "Evict a host: its certificate is refused.", _remove)
    _add_hosts(removing)
    removing.add_argument("--force", action="store_true", help="also if it was not drained")


def _add_hosts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("hosts", nargs="+", metavar="HOST", help="its name or id")


def run(args: argparse.Namespace) -> int:
    """Carry out the action."""
    return zo.run_action(args)


def _list(args: argparse.Namespace, api: ApiClient) -> int:
    zone = zo.zone_id(api, args.zone)
    return zo.show(args, api.rows("listHosts", "host", zoneid=zone, state=args.state), _COLUMNS)


def _token(args: argparse.Namespace, api: ApiClient) -> int:
    if args.host is not None:
        answer = api("createHostToken", hostid=_host(api, args.host)["id"])
    else:
        zone = zo.one_zone(api, args.zone)["id"]
        answer = api("createHostToken", zoneid=zone, clustername=args.cluster)
    if args.json:
        streams.say(json.dumps(answer, indent=2))
        return 0
    streams.say(answer["token"])
    streams.note(
        f"valid for one host until {answer['expires']}; on the host:\n"
        f"  fastdl agent --manager https://MANAGER:{answer['agentport']} --token-file - "
        f"--state /var/lib/fastdl/agent"
    )
    return 0


def _disable(args: argparse.Namespace, api: ApiClient) -> int:
    return _each(args, api, "updateHost", "disabled", allocationstate="Disable")


def _enable(args: argparse.Namespace, api: ApiClient) -> int:
    return _each(args, api, "updateHost", "enabled", allocationstate="Enable")


def _resume(args: argparse.Namespace, api: ApiClient) -> int:
    return _each(args, api, "cancelHostMaintenance", "back from maintenance")


def _drain(args: argparse.Namespace, api: ApiClient) -> int:
    hosts = [_host(api, wanted) for wanted in args.hosts]
    for host in hosts:
        if host["resourcestate"] not in {"PrepareForMaintenance", "Maintenance"}:
            api.wait(api("prepareHostForMaintenance", id=host["id"]))
    return _report(args, [_drained(args, api, host) for host in hosts])


def _drained(args: argparse.Namespace, api: ApiClient, host: zo.Row) -> tuple[str, str]:
    while True:
        now = _host(api, host["id"])
        if now["resourcestate"] == "Maintenance":
            return host["name"], "in maintenance"
        if not args.wait:
            return host["name"], "draining: what runs there finishes"
        if now["resourcestate"] != "PrepareForMaintenance":
            raise AgentLostError(f"{host['name']} is {now['resourcestate']}: it is not drained")
        time.sleep(_POLL_S)


def _remove(args: argparse.Namespace, api: ApiClient) -> int:
    if not args.force:
        for wanted in args.hosts:
            if _host(api, wanted)["resourcestate"] != "Maintenance":
                raise ApiConflictError(
                    f"{wanted} is not drained: fastdl host drain {wanted} --wait does it; "
                    "--force evicts it at once"
                )
    return _each(args, api, "deleteHost", "removed", forced="true" if args.force else None)


def _each(
    args: argparse.Namespace, api: ApiClient, command: str, outcome: str, **params: str | None
) -> int:
    """Every host is looked up before anything is done to one."""
    hosts = [_host(api, wanted) for wanted in args.hosts]
    done = []
    for host in hosts:
        answer = api(command, id=host["id"], **params)
        if "jobid" in answer:
            api.wait(answer)
        done.append((host["name"], outcome))
    return _report(args, done)


def _report(args: argparse.Namespace, outcomes: list[tuple[str, str]]) -> int:
    if args.json:
        rows = [{"host": name, "outcome": outcome} for name, outcome in outcomes]
        streams.say(json.dumps(rows, indent=2, ensure_ascii=False))
    else:
        for name, outcome in outcomes:
            streams.say(f"{name}: {outcome}")
    return 0


def _host(api: ApiClient, wanted: str) -> dict[str, Any]:
    return zo.pick(api.rows("listHosts", "host"), wanted, "host")
