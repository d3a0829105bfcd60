# SPDX-License-Identifier: Apache-2.0
"""Which digest does a checksum list give for a file?

Reads the forms of coreutils (``HEX  name``, ``HEX *name``, names with ``\\``), of BSD and
OpenSSL (``SHA256 (name) = HEX``), and a digest alone. A name is matched as a whole and
case-sensitively. If a list is ambiguous, it gives no digest.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from fastdl.errors import ChecksumListError, LimitError, UsageError
from fastdl.model.digest import HEX_LENGTHS, Digest, algorithm_named

MAX_LIST: Final = 4 << 20
MAX_LINES: Final = 100_000
MAX_LINE: Final = 8192
"""Bytes of a list and characters of a line; longer lines cannot name a wanted file."""

_BY_LENGTH: Final = {length: name for name, length in HEX_LENGTHS.items()}
_PLAIN: Final = re.compile(r"(\\?)([0-9A-Fa-f]{32,128})(?: [ *]|[ \t])[ \t]*(\S.*)")
_TAGGED: Final = re.compile(r"(\\?)([A-Za-z0-9/-]{2,20}) ?\((.+)\) ?= ?([0-9A-Fa-f]+)")
_ALONE: Final = re.compile(r"([0-9A-Fa-f]{32,128})(?:[ \t]+-)?")
_ESCAPE: Final = re.compile(r"\\(.)")
_ESCAPED: Final = {"\\": "\\", "n": "\n", "r": "\r"}
_ALGORITHM_IN_NAME: Final = re.compile(
    r"(?:^|[._-])(md5|sha-?(?:512[/_-]256|1|224|256|384|512)|sha3(?:-?[0-9]{3})?|b[23]|blake[23][a-z]?"
    r"|rmd160|ripemd160)(?:sums?)?(?=[._-]|$)",
    re.IGNORECASE,
)


class Entry(NamedTuple):
    """One line: *name* as written there; None if the digest stands alone."""

    digest: Digest
    name: str | None


def read_list(data: bytes, *, called: str = "") -> tuple[Entry, ...]:
    """Every digest of a known algorithm in *data*, the content of a list *called* so.

    The name of a list (``SHA256SUMS``, ``x.iso.sha512``) says which algorithm its bare digits
    are of, else their number does. Comments and lines that are not entries are skipped.

    ChecksumListError: there is no entry at all, or one whose digits do not fit its algorithm.
    LimitError: too large.
    """
    if len(data) > MAX_LIST:
        raise LimitError(f"a checksum list has at most {MAX_LIST >> 20} MiB", phase="resolve")
    text = data.decode("utf-8-sig", "surrogateescape")
    lines = text.split("\n", MAX_LINES)
    if len(lines) > MAX_LINES:
        raise LimitError(f"a checksum list has at most {MAX_LINES} lines", phase="resolve")
    said = _ALGORITHM_IN_NAME.findall(called)
    algorithm = algorithm_named(said[-1].replace("_", "-")) if said else None
    entries = []
    for line in lines:
        entry = _entry(line.rstrip("\r \t"), algorithm, known=not said or algorithm is not None)
        if entry is not None:
            entries.append(entry)
    if not entries:
        raise _fail(f"{called or 'what came'} is not a checksum list of a known algorithm")
    return tuple(entries)


def _entry(line: str, algorithm: str | None, *, known: bool) -> Entry | None:
    """*known*: whether the list's own name allows an algorithm that we compute."""
    if len(line) > MAX_LINE or not line or line.startswith("#"):
        return None
    if tagged := _TAGGED.fullmatch(line):
        backslash, tag, name, digits = tagged.groups()
        named = algorithm_named(re.sub(r"(?i)^sha2-", "sha-", tag))
        if named is None:
            return None  # of an algorithm that we do not compute, or not an entry
        return Entry(_digest(named, digits), _name(name, escaped=bool(backslash)))
    if not known:
        return None
    if plain := _PLAIN.fullmatch(line):
        backslash, digits, name = plain.groups()
        if name == "-":
            return Entry(_digest(algorithm, digits), None)
        return Entry(_digest(algorithm, digits), _name(name, escaped=bool(backslash)))
    if alone := _ALONE.fullmatch(line):
        return Entry(_digest(algorithm, alone[1]), None)
    return None


def _digest(algorithm: str | None, digits: str) -> Digest:
    named = algorithm or _BY_LENGTH.get(len(digits))
    if named is None:
        raise _fail(f"a checksum list has an entry with {len(digits)} hex digits")
    try:
        return Digest(named, digits)
    except UsageError as exc:
        raise _fail(f"a checksum list is malformed: {exc.message}") from None


def _name(text: str, *, escaped: bool) -> str:
    """*text*, unescaped if the line began with a backslash (coreutils)."""
    if not escaped:
        return text
    return _ESCAPE.sub(lambda m: _ESCAPED.get(m[1], m[0]), text)


def digest_of(entries: Iterable[Entry], name: str, *, path: str | None = None) -> Digest:
    """The strongest digest that a list gives for the file *name*.

    *path*: the file's path relative to the list (``images/x.iso``), None if unknown. An entry with
    that path takes precedence over one with the bare name, and that one over entries with the name
    in some folder.

    ChecksumListError: no entry names the file, or entries contradict each other.
    """
    known = list(entries)
    if len(known) == 1 and known[0].name is None:
        return known[0].digest
    named = [(_clean(entry.name), entry.digest) for entry in known if entry.name is not None]
    for match in (
        [digest for entry, digest in named if path is not None and entry == path],
        [digest for entry, digest in named if entry == name],
        [digest for entry, digest in named if entry.rpartition("/")[2] == name],
    ):
        if match:
            return _one(match, name)
    raise _fail(f"the checksum list does not name {_shown(name)}{_near(named, name)}")


def _clean(name: str) -> str:
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    return name


def _one(digests: list[Digest], name: str) -> Digest:
    """The strongest of *digests*; those of one algorithm have to agree."""
    found: dict[str, Digest] = {}
    for digest in digests:
        if found.setdefault(digest.algorithm, digest) != digest:
            raise _fail(
                f"the checksum list gives {_shown(name)} different {digest.algorithm} values: "
                "which one is meant is not clear"
            )
    return max(found.values(), key=lambda digest: HEX_LENGTHS[digest.algorithm])


def _near(named: list[tuple[str, Digest]], name: str) -> str:
    """A hint after a typo: entries of the list that differ only in case or length."""
    stem = name.lower().partition(".")[0]
    close = [entry for entry, _ in named if stem and entry.lower().startswith(stem)]
    return f", but {_shown(close[0])}" if close else ""


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 80 else text[:80] + "...")


def _fail(message: str) -> ChecksumListError:
    return ChecksumListError(message, phase="resolve")
