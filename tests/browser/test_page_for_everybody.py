# SPDX-License-Identifier: Apache-2.0
"""Can everybody use the page: by keyboard, with a screen reader, in both themes, on a phone?"""

from __future__ import annotations

import json
from typing import Any

import pytest

from fastdl.lab.certs import self_signed
from tests.browser.conftest import Opened
from tests.env.site import Site

pytestmark = pytest.mark.asyncio(loop_scope="session")

VIEWS = {
    "templates": "Templates",
    "register": "Register Template",
    "register?kind=iso": "Register ISO",
    "downloads": "Downloads",
    "certificates": "Certificates",
    "upload": "Upload a certificate",
    "hosts": "Hosts",
    "zones": "Zones",
    "settings": "Settings",
    "events": "Events",
    "users": "Users",
}
PHONE = {"width": 390, "height": 844}


async def violations(page: Any, theme: str) -> list[str]:
    """What axe finds of rules of WCAG 2.2 A and AA and of its best practices; in the dark theme
    only of contrast, for the rest is the same."""
    axe = pytest.importorskip("axe_playwright_python.async_playwright")
    options = {"runOnly": ["color-contrast"]} if theme == "dark" else {}
    found = await axe.Axe().run(page, options={"resultTypes": ["violations"], **options})
    return [
        f"{one['impact']} {one['id']}: {node['target']} {node['failureSummary']}"
        for one in found.response["violations"]
        for node in one["nodes"]
    ]


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_axe_finds_nothing(opened: Opened, site: Site, theme: str) -> None:
    """In every view, in the login, and in a dialog."""
    await site.template(f"t-axe-{theme}")
    name = f"axe-{theme}"
    await site.api(
        "uploadTemplateDirectDownloadCertificate",
        name=name,
        zoneid=site.zone,
        hypervisor="KVM",
        certificate=self_signed(f"{name}.example"),
    )
    async with opened(user=None, color_scheme=theme) as shown:
        assert await violations(shown.page, theme) == []
    async with opened("templates", color_scheme=theme) as shown:
        for view, title in VIEWS.items():
            await shown.go(view)
            await shown.heading(title)
            assert await violations(shown.page, theme) == [], view
        await shown.go("hosts")
        await shown.page.get_by_role("button", name="Add a host").first.click()
        assert await violations(shown.page, theme) == [], "dialog"
        await shown.page.keyboard.press("Escape")
        await shown.page.wait_for_function("document.activeElement.textContent === 'Add a host'")
    listed = await site.api("listTemplateDirectDownloadCertificates")
    for one in listed["directdownloadcertificate"]:
        if one["alias"] == name:
            await site.api("deleteTemplateDirectDownloadCertificate", id=one["id"])


async def test_a_phone_shows_every_view_without_scrolling_sideways(opened: Opened) -> None:
    """What is wide becomes narrow; the sections are behind one button."""
    async with opened("templates", viewport=PHONE, has_touch=True) as shown:
        page = shown.page
        for view, title in VIEWS.items():
            await shown.go(view)
            await shown.heading(title)
            wide = await page.evaluate("document.documentElement.scrollWidth")
            assert wide <= PHONE["width"], view
        assert not await page.get_by_role("navigation").is_visible()
        await page.get_by_role("button", name="Menu").click()
        await page.get_by_role("navigation").get_by_role("link", name="Hosts").click()
        await shown.heading("Hosts")
        assert not await page.get_by_role("navigation").is_visible()


async def tab_to(page: Any, label: str) -> None:
    """Press Tab until what has this label has the focus."""
    for _ in range(60):
        await page.keyboard.press("Tab")
        name = await page.evaluate(
            "() => { const one = document.activeElement; return (one.labels?.[0] ?? one)"
            ".textContent.trim() || one.getAttribute('aria-label'); }"
        )
        if name.removesuffix(" (required)") == label:
            return
    raise AssertionError(f"no Tab leads to {label}")


async def test_a_template_is_registered_by_keyboard_alone(opened: Opened, site: Site) -> None:
    """From login to the new template; Direct Download and Checksum appear on the way."""
    async with opened(user=None) as shown:
        page, keys = shown.page, shown.page.keyboard
        password = admin_password(site)
        await keys.type("admin")
        await keys.press("Tab")
        await keys.type(password)
        await keys.press("Enter")
        await shown.heading("Templates")
        await tab_to(page, "Register Template")
        await keys.press("Enter")
        await shown.heading("Register Template")
        await page.wait_for_function("document.activeElement.tagName === 'H1'")
        await tab_to(page, "URL")
        await keys.type(site.origin.url("/x.raw"))
        await tab_to(page, "Name")
        await keys.type("by-keyboard")
        await tab_to(page, "z1")
        if not await page.get_by_label("z1", exact=True).is_checked():
            await keys.press("Space")
        await tab_to(page, "Format")
        await keys.type("RAW")
        await tab_to(page, "Direct Download")
        assert await page.get_by_label("Checksum").count() == 0
        await keys.press("Space")
        await tab_to(page, "Checksum")
        await keys.type("{SHA-256}" + site.sha256)
        await keys.press("Enter")
        await shown.heading("by-keyboard")
    listed = await site.api("listTemplates", templatefilter="all", name="by-keyboard")
    (row,) = listed["template"]
    assert (row["format"], row["checksum"]) == ("RAW", site.sha256)


def admin_password(site: Site) -> str:
    admin = json.loads((site.manager.state / "admin.json").read_text())
    return str(admin["password"])


async def test_direct_download_belongs_to_kvm_and_checksum_to_it(opened: Opened) -> None:
    """As in CloudStack's form: another hypervisor takes the switch away and turns it off."""
    async with opened("register") as shown:
        page = shown.page
        await shown.heading("Register Template")
        switch, checksum = page.get_by_label("Direct Download"), page.get_by_label("Checksum")
        labels = await page.locator("form label, form legend").all_inner_texts()
        order = [
            "URL (required)", "Name (required)", "Display text", "Zone (required)",
            "Hypervisor (required)", "Format (required)", "Direct Download",
            "Root disk controller", "OS type", "Template type", "Template tag",
        ]  # fmt: skip
        assert [one for one in labels if one in order] == order
        assert await checksum.count() == 0
        await switch.check()
        await checksum.fill("x")
        await page.get_by_label("Hypervisor").select_option("VMware")
        assert await switch.count() == await checksum.count() == 0
        await page.get_by_label("Hypervisor").select_option("KVM")
        assert not await switch.is_checked()
        assert await checksum.count() == 0


async def test_lists_are_whole_however_small_a_page_of_the_api_may_be(
    opened: Opened, site: Site
) -> None:
    """The page asks for all pages of a list; events have pages to turn."""
    names = [f"paged-{n}" for n in range(5)]
    for name in names:
        await site.api("createZone", name=name)
    await site.api("updateConfiguration", name="default.page.size", value="2")
    try:
        async with opened("zones") as shown:
            page = shown.page
            for name in names:
                await page.get_by_role("cell", name=name, exact=True).wait_for()
            await shown.go("events?level=INFO")
            await page.get_by_role("button", name="Older").click()
            await page.get_by_text("Page 2 of").wait_for()
            assert await page.get_by_role("row").count() == 3  # the head and two
            for view, title in VIEWS.items():
                await shown.go(view)
                await shown.heading(title)
    finally:
        await site.api("updateConfiguration", name="default.page.size")
