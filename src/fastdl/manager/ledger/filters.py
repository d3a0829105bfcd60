# SPDX-License-Identifier: Apache-2.0
"""Conditions on columns, for the tables of filters that ``find`` functions take.

``lower`` of SQLite knows ASCII only: what is compared in any letter case is compared as it is
first, so that a name in another alphabet finds at least itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import ColumnElement, false, func, or_

Condition = Callable[[Any], ColumnElement[bool]]
Filters = Mapping[str, Condition]
"""By the names of CloudStack's parameters."""


def equals(column: ColumnElement[Any]) -> Condition:
    """The column has the value."""
    return lambda value: column == value


def same(column: ColumnElement[Any]) -> Condition:
    """The column has the value, in any letter case."""
    return lambda text: (column == text) | (func.lower(column) == text.lower())


def one_of(column: ColumnElement[Any]) -> Condition:
    """The column has one of the values; None among them is NULL."""

    def condition(values: list[Any]) -> ColumnElement[bool]:
        found = column.in_([value for value in values if value is not None])
        return found | column.is_(None) if None in values else found

    return condition


def contains(*columns: ColumnElement[Any]) -> Condition:
    """One of the columns has the word in it, in any letter case."""

    def condition(word: str) -> ColumnElement[bool]:
        return or_(
            false(),
            *(column.contains(word, autoescape=True) for column in columns),
            *(func.lower(column).contains(word.lower(), autoescape=True) for column in columns),
        )

    return condition


def conditions(filters: Filters, wanted: Mapping[str, Any]) -> list[ColumnElement[bool]]:
    """Return the conditions of what is *wanted*; KeyError for a name that is not in *filters*."""
    return [filters[name](value) for name, value in wanted.items()]
