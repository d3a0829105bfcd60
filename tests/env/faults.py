# SPDX-License-Identifier: Apache-2.0
"""What can a test origin do wrong, and when? Rules as data, applied to one answer.

A rule has a condition (which requests) and effects (what goes wrong). The server in
``origin.py`` first makes the right answer, then lets the first matching rule edit it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

ENDLESS = ("fields", "line", "1xx", "zeros")
CHUNK_ERRORS = (
    "right",
    "padded",
    "cut",
    "negative",
    "overflow",
    "0x",
    "spaces",
    "no-last",
    "no-trailer",
)


@dataclass(slots=True)
class Answer:
    """One response on its way out: the right one, until a rule has edited it.

    ``first`` is the offset of ``body`` in the whole representation, ``total`` its size.
    ``body_cut`` and ``stall_at`` count body bytes, ``head_cut`` bytes of the head;
    ``rate`` is in bytes a second. ``raw_head`` replaces the status line and fields.
    """

    status: int
    headers: list[tuple[str, str]]
    body: memoryview
    first: int
    total: int
    reason: str = "Scripted"
    raw_head: bytes | None = None
    head_cut: int | None = None
    body_cut: int | None = None
    stall_at: int | None = None
    rate: float | None = None
    chunked: str | None = None
    surplus: bytes = b""
    endless: str | None = None
    reset: bool = False
    close: bool = False
    silent: bool = False

    def set(self, name: str, value: str | None) -> None:
        """Replace every field called *name* by one *value*; None removes it."""
        self.headers = [h for h in self.headers if h[0].lower() != name.lower()]
        if value is not None:
            self.headers.append((name, value))

    def replace_body(self, body: bytes | memoryview) -> None:
        """Put another body in, with a Content-Length that fits it."""
        self.body = memoryview(body)
        self.set("Content-Length", str(len(body)))


@dataclass(frozen=True, slots=True, kw_only=True)
class When:
    """Which requests a rule concerns. Requests of one path count from 1."""

    path: str | None = None
    method: str = "GET"
    first_nth: int = 1
    last_nth: int = 2**62
    every: int = 1
    ranged: bool | None = None
    start_min: int = 0
    start_max: int = 2**62
    has_header: str | None = None

    def matches(
        self, *, path: str, method: str, nth: int, start: int | None, fields: dict[str, str]
    ) -> bool:
        """True where this request is one of those meant (start is None without a range)."""
        return (
            (self.path is None or self.path == path)
            and self.method == method
            and self.first_nth <= nth <= self.last_nth
            and (nth - self.first_nth) % self.every == 0
            and (self.ranged is None or self.ranged == (start is not None))
            and self.start_min <= (start or 0) <= self.start_max
            and (self.has_header is None or self.has_header.lower() in fields)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One scripted fault: a condition and its effects, applied in the order of the fields.

    ``version`` switches the resource to another version for good. ``ignore_range`` answers
    200 with everything, ``force_range`` answers 206 whatever If-Range says. ``shift`` moves
    the served range, ``short`` serves at most so many bytes of it, ``corrupt`` flips the byte
    at that offset of the whole representation. ``content_range``, ``redirect``, ``raw_head``
    and added fields may use {first}, {last}, {total}, {length} and {base}.
    Negative cuts and stalls count from the end of the body.
    """

    when: When = field(default_factory=When)
    version: int | None = None
    ignore_range: bool = False
    force_range: bool = False
    shift: int = 0
    short: int | None = None
    total_delta: int = 0
    status: int | None = None
    body: str | None = None
    body_pad: bool = False
    corrupt: int | None = None
    content_range: str | None = None
    multipart: bool = False
    redirect: str | None = None
    gzip: bool = False
    set: dict[str, str] = field(default_factory=dict)
    add: tuple[tuple[str, str], ...] = ()
    remove: tuple[str, ...] = ()
    chunked: str | None = None
    raw_head: str | None = None
    lengthen: int = 0
    surplus: str | None = None
    head_cut: int | None = None
    body_cut: int | None = None
    stall_at: int | None = None
    rate: float | None = None
    endless: str | None = None
    reset: bool = False
    close: bool = False
    silent: bool = False

    @classmethod
    def from_dict(cls, table: dict[str, Any]) -> Rule:
        """Read a rule from a case file's table; an unknown word is an error of the case."""
        table = dict(table)
        when = When(**table.pop("when", {}))
        if "add" in table:
            table["add"] = tuple((name, value) for name, value in table["add"])
        if "remove" in table:
            table["remove"] = tuple(table["remove"])
        for word, known in (("endless", ENDLESS), ("chunked", CHUNK_ERRORS)):
            if word in table and table[word] not in known:
                raise ValueError(f"{word} = {table[word]!r} is none of {known}")
        return cls(when=when, **table)

    def edit(self, answer: Answer, *, content: memoryview, base: str) -> None:
        """Apply the effects on *answer*; *content* is the whole representation."""
        self._edit_range(answer, content)
        self._edit_body(answer)
        self._edit_head(answer, base)
        self._edit_delivery(answer)

    def _edit_range(self, answer: Answer, content: memoryview) -> None:
        if answer.status == 206 and (self.shift or self.short is not None):
            first = answer.first + self.shift
            stop = first + len(answer.body)
            if self.short is not None:
                stop = min(stop, first + self.short)
            answer.first = first
            answer.replace_body(content[first : min(stop, len(content))])
        answer.total += self.total_delta
        if answer.status == 206:
            last = answer.first + len(answer.body) - 1
            answer.set("Content-Range", f"bytes {answer.first}-{last}/{answer.total}")

    def _edit_body(self, answer: Answer) -> None:
        if self.corrupt is not None:
            at = self.corrupt - answer.first
            if 0 <= at < len(answer.body):
                edited = bytearray(answer.body)
                edited[at] ^= 0x5A
                answer.body = memoryview(bytes(edited))
        if self.body is not None:
            text = self.body.encode("latin-1")
            answer.replace_body(text.ljust(len(answer.body), b" ") if self.body_pad else text)
        if self.gzip:
            answer.set("Content-Encoding", "gzip")
        if self.multipart:
            last = answer.first + len(answer.body) - 1
            part = f"--XX\r\nContent-Range: bytes {answer.first}-{last}/{answer.total}\r\n\r\n"
            answer.set("Content-Range", None)
            answer.set("Content-Type", "multipart/byteranges; boundary=XX")
            answer.replace_body(part.encode() + bytes(answer.body) + b"\r\n--XX--\r\n")
        if self.lengthen:
            answer.replace_body(bytes(answer.body) + b"\xee" * self.lengthen)

    def _edit_head(self, answer: Answer, base: str) -> None:
        if self.status is not None:
            answer.status = self.status
        if self.chunked:
            answer.set("Content-Length", None)
            answer.set("Transfer-Encoding", "chunked")
        words = {
            "first": answer.first,
            "last": answer.first + len(answer.body) - 1,
            "total": answer.total,
            "length": len(answer.body),
            "base": base,
        }
        if self.content_range is not None:
            answer.set("Content-Range", self.content_range.format(**words))
        if self.redirect is not None:
            answer.status = self.status or 302
            answer.set("Content-Range", None)
            answer.replace_body(b"")
            answer.set("Location", self.redirect.format(**words))
        for name in self.remove:
            answer.set(name, None)
        for name, value in self.set.items():
            answer.set(name, value.format(**words))
        answer.headers += [(name, value.format(**words)) for name, value in self.add]
        if self.raw_head is not None:
            answer.raw_head = self.raw_head.format(**words).encode("latin-1")

    def _edit_delivery(self, answer: Answer) -> None:
        answer.chunked = self.chunked
        length = len(answer.body)
        for name in ("body_cut", "stall_at"):
            at = getattr(self, name)
            setattr(answer, name, at if at is None or at >= 0 else max(0, length + at))
        answer.head_cut = self.head_cut
        answer.rate = self.rate
        answer.endless = self.endless
        answer.surplus = (self.surplus or "").encode("latin-1")
        answer.reset = self.reset
        answer.close = self.close
        answer.silent = self.silent


def rules_from(tables: list[dict[str, Any]]) -> list[Rule]:
    """Read the rules of one origin in their order."""
    return [Rule.from_dict(table) for table in tables]


def effect_names() -> set[str]:
    """The words a rule may use in a case file."""
    return {f.name for f in dataclasses.fields(Rule)}
