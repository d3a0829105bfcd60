# SPDX-License-Identifier: Apache-2.0
"""Each result is sent once a connection, until it is time to repeat it or it is asked for."""

from __future__ import annotations

import time

import pytest

from fastdl.agent.owed import REPEAT_SECONDS, Owed
from fastdl.wire import messages as m


def _result(job: str, fence: int = 1) -> m.JobResult:
    return m.JobResult(job=job, fence=fence, kind=m.Kind.REMOVE)


def _send(owed: Owed, *results: m.JobResult) -> list[str]:
    due = owed.due(results)
    for result in due:
        owed.sent(result)
    return [f"{result.job}.{result.fence}" for result in due]


def test_a_result_is_not_repeated_because_another_job_ended() -> None:
    owed = Owed()
    assert _send(owed, _result("a")) == ["a.1"]
    assert _send(owed, _result("a"), _result("b")) == ["b.1"]
    assert _send(owed, _result("a"), _result("b")) == []


def test_a_new_connection_gets_all_of_them() -> None:
    owed = Owed()
    _send(owed, _result("a"), _result("b"))
    owed.connected()
    assert _send(owed, _result("a"), _result("b")) == ["a.1", "b.1"]


def test_what_the_manager_asks_for_and_a_new_attempt_are_sent() -> None:
    owed = Owed()
    _send(owed, _result("a"), _result("b"))
    owed.asked_for("a")
    assert _send(owed, _result("a"), _result("b", 2)) == ["a.1", "b.2"]


def test_what_could_not_be_sent_stays_due() -> None:
    owed = Owed()
    assert owed.due([_result("a")])
    assert owed.due([_result("a")])


def test_it_is_repeated_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    owed, now = Owed(), time.monotonic()
    _send(owed, _result("a"))
    monkeypatch.setattr(time, "monotonic", lambda: now + REPEAT_SECONDS + 1)
    assert _send(owed, _result("a")) == ["a.1"]


def test_an_acknowledged_result_is_forgotten() -> None:
    """Else an agent that runs for years would remember every job."""
    owed = Owed()
    _send(owed, _result("a"))
    assert _send(owed) == []
    assert _send(owed, _result("a")) == ["a.1"]
