# SPDX-License-Identifier: Apache-2.0
"""What follows from a document, given what the journal knows? A pure decision.

Commands may come twice, late, in any order, from a manager that was replaced meanwhile;
the fence tells which of two claims is the later one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fastdl.agent.journal import Row, State
from fastdl.wire import messages as m


@dataclass(frozen=True, slots=True)
class Start:
    """A job nobody has heard of, or one that was taken back and is given again."""

    command: m.Command


@dataclass(frozen=True, slots=True)
class Adopt:
    """A running job goes on, under a higher fence."""

    job: str
    fence: int


@dataclass(frozen=True, slots=True)
class Report:
    """The result of an ended job is asked for again."""

    job: str
    fence: int


@dataclass(frozen=True, slots=True)
class Stop:
    """A running job is no longer wanted."""

    job: str


@dataclass(frozen=True, slots=True)
class Forget:
    """The manager has the result and does not ask any more."""

    job: str


Action = Start | Adopt | Report | Stop | Forget


def plan(document: m.Document, journal: Mapping[str, Row]) -> list[Action]:
    """The actions that make *journal* follow *document*, in a stable order.

    Stops come first: what is stopped may hold a volume or a slot that a new job needs.
    """
    wanted = {command.job: command for command in document.commands}
    actions: list[Action] = []
    for job, row in journal.items():
        if job in wanted:
            continue
        if row.state is State.RUNNING:
            actions.append(Stop(job))
        elif row.state is State.ENDED and row.acked:
            actions.append(Forget(job))
    for job, command in wanted.items():
        known = journal.get(job)
        if known is None:
            actions.append(Start(command))
        elif command.fence < known.fence:
            continue  # a claim that was overtaken
        elif known.taken_back and command.fence > known.fence:
            actions.append(Start(command))
        elif known.state is State.ENDED:
            actions.append(Report(job, command.fence))
        elif command.fence > known.fence:
            actions.append(Adopt(job, command.fence))
    return actions
