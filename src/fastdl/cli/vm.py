# SPDX-License-Identifier: Apache-2.0
"""``fastdl vm``: deploy virtual machines from templates, and see what they print."""

from __future__ import annotations

import argparse
import json

from fastdl.cli import streams
from fastdl.cli import zone_options as zo
from fastdl.cli.api_client import ApiClient
from fastdl.cli.template import all_templates
from fastdl.errors import UsageError
from fastdl.model.units import parse_size

_EPILOG = """\
examples:
  fastdl vm deploy u24 web1                           on a host that the manager chooses
  fastdl vm deploy u24 web2 --host kvm1 --memory 2G --disk 20G
  fastdl vm list
  fastdl vm console web1                              the end of its serial console
  fastdl vm stop web1 && fastdl vm start web1
  fastdl vm destroy web1 --expunge                    with its disk, at once

A machine is named by its name or its id."""

_COLUMNS = (
    ("NAME", "name"),
    ("STATE", "state"),
    ("HOST", "hostname"),
    ("TEMPLATE", "templatename"),
    ("CPUS", "cpunumber"),
    ("MIB", "memory"),
    ("POOL", "storagename"),
    ("ERROR", "error"),
    ("ID", "id"),
)
_MIB, _GIB = 1 << 20, 1 << 30


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb and its actions."""
    parser = subparsers.add_parser(
        "vm",
        help="deploy, list, start, stop and destroy virtual machines",
        description="Deploy, list, start, stop and destroy virtual machines.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = zo.action(actions, "list", "List virtual machines.", _list)
    zo.add_zone(listing, default="all")
    deploy = zo.action(actions, "deploy", "Deploy a machine, and wait until it runs.", _deploy)
    deploy.add_argument("template", metavar="TEMPLATE", help="a template or an ISO, name or id")
    deploy.add_argument("name", metavar="NAME", nargs="?", help="unique in the zone")
    deploy.add_argument("--host", metavar="HOST", help="on this host only")
    deploy.add_argument("--cpus", metavar="N", type=int, help="processors (default 1)")
    deploy.add_argument("--memory", metavar="SIZE", help="as in 2G (default 512M)")
    deploy.add_argument("--disk", metavar="SIZE", help="as in 20G (default: the template's)")
    zo.add_zone(deploy)
    for name, summary, run in (
        ("start", "Start a machine.", _start),
        ("console", "Print the end of a machine's serial console.", _console),
    ):
        _add_vm(zo.action(actions, name, summary, run))
    stop = zo.action(actions, "stop", "Ask a machine to stop; after 30 s switch it off.", _stop)
    _add_vm(stop)
    stop.add_argument("--force", action="store_true", help="switch it off at once")
    destroy = zo.action(actions, "destroy", "Destroy a machine.", _destroy)
    _add_vm(destroy)
    destroy.add_argument("--expunge", action="store_true", help="with its disk, at once")


def _add_vm(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("vm", metavar="VM", help="its name or id")


def run(args: argparse.Namespace) -> int:
    """Carry out the action."""
    return zo.run_action(args)


def _list(args: argparse.Namespace, api: ApiClient) -> int:
    zone = zo.zone_id(api, args.zone)
    return zo.show(args, api.rows("listVirtualMachines", "virtualmachine", zoneid=zone), _COLUMNS)


def _deploy(args: argparse.Namespace, api: ApiClient) -> int:
    zone = zo.one_zone(api, args.zone)["id"]
    template = zo.pick(all_templates(api, zone), args.template, "template")
    host = None
    if args.host is not None:
        host = zo.pick(api.rows("listHosts", "host", zoneid=zone), args.host, "host")["id"]
    answer = api(
        "deployVirtualMachine",
        templateid=template["id"],
        zoneid=zone,
        name=args.name,
        hostid=host,
        cpunumber=None if args.cpus is None else str(args.cpus),
        memory=_units(args.memory, _MIB, "--memory"),
        rootdisksize=_units(args.disk, _GIB, "--disk"),
    )
    return _report(args, api.wait(answer)["virtualmachine"])


def _units(text: str | None, unit: int, option: str) -> str | None:
    """*text* in whole *unit*, as the API counts."""
    if text is None:
        return None
    units, rest = divmod(parse_size(text), unit)
    if rest or not units:
        raise UsageError(f"{option} {text}: not a whole number of {'M' if unit == _MIB else 'G'}")
    return str(units)


def _start(args: argparse.Namespace, api: ApiClient) -> int:
    return _report(args, api.wait(api("startVirtualMachine", id=_id(args, api)))["virtualmachine"])


def _stop(args: argparse.Namespace, api: ApiClient) -> int:
    forced = "true" if args.force else None
    answer = api("stopVirtualMachine", id=_id(args, api), forced=forced)
    return _report(args, api.wait(answer)["virtualmachine"])


def _destroy(args: argparse.Namespace, api: ApiClient) -> int:
    expunge = "true" if args.expunge else None
    answer = api("destroyVirtualMachine", id=_id(args, api), expunge=expunge)
    found = api.wait(answer).get("virtualmachine", {"name": args.vm})
    # Its last state is Expunging; the job has ended, so that it is gone.
    if args.expunge and not args.json:
        found = {"name": found["name"]}
    return _report(args, found)


def _console(args: argparse.Namespace, api: ApiClient) -> int:
    found = api("getVirtualMachineConsoleOutput", id=_id(args, api))["consoleoutput"]
    if args.json:
        streams.say(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        streams.say(found["output"].rstrip("\n"))
    return 0


def _id(args: argparse.Namespace, api: ApiClient) -> str:
    found = api.rows("listVirtualMachines", "virtualmachine")
    return str(zo.pick(found, args.vm, "virtual machine")["id"])


def _report(args: argparse.Namespace, vm: zo.Row) -> int:
    if args.json:
        streams.say(json.dumps(vm, indent=2, ensure_ascii=False))
    else:
        where = f" on {vm['hostname']}" if vm.get("hostname") else ""
        streams.say(f"{vm['name']}: {vm.get('state', 'removed').lower()}{where}")
    return 0
