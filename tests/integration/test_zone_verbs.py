# SPDX-License-Identifier: Apache-2.0
"""Can an administrator run a zone with ``fastdl host``, ``template`` and ``cert`` alone?"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fastdl.lab.certs import self_signed
from tests.env.origin import FaultOrigin, Resource
from tests.env.site import CONTENT, Site


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """A manager, a host and an origin."""
    with FaultOrigin({"/x.raw": Resource.of(CONTENT)}) as origin:
        made = Site(tmp_path, origin)
        try:
            await made.start()
            yield made
        finally:
            await made.end()


async def test_templates_and_certificates(site: Site) -> None:
    """One site for all of it: starting one takes longer than what is asked of it."""
    await _to_the_pool_and_away(site)
    await _a_seed_that_fails_says_why(site)
    await _watched_until_it_is_there(site)
    await _certificates_come_and_go(site)


async def test_hosts(site: Site) -> None:
    """The host is gone at the end."""
    await _what_is_not_clear_changes_nothing(site)
    await _a_host_comes_and_goes(site)


async def _to_the_pool_and_away(site: Site) -> None:
    """Names are enough: no id is typed."""
    url = site.origin.url("/x.raw")
    done = await site.fastdl(
        "template", "register", "u24", url, "--checksum", f"sha-256:{site.sha256}"
    )
    assert done.code == 0, done.err
    (row,) = await site.shown("template", "list")
    assert done.out.strip() == row["id"]
    assert (row["name"], row["format"], row["checksum"]) == ("u24", "RAW", site.sha256)

    done = await site.fastdl("template", "seed", "u24")
    assert done.code == 0, done.err
    assert "8.0 MiB, integrity strong" in done.out
    copies = (await site.fastdl("template", "copies", "u24")).out.splitlines()
    assert copies[0].split("  ")[0] == "TEMPLATE"
    assert "Ready" in copies[1]

    assert (await site.fastdl("template", "remove", "u24")).out == "u24: removed\n"
    assert await site.shown("template", "list") == []


async def _a_seed_that_fails_says_why(site: Site) -> None:
    """Not only that a job failed."""
    url = site.origin.url("/x.raw")
    await site.fastdl("template", "register", "bad", url, "--checksum", f"sha-256:{'00' * 32}")
    done = await site.fastdl("template", "seed", "bad")
    assert done.code == 62, done
    assert "bad to " in done.out
    assert "failed" in done.out
    assert "sha-256" in done.err.lower()


async def _watched_until_it_is_there(site: Site) -> None:
    """Without waiting for the seed; the watch sees it, and the list is JSON."""
    await site.fastdl("template", "register", "slow", site.origin.url("/x.raw"))
    done = await site.fastdl("template", "seed", "slow", "--no-wait", "--urgent")
    assert done.code == 0, done.err
    assert (await site.fastdl("template", "watch", "slow")).code == 0
    ids = {row["name"]: row["id"] for row in await site.shown("template", "list")}
    downloads = await site.downloads(ids["slow"])
    assert [row["state"] for row in downloads] == ["DONE"]


async def _certificates_come_and_go(site: Site) -> None:
    """The table says what each host did."""
    done = await site.fastdl("cert", "upload", "mirror1", "-", stdin=self_signed())
    assert done.code == 0, done.err
    assert "UPLOADED" in done.out
    (cert,) = await site.shown("cert", "list")
    assert cert["alias"] == "mirror1"
    done = await site.fastdl("cert", "revoke", "mirror1", "--host", "kvm1")
    assert "REVOKED" in done.out, done
    assert "1 revoked" in (await site.fastdl("cert", "list")).out


async def _what_is_not_clear_changes_nothing(site: Site) -> None:
    """A name must mean one thing; every host is looked up before the first is touched."""
    done = await site.fastdl("host", "disable", "kvm1", "kvm2")
    assert (done.code, "there is no host kvm2" in done.err) == (2, True)
    assert "Enabled" in (await site.fastdl("host", "list")).out
    for _ in range(2):
        await site.fastdl("template", "register", "twin", site.origin.url("/x.raw"))
    done = await site.fastdl("template", "remove", "twin")
    assert done.code == 2, done
    assert "2 templates are named twin" in done.err
    await site.api("createZone", name="z2")
    done = await site.fastdl("host", "token")
    assert (done.code, "--zone" in done.err, "z1, z2" in done.err) == (2, True, True)


async def _a_host_comes_and_goes(site: Site) -> None:
    """Removing it needs the drain, or --force."""
    done = await site.fastdl("host", "token", "--cluster", "rack4", "--zone", "z1")
    assert done.out.startswith("fdl1."), done
    assert done.out.count("\n") == 1
    assert (await site.fastdl("host", "disable", "kvm1")).out == "kvm1: disabled\n"
    assert "Disabled" in (await site.fastdl("host", "list")).out
    await site.fastdl("host", "enable", "kvm1")
    refused = await site.fastdl("host", "remove", "kvm1")
    assert refused.code == 62, refused
    done = await site.fastdl("host", "drain", "kvm1", "--wait")
    assert done.out == "kvm1: in maintenance\n", done
    assert (await site.fastdl("host", "remove", "kvm1")).code == 0
    assert await site.shown("host", "list") == []
