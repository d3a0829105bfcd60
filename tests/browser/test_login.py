# SPDX-License-Identifier: Apache-2.0
"""Does the page let in who may come in, and notice when the manager is gone?"""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from fastdl.cli import api_client
from tests.browser.conftest import Opened
from tests.env.browser import tab
from tests.env.certs import CertLab
from tests.env.process import ManagerProcess
from tests.env.site import Site

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_wrong_password_is_said_and_the_right_one_opens(opened: Opened) -> None:
    """The API's sentence, at the form; the name stays, the password does not."""
    async with opened(user=None) as tab:
        page = tab.page
        await page.get_by_label("User").fill("admin")
        await page.get_by_label("Password").fill("not the password")
        await page.get_by_role("button", name="Log in").click()
        alert = page.get_by_role("alert")
        await alert.wait_for()
        assert "Failed to authenticate user" in await alert.inner_text()
        assert await page.get_by_label("Password").input_value() == ""
        assert await page.get_by_label("User").input_value() == "admin"


async def test_a_session_outlives_a_reload_and_ends_with_log_out(opened: Opened) -> None:
    """The address stays, too."""
    async with opened("zones") as tab:
        await tab.heading("Zones")
        await tab.page.reload()
        await tab.heading("Zones")
        await tab.page.get_by_role("button", name="Log out").click()
        await tab.page.get_by_role("button", name="Log in").wait_for()
        await tab.page.reload()
        await tab.page.get_by_role("button", name="Log in").wait_for()


async def test_every_section_opens(opened: Opened, site: Site) -> None:
    """Each by its link, with a title of its own."""
    await site.template("t-sections")
    async with opened() as tab:
        for name in (
            "Downloads",
            "Certificates",
            "Hosts",
            "Zones",
            "Settings",
            "Events",
            "Users",
            "Templates",
        ):
            await (
                tab.page.get_by_role("navigation")
                .get_by_role("link", name=name, exact=True)
                .click()
            )
            await tab.heading(name)
            assert await tab.page.title() == f"{name} · fastdl"
        await tab.page.get_by_role("link", name="t-sections").click()
        await tab.heading("t-sections")


async def test_the_page_works_over_tls(chromium: Any, tmp_path: Path, certs: CertLab) -> None:
    """As it is reached from elsewhere: with cookies that only go over TLS, and a live stream."""
    manager, leaf = ManagerProcess(tmp_path), certs.leaf("good")
    try:
        client = await manager.start("--tls-cert", str(leaf.chain), "--tls-key", str(leaf.key))
        admin = json.loads((manager.state / "admin.json").read_text())
        url = admin["url"].removesuffix("client/api")
        assert url.startswith("https://")
        async with tab(chromium, url, ignore_https_errors=True) as shown:
            await shown.open("zones")
            await shown.log_in("admin", admin["password"])
            await shown.heading("Zones")
            cookies = await shown.page.context.cookies()
            assert cookies
            assert all(one["secure"] and one["httpOnly"] for one in cookies)
            await asyncio.to_thread(
                api_client.call,
                client.credentials | {"cacert": certs.ca.cert_file.read_text()},
                "createZone",
                {"name": "z-live"},
            )
            await shown.page.get_by_role("cell", name="z-live", exact=True).wait_for()
            assert not shown.trouble
    finally:
        await manager.end(signal.SIGKILL)
