# SPDX-License-Identifier: Apache-2.0
"""Does a loop of the manager go on after a failure, and what does the log say?"""

from __future__ import annotations

import asyncio
import logging

import pytest

from fastdl.errors import InternalError
from fastdl.manager.app import _supervise


@pytest.mark.parametrize(
    ("error", "traceback"), [(InternalError("the ledger is away"), False), (KeyError("x"), True)]
)
async def test_only_a_bug_is_logged_with_its_traceback(
    caplog: pytest.LogCaptureFixture, error: Exception, *, traceback: bool
) -> None:
    """An outage of the database is none."""
    rounds: list[int] = []
    again = asyncio.Event()

    async def loop() -> None:
        rounds.append(1)
        if len(rounds) == 1:
            raise error
        again.set()
        await asyncio.Event().wait()

    with caplog.at_level(logging.ERROR):
        running = asyncio.create_task(_supervise(loop))
        await asyncio.wait_for(again.wait(), 5)
        running.cancel()
    (record,) = caplog.records
    assert bool(record.exc_info) == traceback
    assert record.message == "a loop failed and starts again"
