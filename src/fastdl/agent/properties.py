# SPDX-License-Identifier: Apache-2.0
"""Reads and extends agent.properties (Java's properties format).

Read as Java reads it: ``key=value``, ``key:value`` or ``key value``, comments with ``#``
and ``!``, lines continued by a backslash, ``\\uXXXX`` and the usual escapes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from fastdl import fs
from fastdl.errors import UsageError

_MAX_SIZE = 1 << 20
_ESCAPES = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}
_ESCAPED = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_KEY = re.compile(r"((?:\\.|[^\\=:\s])*)[ \t\f]*[=:]?[ \t\f]*(.*)", re.DOTALL)


def load(path: Path) -> dict[str, str]:
    """The properties in the file at *path*, empty if there is none; UsageError if unreadable."""
    try:
        data = fs.read_at_most(str(path), _MAX_SIZE)
    except FileNotFoundError:
        return {}
    except OSError as exc:
        raise UsageError(f"{path} cannot be read: {exc.strerror}") from None
    try:
        return parse(data.decode())
    except UnicodeDecodeError:
        return parse(data.decode("latin-1"))  # Java's encoding of such files up to version 8


def parse(text: str) -> dict[str, str]:
    """The properties in *text*; the last of equal keys counts."""
    found: dict[str, str] = {}
    for line in _logical_lines(text):
        match = _KEY.match(line)
        assert match is not None  # every part of the pattern may be empty
        found[_unescape(match[1])] = _unescape(match[2])
    return found


def append(path: Path, values: Mapping[str, str]) -> None:
    """Append *values* to the file at *path*, which is created (mode 0600) if missing.

    Existing content stays, comments included. Raises OSError.
    """
    old = path.read_bytes() if path.exists() else b""
    mode = path.stat().st_mode & 0o777 if old else 0o600
    if old and not old.endswith(b"\n"):
        old += b"\n"
    added = "".join(f"{key}={_escape(value)}\n" for key, value in values.items())
    fs.replace_file(path, old + added.encode(), prepare=lambda fd: os.fchmod(fd, mode))


def _logical_lines(text: str) -> Iterator[str]:
    pending = ""
    for natural in re.split(r"\r\n|\r|\n", text):
        line = natural.lstrip(" \t\f")
        if not pending and (not line or line[0] in "#!"):
            continue
        slashes = len(line) - len(line.rstrip("\\"))
        if slashes % 2:
            pending += line[:-1]
            continue
        yield pending + line
        pending = ""
    if pending:
        yield pending


def _unescape(text: str) -> str:
    def one(match: re.Match[str]) -> str:
        what = match[1]
        return chr(int(what[1:], 16)) if len(what) > 1 else _ESCAPES.get(what, what)

    return _ESCAPED.sub(one, text)


def _escape(value: str) -> str:
    text = value.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    return f"\\{text}" if text[:1] in {" ", "\t"} else text
