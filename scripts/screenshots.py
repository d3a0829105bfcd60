# SPDX-License-Identifier: Apache-2.0
"""Makes the pictures of docs/page.md: the page of a manager whose zone is in use.

python -m scripts.screenshots            writes docs/page/*.png
python -m scripts.screenshots --all DIR  writes every view there, in both themes and three widths

Needs the extras dev and bench (Pillow), and chromium.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
import json
import secrets
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from PIL import Image

from fastdl.lab.certs import self_signed
from fastdl.wire import messages as m
from tests.env.browser import Tab, browser, tab
from tests.env.fake_agent import FakeAgent, local_pool, shared_pool
from tests.env.manager import Zone, zone

PICTURES = Path(__file__).resolve().parents[1] / "docs" / "page"
WIDTHS = {"phone": (390, 844), "laptop": (1280, 800), "wide": (1920, 1080)}
VIEWS = {
    "templates": "Templates",
    "register": "Register Template",
    "downloads": "Downloads",
    "certificates": "Certificates",
    "upload": "Upload a certificate",
    "hosts": "Hosts",
    "zones": "Zones",
    "settings": "Settings",
    "events": "Events",
    "users": "Users",
}
GIB = 1 << 30
DIGEST = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"


async def _slow(agent: FakeAgent, command: m.Command) -> m.Done | m.Failure:
    """A download that lasts as long as the pictures need it."""
    args = command.args
    assert isinstance(args, m.DownloadArgs)
    total, done = 5 * GIB, GIB
    if "broken" in args.transfer.sources[0]:
        return m.Failure(
            code=20,
            message="the sha-256 digest is not the registered one: the mirror serves another file",
            phase="verify",
            origin="https://mirror.example",
        )
    if "ready" in args.transfer.sources[0]:
        return m.DownloadDone(
            install_path=args.volume,
            virtual_size=20 * GIB,
            source_bytes=2 * GIB,
            target_bytes=2 * GIB,
            fetched_bytes=2 * GIB,
            integrity="strong",
            bottleneck="network",
            digests={"sha-256": DIGEST},
            mirrors=(
                m.MirrorReport(url="https://mirror.example/ready.qcow2", bytes=GIB, requests=40),
                m.MirrorReport(
                    url="https://eu.example/ready.qcow2", bytes=GIB, requests=41, errors=2
                ),
            ),
        )
    for step in range(2000):
        rate = (90 + 40 * ((step * 7) % 11) / 11) * (1 << 20)
        done = min(total - 1, done + int(rate / 10))
        await agent.say(
            m.Progress(
                job=command.job,
                fence=command.fence,
                done=done,
                total=total,
                fetched=done,
                rate=rate,
                eta=(total - done) / rate,
                stage="fetch",
                bottleneck="network",
                mirrors=(
                    m.MirrorReport(url="https://mirror.example/x", bytes=done * 2 // 3, requests=9),
                    m.MirrorReport(
                        url="https://eu.example/x", bytes=done // 3, requests=7, errors=2
                    ),
                ),
            )
        )
        await asyncio.sleep(0.1)
    return m.Failure(code=130, message="cancelled")


async def _probe(_agent: FakeAgent, command: m.Command) -> m.Done | m.Failure:
    args = command.args
    assert isinstance(args, m.ProbeArgs)
    (source, *_), many = args.transfer.sources, ("https://mirror.example", "https://eu.example")
    name = source.rpartition("/")[2].removesuffix(".meta4")
    metalink = source.endswith(".meta4")
    return m.ProbeDone(
        size=2 * GIB,
        virtual_size=20 * GIB,
        format="qcow2",
        ranges=True,
        metalink=metalink,
        validators=m.Validators(size=2 * GIB, etag='"6571-2c8a"'),
        digests={"sha-256": DIGEST} if metalink else {},
        mirrors=tuple(f"{origin}/{name}" for origin in many) if metalink else (),
    )


async def _refuse(_agent: FakeAgent, command: m.Command) -> m.Done | m.Failure:
    args = command.args
    assert isinstance(args, m.CertificatesArgs)
    why = m.Failure(code=50, message="the keystore is on a file system that is read-only")
    return m.CertificatesDone(
        outcomes=tuple(m.AliasOutcome(alias=one.alias, failure=why) for one in args.install),
        keystore_revision=next(_agent.revisions),
    )


@contextlib.asynccontextmanager
async def in_use(folder: Path) -> AsyncIterator[Zone]:
    """A manager with two zones, five hosts, certificates, templates and downloads."""
    async with zone(folder) as east:
        api = east.api
        await api("updateZone", id=east.id, name="east")
        west = (await api("createZone", name="west"))["zone"]["id"]
        shared = shared_pool("nfs-images")
        work: dict[str, Any] = {"download": _slow, "probe": _probe}
        for n in range(1, 4):
            await east.agent(
                f"kvm-0{n}", pools=(shared, local_pool(f"kvm-0{n}-ssd")), work=work, beats=True
            )
        full = dict(work, certificates=_refuse)
        await east.agent("kvm-04", pools=(local_pool("kvm-04-ssd"),), work=full, beats=True)
        away = Zone(east.manager, api, west)
        gone = await away.agent("edge-01", pools=(local_pool("edge-01-ssd"),), work=work)
        for name, days, where in (
            ("mirror.example", 210, east.id),
            ("registry.internal", 12, east.id),
            ("mirror.example", 210, west),
        ):
            await api(
                "uploadTemplateDirectDownloadCertificate",
                name=name.split(".", maxsplit=1)[0],
                zoneid=where,
                hypervisor="KVM",
                certificate=self_signed(name, days=days),
            )
        await gone.close()
        await _templates(east, west)
        await api(
            "createUser", username="ines", password=secrets.token_hex(8), email="ines@example"
        )
        yield east


async def _templates(east: Zone, west: str) -> None:
    api = east.api
    for name, text, file in (
        ("ubuntu-24.04", "Ubuntu 24.04 LTS, cloud image", "ready"),
        ("debian-12", "Debian 12, generic cloud", "debian-12"),
        ("rocky-9", "Rocky Linux 9", "rocky-9"),
        ("windows-2025", "Windows Server 2025 core", "broken"),
    ):
        row = await east.template(
            name,
            displaytext=text,
            url=f"https://mirror.example/{file}.qcow2",
            checksum="{SHA-256}" + DIGEST,
            **({"zoneids": f"{east.id},{west}", "zoneid": ""} if file == "ready" else {}),
        )
        if file == "rocky-9":
            continue
        await api("prepareTemplate", zoneid=east.id, templateid=row["id"])
    await api(
        "registerIso",
        name="grub-rescue",
        displaytext="GRUB rescue",
        zoneid=east.id,
        url="https://mirror.example/grub.iso",
        directdownload="true",
    )


async def _at(shown: Tab, view: str, title: str) -> None:
    """Open a view and wait until it stops changing."""
    await shown.go(view)
    await shown.heading(title)
    if view == "downloads":  # a line of rates needs some rates
        await shown.page.wait_for_function(
            "() => document.querySelector('.spark path:last-child')?.getAttribute('d').length > 120"
        )
    await shown.page.wait_for_function("() => !document.querySelector('.waiting')")


@contextlib.asynccontextmanager
async def _logged_in(running: Any, folder: Path, theme: str, width: str) -> AsyncIterator[Tab]:
    secret = json.loads((folder / "admin.json").read_text())
    wide, high = WIDTHS[width]
    options = {"viewport": {"width": wide, "height": high}, "color_scheme": theme}
    async with tab(running, secret["url"].removesuffix("client/api"), **options) as shown:
        await shown.open()
        await shown.log_in("admin", secret["password"])
        yield shown
        if shown.trouble:
            raise SystemExit("\n".join(shown.trouble))


async def take_all(folder: Path) -> None:
    """Every view, theme and width, for developers of the page."""
    with tempfile.TemporaryDirectory() as state:
        manager = Path(state) / "manager"
        async with in_use(manager) as east, browser() as running:
            (first, *_) = (await east.api("listTemplates", templatefilter="all"))["template"]
            views = {**VIEWS, f"templates/{first['id']}": first["name"]}
            for theme, width in itertools.product(("light", "dark"), WIDTHS):
                async with _logged_in(running, manager, theme, width) as shown:
                    for view, title in views.items():
                        await _at(shown, view, title)
                        path = folder / f"{view.partition('/')[0]}-{width}-{theme}.png"
                        if "/" in view:
                            path = folder / f"details-{width}-{theme}.png"
                        await shown.page.screenshot(path=path, full_page=True)


async def take_for_docs(folder: Path) -> None:
    """The pictures of docs/page.md."""
    with tempfile.TemporaryDirectory() as state:
        manager = Path(state) / "manager"
        async with in_use(manager), browser() as running:
            async with _logged_in(running, manager, "light", "laptop") as shown:
                page = shown.page
                await _at(shown, "register", VIEWS["register"])
                await page.get_by_label("URL").fill("https://mirror.example/fedora-42.qcow2.meta4")
                await page.get_by_label("Name").fill("fedora-42")
                await page.get_by_label("east").check()
                await page.get_by_label("Direct Download").check()
                await page.get_by_role("button", name="Check the source").click()
                await page.get_by_text("is accepted by").first.wait_for()
                await page.set_viewport_size({"width": 1280, "height": 900})
                _save(await page.screenshot(), folder / "register.png")
                await page.set_viewport_size({"width": 1280, "height": 800})
                await _at(shown, "downloads", VIEWS["downloads"])
                _save(await page.screenshot(), folder / "downloads.png")
            async with _logged_in(running, manager, "dark", "laptop") as shown:
                await _at(shown, "certificates", VIEWS["certificates"])
                _save(await shown.page.screenshot(full_page=True), folder / "certificates.png")
            async with _logged_in(running, manager, "light", "phone") as shown:
                await _at(shown, "templates", VIEWS["templates"])
                _save(await shown.page.screenshot(), folder / "phone.png")


def _save(png: bytes, path: Path) -> None:
    """Write a picture with 128 colours: they are part of the repository."""
    colours = Image.open(io.BytesIO(png)).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    colours.save(path, optimize=True)
    print(f"{path.name}: {path.stat().st_size >> 10} KiB")


def main() -> None:
    """Take the pictures."""
    folder = Path(sys.argv[2]) if sys.argv[1:2] == ["--all"] else PICTURES
    folder.mkdir(parents=True, exist_ok=True)
    asyncio.run(take_all(folder) if folder != PICTURES else take_for_docs(folder))


if __name__ == "__main__":
    main()
