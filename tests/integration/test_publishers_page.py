# SPDX-License-Identifier: Apache-2.0
"""Does every command of docs/publishers.md do what the page says? The page is the list of tests."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from fastdl.publishers.s3 import Signing, signed_url
from tests.env.here import Here, metalink
from tests.env.openpgp import Publisher, publisher
from tests.env.origin import FaultOrigin, Resource, pseudo_random
from tests.env.s3 import ACCESS, SECRET, Store, object_store
from tests.env.signers import signers
from tests.env.site import Site

PAGE = (Path(__file__).resolve().parents[2] / "docs/publishers.md").read_text()
DISK = pseudo_random(51, 2_000_000)
SHA256 = hashlib.sha256(DISK).hexdigest()
SUMS = f"{SHA256} *disk.img\n{SHA256} *disk-build42.img\n".encode()
HOSTS = ("cloud.example", "cloud-images.ubuntu.com", "images.linuxcontainers.org")
"""Of the page; here each is a folder of one origin."""
OBJECT = "s3://images/24.04/disk.img"

pytest.importorskip("botocore")


class Command(NamedTuple):
    """One command of the page, and the heading that it is under."""

    section: str
    line: str


def commands() -> list[Command]:
    """All that the console blocks of the page tell the reader to type."""
    found = []
    for part in re.split(r"^##+ ", PAGE, flags=re.MULTILINE)[1:]:
        section = part.splitlines()[0]
        blocks = "\n".join(re.findall(r"```console\n(.*?)```", part, re.DOTALL))
        lines = blocks.replace("\\\n", " ").splitlines()
        found += [Command(section, line.removeprefix("$ ")) for line in lines if line]
    return found


DOWNLOADS = [c for c in commands() if not c.line.startswith("fastdl api ")]
CALLS = [c for c in commands() if c.line.startswith("fastdl api ")]


def streams(folder: str, product: str, *, item: str, **fields: str) -> dict[str, bytes]:
    """The files below *folder* of a publisher with one product, of one version."""
    path = "streams/v1/images.json"
    entry = {"ftype": item, "path": "24.04/disk.img", "sha256": SHA256, "size": len(DISK)}
    index = {"datatype": "image-downloads", "format": "products:1.0", "path": path}
    versions = {"20240423": {"items": {item: entry}}}
    return {
        f"{folder}/streams/v1/index.json": json.dumps(
            {"format": "index:1.0", "index": {"images": {**index, "products": [product]}}}
        ).encode(),
        f"{folder}/{path}": json.dumps(
            {"format": "products:1.0", "products": {product: {**fields, "versions": versions}}}
        ).encode(),
        f"{folder}/24.04/disk.img": DISK,
    }


@pytest.fixture(scope="module")
def gpg() -> Iterator[Publisher]:
    with publisher() as made:
        yield made


@pytest.fixture(scope="module")
def published(gpg: Publisher, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What the publishers of the page have, by path, and a reader's keyrings, by name."""
    minisign = signers("minisign", tmp_path_factory.mktemp("minisign"))
    cloud, ubuntu, lxc = (f"/{host}" for host in HOSTS)
    return {
        f"{cloud}/24.04/disk.img": DISK,
        f"{cloud}/24.04/disk.img.minisig": minisign.sign(DISK, "one"),
        f"{cloud}/24.04/SHA256SUMS": SUMS,
        f"{cloud}/24.04/SHA256SUMS.gpg": gpg.detached(SUMS, "one"),
        f"{cloud}/current/disk.img": DISK,
        f"{cloud}/current/SHA256SUMS": SUMS,
        **streams(
            f"{ubuntu}/releases", "com.ubuntu.cloud:server:24.04:amd64", item="disk1.img",
            os="ubuntu", release="noble", version="24.04", arch="amd64", aliases="24.04,noble,lts",
        ),
        **streams(
            lxc, "debian:trixie:amd64:cloud", item="disk.qcow2",
            os="Debian", release="trixie", arch="amd64", variant="cloud", aliases="debian/trixie",
        ),
        "publisher.gpg": gpg.keyring("one"),
        "publisher.asc": gpg.keyring("one", armored=True),
        "publisher.pub": minisign.keyring("one"),
    }  # fmt: skip


@pytest.fixture
def origin(published: dict[str, bytes], gpg: Publisher) -> Iterator[FaultOrigin]:
    with FaultOrigin() as made:
        for path, data in published.items():
            if path.startswith("/"):
                made.resources[path] = Resource.of(data)
        document = metalink(("disk.img", made.url(f"/{HOSTS[0]}/24.04/disk.img"), DISK))
        made.resources[f"/{HOSTS[0]}/disk.img.meta4"] = document
        signature = gpg.detached(document.versions[0].content, "one")
        made.resources[f"/{HOSTS[0]}/disk.img.meta4.sig"] = Resource.of(signature)
        yield made


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """An object store, and its credentials where AWS tools look first."""
    with object_store(OBJECT.removeprefix("s3:/"), DISK) as made:
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        for name, value in (
            ("AWS_EC2_METADATA_DISABLED", "true"),
            ("AWS_CONFIG_FILE", "/nonexistent"),
            ("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent"),
            ("AWS_ACCESS_KEY_ID", ACCESS),
            ("AWS_SECRET_ACCESS_KEY", SECRET),
            ("AWS_ENDPOINT_URL", made.endpoint),
        ):
            monkeypatch.setenv(name, value)
        yield made


def here_and_now(line: str, origin: FaultOrigin, store: Store, keys: Path) -> list[str]:
    """The words of *line*, with this machine's servers and keys for the page's."""
    for host in HOSTS:
        line = line.replace(f"https://{host}", origin.url(f"/{host}"))
    for before, after in (
        ("https://minio.lan:9000", store.endpoint),
        ("/usr/share/keyrings/", f"{keys}/"),
        ("sha-256:HEX", f"sha-256:{SHA256}"),
        ("{SHA-256}…", "{SHA-256}" + SHA256),
    ):
        line = line.replace(before, after)
    return shlex.split(line)


def test_the_page_is_read() -> None:
    """A page whose commands are not found would pass."""
    assert len(DOWNLOADS) >= 13
    assert len(CALLS) >= 6
    assert all(c.line.startswith("fastdl ") for c in commands())


@pytest.mark.parametrize("command", DOWNLOADS, ids=lambda c: c.line[7:90])
def test_a_download(
    command: Command,
    tmp_path: Path,
    origin: FaultOrigin,
    store: Store,
    published: dict[str, bytes],
) -> None:
    """It ends well, with the bytes where it says; with a keyring they are proven and signed."""
    here = Here(tmp_path)
    here.write("SHA256SUMS", SUMS)
    for name, data in published.items():
        if not name.startswith("/"):
            here.write(name, data)
    link = signed_url(OBJECT, Signing(endpoint=store.endpoint))
    hook = f'#!/bin/sh\n[ "$*" = "--for 10m {OBJECT}" ] && echo "{link}"\n'
    here.write("sign-object", hook).chmod(0o755)
    words = here_and_now(command.line, origin, store, here.path)
    ended = subprocess.run(
        [sys.executable, "-m", "fastdl", *words[1:]],
        cwd=here.path,
        env=os.environ
        | {"HOME": str(here.home), "XDG_STATE_HOME": str(here.home)}
        | {"PATH": f"{here.path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    if words[1] == "probe":
        assert SHA256 in ended.stdout
        return
    assert here.read(words[words.index("-o") + 1]) == DISK
    if "--keyring" in words:
        assert "integrity strong, signed by " in ended.stdout


@pytest.fixture
async def site(tmp_path: Path, origin: FaultOrigin, store: Store) -> AsyncIterator[Site]:
    """A manager and a host; the manager has the store's credentials."""
    made = Site(tmp_path / "site", origin)
    try:
        await made.start()
        yield made
    finally:
        await made.end()


async def test_the_calls_of_the_api(site: Site, store: Store, tmp_path: Path) -> None:
    """In the order of the page: one site for all of them, which takes longer to start than they."""
    follow = ""
    for command in CALLS:
        words = here_and_now(command.line, site.origin, store, tmp_path)
        words = [w.replace("zoneid=…", f"zoneid={site.zone}") for w in words]
        words = [w.replace("id=…", f"id={follow}") if w == "id=…" else w for w in words]
        done = await site.fastdl(*words[1:])
        assert done.code == 0, (command.line, done.err)
        if "register" in words and "checksum=" not in command.line:
            assert f"{HOSTS[1]}/releases/24.04/disk.img" in done.out
        if "register" in words:
            assert SHA256 in done.out
        if "templatefollows" in words:
            follow = json.loads(done.out)["templatefollow"][0]["id"]
    assert follow
