# SPDX-License-Identifier: Apache-2.0
"""Is a product's newest file found as its publisher means it, and below the publisher's URL?"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastdl.errors import ChecksumListError, FastdlError, UsageError
from fastdl.publishers.simplestreams import find_item, index_url, parse_source, product_files

BASE = "simplestreams:https://cloud.example/releases"
A, B = "a" * 64, "b" * 64


def item(path: str = "r/24.04/x.img", sha256: str = A, **more: Any) -> dict[str, Any]:
    return {"ftype": "disk1.img", "path": path, "sha256": sha256, "size": 7, **more}


def products(**versions: Any) -> dict[str, Any]:
    """As Ubuntu's released images."""
    common = {"os": "ubuntu", "release": "noble", "version": "24.04", "aliases": "24.04,lts,noble"}
    versions = versions or {"20240101": {"items": {"disk1.img": item()}}}
    return {
        "products": {
            "com.ubuntu.cloud:server:24.04:amd64": {
                **common,
                "arch": "amd64",
                "versions": versions,
            },
            "com.ubuntu.cloud:server:24.04:arm64": {
                **common,
                "arch": "arm64",
                "versions": versions,
            },
        }
    }


def find(selector: str, plain: Any) -> Any:
    return find_item(json.dumps(plain).encode(), parse_source(f"{BASE}#{selector}"))


@pytest.mark.parametrize(
    "selector",
    [
        "ubuntu:24.04:amd64:disk1.img",
        "Ubuntu:noble:amd64:disk1.img",
        "ubuntu:lts:amd64:disk1.img",
        "com.ubuntu.cloud:server:24.04:amd64:disk1.img",
        "ubuntu:24.04:amd64:disk1.img@20240101",
    ],
)
def test_a_product_has_many_names(selector: str) -> None:
    """Its own, its number, its code name, an alias."""
    found = find(selector, products())
    assert str(found.url) == "https://cloud.example/releases/r/24.04/x.img"
    assert (str(found.digest), found.size) == (f"sha-256:{A}", 7)
    assert found.version == "20240101"


def test_the_newest_version_that_has_the_file_counts() -> None:
    """Publishers add a version before all its files are there."""
    plain = products(
        **{
            "20240101": {"items": {"disk1.img": item(sha256=B)}},
            "20240301": {"items": {"root": item()}},
            "20240201": {"items": {"x": item(ftype="disk1.img")}},
        }
    )
    plain["products"]["com.ubuntu.cloud:server:24.04:amd64"]["versions"]["20240301"]["items"][
        "root"
    ]["ftype"] = "root.tar"
    assert find("ubuntu:24.04:amd64:disk1.img", plain).version == "20240201"
    assert find("ubuntu:24.04:amd64:disk1.img@20240101", plain).digest.hex == B
    assert find("ubuntu:24.04:amd64:disk1.img@1", plain) is None
    assert find("ubuntu:24.04:s390x:disk1.img", plain) is None


def test_several_products_are_an_error() -> None:
    """linuxcontainers.org has variants, which are part of a product's own name."""
    plain = products()
    table = plain["products"]
    table["ubuntu:24.04:amd64:cloud"] = table["com.ubuntu.cloud:server:24.04:amd64"]
    with pytest.raises(ChecksumListError, match="fits 2 products"):
        find("ubuntu:24.04:amd64:disk1.img", plain)
    assert find("ubuntu:24.04:amd64:cloud:disk1.img", plain).product.endswith(":cloud")


@pytest.mark.parametrize(
    "bad",
    [
        {"path": "../../x"},
        {"path": "/x"},
        {"path": "https://evil.example/x"},
        {"path": "//evil.example/x"},
        {"path": "a//b"},
        {"path": "x?y"},
        {"path": 7},
        {"sha256": None},
        {"sha256": "zz"},
        {"sha256": None, "md5": "0" * 32},
        {"size": -1},
        {"size": "7"},
    ],
)
def test_an_item_that_cannot_be_used_is_refused(bad: dict[str, Any]) -> None:
    """It names nothing outside, and MD5 is no proof."""
    with pytest.raises(ChecksumListError):
        find(
            "ubuntu:24.04:amd64:disk1.img",
            products(**{"1": {"items": {"disk1.img": {**item(), **bad}}}}),
        )


def test_the_index_names_files_of_products() -> None:
    """Only those of images, and below its own URL."""
    product = parse_source(f"{BASE}#ubuntu:24.04:amd64:disk1.img")
    assert str(index_url(product, signed=True)) == (
        "https://cloud.example/releases/streams/v1/index.sjson"
    )
    index = {
        "index": {
            "download": {"datatype": "image-downloads", "path": "streams/v1/d.json"},
            "aws": {"datatype": "image-ids", "path": "streams/v1/aws.json"},
            "odd": {"datatype": "image-downloads", "path": 7},
            "none": None,
        }
    }
    data = json.dumps(index).encode()
    for signed, name in ((False, "d.json"), (True, "d.sjson")):
        (url,) = product_files(data, product, signed=signed)
        assert str(url) == f"https://cloud.example/releases/streams/v1/{name}"
    with pytest.raises(ChecksumListError):
        product_files(b'{"index": {}}', product, signed=False)
    evil = json.dumps({"index": {"x": {"path": "../../../etc"}}}).encode()
    with pytest.raises(ChecksumListError):
        product_files(evil, product, signed=False)


@pytest.mark.parametrize(
    "source",
    [
        "simplestreams:https://a.example/",
        "simplestreams:https://a.example/#x",
        "simplestreams:https://a.example/#a::b:c",
        "simplestreams:https://a.example/#a:b:c:d@",
        "simplestreams:/path#a:b:c:d",
        "simplestreams:https://a.example/?q#a:b:c:d",
    ],
)
def test_what_is_no_product_is_a_mistake_of_the_caller(source: str) -> None:
    """With how one is written."""
    with pytest.raises(UsageError):
        parse_source(source)


@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.integers() | st.text(max_size=5) | st.sampled_from(["disk1.img", "ubuntu"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["products", "index", "versions", "items", "path", "os", "arch"]),
                inner,
            )
        ),
    ).map(lambda plain: json.dumps(plain).encode())
)
def test_any_bytes_are_products_or_one_error_class(data: bytes) -> None:
    """Nothing but its own class of error leaves the reader."""
    product = parse_source(f"{BASE}#products:x:amd64:disk1.img")
    for read in (find_item, lambda d, p: product_files(d, p, signed=False)):
        try:
            read(data, product)
        except ChecksumListError:
            continue
        except FastdlError as exc:
            raise AssertionError("an error of another class") from exc
