# SPDX-License-Identifier: Apache-2.0
"""Does every line of docs/coming-from.md do what it says? The table itself is the list of tests."""

from __future__ import annotations

import hashlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.env import images, libvirtd
from tests.env.here import Here, metalink
from tests.env.loopdev import loop_device
from tests.env.openpgp import publisher
from tests.env.origin import FaultOrigin, Resource, pseudo_random
from tests.env.signers import signers

PAGE = Path(__file__).resolve().parents[2] / "docs/coming-from.md"
DISK = pseudo_random(11, 5 << 20)
OTHER = pseudo_random(12, 100_000)
SUMS = f"{hashlib.sha256(DISK).hexdigest()}  disk.img\n".encode()
CODE = re.compile(r"`([^`]*)`")


class Line(NamedTuple):
    """One row: what is typed, and what holds the bytes then."""

    command: str
    result: str


def lines() -> list[Line]:
    """The rows of the page."""
    found = []
    for row in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]
        if len(cells) == 3 and cells[1].startswith("`fastdl "):
            found.append(Line(CODE.findall(cells[1])[0].replace("\\|", "|"), cells[2]))
    return found


@pytest.fixture(scope="module")
def qcow2(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The disk as a qcow2 image."""
    folder = tmp_path_factory.mktemp("qcow2")
    raw, made = folder / "raw", folder / "qcow2"
    raw.write_bytes(DISK)
    images.run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, made)
    return made.read_bytes()


class Signed(NamedTuple):
    """What publishers sign, by the name in their folder, and a reader's keys, by file."""

    served: dict[str, bytes]
    keys: dict[str, bytes]


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Signed:
    """Signatures of the disk by every tool of the page, and of its checksum list."""
    folder = tmp_path_factory.mktemp("signers")
    minisign, ssh, x509 = (signers(kind, folder / kind) for kind in ("minisign", "ssh", "x509"))
    with publisher() as gpg:
        served = {
            "SHA256SUMS.gpg": gpg.detached(SUMS, "one"),
            "disk.img.asc": gpg.detached(DISK, "one", armored=True),
            "disk.img.minisig": minisign.sign(DISK, "one"),
            "disk.img.sig": ssh.sign(DISK, "one"),
            "disk.img.p7s": x509.sign(DISK, "one", "-outform", "DER"),
        }
        keys = {
            "publisher.gpg": gpg.keyring("one"),
            "publisher.asc": gpg.keyring("one", armored=True),
            "minisign.pub": minisign.keyring("one"),
            "signers": b"one@publisher " + ssh.keyring("one"),
            "ca.pem": x509.keyring("one"),
        }
    return Signed(served, keys)


@pytest.fixture(scope="module")
def libvirt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A libvirtd for the lines that need one; skips where there can be none."""
    with libvirtd.running(tmp_path_factory.mktemp("libvirtd")) as uri:
        connection = pytest.importorskip("libvirt").open(uri)
        yield connection
        connection.close()


@pytest.fixture
def pool(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The name of a pool in the folder ``images``."""
    name = libvirtd.new_name()
    made = request.getfixturevalue("libvirt").storagePoolCreateXML(
        f"<pool type='dir'><name>{name}</name>"
        f"<target><path>{tmp_path}/here/images</path></target></pool>"
    )
    yield name
    made.destroy()


@pytest.fixture
def servers(qcow2: bytes) -> Iterator[tuple[FaultOrigin, FaultOrigin]]:
    named = [("Content-Disposition", 'attachment; filename="named.img"')]
    with FaultOrigin() as a, FaultOrigin({"/disk.img": Resource.of(DISK)}) as b:
        a.resources |= {
            "/disk.img": Resource.of(DISK),
            "/other.img": Resource.of(OTHER),
            "/download": Resource.of(DISK, headers=named),
            "/cloud.qcow2": Resource.of(qcow2),
            "/SHA256SUMS": Resource.of(SUMS),
            "/both.meta4": metalink(
                ("disk.img", a.url("/disk.img"), DISK), ("other.img", a.url("/other.img"), OTHER)
            ),
        }
        yield a, b


def test_the_table_is_read() -> None:
    """A table that is not found would pass."""
    assert len(lines()) >= 50


@pytest.mark.parametrize("line", lines(), ids=lambda line: line.command[7:60])
def test_a_line_does_what_it_says(
    line: Line,
    tmp_path: Path,
    servers: tuple[FaultOrigin, FaultOrigin],
    qcow2: bytes,
    request: pytest.FixtureRequest,
) -> None:
    """It ends well, and the bytes are where the third column says."""
    a, b = servers
    here = Here(tmp_path)
    host = a.url("/").split("//")[1].split(":")[0]
    here.write("token", "t0ken\n")
    here.write("cookies.txt", f"{host}\tFALSE\t/\tFALSE\t0\tid\t1\n")
    here.write("list.txt", f"{a.url('/disk.img')}\n{a.url('/other.img')}\n")
    here.write("cloud.qcow2", qcow2)
    (here.path / "images").mkdir()
    here.home.mkdir()
    (here.home / ".netrc").write_text(f"machine {host} login me password secret\n")
    if re.search(r" (-c|-C -|--continue=true) ", line.command):
        here.write("disk.img", DISK[: 3 << 20])
    if " metalink create " in line.command:
        here.write("disk.img", DISK)
    if " --keyring " in line.command:
        made: Signed = request.getfixturevalue("signed")
        a.resources |= {f"/{name}": Resource.of(data) for name, data in made.served.items()}
        for name, data in made.keys.items():
            here.write(name, data)
    pool = request.getfixturevalue("pool") if line.command.startswith("fastdl vol ") else ""
    with loop_device(tmp_path, size=8 << 20) as device:
        command = line.command.partition(" | ")[0]
        for name, value in (
            ("https://a.example/", a.url("/")),
            ("https://b.example/", b.url("/")),
            ("SHA256", hashlib.sha256(DISK).hexdigest()),
            (f"{hashlib.sha256(DISK).hexdigest()}SUMS", "SHA256SUMS"),
            ("/dev/vg0/vm1", str(device.path)),
            ("vol create images", f"vol create {pool}"),
        ):
            command = command.replace(name, value)
        words = shlex.split(command)[1:]
        ended = subprocess.run(
            [sys.executable, "-m", "fastdl", *words],
            cwd=here.path,
            env={"HOME": str(here.home), "XDG_STATE_HOME": str(here.home), "PATH": "/usr/bin:/bin"},
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr.decode()
        if line.result == "stdout":
            assert ended.stdout == DISK
        if " --keyring " in line.command:
            assert b"integrity strong, signed by " in ended.stdout
        for name in CODE.findall(line.result):
            if name.endswith(".meta4"):
                assert hashlib.sha256(DISK).hexdigest() in here.read(name).decode()
                continue
            path = Path(device.path) if name.startswith("/dev/") else here.path / name
            content = OTHER if "other" in name else DISK
            assert path.read_bytes()[: len(content)] == content
            assert name.startswith("/dev/") or path.stat().st_size == len(content)
