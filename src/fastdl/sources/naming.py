# SPDX-License-Identifier: Apache-2.0
"""Which file name does a source propose for a folder? Its URL, its response, or a metalink.

A proposal is a stranger's word: ``sinks.paths.safe_name`` decides whether it may be one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from fastdl.errors import UsageError
from fastdl.model.url import METALINK_SUFFIXES, Url

MAX_FIELD = 4096

# Compiled where a response proposes a name.
_PARAMETER = r';[ \t]*([A-Za-z0-9!#$&+.^_`|~*-]+)[ \t]*=[ \t]*("(?:[^"\\]|\\.)*"|[^;" \t]*)[ \t]*'
_EXTENDED = r"(?i:(utf-8|iso-8859-1))'[A-Za-z0-9-]*'((?:%[0-9A-Fa-f]{2}|[^%'\"\s])*)"


def url_name(sources: Sequence[str]) -> str | None:
    """The last segment of the first source's URL; a metalink's without its suffix."""
    name = Url.parse(sources[0]).last_segment() if sources else None
    for suffix in METALINK_SUFFIXES:
        if name and name.lower().endswith(suffix):
            return name[: -len(suffix)] or None
    return name


def disposition_name(field: str) -> str | None:
    """The file name in a Content-Disposition field (RFC 6266), None where there is none.

    ``filename*`` wins over ``filename``. What a path leads to is its last part, as browsers
    read it: servers send their own folders along. A malformed field proposes nothing.
    """
    if len(field) > MAX_FIELD:
        return None
    found: dict[str, str] = {}
    at = field.find(";")
    while 0 <= at < len(field):
        match = re.match(_PARAMETER, field[at:])
        if match is None:
            break
        found.setdefault(match[1].lower(), match[2])
        at += match.end()
    name = _extended(found["filename*"]) if "filename*" in found else None
    if name is None and "filename" in found:
        name = _plain(found["filename"])
    if name is None:
        return None
    return re.split(r"[/\\]", name)[-1].strip(" \t") or None


def _plain(text: str) -> str:
    if text.startswith('"'):
        text = re.sub(r"\\(.)", r"\1", text[1:-1])
    try:  # header fields are read as Latin-1, and most servers write UTF-8
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text


def _extended(text: str) -> str | None:
    match = re.fullmatch(_EXTENDED, text)
    if match is None:
        return None
    parts = re.split(r"%([0-9A-Fa-f]{2})", match[2])
    data = b"".join(bytes.fromhex(part) if i % 2 else part.encode() for i, part in enumerate(parts))
    try:
        return data.decode(match[1].lower())
    except UnicodeError:
        return None


def named(name: str | None, folder: str) -> str:
    """*name*, or UsageError where the source proposes none."""
    if not name:
        where = "" if folder in (".", "./") else f" for {folder}"
        raise UsageError(f"the source proposes no file name{where}: give one with -o NAME")
    return name
