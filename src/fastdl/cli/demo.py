# SPDX-License-Identifier: Apache-2.0
"""``fastdl demo``: a whole zone on this machine, each step with its command line."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastdl.errors import FastdlError, InternalError

EPILOG = """examples:
  fastdl demo
  fastdl demo --size 256M --keep

Starts two HTTPS mirrors with a private CA, a manager and two agents with file pools, all on
loopback; uploads the CA's certificate, registers a direct-download template from a metalink,
downloads it to both pools, verifies the copies, revokes the certificate, and shows that the next
download is refused. Every step is printed with its command line. Nothing outside a
temporary folder is touched; --keep keeps it."""

START_S = 30.0


def add_parser(subparsers: Any) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "demo",
        help="run a whole zone on this machine",
        description="Run a whole zone on this machine: mirrors, a manager, two agents.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--size", default="64M", help="size of the template (default 64M)")
    parser.add_argument("--keep", action="store_true", help="keep the folder at the end")


def run(args: argparse.Namespace) -> int:
    """Run the demo; the exit code shows whether every step succeeded."""
    from fastdl.model.units import parse_size

    size = parse_size(args.size)
    folder = Path(tempfile.mkdtemp(prefix="fastdl-demo-"))
    try:
        with _Stage(folder) as stage:
            _play(stage, size)
    finally:
        if args.keep:
            print(f"\nkept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return 0


class _Stage:
    """The processes of the demo, ended in reverse order, and its narrator."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.credentials = folder / "manager" / "admin.json"
        self._processes: list[subprocess.Popen[bytes]] = []
        self._step = 0

    def __enter__(self) -> _Stage:
        return self

    def __exit__(self, *_exc: object) -> None:
        for process in reversed(self._processes):
            process.send_signal(signal.SIGTERM)
        for process in reversed(self._processes):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            if process.poll() is None:
                process.kill()
                process.wait()

    def say(self, text: str) -> None:
        """Announce a step."""
        self._step += 1
        print(f"\n{self._step}. {text}", flush=True)

    def start(self, name: str, *words: str) -> subprocess.Popen[bytes]:
        """Start one of our verbs in the background; its output goes to a file."""
        if words[0] != "-m":
            print(f"   $ fastdl {_shown(words)} &", flush=True)
            words = ("-c", "from fastdl.cli.main import main; raise SystemExit(main())", *words)
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, *words],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=self.folder,
                start_new_session=True,
            )
        self._processes.append(process)
        return process

    def api(self, *words: str, show: str | None = None, quiet: bool = False) -> dict[str, Any]:
        """Call the API, showing the command line and, on request, a part of the answer."""
        from fastdl.cli import api, api_client

        if not quiet:
            print(f"   $ fastdl api {_shown(words)}", flush=True)
        wait = "--wait" in words
        command, params = api.parse_words([word for word in words if word != "--wait"])
        credentials = api_client.read_credentials(self.credentials)
        answer = api_client.call(credentials, command, params)
        if wait:
            answer = api_client.job_result(api_client.ended_job(credentials, answer["jobid"]))
        if show is not None:
            print(f"     {show.format(**_first(answer))}", flush=True)
        return answer

    def until(self, what: str, check: Any) -> Any:
        """Wait for *check*, a bounded time."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            with contextlib.suppress(FastdlError, OSError, ValueError):
                if found := check():
                    return found
            for process in self._processes:
                if process.poll() is not None:
                    raise InternalError(f"a process ended too early: see the logs in {self.folder}")
            time.sleep(0.1)
        raise InternalError(f"{what} did not happen within {START_S:g} s: logs in {self.folder}")


def _shown(words: tuple[str, ...]) -> str:
    return " ".join(shlex.quote(word) if len(word) < 120 else word[:60] + "…" for word in words)


def _first(answer: dict[str, Any]) -> dict[str, Any]:
    """The object inside an answer, or the first of its list."""
    for value in answer.values():
        if isinstance(value, dict):
            return value
        if isinstance(value, list) and value:
            return dict(value[0])
    return answer


def _play(stage: _Stage, size: int) -> None:
    print(f"A zone on this machine, in {stage.folder}")
    stage.say("Two HTTPS mirrors whose certificates a private CA signed, and a metalink")
    metalink, digest = _mirrors(stage, size)
    stage.say("The manager, from nothing to serving")
    agents_at = _manager(stage)
    stage.say("A zone, and two hosts that enrol in it with one-time tokens")
    zone = _hosts(stage, agents_at)
    stage.say("Downloads from loopback are refused unless the operator allows them")
    stage.api(
        "update",
        "configuration",
        "name=secstorage.allowed.internal.sites",
        "value=127.0.0.0/8",
        show="{name} = {value}",
    )
    with _refused("no certificate of the hosts' keystores matches yet"):
        _register(stage, zone, metalink, quiet=True)
    stage.say("The CA's certificate to every host of the zone")
    name = f"name=demo zoneid={zone}".split()
    answer = stage.api(
        "upload",
        "templatedirectdownloadcertificate",
        "hypervisor=KVM",
        *name,
        f"certificate=@{stage.folder / 'ca.pem'}",
    )
    for host in answer["uploadtemplatedirectdownloadcertificate"]["hostsmap"]:
        print(f"     {host['hostname']}: {host['status']} {host['details']}")
        if host["status"] != "UPLOADED":
            raise InternalError(f"the certificate did not reach {host['hostname']}")
    stage.say("A direct-download template from the metalink: ready immediately")
    template = _register(stage, zone, metalink)
    stage.say("Seeded to every pool of the zone, before any VM asks")
    _seed(stage, zone, template, digest)
    stage.say("The certificate revoked everywhere: the next download has no trust")
    answer = stage.api("revoke", "templatedirectdownloadcertificate", "hypervisor=KVM", *name)
    for host in answer["directdownloadcertificatehoststatus"]:
        print(f"     {host['hostname']}: {host['status']}")
    with _refused("the hosts no longer trust the mirrors"):
        _register(stage, zone, metalink, quiet=True)
    stage.say("The template and its copies deleted")
    stage.api("--wait", "delete", "template", f"id={template}")
    left = [
        p for pool in ("pool1", "pool2") for p in (stage.folder / pool).iterdir() if p.is_file()
    ]
    if left:
        raise InternalError(f"copies were left behind: {left}")
    print("     both pools are empty\n\nEvery step did what it should.")


def _mirrors(stage: _Stage, size: int) -> tuple[str, str]:
    """Start the mirrors; return (the metalink's URL, the image's SHA-256)."""
    from fastdl.lab.certs import Authority
    from fastdl.lab.metalink import metalink

    www = stage.folder / "www"
    www.mkdir()
    image = www / "demo.qcow2"
    digest = _image(image, size)
    authority = Authority(stage.folder)
    leaf = authority.make("mirror", issuer=authority.ca)
    urls = []
    for number in (1, 2):
        port_file = stage.folder / f"mirror{number}.port"
        stage.start(
            f"mirror{number}",
            "-m",
            "fastdl.lab.origin",
            str(www),
            str(leaf.chain),
            str(leaf.key),
            str(port_file),
        )
        port = int(stage.until("the mirror's start", lambda f=port_file: f.read_text().strip()))
        urls.append(f"https://127.0.0.1:{port}/demo.qcow2")
        print(f"     mirror {number}: {urls[-1]}")
    (www / "demo.meta4").write_text(
        metalink("demo.qcow2", urls, size=image.stat().st_size, sha256=digest)
    )
    where = urls[0].replace("demo.qcow2", "demo.meta4")
    print(f"     metalink: {where}")
    return where, digest


def _image(path: Path, size: int) -> str:
    """Make a template that fills *size* bytes; return its SHA-256."""
    import hashlib

    raw = path.with_suffix(".raw")
    with raw.open("wb") as file:
        left = size
        while left > 0:
            file.write(os.urandom(min(left, 1 << 20)))
            left -= 1 << 20
    if shutil.which("qemu-img"):
        command = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(path)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        raw.unlink()
    else:
        raise InternalError("qemu-img is needed to make the demo's template: install qemu-utils")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _manager(stage: _Stage) -> str:
    """Start the manager; return the agents' address."""
    stage.start(
        "manager",
        "manager",
        "--state",
        "manager",
        "--listen",
        "127.0.0.1:0",
        "--agent-listen",
        "127.0.0.1:0",
    )

    def serves() -> str | None:
        if not stage.credentials.exists():
            return None
        for line in (stage.folder / "manager.log").read_text().splitlines():
            if line.startswith("{") and (event := json.loads(line)).get("agents"):
                return str(event["agents"])
        return None

    address: str = stage.until("the manager's start", serves)
    print(f"     credentials in {stage.credentials}")
    return address


def _hosts(stage: _Stage, agents_at: str) -> str:
    """Make a zone with two Up hosts; return its id."""
    zone: str = stage.api("create", "zone", "name=demo", show="zone {id}")["zone"]["id"]
    for number in (1, 2):
        token = stage.api("create", "hosttoken", f"zoneid={zone}", quiet=number > 1)["token"]
        (stage.folder / f"pool{number}").mkdir()
        stage.start(
            f"agent{number}",
            "agent",
            "--manager",
            f"https://{agents_at}",
            "--token",
            token,
            "--state",
            f"agent{number}",
            "--config-dir",
            f"etc{number}",
            "--name",
            f"kvm{number}",
            "--pool",
            f"pool{number}={stage.folder / f'pool{number}'}",
        )

    def both_up() -> bool:
        hosts = stage.api("list", "hosts", "state=Up", quiet=True)
        return hosts.get("count") == 2

    stage.until("the hosts' connection", both_up)
    stage.api("list", "hosts", "state=Up", show="both hosts are {state}")
    return zone


def _register(stage: _Stage, zone: str, url: str, *, quiet: bool = False) -> str:
    answer = stage.api(
        "register",
        "template",
        "name=demo",
        "format=QCOW2",
        "hypervisor=KVM",
        f"zoneid={zone}",
        "directdownload=true",
        f"url={url}",
        quiet=quiet,
        show=None if quiet else "{name}: {status}, {size} bytes",
    )
    return str(answer["template"][0]["id"])


@contextlib.contextmanager
def _refused(why: str) -> Iterator[None]:
    """Expect the manager to refuse, and show its words."""
    try:
        yield
    except FastdlError as exc:
        print(f"     refused, because {why}:\n       {exc.message[:300]}")
        return
    raise InternalError(f"a registration was accepted although {why}")


def _seed(stage: _Stage, zone: str, template: str, digest: str) -> None:
    stage.api("--wait", "prepare", "template", f"zoneid={zone}", f"templateid={template}")
    downloads = stage.api("list", "templatedownloads", f"templateid={template}")
    for row in downloads["templatedownload"]:
        found = (row.get("digests") or {}).get("sha-256")
        print(f"     {row['storagename']}: {row['state']}, integrity {row.get('integrity')}")
        if row["state"] != "DONE" or (found is not None and found != digest):
            raise InternalError(f"{row['storagename']} does not hold the template: {row}")
