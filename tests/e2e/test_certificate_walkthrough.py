# SPDX-License-Identifier: Apache-2.0
"""The documentation's certificate section, word for word, on real processes and keystores."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastdl.lab.certs import self_signed

FASTDL = [sys.executable, "-c", "from fastdl.cli.main import main; raise SystemExit(main())"]


class Site:
    """A manager and agents as processes; ended by their ids."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *words: str) -> None:
        """Start (again) a verb in the background."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [*FASTDL, *words], stdout=log, stderr=log, cwd=self.folder
            )

    def end(self, name: str, number: int = signal.SIGTERM) -> int:
        """End a process; return its exit code."""
        process = self.processes.pop(name)
        process.send_signal(number)
        return process.wait(30)

    def api(self, *words: str) -> dict[str, Any]:
        """What ``fastdl api`` prints."""
        done = subprocess.run(
            [*FASTDL, "api", "--credentials", "manager/admin.json", *words],
            check=False,
            capture_output=True,
            cwd=self.folder,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr.decode()
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def until(self, check: Any, *, within: float = 30) -> Any:
        """Wait for *check* to be true."""
        deadline = time.monotonic() + within
        while time.monotonic() < deadline:
            with contextlib.suppress(AssertionError, OSError, ValueError):
                if found := check():
                    return found
            time.sleep(0.1)
        logs = "\n".join(p.read_text()[-2000:] for p in self.folder.glob("*.log"))
        raise AssertionError(f"it did not happen in time\n{logs}")

    def manager(self) -> str:
        """Start the manager; return the agents' address."""
        self.start(
            "manager",
            "manager",
            "--state",
            "manager",
            "--listen",
            "127.0.0.1:0",
            "--agent-listen",
            "127.0.0.1:0",
        )

        def address() -> str | None:
            for line in (self.folder / "manager.log").read_text().splitlines():
                if line.startswith("{") and (found := json.loads(line).get("agents")):
                    return str(found)
            return None

        found: str = self.until(address)
        self.until((self.folder / "manager/admin.json").exists)
        return found

    def agent(self, name: str, address: str, token: str) -> None:
        """Start an agent."""
        (self.folder / f"pool-{name}").mkdir(exist_ok=True)
        self.start(
            name,
            "agent",
            "--manager",
            f"https://{address}",
            "--token",
            token,
            "--state",
            f"state-{name}",
            "--config-dir",
            f"etc-{name}",
            "--name",
            name,
            "--pool",
            f"p={self.folder / f'pool-{name}'}",
        )

    def aliases(self, host: str) -> set[str]:
        """The trusted entries of a host's cloud.jks, as keytool sees them."""
        folder = self.folder / f"etc-{host}"
        properties = (folder / "agent.properties").read_text().splitlines()
        (password,) = [line.split("=", 1)[1].strip() for line in properties if "passphrase" in line]
        if not (folder / "cloud.jks").exists():
            return set()
        done = subprocess.run(
            ["keytool", "-list", "-keystore", str(folder / "cloud.jks"), "-storepass:env", "PW"],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "PW": password},
        )
        lines = done.stdout.splitlines()
        return {line.split(",")[0] for line in lines if "trustedCertEntry" in line}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """An empty site."""
    if shutil.which("keytool") is None:
        pytest.skip("keytool is not installed")
    made = Site(tmp_path)
    try:
        yield made
    finally:
        for name in list(made.processes):
            made.end(name, signal.SIGKILL)


def test_the_documented_commands_on_real_agents(site: Site) -> None:
    """Upload to the zone, revoke, re-upload to one host, a new host, a wiped keystore, kills."""
    address = site.manager()
    zone_id = site.api("create", "zone", "name=z1")["zone"]["id"]

    def token() -> str:
        return str(site.api("create", "hosttoken", f"zoneid={zone_id}")["token"])

    def up(count: int) -> dict[str, str]:
        hosts = site.api("list", "hosts", "state=Up").get("host", [])
        assert len(hosts) == count
        return {h["name"]: h["id"] for h in hosts}

    tokens = {name: token() for name in ("kvm1", "kvm2", "kvm3")}
    for name in ("kvm1", "kvm2"):
        site.agent(name, address, tokens[name])
    host_id = site.until(lambda: up(2))["kvm1"]

    pem = self_signed("mirror.example")
    formatted = "".join(line for line in pem.splitlines() if "-----" not in line)
    noun = "templatedirectdownloadcertificate"
    common = ["hypervisor=KVM", "name=mirror1", f"zoneid={zone_id}"]
    answer = site.api("upload", noun, *common, f"certificate={formatted}")
    statuses = answer["uploadtemplatedirectdownloadcertificate"]["hostsmap"]
    assert [s["status"] for s in statuses] == ["UPLOADED", "UPLOADED"]
    assert site.aliases("kvm1") == site.aliases("kvm2") == {"mirror1"}

    site.api("revoke", noun, *common)
    assert site.aliases("kvm1") == site.aliases("kvm2") == set()

    site.api("upload", noun, *common, f"certificate={formatted}", f"hostid={host_id}")
    assert (site.aliases("kvm1"), site.aliases("kvm2")) == ({"mirror1"}, set())
    site.api("revoke", noun, *common, f"hostid={host_id}")
    assert site.aliases("kvm1") == set()
    site.api("upload", noun, *common, f"certificate={formatted}", f"hostid={host_id}")
    assert site.aliases("kvm1") == {"mirror1"}

    # A second certificate, then a new host that lacks both: another host has the first one again.
    site.api(
        "upload",
        noun,
        "hypervisor=KVM",
        "name=mirror2",
        f"zoneid={zone_id}",
        f"certificate={self_signed('second')}",
    )
    site.agent("kvm3", address, tokens["kvm3"])
    site.until(lambda: site.aliases("kvm3") == {"mirror1", "mirror2"})

    # The keystore is wiped behind everybody's back; the background task puts it right.
    interval = "direct.download.certificate.background.task.interval"
    (site.folder / "etc-kvm3" / "cloud.jks").unlink()
    site.api("update", "configuration", f"name={interval}", "value=0.0005")
    site.until(lambda: site.aliases("kvm3") == {"mirror1", "mirror2"}, within=60)
    assert site.aliases("kvm2") == {"mirror2"}, "a revocation of the zone was undone"

    # A killed agent and a killed manager come back to the same state.
    site.end("kvm1", signal.SIGKILL)
    site.end("manager", signal.SIGKILL)
    host, port = address.rsplit(":", 1)
    site.start(
        "manager",
        "manager",
        "--state",
        "manager",
        "--listen",
        "127.0.0.1:0",
        "--agent-listen",
        f"{host}:{port}",
    )
    site.agent("kvm1", address, tokens["kvm1"])
    site.until(lambda: up(3), within=90)
    listed = site.api("list", "templatedirectdownloadcertificates", "listhosts=true")
    shown = {
        c["alias"]: {h["hostname"]: h["status"] for h in c["hostsmap"]}
        for c in listed["directdownloadcertificate"]
    }
    assert shown["mirror2"] == dict.fromkeys(("kvm1", "kvm2", "kvm3"), "UPLOADED")
    assert shown["mirror1"] == {"kvm1": "UPLOADED", "kvm2": "REVOKED", "kvm3": "UPLOADED"}
    assert site.end("manager") == 0
