# SPDX-License-Identifier: Apache-2.0
"""Where nothing joins two responses, does every landing take all of its bytes from one?

The origin sends no strong validator and is replaced once the response that is landed has begun:
images whose map lies behind their data, or that need several passes, must not show two versions.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
from pathlib import Path

import pytest

import fastdl
from tests.env.faults import Rule, When
from tests.env.images import run
from tests.env.origin import FaultOrigin, Resource, Version, pseudo_random

MIB = 1 << 20
CONVERTED = ("vmdk", "vhdx")
WEAK: list[dict[str, str | None]] = [
    {"etag": 'W/"1"', "last_modified": None},
    {"etag": None, "last_modified": None},
]


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk of 96 MiB, with data here and there."""
    path = tmp_path_factory.mktemp("disk") / "disk.raw"
    with path.open("wb") as file:
        for at in range(0, 96 * MIB, 24 * MIB):
            file.seek(at)
            file.write(pseudo_random(at // MIB + 1, 2 * MIB))
        file.truncate(96 * MIB)
    return path


def packed(disk: Path, kind: str, folder: Path) -> bytes:
    """The disk as an image of some kind."""
    base, _, packing = kind.partition(".")
    image = folder / "image"
    if base == "raw":
        data = disk.read_bytes()
    else:
        # Small clusters: a map of many parts, spread over the file.
        words = ["-o", "cluster_size=4096"] if base == "qcow2" else []
        run("qemu-img", "convert", "-f", "raw", "-O", base, *words, disk, image)
        data = image.read_bytes()
        image.unlink()
    return {"gz": gzip.compress, "bz2": bz2.compress, "": bytes}[packing](data)


@pytest.mark.parametrize("validators", WEAK, ids=["weak-tag", "nothing"])
@pytest.mark.parametrize("kind", ["raw", "qcow2", "raw.gz", "qcow2.gz", "vmdk", "vhdx"])
def test_an_image_is_of_one_version(
    disk: Path, tmp_path: Path, kind: str, validators: dict[str, str | None]
) -> None:
    """It is what lay there when the one response began."""
    content = packed(disk, kind, tmp_path)
    other = bytes(len(content))
    versions = [Version(content=c, **validators) for c in (content, other)]
    # A head, then the whole; once more for what a converter can read from a file alone.
    expected = 4 if kind in CONVERTED else 2
    rules = [Rule(when=When(first_nth=expected + 1), version=2)]
    target = tmp_path / "target.raw"
    with FaultOrigin({"/x": Resource(versions=versions, rules=rules)}) as origin:
        result = fastdl.fetch_sync(origin.url("/x"), target, target_format="raw")
    run("qemu-img", "compare", "-f", "raw", "-F", "raw", target, disk)
    assert (result.consistency, result.integrity) == ("response", "none")
    assert any("from one response" in warning for warning in result.warnings)


@pytest.mark.parametrize("validators", WEAK, ids=["weak-tag", "nothing"])
def test_a_large_metalink_needs_no_validator(
    tmp_path: Path, validators: dict[str, str | None]
) -> None:
    """Its document is larger than a first range, and cannot be put together from two."""
    content = pseudo_random(3, 100_000)
    with FaultOrigin({"/x": Resource.of(content)}) as origin:
        comments = "<!-- " + "c" * 60_000 + " -->\n"
        text = (
            '<metalink xmlns="urn:ietf:params:xml:ns:metalink"><file name="x">'
            f"{comments * 30}<size>{len(content)}</size><url>{origin.url('/x')}</url>"
            "</file></metalink>"
        )
        document = Version(content=text.encode(), **validators)
        origin.resources["/x.meta4"] = Resource(versions=[document])
        fastdl.fetch_sync(origin.url("/x.meta4"), tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == content


def test_what_the_certainty_rests_on(tmp_path: Path) -> None:
    """A digest before a validator, and a validator before one response."""
    content = pseudo_random(4, 3 * MIB)
    with FaultOrigin({"/x": Resource.of(content)}) as origin:
        strong = fastdl.fetch_sync(origin.url("/x"), tmp_path / "a")
        assert strong.consistency == "validator"
        assert strong.to_dict()["consistency"] == "validator"
    source = tmp_path / "a"
    local = fastdl.fetch_sync(str(source), tmp_path / "b")
    assert local.consistency == "validator"
    digest = f"sha-256:{hashlib.sha256(content).hexdigest()}"
    assert fastdl.fetch_sync(str(source), tmp_path / "c", checksum=digest).consistency == "digest"
