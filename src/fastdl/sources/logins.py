# SPDX-License-Identifier: Apache-2.0
"""Secrets that users keep in files of others' formats: netrc, and Netscape's cookies.

Pure parsers with limits. No message shows more of a line than its number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from fastdl.errors import UsageError
from fastdl.named_tuple import NamedTuple

MAX_BYTES = 1 << 20
_TOKEN = re.compile(r'"((?:[^"\\]|\\.)*)"|(\S+)')
_HOST = re.compile(r"[A-Za-z0-9._:-]{1,253}")
_COOKIE_TEXT = re.compile(r"[^\x00-\x1f\x7f-\uffff;]*")
_HTTP_ONLY = "#HttpOnly_"


class Login(NamedTuple):
    """What a netrc file has for *host*; None: for all others (``default``)."""

    host: str | None
    user: str
    password: str


class CookieLine(NamedTuple):
    """One cookie of a file; *domain*: it counts for names below *host* too."""

    host: str
    domain: bool
    path: str
    secure: bool
    expires: int
    name: str
    value: str


def parse_netrc(data: bytes) -> list[Login]:
    """The logins of a netrc file, in its order. UsageError: too large, or malformed.

    ``macdef`` goes to the next empty line, as everywhere; a ``#`` begins a comment where a
    word could begin a line.
    """
    found: list[Login] = []
    host: str | None = ""  # "": no machine yet; None: default
    fields: dict[str, str] = {}

    def close() -> None:
        if host != "" and "login" in fields:
            found.append(Login(host, fields["login"], fields.get("password", "")))

    words = _netrc_words(_text(data, "netrc"))
    for number, word in words:
        if word in ("machine", "default"):
            close()
            fields = {}
            host = None if word == "default" else next(words, (0, ""))[1].lower()
            if host == "":
                raise UsageError(f"netrc: line {number}: a machine has no name")
        elif word in ("login", "password", "account"):
            value = next(words, None)
            if value is None or host == "":
                raise UsageError(f"netrc: line {number}: {word} stands alone")
            fields[word] = value[1]
        elif host == "":
            raise UsageError(f"netrc: line {number} is malformed")
    close()
    return found


def _netrc_words(text: str) -> Iterator[tuple[int, str]]:
    in_macro = False
    for number, line in enumerate(text.split("\n"), 1):
        if in_macro:
            in_macro = bool(line.strip())
            continue
        if line.lstrip().startswith("#"):
            continue
        for match in _TOKEN.finditer(line):
            if match[2] == "macdef":
                in_macro = True
                break
            quoted = match[1]
            yield number, match[2] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)


def login_for(logins: list[Login], host: str, user: str | None = None) -> Login | None:
    """The first login for *host* (and *user*, where one is given), else the default one."""
    for wanted in (host, None):
        for login in logins:
            if login.host == wanted and user in (None, login.user):
                return login
    return None


def parse_cookies(data: bytes) -> list[CookieLine]:
    """The cookies of a file of seven columns, as browsers and curl write it. UsageError."""
    found: list[CookieLine] = []
    for number, raw in enumerate(_text(data, "the cookies").split("\n"), 1):
        line = raw.rstrip("\r")
        if line.startswith(_HTTP_ONLY):
            line = line[len(_HTTP_ONLY) :]
        elif line.startswith("#") or not line.strip():
            continue
        columns = line.split("\t")
        if len(columns) == 6:  # an empty value, where an editor cut the last tab
            columns.append("")
        if len(columns) != 7:
            raise UsageError(f"the cookies: line {number} has no seven columns (Netscape's format)")
        host, domain, path, secure, expires, name, value = columns
        host = host.lower().lstrip(".")
        numeric = re.fullmatch(r"[0-9]{1,18}", expires.partition(".")[0])
        sound = _HOST.fullmatch(host) and path.startswith("/") and numeric and name
        if not sound or not _COOKIE_TEXT.fullmatch(path + name + value):
            raise UsageError(f"the cookies: line {number} is malformed")
        found.append(
            CookieLine(
                host,
                domain.upper() == "TRUE",
                path,
                secure.upper() == "TRUE",
                int(expires.partition(".")[0]),
                name,
                value,
            )
        )
    return found


def _text(data: bytes, what: str) -> str:
    if len(data) > MAX_BYTES:
        raise UsageError(f"{what}: the file is larger than {MAX_BYTES >> 20} MiB")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"{what}: the file is not UTF-8") from None
