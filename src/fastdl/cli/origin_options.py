# SPDX-License-Identifier: Apache-2.0
"""The operator's file of origin rules: which one counts, and what the command line overrules."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from typing import Any

VARIABLE = "FASTDL_ORIGINS"
SYSTEM = "/etc/fastdl/origins.toml"


def add_origin_options(group: argparse._ArgumentGroup) -> None:
    """Where the rules are."""
    group.add_argument(
        "--origins",
        metavar="FILE",
        help="rules for origins (mirrors, proxy, credentials, limits, keyring, blocks), '' for "
        f"none; without it ${VARIABLE}, ~/.config/fastdl/origins.toml or {SYSTEM} counts",
    )


def origin_options_from(args: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments of ``fetch_sync`` that the rules mean; UsageError."""
    path = _file(os.environ, args.origins)
    if path is None:
        return {}
    from fastdl.sources.origin_rules import read_rules

    rules = read_rules(path)
    if args.proxy is not None:  # said for this command
        rules = tuple(rule._replace(proxy=None) for rule in rules)
    return {"origin_rules": rules}


def _file(environ: Mapping[str, str], given: str | None) -> str | None:
    for named in (given, environ.get(VARIABLE)):
        if named is not None:
            return named or None
    home = environ.get("XDG_CONFIG_HOME") or f"{environ.get('HOME', '')}/.config"
    usual = (f"{home}/fastdl/origins.toml", SYSTEM)
    return next((path for path in usual if os.path.isfile(path)), None)  # noqa: PTH113 - start-up
