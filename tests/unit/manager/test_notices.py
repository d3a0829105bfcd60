# SPDX-License-Identifier: Apache-2.0
"""Are those who wait woken, without their looking becoming the work?"""

from __future__ import annotations

import asyncio
import contextlib
import time

from fastdl.manager.notices import CHECK_SHARE, Notices


async def test_who_waits_is_woken_by_its_own_key() -> None:
    """The answer comes with the notice."""
    notices = Notices()
    found: list[str] = []

    async def check() -> str | None:
        return found[0] if found else None

    waiting = asyncio.create_task(notices.until("job:1", check, timeout_s=30))
    await asyncio.sleep(0)
    found.append("done")
    notices.notify("job:1")
    assert await waiting == "done"


async def test_looking_takes_a_share_of_the_time_only() -> None:
    """A thousand outcomes a second must not become a thousand looks at a thousand rows."""
    notices = Notices()
    looks, took_s, whole_s = 0, 0.02, 0.5

    async def check() -> bool | None:
        nonlocal looks
        looks += 1
        time.sleep(took_s)
        return None

    async def tell() -> None:
        while True:
            notices.notify("certs")
            await asyncio.sleep(0)

    telling = asyncio.create_task(tell())
    assert await notices.until("certs", check, timeout_s=whole_s) is None
    telling.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await telling
    # One look and its pause take at least so long; the last look is after the time is up.
    assert looks <= whole_s / (took_s * (1 + CHECK_SHARE)) + 2


async def test_a_lost_notice_costs_a_second_at_most() -> None:
    """Notices are lossy on purpose: who waits looks again by itself."""
    notices, answers = Notices(), iter([None, "there"])

    async def check() -> str | None:
        return next(answers)

    assert await notices.until("job:1", check, timeout_s=30) == "there"
