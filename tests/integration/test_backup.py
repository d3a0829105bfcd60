# SPDX-License-Identifier: Apache-2.0
"""Does what operations.md says about backups bring a zone back, whatever happened since?"""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fastdl.lab.certs import self_signed
from tests.env.origin import FaultOrigin, Resource
from tests.env.process import eventually
from tests.env.site import CONTENT, Site

FILES = ("ca", "secret.key", "instance", "admin.json")
"""What is copied besides the database."""


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """A manager, a host and an origin."""
    with FaultOrigin({"/x.raw": Resource.of(CONTENT)}) as origin:
        made = Site(tmp_path, origin)
        try:
            await made.start()
            yield made
        finally:
            await made.end()


def back_up(state: Path, kept: Path) -> None:
    """The command of the page, and the files that it names."""
    kept.mkdir()
    if shutil.which("sqlite3") is None:
        pytest.skip("sqlite3 is not installed")
    command = ["sqlite3", state / "manager.db", f'.backup "{kept / "manager.db"}"']
    subprocess.run(command, check=True, timeout=60)
    for name in FILES:
        copy = shutil.copytree if (state / name).is_dir() else shutil.copy2
        copy(state / name, kept / name)


def restore(state: Path, kept: Path) -> None:
    """The machine was lost: only what was kept is there."""
    shutil.rmtree(state)
    shutil.copytree(kept, state)


async def test_a_restored_manager_has_its_hosts_copies_and_certificates_back(
    site: Site, tmp_path: Path
) -> None:
    """The host is not enrolled again; what the backup did not know is found or taken back."""
    before = await site.template("before")
    copy = await site.brought(before)
    await _upload(site, "kept")
    back_up(site.manager.state, tmp_path / "backup")
    later = await site.brought(await site.template("later"))
    await _upload(site, "later")

    await site.manager.end(signal.SIGKILL)
    restore(site.manager.state, tmp_path / "backup")
    site.api = await site.manager.start()

    (host,) = await eventually(lambda: site.hosts("Up"), within=60)
    assert host["name"] == "kvm1"
    names = {
        row["name"] for row in (await site.api("listTemplates", templatefilter="all"))["template"]
    }
    assert names == {"before"}
    (row,) = await site.copies(templateid=before)
    assert (row["state"], copy.read_bytes() == CONTENT) == ("Ready", True)

    async def orphans() -> list[dict[str, Any]]:
        pool = (await site.pools())[0]["id"]
        return await site.copies(orphaned="true", storageid=pool, refresh="true")

    found = await eventually(orphans)
    assert [row["volume"] for row in found] == [later.name]
    assert later.exists()

    async def certificates() -> bool:
        listed = await site.api("listTemplateDirectDownloadCertificates", listhosts="true")
        (cert,) = listed["directdownloadcertificate"]
        return cert["alias"] == "kept" and cert["hostsmap"][0]["status"] == "UPLOADED"

    await eventually(certificates)
    # And it works on.
    again = await site.brought(await site.template("again"))
    assert again.read_bytes() == CONTENT


async def _upload(site: Site, name: str) -> None:
    await site.api(
        "uploadTemplateDirectDownloadCertificate",
        name=name,
        hypervisor="KVM",
        zoneid=site.zone,
        certificate=self_signed(),
    )
