# SPDX-License-Identifier: Apache-2.0
"""Does a host fetch objects of a store by links that the manager signs, and hold no credentials?"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fastdl.errors import ApiParamError, FastdlError
from tests.env.origin import pseudo_random
from tests.env.s3 import ACCESS, SECRET, Store, object_store
from tests.env.site import Site

CONTENT = pseudo_random(23, 4 << 20)
PATH = "/images/24.04/disk.img"
SOURCE = "s3://images/24.04/disk.img"

pytest.importorskip("botocore")


class Stored(Site):
    """A site whose manager has credentials, or none."""

    store: Store

    async def register(self, **params: Any) -> dict[str, Any]:
        """The template."""
        values = {"name": "s3", "url": SOURCE, "format": "RAW", "hypervisor": "KVM",
                  "zoneid": self.zone}  # fmt: skip
        answer = await self.api("registerTemplate", **(values | params))
        item: dict[str, Any] = answer["template"][0]
        return item

    async def configure(self, name: str, value: str) -> None:
        """Change a setting."""
        await self.api("updateConfiguration", name=f"direct.download.s3.{name}", value=value)


@pytest.fixture(params=["credentials"])
def credentials(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the manager's process inherits; the host's is started without."""
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/nonexistent")
    for name, value in (("AWS_ACCESS_KEY_ID", ACCESS), ("AWS_SECRET_ACCESS_KEY", SECRET)):
        if request.param == "credentials":
            monkeypatch.setenv(name, value)
        else:
            monkeypatch.delenv(name, raising=False)


async def started(folder: Path, store: Store) -> Stored:
    made = Stored(folder, None)  # type: ignore[arg-type]
    made.store = store
    await made.start()
    await made.configure("endpoint", store.endpoint)
    return made


@pytest.fixture
async def site(tmp_path: Path, credentials: None) -> AsyncIterator[Stored]:
    with object_store(PATH, CONTENT) as store:
        made = await started(tmp_path / "site", store)
        try:
            yield made
        finally:
            await made.end()


def written(folder: Path) -> bytes:
    """All that the manager stored or logged."""
    found = [*folder.glob("state/**/*"), *folder.glob("manager-*.log")]
    return b"".join(path.read_bytes() for path in found if path.is_file())


async def test_the_manager_signs_and_writes_no_link_down(site: Stored, tmp_path: Path) -> None:
    """Not in the ledger, nor in its log or what it lists."""
    item = await site.register()
    assert item["url"] == SOURCE
    file = await site.brought(item["id"])
    assert file.read_bytes() == CONTENT
    assert set(site.store.statuses) == {206}
    shown = [
        await site.api("listTemplates", templatefilter="all"),
        await site.api("listEvents"),
        await site.downloads(item["id"]),
    ]
    everything = written(tmp_path / "site") + repr(shown).encode()
    assert everything.count(b"s3://images") > 0
    signatures = {one.rpartition("X-Amz-Signature=")[2] for one in site.store.signatures}
    assert all(signatures)
    for secret in (SECRET, ACCESS, *signatures):
        assert secret.encode() not in everything
    hosts = site.host.folder.rglob("*")
    assert not any(SECRET.encode() in path.read_bytes() for path in hosts if path.is_file())


@pytest.mark.parametrize("credentials", ["none"], indirect=True)
async def test_without_credentials_a_public_object_comes_unsigned(site: Stored) -> None:
    """And one that is not public is refused when somebody looks."""
    with pytest.raises(FastdlError, match="403"):
        await site.register()
    site.store.open = True
    item = await site.register()
    assert (await site.brought(item["id"])).read_bytes() == CONTENT
    assert not any("X-Amz-Signature" in one for one in site.store.signatures)


async def test_an_expired_link_is_replaced_and_the_download_goes_on(
    tmp_path: Path, credentials: None
) -> None:
    """The host asks for nothing: its next attempt brings a new link."""
    with object_store(PATH, CONTENT, cut=400_000, pause=1.0) as store:
        site = await started(tmp_path / "site", store)
        try:
            await site.configure("link.lifetime", "10")
            await site.api(
                "updateConfiguration", name="direct.download.connections.per.origin", value="1"
            )
            item = await site.register()
            store.signatures.clear()
            store.statuses.clear()
            file = await site.brought(item["id"], within=120)
            assert file.read_bytes() == CONTENT
            assert 403 in store.statuses
            assert len(store.signatures) > 1
            # It was resumed: a start from the first byte would end with a dead link again.
            assert store.sent < 2 * len(CONTENT)
        finally:
            await site.end()


async def test_who_may_have_what_signed(site: Stored) -> None:
    """Else every user could read every bucket that the manager can."""
    for url in ("s3://", "s3://b", "s3://BUCKET/k.img", "s3://images/dir/"):
        with pytest.raises(ApiParamError, match="s3://BUCKET/KEY"):
            await site.register(url=url)
    await site.api("createUser", username="u", password="secret-of-u", account="a", email="u@x",
                   firstname="u", lastname="u")  # fmt: skip
    user = (await site.api("listUsers", username="u"))["user"][0]
    keys = (await site.api("registerUserKeys", id=user["id"]))["userkeys"]
    admin, own = (
        site.api.credentials,
        site.api.credentials | {"apikey": keys["apikey"], "secretkey": keys["secretkey"]},
    )
    site.api.credentials = own
    with pytest.raises(ApiParamError, match="not listed"):
        await site.register()
    site.api.credentials = admin
    await site.configure("buckets", "other, images")
    site.api.credentials = own
    assert (await site.register())["url"] == SOURCE


async def test_a_version_of_an_object_can_be_named(site: Stored) -> None:
    """The store gets its id with the signed request."""
    assert (await site.register(url=f"{SOURCE}?versionId=v1.2_x"))["url"].endswith(
        "versionId=v1.2_x"
    )
    assert all("versionId=v1.2_x" in one for one in site.store.signatures)
