# SPDX-License-Identifier: Apache-2.0
"""Ends tasks that go on after failures, also when one fails at the moment at which it is cancelled.

Then the failure can take the cancellation's place, and a loop that tries again never ends: a task
group raises its tasks' errors instead (before Python 3.13), ``wait_for`` what it waited for (before
3.12), which clients of servers use.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, Final

AGAIN_S: Final = 5.0


async def attempt(work: Coroutine[Any, Any, None]) -> None:
    """Do *work*; raise CancelledError if this task was cancelled meanwhile, whatever came of it.

    It has a task of its own: a task group that fails can leave a cancellation behind in its task.
    """
    try:
        await asyncio.create_task(work)
    finally:
        end_if_cancelled()


def end_if_cancelled() -> None:
    """Raise CancelledError if this task, in which no task group has failed, was cancelled."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel *tasks* until all have ended, however they do."""
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        done, left = await asyncio.wait(left, timeout=AGAIN_S)
        await asyncio.gather(*done, return_exceptions=True)  # else asyncio complains of failures
