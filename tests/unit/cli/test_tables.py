# SPDX-License-Identifier: Apache-2.0
"""Does a table stay one, whatever its cells hold?"""

from __future__ import annotations

from fastdl.cli.tables import table


def test_columns_are_aligned_and_nothing_trails() -> None:
    """The last column is not padded: lines can be copied."""
    lines = table(["NAME", "STATE"], [["kvm1", "Up"], ["a-longer-name", "Down"]]).split("\n")
    assert lines == ["NAME           STATE", "kvm1           Up", "a-longer-name  Down"]


def test_a_cell_cannot_pretend_to_be_a_row() -> None:
    """Cells come from hosts and users: no line feed, no escape reaches the terminal."""
    lines = table(["NAME", "STATE"], [["evil\nkvm9  Up", "\x1b[2JDown"]]).split("\n")
    assert lines[1:] == ["evil?kvm9  Up  ?[2JDown"]


def test_wide_letters_take_two_columns() -> None:
    """As terminals draw them."""
    lines = table(["NAME", "STATE"], [["模板", "Up"], ["abcd", "Up"]]).split("\n")
    assert lines[1:] == ["模板  Up", "abcd  Up"]
