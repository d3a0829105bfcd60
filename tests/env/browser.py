# SPDX-License-Identifier: Apache-2.0
"""A real browser: Debian's Chromium without a window, and pages that report what went wrong."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium")
WAIT_MS = 15_000
"""The longest that a test waits for something to appear."""


@contextlib.asynccontextmanager
async def browser() -> AsyncIterator[Any]:
    """A running browser; the test is skipped where there is none."""
    playwright = pytest.importorskip("playwright.async_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    async with playwright.async_playwright() as driver:
        # Without a sandbox of its own: tests run as root, where Chromium has none.
        found = await driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        try:
            yield found
        finally:
            await found.close()


@dataclass
class Tab:
    """A page of the browser with cookies of its own. *trouble*: what its console reported of
    errors and of what the content security policy refused."""

    page: Any
    url: str
    trouble: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    async def open(self, where: str = "") -> None:
        """Load the page at *where* (what follows ``#/``)."""
        await self.page.goto(f"{self.url}#/{where}" if where else self.url)

    async def go(self, where: str) -> None:
        """Follow a link inside the page."""
        await self.page.evaluate("where => { location.hash = `#/${where}`; }", where)

    async def log_in(self, name: str, password: str) -> None:
        """Log in and wait for the first view."""
        await self.page.get_by_label("User").fill(name)
        await self.page.get_by_label("Password").fill(password)
        await self.page.get_by_role("button", name="Log in").click()
        await self.page.get_by_role("banner").wait_for()

    async def heading(self, text: str) -> None:
        """Wait for the view with this title."""
        await self.page.get_by_role("heading", level=1, name=text, exact=True).wait_for()


@contextlib.asynccontextmanager
async def tab(running: Any, url: str, **options: Any) -> AsyncIterator[Tab]:
    """A fresh tab for the page at *url*."""
    context = await running.new_context(**{"reduced_motion": "reduce", **options})
    context.set_default_timeout(WAIT_MS)
    try:
        made = Tab(await context.new_page(), url)
        made.page.on("pageerror", lambda error: made.trouble.append(f"error: {error}"))
        made.page.on("console", lambda message: _note(made, message))
        made.page.on("request", lambda request: made.requests.append(request.url))
        yield made
    finally:
        await context.close()


def _note(made: Tab, message: Any) -> None:
    # A request that was refused is an answer of the API's, and shown where it happened.
    if message.type == "error" and "Failed to load resource" not in message.text:
        made.trouble.append(f"{message.type}: {message.text}")
