# SPDX-License-Identifier: Apache-2.0
"""Does the page show strings as strings, ask nobody else, and show each user their own?"""

from __future__ import annotations

import aiohttp
import pytest

from fastdl.web import page as served
from tests.browser.conftest import Opened
from tests.env.site import Site

pytestmark = pytest.mark.asyncio(loop_scope="session")

HOSTILE = "<img src=x onerror=\"document.title='owned'\">"
BUDGET = 200 << 10


async def test_server_strings_never_become_markup(opened: Opened, site: Site) -> None:
    """A name that is markup is shown as it was typed, in every view that has it."""
    template = await site.template(HOSTILE)
    await site.api(
        "updateTemplate", id=template, displaytext="<script>document.title='owned'</script>"
    )
    await site.api("createZone", name=HOSTILE)
    await site.api(
        "createUser", username="<b>u</b>", password="a password", firstname="<svg onload=x>"
    )
    await site.api.job(await site.prepare(template))
    async with opened("templates") as shown:
        for view in ("templates", f"templates/{template}", "downloads", "zones", "events", "users"):
            await shown.go(view)
            await shown.page.get_by_text(
                HOSTILE if view != "users" else "<b>u</b>"
            ).first.wait_for()
            assert await shown.page.locator("main img, main script, main b img").count() == 0
            assert "owned" not in (await shown.page.title()).removeprefix(HOSTILE)


async def test_the_policy_holds_in_every_view(opened: Opened) -> None:
    """The browser refuses nothing of the page's own, and runs nothing else."""
    listen = (
        "window.refused = []; addEventListener('securitypolicyviolation', "
        "event => refused.push(event.violatedDirective + ' ' + event.blockedURI));"
    )
    async with opened(user=None) as shown:
        response = await shown.page.request.get(shown.url)
        policy = response.headers["content-security-policy"]
        for part in (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "connect-src 'self'",
            "frame-ancestors 'none'",
            "base-uri 'none'",
            "form-action 'self'",
        ):
            assert part in policy
        assert "unsafe" not in policy
    async with opened("templates") as shown:
        await shown.page.add_init_script(listen)
        await shown.page.reload()  # answered with 304: the policy has to come with that, too
        for view, title in (
            ("register", "Register Template"),
            ("upload", "Upload a certificate"),
            ("downloads", "Downloads"),
            ("hosts", "Hosts"),
            ("settings", "Settings"),
        ):
            await shown.go(view)
            await shown.heading(title)
        assert await shown.page.evaluate("refused") == []
        await shown.page.evaluate(
            "() => { const one = document.createElement('script'); one.textContent = 'owned = 1';"
            " document.body.append(one); }"
        )
        assert await shown.page.evaluate("typeof owned") == "undefined"
        assert len(await shown.page.evaluate("refused")) == 1
        shown.trouble.clear()  # what was just refused


async def test_two_users_see_only_their_own(opened: Opened, site: Site) -> None:
    """Neither the list, nor the address of the other's template, nor an administrator's views."""
    people = {}
    for name in ("mia", "noa"):
        await site.api("createUser", username=name, password=f"password of {name}")
        async with opened("register", user=(name, f"password of {name}")) as shown:
            page = shown.page
            await shown.heading("Register Template")
            await page.get_by_label("URL").fill(site.origin.url("/x.raw"))
            await page.get_by_label("Name").fill(f"of-{name}")
            await page.get_by_label("Format").select_option("RAW")
            await page.get_by_label("z1", exact=True).check()
            await page.get_by_label("Direct Download").check()
            await page.get_by_role("button", name="Register Template").click()
            await shown.heading(f"of-{name}")
            people[name] = page.url
    async with opened("templates", user=("mia", "password of mia")) as shown:
        page = shown.page
        await page.get_by_role("link", name="of-mia").wait_for()
        assert await page.get_by_text("of-noa").count() == 0
        links = await page.get_by_role("navigation").get_by_role("link").all_inner_texts()
        assert links == ["Templates", "Downloads", "Events", "Users"]
        await page.goto(people["noa"])
        await page.get_by_text("There is no such template").wait_for()
        await shown.go("users")
        await shown.heading("Users")
        await page.get_by_role("cell", name="mia", exact=True).first.wait_for()
        assert await page.get_by_text("noa").count() == 0
        await shown.go("hosts")
        await page.get_by_role("alert").wait_for()
        assert await page.get_by_text("kvm1").count() == 0


async def test_the_files_are_small_and_known_by_their_tags(site: Site) -> None:
    """Under 200 KiB in all; packed on the wire; a second visit is answered with 304."""
    files = [path for path in served.STATIC.iterdir() if path.suffix in served.TYPES]
    assert sum(path.stat().st_size for path in files) < BUDGET
    assert {path.name for path in served.STATIC.iterdir()} == {path.name for path in files}
    url = site.api.credentials["url"].removesuffix("client/api")
    async with aiohttp.ClientSession(auto_decompress=False) as client:
        async with client.get(url, headers={"Accept-Encoding": "gzip"}) as answer:
            assert answer.headers["Content-Encoding"] == "gzip"
            tag = answer.headers["ETag"]
        async with client.get(url, headers={"If-None-Match": f'"other", {tag}'}) as answer:
            assert answer.status == 304
            assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
        async with client.get(url, headers={"Accept-Encoding": "identity"}) as answer:
            assert "Content-Encoding" not in answer.headers
        async with client.get(f"{url}static/../page.py") as answer:
            assert answer.status == 404
