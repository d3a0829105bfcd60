# SPDX-License-Identifier: Apache-2.0
"""Is everything still there after an upgrade, and does it work?

Part of ``scripts/try-upgrade``, which makes the environments. A manager and two hosts of the
earlier version get a certificate, templates and downloads, one of which is under way while the
manager is upgraded in place; the hosts follow later. In the end the backup is restored and the
earlier manager serves again.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastdl.errors import FastdlError
from scripts.upgrading_backup import PostgresqlFiles, SqliteFiles
from tests.env import postgresql
from tests.env.certs import CertLab
from tests.env.faults import Rule, When
from tests.env.manager import Client
from tests.env.origin import FaultOrigin, Resource, pseudo_random
from tests.env.process import AgentProcess, ManagerProcess, eventually
from tests.env.site import CONTENT, Site

LARGE = pseudo_random(77, 48 << 20)
RATE = 4e6
"""Bytes a second of each connection for large images: time enough to upgrade something."""
LISTS: dict[str, dict[str, str]] = {
    "listZones": {},
    "listHosts": {},
    "listStoragePools": {},
    "listTemplates": {"templatefilter": "all"},
    "listTemplateCopies": {},
    "listTemplateDirectDownloadCertificates": {},
    "listConfigurations": {},
    "listAccounts": {},
    "listUsers": {},
    "listHostTokens": {},
    "listHostCas": {},
    "listEvents": {},
}
"""What an upgrade leaves as it was."""
MOVES = {
    "description",
    "updated",
    "lastpinged",
    "disksizeused",
    "disksizeallocated",
    "version",
    "checked",
    "uptime",
}
"""Fields that change by themselves."""


@dataclass(frozen=True, kw_only=True)
class Versions:
    """The wheels of both versions, and the environments they are installed into."""

    old: Path
    new: Path
    manager: Path
    hosts: Path

    @property
    def schema_differs(self) -> bool:
        """Whether the ledger has another schema in the new version."""
        old, new = (
            {name for name in zipfile.ZipFile(wheel).namelist() if "/migrations/versions/" in name}
            for wheel in (self.old, self.new)
        )
        return old != new

    @staticmethod
    def install(wheel: Path, environment: Path) -> None:
        """Replace the fastdl of *environment*, and add what else it needs now."""
        pip = [
            str(environment / "bin/python"),
            "-m",
            "pip",
            "--quiet",
            "--disable-pip-version-check",
        ]
        for words in ([], ["--no-deps", "--force-reinstall"]):
            subprocess.run([*pip, "install", *words, str(wheel)], check=True)


def done(text: str) -> None:
    """Report a step that did what it should."""
    print(f"ok   {text}", flush=True)


def require(what: str, found: object, expected: object) -> None:
    """End the trial if *found* is not as *expected*."""
    if found != expected:
        raise SystemExit(f"FAIL {what}: {found!r}, expected {expected!r}")


class Trial:
    """A zone of two hosts that is upgraded."""

    def __init__(
        self,
        folder: Path,
        origin: FaultOrigin,
        certs: CertLab,
        versions: Versions,
        database: str | None,
    ) -> None:
        self.versions = versions
        self.certs = certs
        self.origin = origin
        self.site = Site(folder, origin, database=database)
        self.second = AgentProcess(folder, "kvm2", self.site.manager)
        self.third = AgentProcess(folder, "kvm3", self.site.manager)
        self.hosts = (self.site.host, self.second)
        self.site.manager.program = self._program(versions.manager)
        for host in (*self.hosts, self.third):
            host.program = self._program(versions.hosts)

    @staticmethod
    def _program(environment: Path) -> Sequence[str]:
        return (str(environment / "bin/python"), "-m", "fastdl")

    async def end(self) -> None:
        """End all of it."""
        for process in (*self.hosts, self.third, self.site.manager):
            if process.alive:
                await process.end(signal.SIGKILL)

    # -- what is done in the zone ----------------------------------------------------------

    async def up(self, count: int, *, within: float = 60) -> None:
        """Wait until *count* hosts and their pools are Up."""

        async def ready() -> bool:
            with contextlib.suppress(FastdlError):
                return len(await self.site.hosts("Up")) == count == len(await self.site.pools())
            return False

        await eventually(ready, within=within)

    async def start_second(self) -> None:
        token = (await self.site.api("createHostToken", zoneid=self.site.zone))["token"]
        await self.second.start(token)

    async def certificate(self, name: str) -> None:
        """The CA of the origin to every host."""
        answer = await self.site.api(
            "uploadTemplateDirectDownloadCertificate",
            certificate=self.certs.ca.cert_file.read_text(),
            name=name,
            hypervisor="KVM",
            zoneid=self.site.zone,
        )
        statuses = {
            h["status"] for h in answer["uploadtemplatedirectdownloadcertificate"]["hostsmap"]
        }
        require(f"the certificate {name} on the hosts", statuses, {"UPLOADED"})

    async def revoked(self, name: str) -> None:
        """The certificate taken back from every host."""
        answer = await self.site.api(
            "revokeTemplateDirectDownloadCertificate",
            name=name,
            hypervisor="KVM",
            zoneid=self.site.zone,
        )
        statuses = {row["status"] for row in answer["directdownloadcertificatehoststatus"]}
        require(f"the certificate {name} on the hosts", statuses, {"REVOKED"})

    async def template(self, name: str, content: bytes) -> str:
        """Register *content* as a template; its id."""
        self.origin.resources[f"/{name}.raw"] = Resource.of(content)
        answer = await self.site.api(
            "registerTemplate",
            name=name,
            url=self.origin.url(f"/{name}.raw"),
            format="RAW",
            hypervisor="KVM",
            zoneid=self.site.zone,
            directdownload="true",
        )
        return str(answer["template"][0]["id"])

    async def brought(self, name: str, content: bytes = CONTENT) -> str:
        """A template that is downloaded to the pool of every host; its id."""
        template = await self.template(name, content)
        await self.ended(await self.site.prepare(template))
        await self.check_copies(template, content)
        return template

    async def ended(self, answer: dict[str, Any], *, within: float = 120) -> None:
        """Wait for an async job's success."""
        job = await self.site.api.job(answer, within=within)
        require("an async job", (job["jobstatus"], job.get("jobresult") and True), (1, True))

    async def begun(self, name: str) -> tuple[str, dict[str, Any]]:
        """A slow download to every pool that has got somewhere; (its template, its job)."""
        template = await self.template(name, LARGE)
        self.origin.resources[f"/{name}.raw"].rules.append(Rule(when=When(), rate=RATE))
        job = await self.site.prepare(template)

        async def flowing() -> bool:
            rows = await self.site.downloads(template)
            return len(rows) == len(self.hosts) and all(row.get("percent", 0) >= 5 for row in rows)

        await eventually(flowing)
        return template, job

    async def check_copies(self, template: str, content: bytes) -> None:
        """The copies of *template* are Ready in both pools and hold *content*."""
        rows = await self.site.copies(templateid=template)
        require("copies", sorted(row["state"] for row in rows), ["Ready"] * len(self.hosts))
        for row in rows:
            files = [h.pool / row["installpath"] for h in self.hosts]
            found = [f.read_bytes() == content for f in files if f.exists()]
            require(f"the bytes of a copy of {template}", found, [True])

    async def gone(self, template: str) -> None:
        """Delete a template; its files are removed."""
        paths = [
            host.pool / row["installpath"]
            for row in await self.site.copies(templateid=template)
            for host in self.hosts
        ]
        require("files before a removal", sum(path.exists() for path in paths), len(self.hosts))
        await self.ended(await self.site.api("deleteTemplate", id=template))

        async def removed() -> bool:
            return not any(path.exists() for path in paths)

        await eventually(removed)

    async def everything(self) -> dict[str, dict[str, dict[str, Any]]]:
        """What the site lists."""
        return await everything(self.site.api)


async def everything(api: Client) -> dict[str, dict[str, dict[str, Any]]]:
    """command → id or name → row of all that *api* lists."""
    found = {}
    for command, params in LISTS.items():
        answer = await api(command, **params)
        rows = next((v for v in answer.values() if isinstance(v, list)), [])
        found[command] = {
            str(row.get("id") or row.get("volume") or row["name"]): {
                k: v for k, v in _set_by_somebody(row).items() if k not in MOVES
            }
            for row in rows
        }
    return found


def _set_by_somebody(row: dict[str, Any]) -> dict[str, Any]:
    """*row*; a setting's without its default, which another version may have changed."""
    if "defaultvalue" not in row:
        return row
    same = row["value"] == row["defaultvalue"]
    return {**row, "defaultvalue": None, "value": None if same else row["value"]}


def compare(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What of *before* is missing or different in *after*."""
    wrong = []
    for command, rows in before.items():
        for key, row in rows.items():
            now = after[command].get(key)
            if now is None:
                wrong.append(f"{command}: {key} is missing")
                continue
            wrong += [
                f"{command}: {key}: {field} was {value!r}, is {now.get(field)!r}"
                for field, value in row.items()
                if now.get(field) != value
            ]
    return wrong


async def try_all(trial: Trial, files: SqliteFiles) -> None:
    """The whole story."""
    site, versions = trial.site, trial.versions

    await site.start()
    await trial.start_second()
    await trial.up(2)
    await trial.certificate("mirrors")
    kept = await trial.brought("kept")
    user = {"username": "operator", "password": "a long password", "email": "o@example.org"}
    admin = (await site.api("listUsers"))["user"][0]
    await site.api("createUser", account=admin["account"], firstname="O", lastname="P", **user)
    token = (await site.api("createHostToken", zoneid=site.zone))["token"]
    before = await trial.everything()
    files.back_up()
    unwanted = await trial.brought("unwanted")
    done("the earlier version: two hosts, a certificate, two templates in two pools, a user")

    under_way, job = await trial.begun("under-way")
    require("the end of the earlier manager", await site.manager.end(signal.SIGTERM), 0)
    versions.install(versions.new, versions.manager)
    site.api = await site.manager.start()
    await trial.up(2)
    require("what the upgraded manager lists", compare(before, await trial.everything()), [])
    done("the manager, upgraded in place: everything is listed as before, earlier hosts are Up")

    await trial.ended(job)
    await trial.check_copies(under_way, LARGE)
    done("a download that was under way ended; its job, too")
    await trial.brought("later")
    await trial.gone(unwanted)
    await trial.certificate("second")
    await trial.revoked("second")
    with contextlib.suppress(FastdlError):  # refused at once, or by the job
        answer = await site.api(
            "deployVirtualMachine", templateid=kept, zoneid=site.zone, name="vm1"
        )
        state = await site.api.job(answer, within=60)
        require("a virtual machine on hosts that cannot run it", state["jobstatus"], 2)
    machines = (await site.api("listVirtualMachines")).get("virtualmachine", [])
    require("machines that run nowhere", [m for m in machines if m["state"] == "Running"], [])
    done("earlier hosts work for the new manager; what they cannot do is refused")

    resumed, job = await trial.begun("resumed")
    for host in trial.hosts:
        require(f"the end of {host.name}", await host.end(signal.SIGTERM), 0)
    sent = trial.origin.sent
    versions.install(versions.new, versions.hosts)
    for host in trial.hosts:
        await host.start()
    await trial.up(2)
    await trial.ended(job)
    await trial.check_copies(resumed, LARGE)
    more = trial.origin.sent - sent
    require(
        f"resuming with less than all ({more} bytes)",
        more < len(trial.hosts) * len(LARGE),
        expected=True,
    )
    sent = trial.origin.sent
    await trial.ended(await site.prepare(kept))
    require("bytes for copies that are there", trial.origin.sent - sent, 0)
    await trial.brought("of-new-hosts")
    done("upgraded hosts resumed their downloads and know their copies and certificates")
    await trial.third.start(token)
    await trial.up(3)
    await trial.third.end(signal.SIGTERM)
    done("a host enrolled with a token of the earlier version")

    require("the end of the new manager", await site.manager.end(signal.SIGTERM), 0)
    versions.install(versions.old, versions.manager)
    if versions.schema_differs:
        require("refusing the newer ledger", await refuses(site.manager), expected=True)
        done("the earlier manager refuses the newer ledger")
    files.restore()
    site.api = await site.manager.start()
    await trial.up(2)
    require("what the restored manager lists", compare(before, await trial.everything()), [])
    await trial.brought("after-the-way-back")
    done("the way back: backup restored, the earlier manager serves, hosts of this version work")


async def refuses(manager: ManagerProcess) -> bool:
    """Whether it ends with a usage error that names the reason."""
    log = await manager.launch()
    return await manager.ended(within=60) == 2 and "newer fastdl" in log.read_text()


async def run(folder: Path, versions: Versions, *, on_postgresql: bool) -> None:
    """The trial, in *folder*; nothing of it runs afterwards."""
    certs = CertLab(folder / "certs")
    tls = certs.leaf("good").server_context()
    with contextlib.ExitStack() as stack:
        state, kept = folder / "state", folder / "backup"
        files = SqliteFiles(state, kept)
        if on_postgresql:
            files = PostgresqlFiles(state, kept, stack.enter_context(postgresql.server()))
        origin = stack.enter_context(FaultOrigin(tls=tls))
        trial = Trial(folder, origin, certs, versions, files.database)
        try:
            await try_all(trial, files)
        except BaseException:
            for process in (trial.site.manager, *trial.hosts, trial.third):
                print(f"---\n{process.log()[-3000:]}", flush=True)
            raise
        finally:
            await trial.end()


def main() -> int:
    """0 if everything was there and worked."""
    parser = argparse.ArgumentParser(prog="scripts/try-upgrade", description=__doc__)
    parser.add_argument("--postgresql", action="store_true")
    for name in ("old", "new", "manager", "hosts"):
        parser.add_argument(name, type=Path)
    args = parser.parse_args()
    versions = Versions(old=args.old, new=args.new, manager=args.manager, hosts=args.hosts)
    with tempfile.TemporaryDirectory(prefix="fastdl-upgrade-") as name:
        asyncio.run(run(Path(name), versions, on_postgresql=args.postgresql))
    print("everything is there after the upgrade, and works")
    return 0


if __name__ == "__main__":
    sys.exit(main())
