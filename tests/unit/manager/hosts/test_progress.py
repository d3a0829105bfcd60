# SPDX-License-Identifier: Apache-2.0
"""Does progress only go forward, whatever hosts say and in whatever order?"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fastdl.manager.hosts.progress import ProgressBoard
from fastdl.wire.messages import Progress


def said(done: int, total: int | None, fence: int = 1) -> Progress:
    """One report."""
    return Progress(job="j", fence=fence, done=done, total=total)


@given(st.lists(st.tuples(st.integers(0, 100), st.one_of(st.none(), st.integers(1, 100)))))
def test_percent_never_goes_back_within_an_attempt(reports: list[tuple[int, int | None]]) -> None:
    """A resume reads again what was there; an unpacked image is landed in a second go."""
    board = ProgressBoard()
    board.given("j", "h")
    seen = []
    for done, total in reports:
        assert board.note("h", said(done, total))
        seen.append(board.percent_of("j"))
    assert seen == sorted(seen, key=lambda value: value or 0)
    assert all(value is not None and 0 <= value <= 99 for value in seen)


def test_another_attempt_begins_anew() -> None:
    """Under another fence it may be another host, with nothing yet; the bytes follow as well."""
    board = ProgressBoard()
    board.given("j", "h")
    board.note("h", said(80, 100))
    board.note("h", said(10, 100))
    now = board.of("j")
    assert now is not None
    assert (now.done, board.percent_of("j")) == (80, 80)
    board.note("h", said(5, 100, fence=2))
    assert board.percent_of("j") == 5
    assert board.take_unsaved() == {"j": 5}
    board.drop("j")
    assert board.percent_of("j") is None


def test_only_who_has_the_job_speaks_of_it() -> None:
    """A host's word about another's job is nothing."""
    board = ProgressBoard()
    board.given("j", "h")
    assert not board.note("other", said(50, 100))
    assert board.percent_of("j") is None
