# SPDX-License-Identifier: Apache-2.0
"""Who asks: credentials and cookies, from files where they are secret. None is ever shown."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any

from fastdl.cli.parser import Once
from fastdl.errors import UsageError

MAX_BYTES = 1 << 20


def add_login_options(parser: argparse.ArgumentParser) -> None:
    """``-n``, ``-b`` and their kin."""
    who = parser.add_argument_group(
        "login: credentials and cookies, for the origins of the typed sources only"
    )
    who.add_argument(
        "-n",
        "--netrc",
        "--netrc-optional",
        action="store_true",
        help="user and password from ~/.netrc (or the file that NETRC names)",
    )
    who.add_argument("--netrc-file", "--netrc-path", metavar="FILE", help="from this file")
    who.add_argument(
        "-u",
        "--user",
        action=Once,
        metavar="USER:PASSWORD",
        help="what everybody can read in the list of processes: a netrc file is better",
    )
    who.add_argument(
        "--bearer-file", metavar="FILE", help="a token, on one line (Authorization: Bearer)"
    )
    who.add_argument(
        "-b",
        "--cookie",
        "--load-cookies",
        metavar="FILE",
        help="cookies in Netscape's format, or 'NAME=VALUE; NAME=VALUE'",
    )


def login_options_from(args: argparse.Namespace, sources: Sequence[str]) -> dict[str, Any]:
    """The keyword arguments of ``fetch_sync`` that these options mean for *sources*."""
    out: dict[str, Any] = {}
    wanted = args.netrc or args.netrc_file
    if not (wanted or args.user or args.bearer_file or args.cookie):
        return out
    from fastdl.model.url import Url

    urls = [url for url in map(Url.parse, sources) if url.is_http]
    credentials: list[tuple[str, str, str]] = []
    headers: list[tuple[str, str]] = []
    if args.user is not None:
        user, _, password = args.user.partition(":")
        credentials += [(url.host, user, password) for url in urls]
    if wanted:
        credentials += _from_netrc(args.netrc_file, urls)
    if args.bearer_file is not None:
        headers.append(("Authorization", f"Bearer {_token(args.bearer_file)}"))
    if args.cookie is not None and "=" in args.cookie:
        headers.append(("Cookie", args.cookie))
    elif args.cookie is not None:
        out["cookies"] = _from_cookies(args.cookie, urls)
    if credentials:
        out["credentials"] = tuple(credentials)
    if headers:
        out["headers"] = tuple(headers)
    return out


def _from_netrc(path: str | None, urls: Sequence[Any]) -> list[tuple[str, str, str]]:
    from fastdl.sources.logins import login_for, parse_netrc

    name = path or os.environ.get("NETRC") or os.path.expanduser("~/.netrc")  # noqa: PTH111
    logins = parse_netrc(_read(name, "netrc"))
    found = [(url, login_for(logins, url.host, url.username)) for url in urls]
    return [(url.host, login.user, login.password) for url, login in found if login]


def _from_cookies(path: str, urls: Sequence[Any]) -> tuple[Any, ...]:
    """Those that may be sent to a host of *urls*: the jar is small."""
    import time

    from fastdl.engine.options import Cookie
    from fastdl.sources.logins import parse_cookies

    hosts = {url.host for url in urls}
    now = time.time()
    return tuple(
        Cookie(c.host, c.path, c.name, c.value, c.domain, c.secure)
        for c in parse_cookies(_read(path, "the cookies"))
        if (c.expires == 0 or c.expires > now)
        and any(h == c.host or (c.domain and h.endswith(f".{c.host}")) for h in hosts)
    )


def _token(path: str) -> str:
    token = _read(path, "the token").split(b"\n", 1)[0].strip().decode("ascii", "replace")
    if not token or not token.isprintable() or " " in token or not token.isascii():
        raise UsageError(f"{path} holds no token on its first line")
    return token


def _read(path: str, what: str) -> bytes:
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{what}: {path} cannot be read: {error.strerror}") from None
