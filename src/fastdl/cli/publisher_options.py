# SPDX-License-Identifier: Apache-2.0
"""The options about what publishers put next to an image."""

from __future__ import annotations

import argparse
from typing import Any

from fastdl.model.digest import Digest, names_a_list, parse_checksum


def checksum_or_list(text: str) -> Digest | str:
    """The checksum, or where the list is that gives it; UsageError for neither."""
    return text if names_a_list(text) else parse_checksum(text)


def add_publisher_options(group: argparse._ArgumentGroup) -> None:
    """Where checksums are from, and who must have signed them."""
    group.add_argument(
        "--discover",
        action="store_true",
        help="look for a checksum list next to the source (SHA256SUMS, NAME.sha256, CHECKSUM…)",
    )
    group.add_argument(
        "--presign",
        metavar="COMMAND",
        help="for s3:// sources: prints a signed URL of the object that is its last argument; "
        "without it botocore signs (extra 's3')",
    )
    group.add_argument(
        "--s3-endpoint", metavar="URL", help="a store that is not AWS's; also AWS_ENDPOINT_URL"
    )
    group.add_argument(
        "--s3-expires", type=int, metavar="SECONDS", help="how long a link lasts; default 3600"
    )
    group.add_argument(
        "--no-sign-request", action="store_true", help="for objects that everybody may read"
    )
    group.add_argument(
        "--keyring",
        metavar="FILE",
        help="public keys (OpenPGP, minisign, ssh, X.509); one must have signed the checksum "
        "list, the metalink or the file itself",
    )


def publisher_options_from(args: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments of ``fetch_sync`` that these options mean."""
    out: dict[str, Any] = {}
    if args.discover:
        out["discover"] = True
    if args.no_sign_request:
        out["s3_anonymous"] = True
    for name in ("keyring", "s3_endpoint", "s3_expires"):
        if (value := getattr(args, name)) is not None:
            out[name] = value
    if args.presign is not None:
        import shlex

        out["presign"] = tuple(shlex.split(args.presign))
    return out
