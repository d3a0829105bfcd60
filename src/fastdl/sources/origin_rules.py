# SPDX-License-Identifier: Apache-2.0
"""What the operator says of origins, by the beginnings of URLs: more mirrors, a proxy, limits…

A rule is about its URL and everything below it; of several the longest counts, alone. Paths are
compared decoded and without dots, so that no other spelling of a blocked one passes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from fastdl import fs
from fastdl.errors import FastdlError, UsageError
from fastdl.model.units import parse_rate
from fastdl.model.url import Url
from fastdl.named_tuple import NamedTuple

MAX_RULES: Final = 1000
MAX_MIRRORS: Final = 16
MAX_FILE: Final = 1 << 20
_MAX_TEXT: Final = 4096
_KEYS: Final = frozenset({
    "url", "mirrors", "proxy", "headers", "username", "password-file", "bearer-token-file",
    "limit-rate", "max-connections", "follow-redirects", "keyring", "blocked",
})  # fmt: skip


class OriginRule(NamedTuple):
    """What holds for *url* and below. None, or (): as without the rule.

    mirrors           URLs that stand for *url*: what follows it is put behind them
    proxy             the way there, "" for none
    headers           sent there and to no other origin; may be secret
    limit_rate        bytes/s of a whole job that starts there
    max_connections   of one job, to that origin
    follow_redirects  whether a job that starts there follows any
    keyring           file of public keys, of which one must have signed the checksum
    blocked           why nothing may come from there
    """

    url: str
    mirrors: tuple[str, ...] = ()
    proxy: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    limit_rate: int | None = None
    max_connections: int | None = None
    follow_redirects: bool | None = None
    keyring: str | None = None
    blocked: str | None = None

    def __repr__(self) -> str:
        return f"OriginRule({Url.parse(self.url).display()!r})"


Rules = tuple[OriginRule, ...]


def rule_for(rules: Rules, url: Url) -> OriginRule | None:
    """The rule with the longest beginning of *url*, None where there is none."""
    best: tuple[int, OriginRule] | None = None
    if not rules or not url.is_http:
        return None
    path = _normal(url.path)
    for rule in rules:
        start = Url.parse(rule.url)
        if _place(start) != _place(url):
            continue
        below = _normal(start.path).rstrip("/")
        covers = path == below or path.startswith(below + "/")
        if covers and (best is None or len(below) > best[0]):
            best = len(below), rule
    return None if best is None else best[1]


def refused_by(rules: Rules, url: Url) -> str | None:
    """Why nothing may come from *url*, None where it may."""
    rule = rule_for(rules, url)
    if rule is None or rule.blocked is None:
        return None
    return f"{url.display()} is blocked by the operator" + (
        f": {rule.blocked}" if rule.blocked else ""
    )


def mirrors_of(rules: Rules, url: Url) -> tuple[Url, ...]:
    """The URLs where a rule says that the bytes of *url* are too."""
    rule = rule_for(rules, url)
    if rule is None:
        return ()
    start = Url.parse(rule.url)
    if not url.path.startswith(start.path):
        return ()  # an unusual spelling: where it ends is not clear
    rest = url.path[len(start.path) :]
    found = []
    for text in rule.mirrors:
        mirror = Url.parse(text)
        joined = mirror.path.rstrip("/") + "/" + rest.lstrip("/") if rest else mirror.path
        found.append(mirror._replace(path=joined))  # a query may be a token for the origin
    return tuple(found)


def _place(url: Url) -> tuple[str, str, int]:
    return url.scheme, url.host.rstrip("."), url.port


def _normal(path: str) -> str:
    from urllib.parse import unquote

    parts: list[str] = []
    for part in unquote(path, errors="replace").replace("\\", "/").split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    return "/" + "/".join(parts)


# ---- the file ------------------------------------------------------------------------


def read_rules(path: str) -> Rules:
    """The rules in the TOML file *path*, with the secrets that it refers to; UsageError."""
    data = _read(path, MAX_FILE)
    import tomllib

    try:
        plain = tomllib.loads(_utf8(data, path))
    except (tomllib.TOMLDecodeError, RecursionError) as exc:
        raise UsageError(f"{path}: {exc}") from None
    return parse_rules(plain, where=path, read=_secret)


def parse_rules(plain: Mapping[str, Any], *, where: str, read: Callable[[str], str]) -> Rules:
    """The rules in the parsed file *where*; *read* gives the secret in a file. UsageError.

    Relative paths in it count from its folder.
    """
    tables = plain.get("origin", [])
    if set(plain) - {"origin"} or not isinstance(tables, list) or len(tables) > MAX_RULES:
        raise UsageError(f"{where}: it holds tables [[origin]] and nothing else")
    folder = os.path.dirname(where)  # noqa: PTH120 - start-up
    rules = tuple(
        _rule(table, f"{where}: origin {n}", folder, read) for n, table in enumerate(tables, 1)
    )
    starts = [(*_place(u), _normal(u.path)) for u in (Url.parse(rule.url) for rule in rules)]
    if len(set(starts)) < len(starts):
        raise UsageError(f"{where}: two rules are about the same URL")
    return rules


def _rule(table: Any, where: str, folder: str, read: Callable[[str], str]) -> OriginRule:
    if not isinstance(table, dict) or "url" not in table:
        raise UsageError(f"{where}: a rule has a url")
    if unknown := set(table) - _KEYS:
        raise UsageError(f"{where}: there is no key {sorted(unknown)[0][:40]!a}")
    url = _start(table["url"], where)
    mirrors = table.get("mirrors", [])
    if not isinstance(mirrors, list) or len(mirrors) > MAX_MIRRORS:
        raise UsageError(f"{where}: mirrors is a list of at most {MAX_MIRRORS} URLs")
    connections = table.get("max-connections")
    if connections is not None and (type(connections) is not int or not 1 <= connections <= 64):
        raise UsageError(f"{where}: max-connections is a number from 1 to 64")
    follow = table.get("follow-redirects")
    if follow is not None and type(follow) is not bool:
        raise UsageError(f"{where}: follow-redirects is true or false")
    blocked = table.get("blocked")
    if blocked is True:
        blocked = ""
    elif blocked is False:
        blocked = None
    rate = table.get("limit-rate")
    try:
        limit = None if rate is None else parse_rate(str(rate))
    except FastdlError as exc:
        raise UsageError(f"{where}: limit-rate: {exc.message}") from None
    return OriginRule(
        url=url,
        mirrors=tuple(_start(mirror, where) for mirror in mirrors),
        proxy=_text(table, "proxy", where),
        headers=tuple(_headers(table, where, folder, read)),
        limit_rate=limit,
        max_connections=connections,
        follow_redirects=follow,
        keyring=_path(table, "keyring", where, folder),
        blocked=blocked if blocked is None else _text({"blocked": blocked}, "blocked", where),
    )


def _start(value: Any, where: str) -> str:
    """A URL that others begin with: http or https, without credentials and query."""
    wanted = f"{where}: a rule's URLs are http or https, without credentials and query"
    if not isinstance(value, str) or not value.lower().startswith(("http:", "https:")):
        raise UsageError(wanted)
    try:
        url = Url.parse(value)
    except FastdlError as exc:
        raise UsageError(f"{where}: {exc.message}") from None
    if url.username is not None or url.query is not None:
        raise UsageError(wanted)
    return url.request_text()


def _headers(
    table: Mapping[str, Any], where: str, folder: str, read: Callable[[str], str]
) -> Iterable[tuple[str, str]]:
    headers = table.get("headers", {})
    if not isinstance(headers, dict) or not all(isinstance(v, str) for v in headers.values()):
        raise UsageError(f"{where}: headers is a table of texts")
    yield from headers.items()
    token = _path(table, "bearer-token-file", where, folder)
    user = _text(table, "username", where)
    password = _path(table, "password-file", where, folder)
    if (user is None) != (password is None) or (user is not None and token is not None):
        raise UsageError(f"{where}: username and password-file belong together, without a token")
    if token is not None:
        yield "Authorization", f"Bearer {read(token)}"
    if user is not None and password is not None:
        from base64 import b64encode

        pair = f"{user}:{read(password)}".encode()
        yield "Authorization", f"Basic {b64encode(pair).decode('ascii')}"


def _text(table: Mapping[str, Any], key: str, where: str) -> str | None:
    value = table.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > _MAX_TEXT or not (value + "x").isprintable():
        raise UsageError(f"{where}: {key} is a text")
    return value


def _path(table: Mapping[str, Any], key: str, where: str, folder: str) -> str | None:
    name = _text(table, key, where)
    return name and os.path.join(folder, name)  # noqa: PTH118 - start-up


def _read(path: str, limit: int) -> bytes:
    try:
        return fs.read_at_most(path, limit)
    except OSError as exc:
        raise UsageError(f"{path} cannot be read: {exc.strerror}") from None


def _secret(path: str) -> str:
    """The first line of the file *path*; UsageError, before a server refuses what is none."""
    line = _utf8(_read(path, _MAX_TEXT).partition(b"\n")[0].removesuffix(b"\r"), path)
    if not line or not line.isprintable():
        raise UsageError(f"{path} holds no token or password on its first line")
    return line


def _utf8(data: bytes, path: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not a text in UTF-8") from None
