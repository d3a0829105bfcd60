# SPDX-License-Identifier: Apache-2.0
"""The first zone, click by click: from an empty manager to a template on a host, over TLS.

The manager, the host and the origin are real; the origin's certificate comes from an authority
that no host knows until it is uploaded here.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import signal
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes

from tests.env.browser import Tab, tab
from tests.env.certs import CertLab
from tests.env.manager import Client
from tests.env.origin import FaultOrigin, Resource
from tests.env.process import AgentProcess, ManagerProcess
from tests.env.site import CONTENT

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_from_nothing_to_a_template(chromium: Any, tmp_path: Path, certs: CertLab) -> None:
    """Zone, host, certificate, template, pool; every step in the page."""
    manager = ManagerProcess(tmp_path)
    host = AgentProcess(tmp_path, "kvm1", manager)
    context = certs.leaf("good").server_context()
    resources = {"/u24.raw": Resource.of(CONTENT, content_type="application/octet-stream")}
    try:
        client = await manager.start()
        admin = json.loads((manager.state / "admin.json").read_text())
        url = admin["url"].removesuffix("client/api")
        with FaultOrigin(resources, tls=context) as origin:
            async with tab(chromium, url) as shown:
                await shown.open()
                await shown.log_in("admin", admin["password"])
                await shown.page.get_by_role("heading", name="First steps").wait_for()
                await create_zone(shown)
                await allow_loopback(shown)
                await add_host(shown, host)
                await register(shown, origin, certs)
                await bring(shown, client)
                assert not shown.trouble
    finally:
        await host.end(signal.SIGKILL)
        await manager.end(signal.SIGKILL)


async def create_zone(shown: Tab) -> None:
    page = shown.page
    await page.get_by_role("link", name="Create a zone").click()
    await shown.heading("Zones")
    await page.get_by_role("button", name="Create a zone").first.click()
    await page.get_by_role("dialog").get_by_label("Name").fill("z1")
    await page.get_by_role("dialog").get_by_role("button", name="Create").click()
    await page.get_by_role("cell", name="z1", exact=True).wait_for()


async def allow_loopback(shown: Tab) -> None:
    """The test's origin is on this machine, where hosts fetch nothing unless they may."""
    page = shown.page
    await page.get_by_role("link", name="Settings").click()
    await page.get_by_label("Search settings").fill("internal.sites")
    await page.get_by_role("button", name="Change secstorage.allowed.internal.sites").click()
    await page.get_by_role("dialog").get_by_label("Value").fill("127.0.0.0/8")
    await page.get_by_role("dialog").get_by_role("button", name="Save").click()
    await page.get_by_text("changed", exact=True).wait_for()


async def add_host(shown: Tab, host: AgentProcess) -> None:
    """Run what the page says, with folders of the test's own."""
    page = shown.page
    await page.get_by_role("link", name="Hosts").click()
    await page.get_by_role("button", name="Add a host").first.click()
    await page.get_by_role("button", name="Create a token").click()
    words = shlex.split(await page.locator("code.command").inner_text())
    assert words[:2] == ["fastdl", "agent"]
    options = dict(zip(words[2::2], words[3::2], strict=True))
    assert options["--manager"] == f"https://{host.manager.agents}"
    await host.start(options["--token"])
    await page.get_by_role("button", name="Close").click()
    row = page.get_by_role("row").filter(has_text="kvm1").first
    await row.get_by_text("Up", exact=True).wait_for(timeout=30_000)


async def register(shown: Tab, origin: FaultOrigin, certs: CertLab) -> None:
    """A check before says that the origin is not trusted, and leads to where that is mended."""
    page, digest = shown.page, hashlib.sha256(CONTENT).hexdigest()
    await shown.go("register")
    await shown.heading("Register Template")
    await fill_in(page, origin, digest)
    await page.get_by_role("button", name="Check the source").click()
    await page.get_by_text("is refused by 1 of 1 host").wait_for(timeout=30_000)
    await page.get_by_role("link", name="Upload its certificate").click()
    await shown.heading("Upload a certificate")
    ca = certs.ca.cert_file
    await page.get_by_label("From a file").set_input_files(ca)
    fingerprint = certs.ca.certificate.fingerprint(hashes.SHA256()).hex(":").upper()
    await page.get_by_text(fingerprint).wait_for()  # before anything is sent
    await page.get_by_role("button", name="Upload", exact=True).click()
    await page.get_by_role("row").filter(has_text="kvm1").get_by_text("UPLOADED").wait_for()

    await shown.go("register")
    await shown.heading("Register Template")
    await fill_in(page, origin, digest)
    await page.get_by_role("button", name="Check the source").click()
    await page.get_by_text("is accepted by 1 host").wait_for(timeout=30_000)
    await page.get_by_text("8.0 MiB").first.wait_for()
    await page.get_by_role("button", name="Register Template").click()
    await shown.heading("u24")
    assert await page.get_by_text(digest).count() == 1


async def fill_in(page: Any, origin: FaultOrigin, digest: str) -> None:
    await page.get_by_label("URL").fill(origin.url("/u24.raw"))
    await page.get_by_label("Name").fill("u24")
    await page.get_by_label("Format").select_option("RAW")
    await page.get_by_label("Direct Download").check()
    await page.get_by_label("Checksum").fill("{SHA-256}" + digest)


async def bring(shown: Tab, client: Client) -> None:
    page = shown.page
    await page.get_by_role("button", name="Bring to pools").click()
    await page.get_by_role("dialog").get_by_role("button", name="Bring to pools").click()
    row = page.get_by_role("row").filter(has_text="kvm1-pool")
    await row.get_by_text("Ready").wait_for(timeout=30_000)
    await row.get_by_text("strong").wait_for()
    (copy,) = (await client("listTemplateCopies"))["templatecopy"]
    assert copy["state"] == "Ready"
