# SPDX-License-Identifier: Apache-2.0
"""How do the jobs of many results end in one transaction? A step is one statement for all of them.

Rows are locked in the order in which grants lock theirs, so that the managers' results and grants
wait for each other and do not deadlock: hosts, then slots, then copies. Waiting jobs, which are
what grants change, are not locked here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Row, bindparam, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.manager.ledger import hosts, jobs, slots
from fastdl.manager.ledger.jobs import HELD, State
from fastdl.manager.ledger.tables import attempt
from fastdl.manager.ledger.tables import job as t
from fastdl.manager.ledger.values import Slot
from fastdl.wire import messages as m

_JOBS: Final = (
    select(t)
    .where(
        t.c.id.in_(bindparam("ids", expanding=True)),
        t.c.state.in_((*HELD, State.CANCELLING)),
    )
    .order_by(t.c.id)
    .with_for_update()
)
_DONE: Final = (
    update(t)
    .where(t.c.id == bindparam("of"))
    .values(
        state=State.DONE,
        waiting=False,
        single=None,
        result=bindparam("done"),
        failure=None,
        updated=bindparam("now"),
        ended=bindparam("now"),
        percent=100,
    )
)
_ATTEMPT_DONE: Final = (
    update(attempt)
    .where(attempt.c.job == bindparam("of"), attempt.c.fence == bindparam("by"))
    .values(ended=bindparam("now"), outcome=State.DONE.value)
)
"""Kept, as other statements that every result needs: building one costs more than running it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """*host* says that *job*, which it was given under *fence*, has ended."""

    host: str
    job: str
    fence: int
    kind: str


async def held(
    tx: AsyncConnection, claims: Sequence[Claim]
) -> tuple[list[Row[Any] | None], dict[Slot, int | None]]:
    """Return (for each of *claims* the job's row, None = stale or not that host's; the caps of the
    slots that downloads among them hold). Jobs, hosts and slots are locked until *tx* ends.

    Of two claims to the same end the second is stale.
    """
    await hosts.lock(tx, {claim.host for claim in claims})
    found = await tx.execute(_JOBS, {"ids": sorted({claim.job for claim in claims})})
    rows = {(row.host, row.id, row.fence, row.kind): row for row in found}
    ending = [rows.pop((claim.host, claim.job, claim.fence, claim.kind), None) for claim in claims]
    downloads = [row for row in ending if row is not None and row.kind == m.Kind.DOWNLOAD]
    wanted = {slot for row in downloads for slot in jobs.held_slots(row)}
    locked = await slots.lock(tx, wanted)
    return ending, {slot: row.cap for slot, row in locked.items()}


async def done(
    tx: AsyncConnection, downloads: Sequence[tuple[Row[Any], str]], *, now: float
) -> None:
    """End *downloads*, of ``held``, as DONE, each with its result in JSON, and free their slots."""
    values = [{"of": row.id, "by": row.fence, "done": text, "now": now} for row, text in downloads]
    await tx.execute(_DONE, values)
    await tx.execute(_ATTEMPT_DONE, values)
    await slots.give_back(
        tx, Counter(slot for row, _ in downloads for slot in jobs.held_slots(row))
    )
    await jobs.bump(tx, {row.host for row, _ in downloads})
