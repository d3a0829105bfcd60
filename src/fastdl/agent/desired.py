# SPDX-License-Identifier: Apache-2.0
"""Which actions does a document require, given the journal? A pure decision.

Commands may arrive twice, late, in any order, or from a manager that has been replaced; the fence
shows which of two claims is newer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fastdl.agent.journal import Row, State
from fastdl.wire import messages as m


@dataclass(frozen=True, slots=True)
class Start:
    """A new job, or one that was taken back, or whose failure is known, and is assigned again."""

    command: m.Command


@dataclass(frozen=True, slots=True)
class Adopt:
    """A running job continues, under a higher fence."""

    job: str
    fence: int


@dataclass(frozen=True, slots=True)
class Report:
    """The result of an ended job is requested again."""

    job: str
    fence: int


@dataclass(frozen=True, slots=True)
class Stop:
    """A running job is no longer desired."""

    job: str


@dataclass(frozen=True, slots=True)
class Forget:
    """The manager has the result and no longer asks for it."""

    job: str


Action = Start | Adopt | Report | Stop | Forget


def plan(document: m.Document, journal: Mapping[str, Row]) -> list[Action]:
    """The actions that make *journal* follow *document*, in a stable order.

    Stops come first: a stopped job may hold a volume or a slot that a new one needs.
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
            continue  # a stale claim
        elif (known.taken_back or known.failure_acked) and command.fence > known.fence:
            actions.append(Start(command))
        elif known.state is State.ENDED:
            actions.append(Report(job, command.fence))
        elif command.fence > known.fence:
            actions.append(Adopt(job, command.fence))
    return actions
