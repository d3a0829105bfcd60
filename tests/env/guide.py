# SPDX-License-Identifier: Apache-2.0
"""What does a guide tell its reader to type, and what does it say that he sees then?

In a block marked ``console`` a line after ``$ `` is a command; it goes on after a backslash, and to
the end of a here-document. What follows is its output: ``…`` stands for any text, alone in a line
for any lines. A block without any output shows commands alone, and promises that they succeed; any
other block shows all output of all its commands. A command that ends with ``&`` runs on, and its
output may go on after what is shown.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

_FENCE = re.compile(r"```(\w*)")
_MARK = re.compile(r"<!-- not run: (\S.*) -->")
_HERE = re.compile(r"<<-?\s*(['\"]?)(\w+)\1")
_ANY = "…"


class Command(NamedTuple):
    """One that is typed, and the lines that it prints; None where the page shows none."""

    line: int
    text: str
    output: tuple[str, ...] | None

    @property
    def stays(self) -> bool:
        """Whether it runs on in the background."""
        return self.text.rstrip().endswith("&")


class Block(NamedTuple):
    """One between fences; *reason*: why no test runs it, "" where it is to be run."""

    line: int
    language: str
    text: tuple[str, ...]
    commands: tuple[Command, ...]
    reason: str


def blocks(page: str) -> list[Block]:
    """All blocks of *page*, of every language."""
    found: list[Block] = []
    lines = page.splitlines()
    at = 0
    while at < len(lines):
        fence = _FENCE.fullmatch(lines[at].strip())
        if fence is None:
            at += 1
            continue
        end = lines.index("```", at + 1) if "```" in lines[at + 1 :] else len(lines)
        text = tuple(lines[at + 1 : end])
        mark = _MARK.fullmatch(lines[at - 1].strip()) if at else None
        found.append(
            Block(at + 1, fence[1], text, _commands(text, at + 2), mark[1] if mark else "")
        )
        at = end + 1
    return found


def _commands(lines: Sequence[str], number: int) -> tuple[Command, ...]:
    """The commands of a block whose first line has that *number* in the page."""
    typed: list[tuple[int, list[str], list[str]]] = []
    until = ""
    for at, line in enumerate(lines, number):
        if until or (typed and not typed[-1][2] and typed[-1][1][-1].endswith("\\")):
            typed[-1][1].append(line)
            until = "" if line.strip() == until else until
        elif line.startswith("$ "):
            typed.append((at, [line[2:]], []))
            here = _HERE.search(line)
            until = here[2] if here else ""
        elif typed:
            typed[-1][2].append(line)
    for _, _, output in typed:
        while output and not output[-1].strip():
            output.pop()
    shows = any(output for _, _, output in typed)
    return tuple(
        Command(at, "\n".join(text), tuple(output) if shows else None) for at, text, output in typed
    )


def shows(output: Sequence[str], found: str, *, more: bool = False) -> bool:
    """Whether the lines *output* of a page describe the text *found*; with *more* its beginning."""
    parts = []
    for line in output:
        if line.strip() == _ANY:
            parts.append(r"(?:.*\n)*?")
        else:
            parts.append(".*?".join(map(_literal, line.rstrip().split(_ANY))) + r"[ \t]*\n")
    if more:
        parts.append(r"(?:.*\n)*")
    text = found.rstrip("\n")
    return re.fullmatch("".join(parts), text + "\n" if text else "") is not None


def _literal(text: str) -> str:
    """*text* as a pattern; columns may be as far apart as their values demand."""
    return r" {2,}".join(map(re.escape, re.split(r"(?<=\S) {2,}(?=\S|$)", text)))
