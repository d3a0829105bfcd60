# SPDX-License-Identifier: Apache-2.0
"""What tests of the page share: a browser, a manager with a host, and who is logged in."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.env.browser import Tab, browser, tab
from tests.env.origin import FaultOrigin, Resource
from tests.env.site import CONTENT, Site

Opened = Callable[..., AbstractAsyncContextManager[Tab]]


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def chromium() -> AsyncIterator[Any]:
    """One browser for all tests."""
    async with browser() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def site(chromium: Any, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """A manager with a zone, a host and an origin, for all tests: each uses names of its own."""
    with FaultOrigin({"/x.raw": Resource.of(CONTENT)}) as origin:
        made = Site(Path(tmp_path_factory.mktemp("site")), origin)
        try:
            await made.start()
            yield made
        finally:
            await made.end()


@pytest.fixture
def opened(chromium: Any, site: Site) -> Opened:
    """Opens a tab for the site's page: logged in as the administrator, unless ``user=None`` or
    (name, password)."""

    @contextlib.asynccontextmanager
    async def open_tab(
        where: str = "", *, user: Any = "admin", **options: Any
    ) -> AsyncIterator[Tab]:
        admin = json.loads((site.manager.state / "admin.json").read_text())
        url = admin["url"].removesuffix("client/api")
        async with tab(chromium, url, **options) as made:
            await made.open(where)
            if user == "admin":
                user = ("admin", admin["password"])
            if user is not None:
                await made.log_in(*user)
            yield made
            assert not made.trouble
            assert all(one.startswith((url, "data:", "blob:")) for one in made.requests)

    return open_tab
