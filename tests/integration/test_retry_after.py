# SPDX-License-Identifier: Apache-2.0
"""An origin that asks to wait is left alone for as long, by the whole zone.

What it sends crosses a confined process, the worker, the agent, the wire and the ledger before
the scheduler reads it; each of them is the real one here.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastdl.agent import work
from fastdl.agent.work import Work
from fastdl.errors import HttpStatusError
from tests.env.faults import Rule, When
from tests.env.origin import FaultOrigin, Resource, pseudo_random
from tests.env.process import eventually
from tests.env.site import Site

CONTENT = pseudo_random(47, 1 << 20)
WAIT_S = 1200
"""Longer than a worker waits by itself, so that the scheduler has to."""


@pytest.fixture
def origin() -> Iterator[FaultOrigin]:
    """An origin with a template of 1 MiB."""
    with FaultOrigin({"/x.raw": Resource.of(CONTENT)}) as server:
        yield server


@pytest.fixture
async def site(tmp_path: Path, origin: FaultOrigin) -> AsyncIterator[Site]:
    """A running site."""
    made = Site(tmp_path, origin, CONTENT)
    await made.start()
    yield made
    await made.end()


def busy(status: int, **fields: str) -> list[Rule]:
    """Every request is answered so."""
    return [Rule(status=status, body="", set=fields)]


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("where", ["probe", "fetch"])
async def test_a_worker_reports_status_and_wait_as_fields(
    tmp_path: Path, origin: FaultOrigin, status: int, where: str
) -> None:
    """The sentence says the same to people, and nobody has to read it."""
    origin.resources["/x.raw"].rules[:] = busy(status, **{"Retry-After": str(WAIT_S)})
    target = {"target": str(tmp_path / "t")} if where == "fetch" else {}
    with pytest.raises(HttpStatusError) as caught:
        await work.run(
            Work(
                action=where,
                sources=(origin.url("/x.raw"),),
                options={"target_format": "same"},
                **target,
            )
        )
    assert (caught.value.http_status, caught.value.retry_after_s) == (status, WAIT_S)
    assert caught.value.retryable


async def test_a_wait_that_is_asked_for_in_the_middle_of_a_transfer_is_a_field_too(
    tmp_path: Path, origin: FaultOrigin
) -> None:
    """There the core meets it, in whichever connection comes first."""
    big = pseudo_random(48, 6 << 20)
    late = Rule(when=When(start_min=1), status=503, body="", set={"Retry-After": str(WAIT_S)})
    origin.resources["/big.raw"] = Resource.of(big, rules=[late])
    with pytest.raises(HttpStatusError) as caught:
        await work.run(
            Work(
                action="fetch",
                sources=(origin.url("/big.raw"),),
                target=str(tmp_path / "t"),
                options={"target_format": "same", "retry": 1},
            )
        )
    assert (caught.value.http_status, caught.value.retry_after_s) == (503, WAIT_S)


@pytest.mark.parametrize("status", [429, 503])
async def test_the_scheduler_waits_for_as_long_as_the_origin_asks(site: Site, status: int) -> None:
    """Its own pause after a first failure is five seconds: this one is the origin's."""
    template = await site.template()
    site.origin.resources["/x.raw"].rules[:] = busy(status, **{"Retry-After": str(WAIT_S)})
    await site.prepare(template)

    async def waiting() -> dict[str, Any] | None:
        (row,) = rows(site, "SELECT * FROM job WHERE kind = 'download'")
        return row if row["failure"] else None

    row = await eventually(waiting)
    failure = json.loads(row["failure"])
    assert (failure["http_status"], failure["retry_after_s"]) == (status, WAIT_S)
    left = row["not_before"] - time.time()
    assert WAIT_S - 60 < left <= WAIT_S
    (slot,) = [s for s in rows(site, "SELECT * FROM slot") if site.origin.url("") in s["key"]]
    assert slot["cap"] == 8  # half of direct.download.origin.max.active


def rows(site: Site, query: str) -> list[dict[str, Any]]:
    """What the ledger holds."""
    ledger = sqlite3.connect(f"file:{site.manager.state / 'manager.db'}?mode=ro", uri=True)
    try:
        ledger.row_factory = sqlite3.Row
        return [dict(row) for row in ledger.execute(query)]
    finally:
        ledger.close()
