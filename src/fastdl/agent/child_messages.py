# SPDX-License-Identifier: Apache-2.0
"""Which messages may a confined process send to the one that started it?

It may have been compromised by the bytes that it reads, so its lines are hostile input: a line is
one of the messages below, with the stated types and limits, or ValueError. Texts are truncated and
stripped of control characters, lists are truncated; nothing else is repaired.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from fastdl.named_tuple import NamedTuple
from fastdl.wire.packed import TOTAL_MAX
from fastdl.wire.pieces import HASHES_MAX

LINE_MAX = 4 << 20
"""Maximum bytes of a line; the agent has the same limit."""

_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}", re.ASCII)
_NUMBER_MAX = (1 << 63) - 1
_TEXT_MAX = 4096
_LIST_MAX = 256

Check = Callable[[Any], Any]


class Confined(NamedTuple):
    """Sent first, before any data from an origin: what is *missing* of the confinement here.

    *listener*: the descriptor on which its connections wait, None if it makes them itself. The
    sender waits for a reply.

    """

    missing: tuple[str, ...]
    listener: int | None


class Begun(NamedTuple):
    """From now on the target holds data of this job; *size* in bytes, None if unknown."""

    size: int | None


class Convert(NamedTuple):
    """Requests qemu-img on files in the process's own folder; the sender waits for a reply."""

    source: str
    target: str
    format: str


class Progressed(NamedTuple):
    """The transfer's progress: the fields of ``engine.options.Progress``."""

    progress: dict[str, Any]


class Listed(NamedTuple):
    """Sent before the result: the SHA-256 of the source's pieces, as ``wire.pieces`` packs them.

    *length* bytes a piece; *refused*: a list that was shared said something else.
    """

    length: int
    hashes: str
    refused: bool


class Found(NamedTuple):
    """The last message of work that succeeded.

    A ``Result`` or a ``Probe`` as a dict, or what ``handshake.vouch`` returns.
    """

    result: dict[str, Any]


class Inspected(NamedTuple):
    """The last message of a check: the format and size of the downloaded image."""

    format: str
    virtual_size: int | None


class Failed(NamedTuple):
    """The last message of work that failed. *keep*: the data is worth a resume."""

    error: dict[str, Any]
    keep: bool


Message = Confined | Begun | Convert | Progressed | Listed | Found | Inspected | Failed


def parse(line: bytes) -> Message:
    """The message in *line*; ValueError for anything else."""
    if len(line) > LINE_MAX:
        raise ValueError("the line is too long")
    try:
        plain = json.loads(line, parse_constant=_no_number)
    except RecursionError:
        raise ValueError("the line is nested too deeply") from None
    if not isinstance(plain, dict) or len(plain) != 1:
        raise ValueError("not a single message")
    ((kind, value),) = plain.items()
    match kind:
        case "confined":
            fields = {"missing": _listed(_text(64)), "listener": _optional(_size)}
            found = _record(fields)(value)
            return Confined(tuple(found["missing"]), found["listener"])
        case "begun":
            return Begun(_optional(_size)(value))
        case "convert":
            return Convert(**_record({name: _text(256) for name in Convert._fields})(value))
        case "progress":
            return Progressed(_record(_PROGRESS)(value))
        case "listed":
            fields = {"length": _size, "hashes": _hashes, "refused": _flag}
            return Listed(**_record(fields)(value))
        case "result":
            return Found(_record(_RESULT)(value))
        case "probe":
            return Found(_record(_PROBE)(value))
        case "documents":
            return Found(_record(_DOCUMENTS)(value))
        case "vouched":
            return Found(_record(_VOUCHED)(value))
        case "inspected":
            fields = {"format": _word, "virtual_size": _optional(_size)}
            return Inspected(**_record(fields)(value))
        case "failed":
            return Failed(**_record({"error": _record(_ERROR), "keep": _flag})(value))
        case _:
            raise ValueError("an unknown message")


# ---- types ------------------------------------------------------------------------


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number")


def _size(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= _NUMBER_MAX:
        raise ValueError("not a size")
    return value


def _number(value: Any) -> float:
    if type(value) not in {int, float} or not math.isfinite(value) or abs(value) > _NUMBER_MAX:
        raise ValueError("not a number")
    return float(value)


def _code(value: Any) -> int:
    if type(value) is not int or not 0 < value < 256:
        raise ValueError("not an exit code")
    return value


def _status(value: Any) -> int:
    if type(value) is not int or not 100 <= value <= 599:
        raise ValueError("not a status")
    return value


def _flag(value: Any) -> bool:
    if type(value) is not bool:
        raise ValueError("not a flag")
    return value


def _text(limit: int) -> Check:
    def check(value: Any) -> str:
        if not isinstance(value, str):
            raise ValueError("not a text")
        return "".join(c if c.isprintable() else "?" for c in value[:limit])

    return check


def _packed(value: Any) -> str:
    """As ``wire.packed`` writes it; the code that unpacks it checks the rest."""
    if not isinstance(value, str) or len(value) > TOTAL_MAX or not _BASE64.fullmatch(value):
        raise ValueError("not a packed document")
    return value


def _hashes(value: Any) -> str:
    """As ``wire.pieces`` packs them; the code that unpacks them checks the rest."""
    if not isinstance(value, str) or len(value) > HASHES_MAX or not _BASE64.fullmatch(value):
        raise ValueError("not a packed list")
    return value


def _optional(check: Check) -> Check:
    return lambda value: None if value is None else check(value)


def _listed(check: Check, limit: int = _LIST_MAX) -> Check:
    def checked(value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise ValueError("not a list")
        return [check(item) for item in value[:limit]]

    return checked


def _mapped(check: Check, limit: int = 32) -> Check:
    """An object with any keys."""

    def checked(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict) or len(value) > limit:
            raise ValueError("not an object")
        return {_text(64)(key): check(item) for key, item in value.items()}

    return checked


def _record(fields: Mapping[str, Check]) -> Check:
    """An object with exactly these keys."""

    def checked(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict) or value.keys() != fields.keys():
            raise ValueError("unexpected fields for this message")
        return {name: check(value[name]) for name, check in fields.items()}

    return checked


def _one_of(*words: str) -> Check:
    def check(value: Any) -> str:
        if not isinstance(value, str) or value not in words:
            raise ValueError("not one of the allowed values")
        return value

    return check


# ---- messages ---------------------------------------------------------------------

_words = _text(_TEXT_MAX)
_word = _text(64)
_integrity = _one_of("strong", "weak", "none")

_MIRRORS: Check = _listed(
    _record(
        {
            "url": _words,
            "bytes": _size,
            "requests": _size,
            "errors": _size,
            "state": _word,
            "reason": _optional(_words),
        }
    )
)
_PROGRESS: Mapping[str, Check] = {
    "done": _size,
    "total": _optional(_size),
    "fetched": _size,
    "rate": _number,
    "eta": _optional(_number),
    "stage": _word,
    "connections": _size,
    "received": _size,
    "average": _number,
    "mirrors": _size,
    "waiting": _words,
    "bottleneck": _word,
    "mirror_reports": _MIRRORS,
}
_ERROR: Mapping[str, Check] = {
    "code": _code,
    "class": _word,
    "message": _words,
    "phase": _optional(_word),
    "origin": _optional(_words),
    "offset": _optional(_size),
    "retryable": _flag,
    "reason": _optional(_word),
    "http_status": _optional(_status),
    "retry_after_s": _optional(_number),
    "public_source": _flag,
}
_RESULT: Mapping[str, Check] = {
    "target": _words,
    "source_bytes": _size,
    "target_bytes": _size,
    "fetched_bytes": _size,
    "resumed_bytes": _size,
    "digests": _mapped(_text(256)),
    "integrity": _integrity,
    "consistency": _word,
    "format": _word,
    "seconds": _number,
    "stages": _mapped(_number),
    "bottleneck": _word,
    "mirrors": _MIRRORS,
    "warnings": _listed(_words),
    "virtual_size": _optional(_size),
    "already_present": _flag,
    "landing": _word,
    "signed_by": _optional(_words),
    "by_pieces": _flag,
}
_PROBE: Mapping[str, Check] = {
    "url": _words,
    "size": _optional(_size),
    "ranges": _flag,
    "validators": _mapped(_words),
    "format": _word,
    "virtual_size": _optional(_size),
    "digests": _mapped(_text(256)),
    "pieces": _optional(_record({"algorithm": _word, "length": _size, "count": _size})),
    "mirrors": _listed(_record({"url": _words, "priority": _size, "state": _word})),
    "metalink": _flag,
    "safe": _optional(_flag),
    "error": _optional(_word),
    "reasons": _listed(_words),
    "public_source": _flag,
    "warnings": _listed(_words),
    "signed_by": _optional(_words),
}
_DOCUMENTS: Mapping[str, Check] = {
    "documents": _listed(_packed, 16),
    "public_source": _flag,
}
_VOUCHED: Mapping[str, Check] = {
    "by": _optional(_size),
    "subject": _words,
    "not_after": _word,
}
