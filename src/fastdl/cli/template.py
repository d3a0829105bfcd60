# SPDX-License-Identifier: Apache-2.0
"""``fastdl template``: register templates and ISOs, and bring them to primary storage."""

from __future__ import annotations

import argparse
import json
from urllib.parse import unquote

from fastdl.cli import streams
from fastdl.cli import zone_options as zo
from fastdl.cli.api_client import ApiClient
from fastdl.errors import IntegrityError, UsageError
from fastdl.model.units import format_size

_EPILOG = """\
examples:
  fastdl template register u24 https://mirror.example/u24.qcow2.meta4
  fastdl template register u24 https://mirror.example/u24.img --format qcow2 \\
      --checksum https://mirror.example/SHA256SUMS
  fastdl template seed u24                            to every pool of the zone, with progress
  fastdl template seed u24 --host kvm1 --host kvm2
  fastdl template watch                               what is being downloaded now
  fastdl template audit u24                           are its copies still what was published?
  fastdl template list

A template is named by its name or its id. Ctrl-C ends the watching, not the downloads."""

_COLUMNS = (
    ("NAME", "name"),
    ("FORMAT", "format"),
    ("ZONE", "zonename"),
    ("SIZE", "size"),
    ("CHECKSUM", "checksum"),
    ("URL", "url"),
    ("ID", "id"),
)
_COPIES = (
    ("TEMPLATE", "templatename"),
    ("POOL", "storagename"),
    ("STATE", "state"),
    ("SIZE", "physicalsize"),
    ("USED BY", "users"),
)
_AUDITS = (
    ("POOL", "storagename"),
    ("STATE", "state"),
    ("REASON", "reason"),
    ("USED BY", "users"),
)
_FORMATS = ("qcow2", "raw", "vmdk", "vhd", "vhdx", "vdi", "iso")
_ENVELOPES = (".meta4", ".metalink", ".gz", ".xz", ".bz2", ".zst", ".zip")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb and its actions."""
    parser = subparsers.add_parser(
        "template",
        help="list, register, seed and remove templates",
        description="Register templates and ISOs, and bring them to primary storage.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = zo.action(actions, "list", "List templates and ISOs.", _list)
    zo.add_zone(listing, default="all")
    copies = zo.action(actions, "copies", "List the copies on primary storage.", _copies)
    copies.add_argument("template", nargs="?", metavar="TEMPLATE", help="of this one only")
    audit = zo.action(
        actions, "audit", "Read copies as a whole and compare them with their digests.", _audit
    )
    audit.add_argument("template", metavar="TEMPLATE", help="its name or id")
    _add_register(actions)
    _add_seed(actions)
    watch = zo.action(actions, "watch", "Show downloads until the last one has ended.", _watch)
    watch.add_argument("template", nargs="?", metavar="TEMPLATE", help="of this one only")
    cancel = zo.action(
        actions, "cancel", "Cancel a template's downloads; they can resume.", _cancel
    )
    cancel.add_argument("template", metavar="TEMPLATE", help="its name or id")
    removing = zo.action(actions, "remove", "Delete a template and its copies.", _remove)
    removing.add_argument("template", metavar="TEMPLATE", help="its name or id")
    removing.add_argument("--keep-copies", action="store_true", help="leave the copies there")


def _add_register(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = zo.action(actions, "register", "Register a template, or an ISO.", _register)
    parser.add_argument("name", metavar="NAME", help="what users see")
    parser.add_argument("url", metavar="URL", help="http, https, nfs, a metalink or simplestreams:")
    parser.add_argument(
        "--format",
        metavar="FORMAT",
        choices=_FORMATS,
        type=str.lower,
        help=f"of the image: {', '.join(_FORMATS)} (default: by the URL)",
    )
    parser.add_argument(
        "--checksum", metavar="SUM", help="ALGORITHM:HEX, or the URL of a list like SHA256SUMS"
    )
    parser.add_argument(
        "--header",
        metavar="'NAME: VALUE'",
        action="append",
        default=[],
        help="send it with each request to the origin; repeatable",
    )
    parser.add_argument("--public", action="store_true", help="other users see it too")
    parser.add_argument("--arch", help="of its processors (default x86_64)")
    zo.add_zone(parser)


def _add_seed(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = zo.action(actions, "seed", "Download a template to primary storage now.", _seed)
    parser.add_argument("template", metavar="TEMPLATE", help="its name or id")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--pool", metavar="POOL", help="to this pool only")
    where.add_argument(
        "--host", metavar="HOST", action="append", help="to this host's pools; repeatable"
    )
    parser.add_argument("--urgent", action="store_true", help="ahead of other downloads")
    parser.add_argument("--no-wait", action="store_true", help="return when they are queued")
    zo.add_zone(parser, default="the template's, or the only one")


def run(args: argparse.Namespace) -> int:
    """Carry out the action."""
    return zo.run_action(args)


def _list(args: argparse.Namespace, api: ApiClient) -> int:
    rows = all_templates(api, zo.zone_id(api, args.zone))
    if not args.json:
        rows = [_sized(row, "size") | {"checksum": _known_digest(row)} for row in rows]
    return zo.show(args, rows, _COLUMNS)


def _copies(args: argparse.Namespace, api: ApiClient) -> int:
    wanted = _template(api, args.template)["id"] if args.template else None
    rows = api.rows("listTemplateCopies", "templatecopy", templateid=wanted)
    shown = rows if args.json else [_sized(row, "physicalsize") for row in rows]
    return zo.show(args, shown, _COPIES)


def _audit(args: argparse.Namespace, api: ApiClient) -> int:
    """One pool after the other: storage is read as fast as it can be."""
    wanted = _template(api, args.template)["id"]
    found = []
    for copy in api.rows("listTemplateCopies", "templatecopy", templateid=wanted, state="Ready"):
        where = {"storageid": copy["storageid"], "volume": copy["volume"]}
        result = api.wait(api("auditTemplateCopy", **where))
        found += [row | {"storagename": copy["storagename"]} for row in result["templatecopyaudit"]]
    zo.show(args, found, _AUDITS)
    return IntegrityError.exit_code if any(row["state"] == "Damaged" for row in found) else 0


def _sized(row: zo.Row, field: str) -> zo.Row:
    size = row.get(field)
    return row | {field: None if size is None else format_size(size)}


def _register(args: argparse.Namespace, api: ApiClient) -> int:
    kind = args.format or format_of(args.url)
    params = {
        "name": args.name,
        "url": args.url,
        "zoneid": zo.one_zone(api, args.zone)["id"],
        "checksum": _checksum(args.checksum),
        "ispublic": "true" if args.public else None,
        "arch": args.arch,
        **_details(args.header),
    }
    if kind == "iso":
        row = api.send("registerIso", params)["iso"][0]
    else:
        extra = {"format": kind.upper(), "hypervisor": "KVM", "directdownload": "true"}
        row = api.send("registerTemplate", params | extra)["template"][0]
    if args.json:
        streams.say(json.dumps(row, indent=2, ensure_ascii=False))
        return 0
    size = row.get("size")
    streams.say(row["id"])
    streams.note(
        f"{row['name']}: registered, {format_size(size) if size else 'size unknown'}, "
        f"{_known_digest(row) or 'no checksum known'}"
    )
    return 0


def _known_digest(row: zo.Row) -> str:
    """What a template's bytes are compared with, the checksum or what its source tells; or ""."""
    found = [f"{{{name.upper()}}}{value}" for name, value in (row.get("digests") or {}).items()]
    return str(row.get("checksum") or ", ".join(found))


def format_of(url: str) -> str:
    """Return the image format that *url*'s name ends with; UsageError if it shows none."""
    name = unquote(url.partition("?")[0].partition("#")[0]).lower()
    while name.endswith(_ENVELOPES):
        name = name.rpartition(".")[0]
    extension = name.rpartition(".")[2]
    if extension in _FORMATS:
        return extension
    raise UsageError(
        f"the URL does not show the image's format: --format says which, "
        f"of {', '.join(_FORMATS)} (Ubuntu's .img are qcow2)"
    )


def _checksum(text: str | None) -> str | None:
    """``sha-256:HEX``, as `fastdl get` takes it, in the API's grammar."""
    if text is None or "://" in text or text.startswith("{"):
        return text
    algorithm, colon, value = text.partition(":")
    return f"{{{algorithm}}}{value}" if colon else text


def _details(headers: list[str]) -> dict[str, str]:
    found = {}
    for number, header in enumerate(headers):
        name, colon, value = header.partition(":")
        if not colon or not name.strip():
            raise UsageError("--header takes 'NAME: VALUE'")
        found[f"details[{number}].HTTP_HEADER:{name.strip()}"] = value.strip()
    return found


def _seed(args: argparse.Namespace, api: ApiClient) -> int:
    from fastdl.cli.watch import watch

    template = _template(api, args.template)
    zone = _zone_of(api, template, args.zone)
    hosts = pool = None
    if args.host:
        known = api.rows("listHosts", "host", zoneid=zone)
        hosts = ",".join(zo.pick(known, wanted, "host")["id"] for wanted in args.host)
    if args.pool:
        pools = api.rows("listStoragePools", "storagepool", zoneid=zone)
        pool = zo.pick(pools, args.pool, "pool")["id"]
    answer = api(
        "prepareTemplate",
        zoneid=zone,
        templateid=template["id"],
        storageid=pool,
        hostids=hosts,
        priority="urgent" if args.urgent else "bulk",
    )
    if args.no_wait:
        streams.say(answer["jobid"] if not args.json else json.dumps(answer, indent=2))
        return 0
    return watch(api, template["id"], job=answer["jobid"], as_json=args.json)


def _zone_of(api: ApiClient, template: zo.Row, wanted: str | None) -> str:
    if wanted is None and template.get("zoneid"):
        return str(template["zoneid"])
    return str(zo.one_zone(api, wanted)["id"])


def _watch(args: argparse.Namespace, api: ApiClient) -> int:
    from fastdl.cli.watch import watch

    template = _template(api, args.template)["id"] if args.template else None
    return watch(api, template, as_json=args.json)


def _cancel(args: argparse.Namespace, api: ApiClient) -> int:
    answer = api("cancelTemplateDownload", templateid=_template(api, args.template)["id"])
    streams.say(answer["displaytext"] if not args.json else json.dumps(answer, indent=2))
    return 0


def _remove(args: argparse.Namespace, api: ApiClient) -> int:
    template = _template(api, args.template)
    command = "deleteIso" if template.get("format") == "ISO" else "deleteTemplate"
    keep = "true" if args.keep_copies else None
    result = api.wait(api(command, id=template["id"], keepcopies=keep))
    streams.say(f"{template['name']}: removed" if not args.json else json.dumps(result, indent=2))
    return 0


def all_templates(api: ApiClient, zone: str | None = None) -> list[zo.Row]:
    """Templates and ISOs, as the caller may see them, one row a zone."""
    found = api.rows("listTemplates", "template", templatefilter="all", zoneid=zone)
    return found + api.rows("listIsos", "iso", isofilter="all", zoneid=zone)


def _template(api: ApiClient, wanted: str) -> zo.Row:
    # A template of several zones has a row in each.
    unique = {row["id"]: row for row in all_templates(api)}
    return zo.pick(unique.values(), wanted, "template")
