# SPDX-License-Identifier: Apache-2.0
"""How the parameters of a list command narrow what it lists.

An ignored filter lists everything, and a script that deletes what it lists then deletes everything.
So every parameter of a list command declares its effect on the list, and an undeclared one is
refused (``spec.read_args``): it narrows by what is stored, it is about something that all rows here
have or none has, it is refused, or it is about how rows are shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from fastdl.errors import ApiParamError


@dataclass(frozen=True, slots=True)
class By:
    """Rows that have the value, in any letter case: in *field* of the response (default: the one
    that is called like the parameter), or, where the ledger filters, by its condition of that
    name."""

    field: str = ""


@dataclass(frozen=True, slots=True)
class Contains:
    """Rows whose *fields* of the response have the value somewhere in them, in any letter case."""

    fields: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Is:
    """All rows have *value*: any other matches none."""

    value: str | bool


@dataclass(frozen=True, slots=True)
class Refused:
    """Cannot be answered: 431 with *why*, unless the value is *but*, which changes
    nothing."""

    why: str
    but: str | bool | None = None


class Rule(Enum):
    """Takes no value."""

    NONE = "no row has one: any value matches none"
    SHOWS = "affects how rows are shown, not which"
    READ = "the command's own code narrows by it"


NONE, SHOWS, READ = Rule.NONE, Rule.SHOWS, Rule.READ

Narrowing = By | Contains | Is | Refused | Rule
Rules = Mapping[str, Narrowing | None]
"""How each parameter of a command narrows."""


def leave_some(rules: Rules, args: Mapping[str, Any], *, command: str) -> bool:
    """Whether any row can match *args*, by what all rows of *command* have in common.

    ApiParamError where a parameter is one that cannot be answered.
    """
    some = True
    for name, value in args.items():
        match rules[name]:
            case Refused(why, but) if but is None or not _same(but, value):
                raise ApiParamError(f"{command} cannot list by {name}: {why}")
            case Is(constant) if not _same(constant, value):
                some = False
            case Rule.NONE:
                some = False
            case _:
                pass
    return some


def stored(rules: Rules, args: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of *args* by which the ledger narrows, for its ``find`` functions."""
    return {n: value for n, value in args.items() if isinstance(rules[n], By)}


def narrow(
    rules: Rules, args: Mapping[str, Any], items: Iterable[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return those of *items*, rows as they are shown, that match *args*."""
    kept = list(items)
    for name, value in args.items():
        match rules[name]:
            case By(field):
                kept = [item for item in kept if _same(item.get(field or name), value)]
            case Contains(fields):
                word = value.casefold()
                kept = [i for i in kept if any(word in str(i.get(f)).casefold() for f in fields)]
            case _:
                pass
    return kept


def _same(held: Any, wanted: Any) -> bool:
    """Whether what a row holds (a value, or a list of which one is enough) is what was asked for
    (a value, or a list of those that will do)."""
    have, want = (one if isinstance(one, list) else [one] for one in (held, wanted))
    known = {_text(one) for one in have if one is not None}
    return not known.isdisjoint(_text(one) for one in want)


def _text(value: Any) -> str:
    return str(value).casefold()
