# SPDX-License-Identifier: Apache-2.0
"""Do the commands that the page asks before anything is stored, and all the time, say the truth,
and to whom they may?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fastdl.errors import ApiParamError
from fastdl.lab.certs import self_signed
from fastdl.wire import messages as m
from tests.env.fake_agent import FakeAgent, local_pool
from tests.env.manager import Client, Zone
from tests.env.manager import zone as running_zone

SOURCE = "https://mirror.example/u24.qcow2.meta4"
MIRRORS = ("https://a.example/u24.qcow2", "https://b.example/u24.qcow2")


@pytest.fixture
async def zone(tmp_path: Path) -> AsyncIterator[Zone]:
    """A manager with a host of two pools."""
    async with running_zone(tmp_path / "manager") as made:
        await made.agent("kvm1", pools=(local_pool("p1"), local_pool("p2")))
        yield made


async def user(zone: Zone, name: str) -> Client:
    """A new user's client."""
    id_ = (await zone.api("createUser", username=name, password="a password"))["user"]["id"]
    keys = (await zone.api("registerUserKeys", id=id_))["userkeys"]
    return Client(zone.api.credentials | keys)


def sees(*, public: bool) -> Any:
    """What a host finds at a metalink."""

    async def probe(_agent: FakeAgent, command: m.Command) -> m.Done:
        assert isinstance(command.args, m.ProbeArgs)
        assert command.args.transfer.headers == (("X-Token", "t"),)
        return m.ProbeDone(
            size=2 << 20,
            virtual_size=1 << 30,
            format="qcow2",
            ranges=True,
            metalink=True,
            mirrors=MIRRORS,
            digests={"sha-256": "00" * 32},
            public_source=public,
            warnings=("b.example is slow",),
            unsafe=("it has a backing file",),
        )

    return probe


async def ask(client: Client, zone: Zone, **params: Any) -> dict[str, Any]:
    values = {"url": SOURCE, "format": "QCOW2", "zoneid": zone.id, **params}
    values |= {"details[0].HTTP_HEADER:X-Token": "t"}
    answer = await client.send("checkTemplateSource", values)
    found: dict[str, Any] = answer["templatesource"]
    return found


async def test_a_source_is_looked_at_and_nothing_is_stored(zone: Zone) -> None:
    """Size, mirrors, digests, and why downloads would be refused; with the request's headers."""
    zone.agents[0].work["probe"] = sees(public=False)
    found = await ask(zone.api, zone)
    assert (found["size"], found["virtualsize"], found["format"]) == (2 << 20, 1 << 30, "qcow2")
    assert found["mirrors"] == list(MIRRORS)
    assert found["digests"] == {"sha-256": "00" * 32}
    assert found["unsafe"] == ["it has a backing file"]
    assert found["warnings"] == ["b.example is slow"]
    assert "template" not in await zone.api("listTemplates", templatefilter="all")


@pytest.mark.parametrize("public", [True, False])
async def test_a_user_is_told_of_files_on_public_networks_only(zone: Zone, public: bool) -> None:
    """A metalink on an inner network is not read out to whoever can name it."""
    zone.agents[0].work["probe"] = sees(public=public)
    found = await ask(await user(zone, "mia"), zone)
    assert found["size"] == 2 << 20
    assert ("mirrors" in found, "digests" in found, "warnings" in found) == (public,) * 3


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"url": "http://127.0.0.1/x.qcow2"}, "Illegal host"),
        ({"url": "ftp://a.example/x.qcow2"}, "Unsupported scheme"),
        ({"url": "https://a.example/x.iso"}, "valid qcow2"),
        ({"zoneid": "0" * 8 + "-0000" * 3 + "-" + "0" * 12}, "Unable to find zone"),
    ],
)
async def test_what_registration_refuses_no_host_is_asked_about(
    zone: Zone, params: dict[str, str], sentence: str
) -> None:
    """The same rules, in the same words."""
    with pytest.raises(ApiParamError, match=sentence):
        await ask(zone.api, zone, **params)
    assert not zone.agents[0].log


async def test_downloads_of_all_templates_are_listed_at_once(zone: Zone) -> None:
    """What runs and what ended lately, each with its template's name; who may see it, sees it."""
    hold = asyncio.Event()

    async def slow(_agent: FakeAgent, command: m.Command) -> m.Done:
        args = command.args
        assert isinstance(args, m.DownloadArgs)
        if "slow" in args.transfer.sources[0]:
            await hold.wait()
        return m.DownloadDone(
            install_path=args.volume,
            virtual_size=1 << 30,
            bottleneck="network",
            mirrors=(m.MirrorReport(url=MIRRORS[0], bytes=5, requests=1),),
        )

    zone.agents[0].work["download"] = slow
    mia, noa = await user(zone, "mia"), await user(zone, "noa")
    await zone.api("updateConfiguration", name="allow.user.prepare.template", value="true")
    rows = {name: await zone.template(name) for name in ("quick", "slow", "idle")}
    values = {
        "name": "hers",
        "url": "https://mirror.example/hers.qcow2",
        "format": "QCOW2",
        "hypervisor": "KVM",
        "zoneid": zone.id,
    }
    rows["hers"] = (await mia("registerTemplate", **values))["template"][0]
    for name in ("quick", "hers"):
        await zone.api.job(
            await zone.api("prepareTemplate", zoneid=zone.id, templateid=rows[name]["id"])
        )
    await zone.api("prepareTemplate", zoneid=zone.id, templateid=rows["slow"]["id"])

    async def listed(client: Client) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        answer = await client("listTemplateDownloads")
        for row in answer.get("templatedownload", []):
            found.setdefault(row["templatename"], set()).add(row["storagename"])
        return found

    both = {"p1", "p2"}
    assert await listed(zone.api) == {"quick": both, "slow": both, "hers": both}
    assert await listed(mia) == {"hers": both}
    assert await listed(noa) == {}
    (row, *_) = (await zone.api("listTemplateDownloads", state="DONE"))["templatedownload"]
    assert row["bottleneck"] == "network"
    assert row["mirrors"][0]["url"] == MIRRORS[0]
    (row, *_) = (await mia("listTemplateDownloads"))["templatedownload"]
    assert "mirrors" not in row
    hold.set()


async def test_what_the_page_shows_of_origins_hosts_and_certificates(zone: Zone) -> None:
    """Provenance, when a certificate expires, and where agents connect."""
    await zone.template("u24")
    (row,) = (await zone.api("listTemplates", templatefilter="all"))["template"]
    assert row["validators"]["etag"] == '"v1"'
    assert row["origins"] == ["https://mirror.example:443"]
    token = await zone.api("createHostToken", zoneid=zone.id)
    assert token["agentport"] == zone.manager.server.address[1]
    answer = await zone.api(
        "uploadTemplateDirectDownloadCertificate",
        name="c",
        zoneid=zone.id,
        hypervisor="KVM",
        certificate=self_signed(days=30),
    )
    made = answer["uploadtemplatedirectdownloadcertificate"]
    assert made["expires"].startswith("20")
    assert made["expires"].endswith("+0000")
