# SPDX-License-Identifier: Apache-2.0
"""Makes the pictures of docs/page.md: the page of a manager whose zone is in use.

python -m scripts.screenshots            writes docs/page/*.png
python -m scripts.screenshots --all DIR  writes every view there, in both themes and three widths
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastdl.wire import messages as m
from tests.env.browser import Tab, browser, tab
from tests.env.fake_agent import FakeAgent, local_pool, shared_pool
from tests.env.manager import Zone, certificate, zone

PICTURES = Path(__file__).resolve().parents[1] / "docs" / "page"
WIDTHS = {"phone": (390, 844), "laptop": (1280, 800), "wide": (1920, 1080)}
VIEWS = {
    "templates": "Templates", "register": "Register Template", "downloads": "Downloads",
    "certificates": "Certificates", "upload": "Upload a certificate", "hosts": "Hosts",
    "zones": "Zones", "settings": "Settings", "events": "Events", "users": "Users",
}  # fmt: skip
GIB = 1 << 30


async def _slow(agent: FakeAgent, command: m.Command) -> m.Done | m.Failure:
    """A download that goes on for as long as somebody watches."""
    args = command.args
    assert isinstance(args, m.DownloadArgs)
    total, done = 5 * GIB, GIB
    if "broken" in args.transfer.sources[0]:
        return m.Failure(
            code=20, message="the sha-256 digest is not the registered one: the mirror serves "
            "another file", phase="verify", origin="https://mirror.example",
        )  # fmt: skip
    if "ready" in args.transfer.sources[0]:
        return m.DownloadDone(
            install_path=args.volume, virtual_size=20 * GIB, source_bytes=2 * GIB,
            target_bytes=2 * GIB, fetched_bytes=2 * GIB, integrity="strong", bottleneck="network",
            digests={"sha-256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"},
            mirrors=(
                m.MirrorReport(url="https://mirror.example/ready.qcow2", bytes=GIB, requests=40),
                m.MirrorReport(url="https://eu.example/ready.qcow2", bytes=GIB, requests=41,
                               errors=2),
            ),
        )  # fmt: skip
    for step in range(2000):
        rate = (90 + 40 * ((step * 7) % 11) / 11) * (1 << 20)
        done = min(total - 1, done + int(rate / 10))
        await agent.say(
            m.Progress(
                job=command.job, fence=command.fence, done=done, total=total, fetched=done,
                rate=rate, eta=(total - done) / rate, stage="fetch",
            )  # fmt: skip
        )
        await asyncio.sleep(0.1)
    return m.Failure(code=130, message="cancelled")


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
        work: dict[str, Any] = {"download": _slow}
        for n in range(1, 4):
            await east.agent(
                f"kvm-0{n}", pools=(shared, local_pool(f"kvm-0{n}-ssd")), work=work, beats=True
            )
        full = dict(work, certificates=_refuse)
        await east.agent("kvm-04", pools=(local_pool("kvm-04-ssd"),), work=full, beats=True)
        away = Zone(east.manager, api, west)
        gone = await away.agent("edge-01", pools=(local_pool("edge-01-ssd"),), work=work)
        for name, days, where in (
            ("mirror.example", 210, east.id), ("registry.internal", 12, east.id),
            ("mirror.example", 210, west),
        ):  # fmt: skip
            await api(
                "uploadTemplateDirectDownloadCertificate", name=name.split(".", maxsplit=1)[0],
                zoneid=where, hypervisor="KVM", certificate=certificate(name, days=days),
            )  # fmt: skip
        await gone.close()
        await _templates(east, west)
        await api("createUser", username="ines", password="correct horse", email="ines@example")
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
            name, displaytext=text, url=f"https://mirror.example/{file}.qcow2",
            checksum="{SHA-256}" + "9f" * 32,
            **({"zoneids": f"{east.id},{west}", "zoneid": ""} if file == "ready" else {}),
        )  # fmt: skip
        if file == "rocky-9":
            continue
        await api("prepareTemplate", zoneid=east.id, templateid=row["id"])
    await api(
        "registerIso", name="grub-rescue", displaytext="GRUB rescue", zoneid=east.id,
        url="https://mirror.example/grub.iso", directdownload="true",
    )  # fmt: skip


async def _ready(shown: Tab, name: str) -> None:
    await shown.heading(VIEWS[name])
    await shown.page.wait_for_load_state("networkidle", timeout=2000) if False else None
    await asyncio.sleep(0.4)


async def _shoot(shown: Tab, path: Path, *, whole: bool = False) -> None:
    await shown.page.screenshot(path=path, full_page=whole)


async def take_all(folder: Path) -> None:
    """Every view, theme and width, for whoever changes the page."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as state:
        async with in_use(Path(state) / "m") as east, browser() as running:
            secret = json.loads((Path(state) / "m" / "admin.json").read_text())
            url = secret["url"].removesuffix("client/api")
            for theme in ("light", "dark"):
                for width, (wide, high) in WIDTHS.items():
                    options = {"viewport": {"width": wide, "height": high}, "color_scheme": theme}
                    async with tab(running, url, **options) as shown:
                        await shown.open()
                        await _shoot(shown, folder / f"login-{width}-{theme}.png")
                        await shown.log_in("admin", secret["password"])
                        for name in VIEWS:
                            await shown.go(name)
                            await _ready(shown, name)
                            if name == "downloads":
                                await asyncio.sleep(3)
                            await _shoot(shown, folder / f"{name}-{width}-{theme}.png", whole=True)
                        listed = await east.api("listTemplates", templatefilter="all")
                        await shown.go(f"templates/{listed['template'][0]['id']}")
                        await asyncio.sleep(0.6)
                        await _shoot(shown, folder / f"template-{width}-{theme}.png", whole=True)
                        print(width, theme, shown.trouble)


async def take_for_docs(folder: Path) -> None:
    """The pictures of docs/page.md, with few colours: they are part of the repository."""
    folder.mkdir(parents=True, exist_ok=True)


def main() -> None:
    """Take the pictures."""
    if sys.argv[1:2] == ["--all"]:
        asyncio.run(take_all(Path(sys.argv[2])))
    else:
        asyncio.run(take_for_docs(PICTURES))


if __name__ == "__main__":
    main()
