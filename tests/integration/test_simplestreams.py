# SPDX-License-Identifier: Apache-2.0
"""Does a product of simplestreams arrive as its publisher's newest file, and proven?"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastdl.engine.api import fetch_sync, probe_sync
from fastdl.errors import (
    ChecksumListError,
    HttpStatusError,
    IntegrityError,
    PolicyError,
    SizeError,
    UsageError,
)
from tests.env.command import run_fastdl
from tests.env.openpgp import Publisher, publisher
from tests.env.origin import FaultOrigin, Resource, pseudo_random

CONTENT = pseudo_random(17, 2_000_000)
OLD = pseudo_random(18, 1_000_000)


def streams(*, sha256: str | None = None, size: int | None = None) -> tuple[bytes, bytes]:
    """Index and products as Ubuntu writes them."""
    name = "com.ubuntu.cloud:released:download"
    path = f"streams/v1/{name}.json"
    index = {
        "format": "index:1.0",
        "index": {
            name: {
                "datatype": "image-downloads",
                "format": "products:1.0",
                "path": path,
                "products": ["com.ubuntu.cloud:server:24.04:amd64"],
            }
        },
    }

    def items(content: bytes, path: str, digest: str | None = None) -> dict[str, object]:
        return {
            "items": {
                "disk1.img": {
                    "ftype": "disk1.img",
                    "path": path,
                    "sha256": digest or hashlib.sha256(content).hexdigest(),
                    "size": size or len(content),
                }
            }
        }

    products = {
        "format": "products:1.0",
        "products": {
            "com.ubuntu.cloud:server:24.04:amd64": {
                "os": "ubuntu",
                "release": "noble",
                "version": "24.04",
                "arch": "amd64",
                "aliases": "24.04,noble,lts",
                "versions": {
                    "20240101": items(OLD, "server/1/noble.img"),
                    "20240501": items(CONTENT, "server/2/noble.img", sha256),
                },
            }
        },
    }
    return json.dumps(index).encode(), json.dumps(products).encode()


def put(origin: FaultOrigin, index: bytes, products: bytes, suffix: str = "json") -> None:
    base = "/releases/streams/v1"
    origin.resources[f"{base}/index.{suffix}"] = Resource.of(index)
    name = f"{base}/com.ubuntu.cloud:released:download.{suffix}"
    for path in (name, name.replace(":", "%3A")):
        origin.resources[path] = Resource.of(products)


@pytest.fixture
def origin() -> Iterator[FaultOrigin]:
    with FaultOrigin(
        {
            "/releases/server/2/noble.img": Resource.of(CONTENT),
            "/releases/server/1/noble.img": Resource.of(OLD),
        }
    ) as server:
        put(server, *streams())
        yield server


@pytest.fixture(scope="module")
def gpg() -> Iterator[Publisher]:
    with publisher() as made:
        yield made


def source(origin: FaultOrigin, selector: str = "ubuntu:24.04:amd64:disk1.img") -> str:
    return f"simplestreams:{origin.url('/releases/')}#{selector}"


def test_the_newest_version_comes_proven(origin: FaultOrigin, tmp_path: Path) -> None:
    """URL, size and SHA-256 are the publisher's; an older version is named."""
    result = fetch_sync(source(origin), tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert (result.integrity, list(result.digests)) == ("strong", ["sha-256"])
    fetch_sync(source(origin, "ubuntu:noble:amd64:disk1.img@20240101"), tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == OLD
    found = probe_sync(source(origin))
    assert (found.size, found.url) == (len(CONTENT), origin.url("/releases/server/2/noble.img"))


def test_into_a_folder_it_has_the_files_name(origin: FaultOrigin, tmp_path: Path) -> None:
    """As every source has."""
    done = run_fastdl(["get", source(origin), "-o", f"{tmp_path}/"], home=tmp_path)
    assert done.code == 0, done.stderr
    assert (tmp_path / "noble.img").read_bytes() == CONTENT


def test_what_is_not_as_published_is_refused(origin: FaultOrigin, tmp_path: Path) -> None:
    """Another digest, another size, no such product, no streams there."""
    target = tmp_path / "out"
    put(origin, *streams(sha256="0" * 64))
    with pytest.raises(IntegrityError):
        fetch_sync(source(origin), target)
    put(origin, *streams(size=len(CONTENT) + 1))
    with pytest.raises(SizeError):
        fetch_sync(source(origin), target)
    put(origin, *streams())
    with pytest.raises(ChecksumListError, match="in no file of products"):
        fetch_sync(source(origin, "ubuntu:24.04:riscv64:disk1.img"), target)
    with pytest.raises(IntegrityError, match="the product give different"):
        fetch_sync(source(origin), target, checksum=f"sha-256:{'0' * 64}")
    with pytest.raises(UsageError, match="one source"):
        fetch_sync([source(origin), origin.url("/x")], target)
    origin.resources.clear()
    with pytest.raises(HttpStatusError):
        fetch_sync(source(origin), target)
    assert not target.exists()


def test_with_a_keyring_index_and_products_are_signed(
    origin: FaultOrigin, tmp_path: Path, gpg: Publisher
) -> None:
    """Ubuntu's .sjson; an unsigned one does not count."""
    (tmp_path / "keys").write_bytes(gpg.keyring("one"))
    keyring = str(tmp_path / "keys")
    with pytest.raises(HttpStatusError):
        fetch_sync(source(origin), tmp_path / "a", keyring=keyring)
    index, products = streams()
    put(origin, index, products, "sjson")
    with pytest.raises(PolicyError):
        fetch_sync(source(origin), tmp_path / "a", keyring=keyring)
    put(origin, gpg.clearsigned(index, "one"), gpg.clearsigned(products, "other"), "sjson")
    with pytest.raises(IntegrityError):
        fetch_sync(source(origin), tmp_path / "a", keyring=keyring)
    put(origin, gpg.clearsigned(index, "one"), gpg.clearsigned(products, "one"), "sjson")
    result = fetch_sync(source(origin), tmp_path / "a", keyring=keyring)
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert result.signed_by is not None
    assert result.signed_by.startswith("one <")


def test_a_product_is_compared_staged_and_retried_as_any_source(
    origin: FaultOrigin, tmp_path: Path
) -> None:
    """What it is known to be holds for the source, and not for what is made of it on the way."""
    packed = gzip.compress(CONTENT)
    index, products = streams(sha256=hashlib.sha256(packed).hexdigest(), size=len(packed))
    put(origin, index, products)
    origin.resources["/releases/server/2/noble.img"] = Resource.of(packed)
    target = tmp_path / "disk"
    target.write_bytes(b"")
    for _ in range(2):
        result = fetch_sync(source(origin), tmp_path / "kept.gz")
        assert result.integrity == "strong"
    assert result.already_present
    result = fetch_sync(source(origin), target, target_format="raw", overwrite="file")
    assert target.read_bytes() == CONTENT
    assert result.source_bytes == len(packed)
