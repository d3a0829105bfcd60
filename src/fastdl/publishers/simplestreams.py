# SPDX-License-Identifier: Apache-2.0
"""Which file is a product's newest image? Simplestreams, as Ubuntu and linuxcontainers.org publish.

A source is ``simplestreams:BASE#OS:RELEASE:ARCH:ITEM``, or ``…#PRODUCT:ITEM`` with a product's own
name, and ``@VERSION`` after either. ``BASE/streams/v1/index.json`` names files of products.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from fastdl.errors import ChecksumListError, FastdlError, LimitError, UsageError
from fastdl.model.digest import Digest
from fastdl.model.units import MAX_SIZE
from fastdl.model.url import Url

SCHEME: Final = "simplestreams:"
INDEX: Final = "streams/v1/index.json"
MAX_DOCUMENT: Final = 16 << 20
MAX_FILES: Final = 8
_PATH: Final = re.compile(r"[A-Za-z0-9][^\x00-\x20\x7f\\?#]*", re.ASCII)
_SHOWN: Final = 5


class Product(NamedTuple):
    """A parsed source: *words* name the product; *version* None is the newest."""

    base: Url
    words: tuple[str, ...]
    item: str
    version: str | None

    def __str__(self) -> str:
        return ":".join((*self.words, self.item))


class Item(NamedTuple):
    """A file: its *url*, its *size* in bytes if known, and its *version*."""

    url: Url
    digest: Digest
    size: int | None
    product: str
    version: str


def is_product(source: str) -> bool:
    """Whether a source is a simplestreams product."""
    return source[: len(SCHEME)].lower() == SCHEME


def parse_source(source: str) -> Product:
    """Parse *source*; UsageError if it is not a product."""
    place, hash_, selector = source[len(SCHEME) :].partition("#")
    selector, at, version = selector.partition("@")
    words = tuple(selector.split(":"))
    base = Url.parse(place)
    if not hash_ or len(words) < 2 or not all(words) or (at and not version):
        raise UsageError(
            "a product is simplestreams:https://HOST/PATH#OS:RELEASE:ARCH:ITEM, with @VERSION for "
            "another one than the newest"
        )
    if not base.is_http or base.query is not None:
        raise UsageError("the products of simplestreams are at an http or https URL")
    folder = base.path if base.path.endswith("/") else base.path + "/"
    return Product(base._replace(path=folder), words[:-1], words[-1], version or None)


def index_url(product: Product, *, signed: bool) -> Url:
    """Location of the index; *signed*: of the clear-signed one."""
    return _at(product.base, INDEX, signed=signed)


def product_files(data: bytes, product: Product, *, signed: bool) -> tuple[Url, ...]:
    """The files that may contain *product*, from the index *data*; ChecksumListError for none."""
    index = _table(_read(data), "index")
    found = []
    for entry in index.values():
        if not isinstance(entry, dict) or entry.get("datatype", "image-downloads") != (
            "image-downloads"
        ):
            continue
        names = entry.get("products")
        if isinstance(names, list) and names and not _may_hold(names, product):
            continue
        if isinstance(path := entry.get("path"), str):
            found.append(_at(product.base, path, signed=signed))
    if not found:
        raise _fail(f"the index has no images of {_shown(str(product))}")
    return tuple(dict.fromkeys(found))[:MAX_FILES]


def find_item(data: bytes, product: Product) -> Item | None:
    """The wanted file of *product*, from a file of products; None if it is not there.

    ChecksumListError: several products fit, or the file has no strong digest.
    """
    products = _table(_read(data), "products")
    exact = ":".join(product.words)
    named = (
        [exact]
        if exact in products
        else [
            name for name, one in products.items() if isinstance(one, dict) and _fits(one, product)
        ]
    )
    if len(named) > 1:
        some = ", ".join(_shown(name) for name in sorted(named)[:_SHOWN])
        raise _fail(f"{_shown(str(product))} fits {len(named)} products: name one of {some}")
    for name in named:
        versions = _table(products[name], "versions")
        for version in sorted(versions, reverse=True):
            if product.version not in (None, version) or not isinstance(versions[version], dict):
                continue
            for key, item in _items(versions[version]):
                if product.item in (key, item.get("ftype")):
                    return _item(item, product, name, version)
    return None


def _may_hold(names: list[Any], product: Product) -> bool:
    """Whether a file may contain the product; names show no aliases, so in doubt yes."""
    exact = ":".join(product.words)
    return exact in names or len(product.words) == 3


def _fits(one: Mapping[str, Any], product: Product) -> bool:
    """Whether a product is the one of an OS, a release (its name, number or alias) and an arch."""
    if len(product.words) != 3:
        return False
    system, release, arch = (word.lower() for word in product.words)
    releases = {str(one.get(key, "")).lower() for key in ("release", "version", "release_title")}
    releases |= {alias.strip().lower() for alias in str(one.get("aliases", "")).split(",")}
    return (
        str(one.get("os", "")).lower() == system
        and str(one.get("arch", "")).lower() == arch
        and release in releases
    )


def _items(version: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    items = version.get("items")
    if isinstance(items, dict):
        yield from ((key, item) for key, item in sorted(items.items()) if isinstance(item, dict))


def _item(item: Mapping[str, Any], product: Product, name: str, version: str) -> Item:
    path, size = item.get("path"), item.get("size")
    digests = [item.get("sha512"), item.get("sha256")]
    algorithm = "sha-512" if digests[0] else "sha-256"
    text = digests[0] or digests[1]
    if not isinstance(path, str) or not isinstance(text, str):
        raise _fail(f"{_shown(name)} {_shown(version)} has no path or no SHA-256")
    if size is not None and (type(size) is not int or not 0 < size <= MAX_SIZE):
        raise _fail(f"{_shown(name)} {_shown(version)} has a size that is none")
    try:
        digest = Digest(algorithm, text)
    except UsageError as exc:
        raise _fail(f"{_shown(name)} {_shown(version)}: {exc.message}") from None
    return Item(_at(product.base, path, signed=False), digest, size, name, version)


def _at(base: Url, path: str, *, signed: bool) -> Url:
    """*path* below *base*; ChecksumListError for one that leads elsewhere."""
    if _PATH.fullmatch(path) is None or ".." in path.split("/") or "//" in path:
        raise _fail(f"{_shown(path)} is not a path below {base.display()}")
    if signed and path.endswith(".json"):
        path = path[: -len(".json")] + ".sjson"
    try:
        url = base.join(path.replace(":", "%3A") if ":" in path.partition("/")[0] else path)
    except FastdlError as exc:
        raise _fail(f"{_shown(path)}: {exc.message}") from None
    if url.origin != base.origin or not url.path.startswith(base.path):
        raise _fail(f"{_shown(path)} is not a path below {base.display()}")
    return url


def _read(data: bytes) -> Mapping[str, Any]:
    if len(data) > MAX_DOCUMENT:
        raise LimitError(f"a file of products has at most {MAX_DOCUMENT >> 20} MiB")
    try:
        plain = json.loads(data)
    except (ValueError, RecursionError):
        raise _fail("what came is no file of simplestreams: it is not JSON") from None
    if not isinstance(plain, dict):
        raise _fail("what came is no file of simplestreams")
    return plain


def _table(plain: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = plain.get(key)
    if not isinstance(found, dict):
        raise _fail(f"what came is no file of simplestreams: it has no {key}")
    return found


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 80 else text[:80] + "...")


def _fail(message: str) -> ChecksumListError:
    return ChecksumListError(message, phase="resolve")
