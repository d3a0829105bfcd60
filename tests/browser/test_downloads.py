# SPDX-License-Identifier: Apache-2.0
"""A download as it runs, and a manager that goes away and comes back."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import Opened
from tests.env.browser import tab
from tests.env.faults import Rule
from tests.env.origin import Resource
from tests.env.process import ManagerProcess
from tests.env.site import CONTENT, Site

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_download_is_watched_cancelled_and_tried_again(opened: Opened, site: Site) -> None:
    """Percent and rate change without a reload; after Cancel and Retry the copy is whole."""
    origin = site.origin
    origin.resources["/slow.raw"] = Resource.of(CONTENT, rules=[Rule(rate=400_000)])
    answer = await site.api(
        "registerTemplate",
        name="slow",
        url=origin.url("/slow.raw"),
        format="RAW",
        hypervisor="KVM",
        zoneid=site.zone,
        directdownload="true",
        checksum="{SHA-256}" + site.sha256,
    )
    await site.prepare(answer["template"][0]["id"])
    async with opened("downloads") as shown:
        page = shown.page
        await shown.heading("Downloads")
        transfer = page.get_by_role("article").filter(has_text="slow → kvm1-pool")
        await transfer.get_by_text("RUNNING").wait_for()
        await transfer.get_by_text(re.compile(r"[1-9]\d* %")).wait_for()
        await transfer.get_by_text(re.compile(r"iB/s")).wait_for()
        await transfer.get_by_text("limited by the network").wait_for()
        await transfer.get_by_text(re.compile(r"127\.0\.0\.1:\d+ 100 %")).wait_for()
        before = int((await transfer.locator("b").first.inner_text()).split()[0])
        await page.wait_for_function(
            "before => document.querySelector('article progress')?.value > before", arg=before
        )
        await page.wait_for_function(
            "() => document.querySelector('.spark path:last-child')?.getAttribute('d').length > 9"
        )
        await transfer.get_by_role("button", name="Cancel").click()
        row = page.get_by_role("row").filter(has_text="slow")
        # A host that does not say that it stopped is believed to have, after 30 s.
        await row.get_by_text("CANCELLED").wait_for(timeout=40_000)
        origin.resources["/slow.raw"].rules.clear()
        await row.get_by_role("button", name="Retry").click()
        await row.get_by_text("DONE").wait_for()


async def test_a_manager_that_is_away_is_said_and_heals(chromium: Any, tmp_path: Path) -> None:
    """The view stays; when the manager is back, so is the session, and the view is brought up."""
    manager = ManagerProcess(tmp_path)
    await manager.start()
    admin = json.loads((manager.state / "admin.json").read_text())
    url = admin["url"].removesuffix("client/api")
    try:
        async with tab(chromium, url) as shown:
            page = shown.page
            await shown.open("events")
            await shown.log_in("admin", admin["password"])
            await shown.heading("Events")
            await manager.end(signal.SIGKILL)
            await page.get_by_text("The manager cannot be reached").first.wait_for()
            await shown.heading("Events")
            await manager.start("--listen", url.removeprefix("http://").strip("/"))
            await page.get_by_text("The manager cannot be reached").first.wait_for(state="hidden")
            await shown.heading("Events")
            assert await page.get_by_text("Your session has ended").count() == 0
    finally:
        await manager.end(signal.SIGKILL)


async def test_a_broken_connection_heals_without_a_login(opened: Opened, site: Site) -> None:
    """Where only the way was lost, the view is brought up to date by itself."""
    async with opened("zones") as shown:
        await shown.heading("Zones")
        await shown.page.context.set_offline(True)
        await shown.page.evaluate("import('./static/live.js').then(live => live.suspect())")
        await shown.page.get_by_text("The manager cannot be reached").wait_for()
        await site.api("createZone", name="made-meanwhile")
        await shown.page.context.set_offline(False)
        await shown.page.get_by_role("cell", name="made-meanwhile", exact=True).wait_for()
        assert await shown.page.get_by_text("The manager cannot be reached").count() == 0
