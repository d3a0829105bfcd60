# SPDX-License-Identifier: Apache-2.0
"""Does the first good answer win, and does nobody wait for the losers?"""

from __future__ import annotations

import threading
from typing import Any

import pytest

from fastdl.engine.cancel import Cancel
from fastdl.engine.source.race import first_of
from fastdl.errors import Cancelled, HttpStatusError, NetError


class Answer:
    """Stands for an open stream."""

    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        self.closed = True


def wait_for(wake: Cancel) -> None:
    """Block until this attempt is cancelled, as a stream in a silent connection does."""
    gone = threading.Event()
    with wake.stops(gone.set):
        assert gone.wait(10)
    wake.check()


def test_a_fast_first_mirror_is_the_only_one_asked() -> None:
    """Mirrors are not to be bothered where the first one is good."""
    asked = []

    def attempt(index: int, wake: Cancel) -> Any:
        asked.append(index)
        return Answer(), b"head"

    index, (_, head), failed = first_of([3, 1, 2], attempt, Cancel(), 5.0)
    assert (index, head, failed, asked) == (3, b"head", {}, [3])


def test_a_silent_first_mirror_loses_and_is_cancelled() -> None:
    """Patience is bounded, and the loser does not outlive the race."""
    cancelled = []

    def attempt(index: int, wake: Cancel) -> Any:
        if index == 0:
            try:
                wait_for(wake)
            finally:
                cancelled.append(index)
        return Answer(), b""

    index, _, failed = first_of([0, 1], attempt, Cancel(), 0.01)
    assert index == 1
    assert cancelled == [0]
    assert failed == {}


def test_a_failure_starts_the_next_at_once_and_is_reported() -> None:
    """A dead mirror costs nothing but a remark."""

    def attempt(index: int, wake: Cancel) -> Any:
        if index < 2:
            raise HttpStatusError(f"no {index}")
        return Answer(), b""

    index, _, failed = first_of([0, 1, 2], attempt, Cancel(), 60.0)
    assert index == 2
    assert sorted(failed) == [0, 1]


def test_where_all_fail_the_first_ones_error_is_raised() -> None:
    """The operator's own mirror is what the message must be about."""

    def attempt(index: int, wake: Cancel) -> Any:
        raise NetError(f"dead {index}")

    with pytest.raises(NetError, match="dead 4"):
        first_of([4, 2, 0], attempt, Cancel(), 60.0)


def test_cancelling_the_race_cancels_every_attempt() -> None:
    """Ctrl-C must not wait for silent mirrors."""
    cancel = Cancel()
    running = threading.Barrier(3)
    ended: list[int] = []

    def attempt(index: int, wake: Cancel) -> Any:
        running.wait(10)
        try:
            wait_for(wake)
        finally:
            ended.append(index)

    def stop() -> None:
        running.wait(10)
        cancel.cancel("enough")

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(Cancelled, match="enough"):
        first_of([0, 1], attempt, cancel, 0.01)
    thread.join(10)


def test_of_two_answers_at_once_the_second_is_closed() -> None:
    """An open answer that nobody takes would hold a connection."""
    both = threading.Barrier(2)
    answers = [Answer(), Answer()]

    def attempt(index: int, wake: Cancel) -> Any:
        both.wait(10)
        return answers[index], b""

    index, (won, _), _ = first_of([0, 1], attempt, Cancel(), 0.01)
    assert won is answers[index]
    assert not answers[index].closed
    assert answers[1 - index].closed
