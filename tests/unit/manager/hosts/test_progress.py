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
    board.given("h", ["j"])
    seen = []
    for done, total in reports:
        assert board.note("h", said(done, total))
        seen.append(board.percent_of("j"))
    assert seen == sorted(seen, key=lambda value: value or 0)
    assert all(value is not None and 0 <= value <= 99 for value in seen)


def test_another_attempt_begins_anew() -> None:
    """Under another fence it may be another host, with nothing yet; the bytes follow as well."""
    board = ProgressBoard()
    board.given("h", ["j"])
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
    board.given("h", ["j"])
    assert not board.note("other", said(50, 100))
    assert board.percent_of("j") is None


def test_a_document_that_comes_late_keeps_no_job_that_has_ended() -> None:
    """It was read before the job ended, and is noted afterwards; the next one puts that right."""
    board = ProgressBoard()
    board.given("h", ["j"])
    board.drop("j")
    board.given("h", ["j"])
    assert board.note("h", said(50, 100))
    board.given("other", ["k"])
    board.given("h", [])
    assert not board.note("h", said(60, 100))
    assert board.all() == board.take_unsaved() == {}
    assert board.holds("k", "other")
    assert not board.holds("j", "h")


def test_a_job_that_went_to_another_host_stays_with_it() -> None:
    """Its former host's next document says nothing about it."""
    board = ProgressBoard()
    board.given("h", ["j"])
    board.given("other", ["j"])
    board.note("other", said(50, 100))
    board.given("h", [])
    assert board.percent_of("j") == 50
    board.forget("other")
    assert board.percent_of("j") is None


def test_what_other_managers_relayed_is_forgotten_where_its_end_may_be_missed() -> None:
    """What this manager gave itself stays."""
    board = ProgressBoard()
    board.given("h", ["mine"])
    assert board.relay("there", said(50, 100))
    board.drop_all_relayed()
    assert board.percent_of("j") is None
    assert board.holds("mine", "h")
