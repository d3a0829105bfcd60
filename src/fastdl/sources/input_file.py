# SPDX-License-Identifier: Apache-2.0
"""A list of downloads in aria2's format: the URIs of one file on a line, its options below.

URIs of one line are separated by tabs and are mirrors. Lines that begin with a blank are
options of the file above, ``name=value``. Lines that begin with ``#`` and empty ones do not count.
"""

from __future__ import annotations

from fastdl.errors import UsageError
from fastdl.named_tuple import NamedTuple

MAX_BYTES = 16 << 20
MAX_ENTRIES = 100_000
MAX_OPTIONS = 64
MAX_URIS = 64


class Entry(NamedTuple):
    """One file. *line*: where its URIs stand, counted from 1."""

    line: int
    uris: tuple[str, ...]
    options: tuple[tuple[str, str], ...]


def parse_input(data: bytes) -> list[Entry]:
    """What *data* lists. UsageError: malformed, too much, or nothing at all."""
    if len(data) > MAX_BYTES:
        raise UsageError(f"the list is larger than {MAX_BYTES >> 20} MiB")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        raise UsageError(f"line {line} is not UTF-8") from None
    found: list[tuple[int, tuple[str, ...], list[tuple[str, str]]]] = []
    for number, whole in enumerate(text.split("\n"), 1):
        written = whole.rstrip("\r")
        if not written.strip() or written.startswith("#"):
            continue
        if written[0] in " \t":
            if not found:
                raise UsageError(f"line {number}: an option stands before the first URI")
            options = found[-1][2]
            if len(options) == MAX_OPTIONS:
                raise UsageError(f"line {number}: more than {MAX_OPTIONS} options for one file")
            options.append(_option(written.strip(), number))
            continue
        uris = tuple(uri.strip() for uri in written.split("\t") if uri.strip())
        if len(uris) > MAX_URIS:
            raise UsageError(f"line {number}: more than {MAX_URIS} URIs for one file")
        if len(found) == MAX_ENTRIES:
            raise UsageError(f"line {number}: more than {MAX_ENTRIES} files")
        found.append((number, uris, []))
    if not found:
        raise UsageError("the list names no file")
    return [Entry(number, uris, tuple(options)) for number, uris, options in found]


def _option(text: str, number: int) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise UsageError(f"line {number}: an option is written name=value")
    return name.strip().removeprefix("--"), value.strip()
