# SPDX-License-Identifier: Apache-2.0
"""A template may be registered as a product of simplestreams: its file is found and fixed then."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fastdl.errors import ApiParamError, FastdlError, HttpStatusError
from fastdl.wire import codec
from fastdl.wire import messages as m
from fastdl.wire.packed import pack
from tests.env.fake_agent import ALL_KINDS, FakeAgent
from tests.env.manager import Zone
from tests.env.manager import zone as running_zone
from tests.env.openpgp import publisher
from tests.integration.test_simplestreams import CONTENT, streams

BASE = "https://cloud.example/releases/"
PRODUCT = f"simplestreams:{BASE}#ubuntu:24.04:amd64:disk1.img"
FILES = ("streams/v1/index.json", "streams/v1/com.ubuntu.cloud:released:download.json")


@pytest.fixture
async def zone(tmp_path: Path) -> AsyncIterator[Zone]:
    """A zone whose manager has a file of rules, with none in it."""
    (tmp_path / "origins.toml").write_text("")
    rules = str(tmp_path / "origins.toml")
    async with running_zone(tmp_path / "state", origins=rules) as made:
        yield made


async def serving(zone: Zone, documents: dict[str, bytes]) -> list[str]:
    """Connect a host that has *documents*; what it is asked for."""
    asked: list[str] = []

    async def work(_agent: FakeAgent, command: m.Command) -> m.Done | m.Failure:
        assert isinstance(command.args, m.DocumentsArgs)
        (url,) = command.args.transfer.sources
        asked.append(url)
        data = documents.get(url.replace("%3A", ":"))
        if data is None:
            return codec.failure_of(HttpStatusError("status 404", http_status=404))
        return m.DocumentsDone(documents=(pack(data),), public_source=True)

    await zone.agent("kvm1", kinds=ALL_KINDS, work={m.Kind.DOCUMENTS: work})
    return asked


async def test_the_newest_file_of_a_product_is_registered(zone: Zone) -> None:
    """With its URL, its SHA-256, and the version that it is."""
    await serving(zone, dict(zip((BASE + f for f in FILES), streams(), strict=True)))
    item = await zone.template("u24", url=PRODUCT)
    assert item["url"] == f"{BASE}server/2/noble.img"
    assert item["checksum"] == hashlib.sha256(CONTENT).hexdigest()
    assert item["checksumsource"] == f"{PRODUCT}@20240501"
    old = await zone.template("u24-old", url=f"{PRODUCT}@20240101")
    assert old["url"] == f"{BASE}server/1/noble.img"


@pytest.mark.parametrize(
    "url",
    [
        f"simplestreams:{BASE}",
        f"simplestreams:{BASE}#ubuntu:26.04:amd64:disk1.img",
        "simplestreams:http://127.0.0.1/#ubuntu:24.04:amd64:disk1.img",
        "simplestreams:http://169.254.169.254/#ubuntu:24.04:amd64:disk1.img",
        "simplestreams:file:///etc/#ubuntu:24.04:amd64:disk1.img",
        "simplestreams:https://elsewhere.example/#ubuntu:24.04:amd64:disk1.img",
    ],
)
async def test_what_is_no_product_is_not_registered(zone: Zone, url: str) -> None:
    """Nor looked for where no template may come from."""
    asked = await serving(zone, dict(zip((BASE + f for f in FILES), streams(), strict=True)))
    with pytest.raises(FastdlError):
        await zone.template("u24", url=url)
    assert not any("127.0.0.1" in one or "169.254" in one for one in asked)
    assert not (await zone.api("listTemplates", templatefilter="all")).get("template")


async def test_a_product_brings_its_own_checksum(zone: Zone) -> None:
    """Two would be one too many."""
    asked = await serving(zone, {})
    with pytest.raises(ApiParamError, match="brings its checksum"):
        await zone.template("u24", url=PRODUCT, checksum="{MD5}" + "0" * 32)
    assert not asked


async def test_an_origins_keyring_holds_for_products(zone: Zone, tmp_path: Path) -> None:
    """The clear-signed files are read, and nothing else."""
    index, products = streams()
    names = [(BASE + name).replace(".json", ".sjson") for name in FILES]
    with publisher() as gpg:
        (tmp_path / "keys").write_bytes(gpg.keyring("one"))
        (tmp_path / "new").write_text(f'[[origin]]\nurl = "{BASE}"\nkeyring = "{tmp_path}/keys"\n')
        (tmp_path / "new").rename(tmp_path / "origins.toml")
        documents = dict(zip(names, (index, products), strict=True))
        await serving(zone, documents)
        with pytest.raises(FastdlError, match="no signature"):
            await zone.template("u24", url=PRODUCT)
        documents[names[0]] = gpg.clearsigned(index, "one")
        documents[names[1]] = gpg.clearsigned(products, "other")
        with pytest.raises(FastdlError, match="signature"):
            await zone.template("u24", url=PRODUCT)
        documents[names[1]] = gpg.clearsigned(products, "one")
        item = await zone.template("u24", url=PRODUCT)
        assert item["signedby"].startswith("one <")
