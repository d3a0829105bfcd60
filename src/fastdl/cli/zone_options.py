# SPDX-License-Identifier: Apache-2.0
"""What ``host``, ``template`` and ``cert`` have in common: a manager, a zone, and names for ids."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from fastdl.cli import streams
from fastdl.cli.api_client import ApiClient, read_cacert, read_credentials
from fastdl.cli.tables import table
from fastdl.errors import UsageError

Row = dict[str, Any]
Action = Callable[[argparse.Namespace, ApiClient], int]


def action(
    actions: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    summary: str,
    run: Action,
    *,
    epilog: str = "",
) -> argparse.ArgumentParser:
    """Add an action that talks to a manager: `run_action` calls *run*."""
    parser = actions.add_parser(
        name,
        help=summary[0].lower() + summary[1:].removesuffix("."),
        description=summary,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    group = parser.add_argument_group("manager: which one, and as whom")
    group.add_argument(
        "--credentials",
        metavar="FILE",
        default=os.environ.get("FASTDL_CREDENTIALS"),
        help="JSON with url, apikey and secretkey (default: $FASTDL_CREDENTIALS)",
    )
    group.add_argument(
        "--cacert",
        metavar="FILE",
        type=Path,
        help="PEM: the manager's certificate or its CA (default: the one in the credentials)",
    )
    group.add_argument(
        "--timeout", metavar="SECONDS", type=float, default=60.0, help="per request (default 60)"
    )
    group.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.set_defaults(run_action=run)
    return parser


def add_zone(parser: argparse.ArgumentParser, *, default: str = "the only one") -> None:
    """Add ``--zone``."""
    parser.add_argument("--zone", metavar="ZONE", help=f"its name or id (default: {default})")


def run_action(args: argparse.Namespace) -> int:
    """Call the action with a client of the manager."""
    if not args.credentials:
        raise UsageError(
            "--credentials FILE is needed (or FASTDL_CREDENTIALS): the manager writes admin.json "
            "into its state folder"
        )
    credentials = read_credentials(Path(args.credentials))
    if args.cacert is not None:
        credentials["cacert"] = read_cacert(args.cacert)
    run: Action = args.run_action
    return run(args, ApiClient(credentials, timeout_s=args.timeout))


def one_zone(api: ApiClient, wanted: str | None) -> Row:
    """Return the zone of that name or id; without one the only zone there is."""
    zones = api.rows("listZones", "zone")
    if wanted is not None:
        return pick(zones, wanted, "zone")
    if len(zones) == 1:
        return zones[0]
    if not zones:
        raise UsageError("there is no zone yet: fastdl api create zone name=NAME makes one")
    names = ", ".join(sorted(str(zone["name"]) for zone in zones))
    raise UsageError(f"there are several zones, so --zone must name one of {names}")


def zone_id(api: ApiClient, wanted: str | None) -> str | None:
    """Return the id of a zone that narrows a list; None where none is named."""
    return None if wanted is None else str(one_zone(api, wanted)["id"])


def pick(rows: Iterable[Row], wanted: str, noun: str, *, key: str = "name") -> Row:
    """Return the row whose id or name is *wanted*.

    UsageError if there is none, or if several have the name: nothing is done to the wrong one.
    """
    rows = list(rows)
    for row in rows:
        if row["id"] == wanted:
            return row
    named = [row for row in rows if row.get(key) == wanted]
    if len(named) == 1:
        return named[0]
    if named:
        ids = ", ".join(str(row["id"]) for row in named)
        raise UsageError(f"{len(named)} {noun}s are named {wanted}; say which by its id: {ids}")
    raise UsageError(f"there is no {noun} {wanted}")


def show(args: argparse.Namespace, rows: Sequence[Row], columns: Sequence[tuple[str, str]]) -> int:
    """Print *rows*: as JSON as they came, or as a table of (heading, field); returns 0."""
    if args.json:
        streams.say(json.dumps(rows, indent=2, ensure_ascii=False))
    elif rows:
        streams.say(table([title for title, _ in columns], [_cells(r, columns) for r in rows]))
    else:
        streams.note("none")
    return 0


def _cells(row: Row, columns: Sequence[tuple[str, str]]) -> list[str]:
    return [_text(row.get(field)) for _, field in columns]


def _text(value: object) -> str:
    if value is None or value in ("", []):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    return str(value)
