# SPDX-License-Identifier: Apache-2.0
"""Does a template follow its product: new versions in place first, and none that must not be?

A manager and a host as processes, and nginx as the publisher, whose documents change.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fastdl.errors import ApiParamError, FastdlError
from fastdl.lab import nginx
from tests.env.origin import pseudo_random
from tests.env.process import eventually
from tests.env.site import Site

PRODUCT = "com.example:server:24.04:amd64"
PATH = "streams/v1/download.json"
SIZE = 3 << 20


class Publisher:
    """What nginx serves: an index, and one product with some versions."""

    def __init__(self, root: Path, port: int) -> None:
        self.root = root
        self.base = f"http://127.0.0.1:{port}/"
        self.source = f"simplestreams:{self.base}#example:24.04:amd64:disk.img"

    def content(self, version: str) -> bytes:
        """The image of *version*."""
        return pseudo_random(int(version), SIZE)

    def publish(self, *versions: str, wrong: str = "", folder: str = "v") -> None:
        """Offer *versions*; the digest of *wrong* is another file's. *folder*: ``slow`` is."""
        found: dict[str, Any] = {}
        for version in versions:
            path = f"{folder}/{version}/disk.img"
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            (self.root / path).write_bytes(self.content(version))
            digest = hashlib.sha256(self.content("1" if version == wrong else version))
            item = {"ftype": "disk.img", "path": path, "size": SIZE, "sha256": digest.hexdigest()}
            found[version] = {"items": {"disk.img": item}}
        product = {"os": "example", "version": "24.04", "arch": "amd64", "versions": found}
        index = {"datatype": "image-downloads", "path": PATH, "products": [PRODUCT]}
        for name, document in (
            (PATH, {"products": {PRODUCT: product}}),
            ("streams/v1/index.json", {"index": {"x": index}}),
        ):
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / f"{name}.new").write_text(json.dumps(document))
            (self.root / f"{name}.new").rename(self.root / name)


class Followed(Site):
    """A site with a template that follows."""

    publisher: Publisher

    async def follow(self, name: str = "noble", **details: str) -> str:
        """Register it; the first version's id."""
        wished = {"details[0].fastdl.follow": "true"} | {
            f"details[0].fastdl.{key}": value for key, value in details.items()
        }
        answer = await self.api.send("registerTemplate", {
            "name": name, "url": self.publisher.source, "format": "RAW", "hypervisor": "KVM",
            "zoneid": self.zone, **wished,
        })  # fmt: skip
        id_: str = answer["template"][0]["id"]
        return id_

    async def one(self) -> dict[str, Any]:
        """The one follow."""
        (row,) = (await self.api("listTemplateFollows"))["templatefollow"]
        found: dict[str, Any] = row
        return found

    async def until(self, **wanted: Any) -> dict[str, Any]:
        """Have the publisher asked, and wait for the follow to be so; an ``error`` is a part."""
        await self.api("checkTemplateFollow", id=(await self.one())["id"])

        async def check() -> dict[str, Any] | None:
            row = await self.one()
            fits = all(
                value in (row.get(key) or "") if key == "error" and value else row.get(key) == value
                for key, value in wanted.items()
            )
            return row if fits else None

        try:
            found: dict[str, Any] = await eventually(check)
        except TimeoutError:
            raise AssertionError(await self.one()) from None
        return found

    async def names(self) -> set[str]:
        """Of all templates."""
        found = await self.api("listTemplates", templatefilter="all")
        return {row["name"] for row in found.get("template", [])}

    async def in_pool(self, version: str) -> bool:
        """Whether the pool has the image of *version*, whole."""
        content = self.publisher.content(version)
        files = [path for path in self.host.pool.iterdir() if path.is_file()]
        return any(path.read_bytes() == content for path in files)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Followed]:
    if nginx.find() is None:
        pytest.skip("nginx is not installed")
    (port,) = nginx.free_ports(1)
    root = tmp_path / "www"
    root.mkdir()
    tmp_path.chmod(0o755)
    http = f"""
        access_log off;
        server {{
            listen 127.0.0.1:{port}; root {root};
            location /slow/ {{ limit_rate 256k; }}
        }}
    """
    folder = tmp_path / "nginx"
    folder.mkdir()
    with nginx.running(folder, http, listens=[("127.0.0.1", port)], main="master_process off;"):
        made = Followed(tmp_path / "site", None)  # type: ignore[arg-type]
        made.publisher = Publisher(root, port)
        made.publisher.publish("20240101")
        await made.start()
        try:
            yield made
        finally:
            await made.end()
            shutil.rmtree(root)


async def test_a_new_version_takes_the_name_once_it_is_in_place(site: Followed) -> None:
    """Where the old one is; the old ones go by the number that was said."""
    first = await site.follow(keep="1")
    assert (await site.one())["version"] == "20240101"
    await site.brought(first)
    site.publisher.publish("20240101", "20240201")
    row = await site.until(version="20240201", nextversion=None)
    assert row["templateid"] != first
    assert row["oldversions"] == ["20240101"]
    assert await site.names() == {"noble", "noble-20240101"}
    assert await site.in_pool("20240201")
    (current,) = (await site.api("listTemplates", templatefilter="all", name="noble"))["template"]
    assert current["id"] == row["templateid"]
    assert current["checksumsource"].endswith("@20240201")
    site.publisher.publish("20240301")
    row = await site.until(version="20240301")
    assert await site.names() == {"noble", "noble-20240201"}

    async def gone() -> bool:
        return not await site.in_pool("20240101")

    await eventually(gone)
    assert await site.in_pool("20240201")
    await site.api("deleteTemplateFollow", id=row["id"])
    assert not (await site.api("listTemplateFollows")).get("templatefollow")
    assert "noble" in await site.names()


async def test_what_must_not_become_current_does_not(site: Followed) -> None:
    """An older version, the same one with other bytes, wrong digests, an index that is none."""
    site.publisher.publish("20240201")
    first = await site.follow()
    await site.brought(first)
    site.publisher.publish("20240101")
    await site.until(version="20240201", error="went back to version 20240101")
    site.publisher.publish("20240201", wrong="20240201")
    await site.until(version="20240201", error="another checksum")
    (site.publisher.root / PATH).write_text("<html>")
    await site.until(version="20240201", error="not JSON")
    site.publisher.publish("20240201", "20240301", wrong="20240301")
    row = await site.until(version="20240201", nextversion="20240301", error="checksum says")
    assert (row["templateid"], await site.in_pool("20240301")) == (first, False)
    assert await site.names() == {"noble", "noble-20240301"}
    assert await site.events("TEMPLATE.FOLLOW.ERROR")
    # A newer one takes the place of one that never came.
    site.publisher.publish("20240201", "20240401")
    await site.until(version="20240401", nextversion=None, error=None)
    assert await site.names() == {"noble", "noble-20240201"}


async def test_a_killed_manager_goes_on_where_it_was(site: Followed) -> None:
    """Between registering and the end of the download; the name moves once."""
    first = await site.follow(keep="0")
    await site.brought(first)
    site.publisher.publish("20240101", "20240201", folder="slow")
    row = await site.until(nextversion="20240201")
    assert (row["version"], row["templateid"]) == ("20240101", first)
    await site.manager.end(signal.SIGKILL)
    site.api = await site.manager.start()
    again = await site.until(version="20240201")
    assert again["templateid"] == row["nexttemplateid"]
    assert await site.names() == {"noble"}
    assert await site.in_pool("20240201")
    assert len(await site.events("TEMPLATE.FOLLOW.CURRENT")) == 1


async def test_a_follow_ends_with_its_template_and_is_checked(site: Followed) -> None:
    """What cannot be followed is refused when somebody looks."""
    good = {"name": "n", "url": site.publisher.source, "format": "RAW", "hypervisor": "KVM",
            "zoneid": site.zone}  # fmt: skip
    for change in (
        {"details[0].fastdl.follow": "yes"},
        {"details[0].fastdl.keep": "1"},
        {"details[0].fastdl.follow": "true", "details[0].fastdl.keep": "-1"},
        {"details[0].fastdl.follow": "true", "url": site.publisher.source + "@20240101"},
        {"details[0].fastdl.follow": "true", "url": site.publisher.base + "v/20240101/disk.img"},
        {"details[0].fastdl.follow": "true", "name": "n" * 200},
    ):
        with pytest.raises(ApiParamError):
            await site.api.send("registerTemplate", good | change)
    assert not await site.names()
    id_ = await site.follow()
    with pytest.raises(FastdlError):
        await site.api("checkTemplateFollow", id=id_)
    await site.api("deleteTemplate", id=id_)

    async def ended() -> bool:
        return not (await site.api("listTemplateFollows")).get("templatefollow")

    await eventually(ended)
