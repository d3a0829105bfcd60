# SPDX-License-Identifier: Apache-2.0
"""``fastdl demo``: a whole zone on this machine, each step with its command line."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastdl.cli import streams
from fastdl.errors import FastdlError, InternalError

if TYPE_CHECKING:
    from fastdl.cli.demo_stage import Stage

EPILOG = """examples:
  fastdl demo
  fastdl demo --size 256M --keep

Starts two HTTPS mirrors with a private CA, a manager and two agents, all on loopback; the hosts
have a folder each as a pool, and for root a block device. Uploads the CA's certificate, registers
a direct-download template from a metalink, downloads it to every pool, verifies the copies, boots
a virtual machine from it where libvirt and QEMU are installed, revokes the certificate, and shows
that the next download is refused. Every step is printed with its command line. At the end,
however it ends, nothing is left; with --keep that is when you press Ctrl-C."""

_SEED_S = 600.0


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
    parser.add_argument("--keep", action="store_true", help="leave it running until Ctrl-C")


def run(args: argparse.Namespace) -> int:
    """Run the demo; the exit code shows whether every step succeeded."""
    from fastdl.cli.demo_stage import Stage
    from fastdl.model.units import parse_size

    size = max(parse_size(args.size), 1 << 20)
    signal.signal(signal.SIGTERM, _interrupt)
    with Stage() as stage:
        _play(stage, size, keep=args.keep)
        if args.keep:
            streams.say("\nEverything stays as it is until you press Ctrl-C.")
            with contextlib.suppress(KeyboardInterrupt):
                while True:
                    time.sleep(3600)
    return 0


def _interrupt(*_: object) -> None:
    """A request to end is one to clean up, too."""
    raise KeyboardInterrupt


def _play(stage: Stage, size: int, *, keep: bool) -> None:
    streams.say(f"A zone on this machine, in {stage.folder}")
    stage.say("Two HTTPS mirrors whose certificates a private CA signed, and a metalink")
    metalink, digest, format_ = _mirrors(stage, size)
    stage.say("The manager, from nothing to serving")
    agents_at = _manager(stage)
    stage.say("A zone, and two hosts that enrol in it with one-time tokens")
    zone, why_not = _hosts(stage, agents_at, size)
    stage.say("Downloads from loopback are refused unless the operator allows them")
    stage.api(
        "update",
        "configuration",
        "name=secstorage.allowed.internal.sites",
        "value=127.0.0.0/8",
        show="{name} = {value}",
    )
    source = (zone, metalink, format_)
    with _refused("no certificate of the hosts' keystores matches yet"):
        _register(stage, *source, quiet=True)
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
        streams.say(f"     {host['hostname']}: {host['status']} {host['details']}")
        if host["status"] != "UPLOADED":
            raise InternalError(f"the certificate did not reach {host['hostname']}")
    stage.say("A direct-download template from the metalink: ready immediately")
    template = _register(stage, *source)
    stage.say("Seeded to every pool of the zone, before any VM asks")
    _seed(stage, zone, template, digest)
    _boot(stage, zone, template, why_not)
    stage.say("The certificate revoked everywhere: the next download has no trust")
    answer = stage.api("revoke", "templatedirectdownloadcertificate", "hypervisor=KVM", *name)
    for host in answer["directdownloadcertificatehoststatus"]:
        streams.say(f"     {host['hostname']}: {host['status']}")
    with _refused("the hosts no longer trust the mirrors"):
        _register(stage, *source, quiet=True)
    if not keep:
        stage.say("The machine, the template and its copies deleted")
        stage.machines.close()
        _delete(stage, template)
    streams.say("\nEvery step did what it should.")
    if keep:
        _show_page(stage)


def _mirrors(stage: Stage, size: int) -> tuple[str, str, str]:
    """Start the mirrors; return (the metalink's URL, the image's SHA-256, its format)."""
    from fastdl.lab.certs import Authority
    from fastdl.lab.metalink import metalink

    www = stage.folder / "www"
    www.mkdir()
    image, digest, format_ = _image(www, size)
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
        port = int(stage.until("the mirror's start", partial(_read, port_file)))
        urls.append(f"https://127.0.0.1:{port}/{image.name}")
        streams.say(f"     mirror {number}: {urls[-1]}")
    (www / "demo.meta4").write_text(
        metalink(image.name, urls, size=image.stat().st_size, sha256=digest)
    )
    where = urls[0].replace(image.name, "demo.meta4")
    streams.say(f"     metalink: {where}")
    return where, digest, format_


def _read(file: Path) -> str:
    return file.read_text().strip()


def _image(www: Path, size: int) -> tuple[Path, str, str]:
    """Make a template of *size* bytes that boots; return (its file, SHA-256, its format)."""
    import hashlib

    from fastdl.cli.demo_machine import LINE
    from fastdl.lab import guest

    image = raw = www / "demo.raw"
    with raw.open("wb") as file:
        file.write(guest.sector(LINE))
        left = size - guest.SECTOR
        while left > 0:
            left -= file.write(os.urandom(min(left, 1 << 20)))
    if shutil.which("qemu-img"):
        image = www / "demo.qcow2"
        command = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(image)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        raw.unlink()
    with image.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return image, digest, image.suffix[1:].upper()


def _manager(stage: Stage) -> str:
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
    streams.say(f"     credentials in {stage.credentials}")
    return address


def _hosts(stage: Stage, agents_at: str, size: int) -> tuple[str, str]:
    """Make a zone with two Up hosts; return (its id, why no machine can run on them)."""
    from fastdl.cli.demo_machine import block_device, libvirtd

    why_not = libvirtd(stage)
    device, no_device = block_device(stage, size + (1 << 20))
    zone: str = stage.api("create", "zone", "name=demo", show="zone {id}")["zone"]["id"]
    for number in (1, 2):
        token = stage.api("create", "hosttoken", f"zoneid={zone}", quiet=number > 1)["token"]
        folder = stage.pools / f"pool{number}"
        folder.mkdir()
        pools = ["--pool", f"pool{number}={folder}"]
        if number == 2 and device is not None:
            pools += ["--pool", f"device={device}"]
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
            *pools,
        )
    if device is None:
        streams.say(f"     no pool on a block device: {no_device}")

    def both_up() -> bool:
        hosts = stage.api("list", "hosts", "state=Up", quiet=True)
        return bool(hosts.get("count") == 2)

    stage.until("the hosts' connection", both_up)
    stage.api("list", "hosts", "state=Up", show="both hosts are {state}")
    return zone, why_not


def _register(stage: Stage, zone: str, url: str, format_: str, *, quiet: bool = False) -> str:
    answer = stage.api(
        "register",
        "template",
        "name=demo",
        f"format={format_}",
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
        streams.say(f"     refused, because {why}:\n       {exc.message[:300]}")
        return
    raise InternalError(f"a registration was accepted although {why}")


def _seed(stage: Stage, zone: str, template: str, digest: str) -> None:
    """Download to every pool, showing the progress of each."""
    stage.api("prepare", "template", f"zoneid={zone}", f"templateid={template}")
    stage.api("list", "templatedownloads", f"templateid={template}")
    shown: dict[str, str] = {}

    def finished() -> list[dict[str, Any]] | None:
        answer = stage.api("list", "templatedownloads", f"templateid={template}", quiet=True)
        rows: list[dict[str, Any]] = answer.get("templatedownload", [])
        for row in rows:
            line = f"{row['storagename']}: {row['state']} {row.get('percent', 0)} %"
            if shown.get(row["storageid"]) != line:
                shown[row["storageid"]] = line
                streams.say(f"     {line}")
        return rows if rows and all(row["state"] in {"DONE", "FAILED"} for row in rows) else None

    for row in stage.until("the downloads' end", finished, within=_SEED_S):
        found = (row.get("digests") or {}).get("sha-256")
        streams.say(
            f"     {row['storagename']}: on {row.get('hostname')}, integrity {row['integrity']}"
        )
        if row["state"] != "DONE" or (found is not None and found != digest):
            raise InternalError(f"{row['storagename']} does not hold the template: {row}")


def _boot(stage: Stage, zone: str, template: str, why_not: str) -> None:
    from fastdl.cli.demo_machine import deploy

    if why_not:
        streams.say(f"\n   (no virtual machine is deployed: {why_not})")
        return
    stage.say("A virtual machine from the template, and what its guest writes")
    deploy(stage, zone, template)


def _delete(stage: Stage, template: str) -> None:
    stage.api("--wait", "delete", "template", f"id={template}")
    left = [
        path
        for pool in ("pool1", "pool2")
        for path in (stage.pools / pool).iterdir()
        if path.is_file()
    ]
    if left:
        raise InternalError(f"copies were left behind: {left}")
    streams.say("     the pools are empty")


def _show_page(stage: Stage) -> None:
    from fastdl.cli.api_client import read_credentials

    url = read_credentials(stage.credentials)["url"].removesuffix("client/api")
    streams.say(f'The page: {url} (admin; the password is "password" in {stage.credentials})')
