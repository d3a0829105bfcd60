# SPDX-License-Identifier: Apache-2.0
"""Does the right thing follow from a document and a journal, whatever was missed in between?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastdl.agent.desired import Action, Adopt, Forget, Report, Start, Stop, plan
from fastdl.agent.journal import Row, State
from fastdl.wire import messages as m


def _command(job: str, fence: int) -> m.Command:
    return m.Command(job=job, kind="remove", fence=fence, args=m.UnknownArgs())


def _row(job: str, fence: int, state: State, *, acked: bool = False) -> Row:
    return Row(job, "remove", fence, state, "{}", None, None, acked)


def test_each_case_of_the_contract() -> None:
    """Unknown: start. Higher fence: adopt. Ended: report again. Missing: stop or forget."""
    journal = {
        "higher": _row("higher", 1, State.RUNNING),
        "same": _row("same", 1, State.RUNNING),
        "lower": _row("lower", 7, State.RUNNING),
        "ended": _row("ended", 1, State.ENDED, acked=True),
        "overtaken": _row("overtaken", 7, State.ENDED),
        "unwanted": _row("unwanted", 1, State.RUNNING),
        "stopping": _row("stopping", 1, State.STOPPING),
        "told": _row("told", 1, State.ENDED, acked=True),
        "untold": _row("untold", 1, State.ENDED),
    }
    new = _command("new", 1)
    document = m.Document(
        rev=1,
        commands=(
            new,
            _command("higher", 2),
            _command("same", 1),
            _command("lower", 6),
            _command("ended", 3),
            _command("overtaken", 6),
        ),
    )
    assert plan(document, journal) == [
        Stop("unwanted"),
        Forget("told"),
        Start(new),
        Adopt("higher", 2),
        Report("ended", 3),
    ]


@pytest.mark.parametrize(
    ("failure", "acked", "fence", "wanted"),
    [
        ('{"code": 11}', True, 2, Start),  # it was told, then the job came back before it was gone
        ('{"code": 11}', False, 2, Report),  # the manager may not know the failure
        ('{"code": 11}', True, 1, Report),  # nor here: it asks under the fence that it had
        (None, True, 2, Report),  # what is done is not done again
    ],
)
def test_another_attempt_is_no_request_for_the_last_ones_result(
    failure: str | None,
    acked: bool,
    fence: int,
    wanted: type[Action],
) -> None:
    """A document without the job, an acknowledgement and the next document come in any order."""
    row = Row("a", "remove", 1, State.ENDED, "{}", None, failure, acked)
    (action,) = plan(m.Document(rev=1, commands=(_command("a", fence),)), {"a": row})
    assert isinstance(action, wanted)


JOBS = st.sampled_from(["a", "b", "c"])


@given(
    commands=st.dictionaries(JOBS, st.integers(0, 3)),
    rows=st.dictionaries(
        JOBS, st.tuples(st.integers(0, 3), st.sampled_from(list(State)), st.booleans())
    ),
)
def test_no_fence_ever_goes_down_and_no_result_is_lost(
    commands: dict[str, int], rows: dict[str, tuple[int, State, bool]]
) -> None:
    """Whatever comes, in whatever order: invariants rather than cases."""
    journal = {
        job: _row(job, fence, state, acked=acked) for job, (fence, state, acked) in rows.items()
    }
    document = m.Document(rev=1, commands=tuple(_command(j, f) for j, f in commands.items()))
    for action in plan(document, journal):
        match action:
            case Start(command):
                assert command.job not in journal
            case Adopt(job, fence):
                assert fence > journal[job].fence
            case Report(job, fence):
                assert fence >= journal[job].fence
                assert journal[job].state is State.ENDED
            case Stop(job):
                assert job not in commands
            case Forget(job):
                assert journal[job].acked
                assert job not in commands
