# SPDX-License-Identifier: Apache-2.0
"""A table in plain text: aligned columns, two blanks apart, one row a line."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return the lines of *rows* below *titles*.

    Cells come from a server: what is not printable is shown as ``?``, so that no cell can move the
    cursor or pretend to be a row. The last column is not padded.
    """
    cells = [[_printable(cell) for cell in row] for row in (titles, *rows)]
    widths = [max(_width(row[column]) for row in cells) for column in range(len(titles))]
    return "\n".join(_line(row, widths) for row in cells)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    padded = (cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True))
    return "  ".join(padded).rstrip()


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)


def _width(text: str) -> int:
    """Columns that *text* takes on a terminal: wide letters two, combining marks none."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) != 0 for c in text)
