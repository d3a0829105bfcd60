# SPDX-License-Identifier: Apache-2.0
"""Does one host's list of pieces help the next one, and can it do no harm? With real hosts."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fastdl.lab.metalink import metalink_of
from fastdl.wire import messages as m
from fastdl.wire.pieces import packed
from tests.env.fake_agent import FakeAgent, local_pool
from tests.env.origin import FaultOrigin, Resource, pseudo_random
from tests.env.process import AgentProcess, eventually
from tests.env.site import Site

PIECE = 1 << 20
CONTENT = pseudo_random(47, 36 * PIECE + 4711)
COUNT = 37


class Hosts(Site):
    """A site with two hosts, each with a pool of its own."""

    other: AgentProcess

    async def start(self, *more: str, pools: bool = True, through: str = "") -> None:
        """Start all of it."""
        await super().start(*more, pools=pools, through=through)
        self.other = AgentProcess(self.manager.state.parent, "kvm2", self.manager)
        await self.other.start(await self.token())

        async def both() -> bool:
            return len(await self.pools()) == 2

        await eventually(both)

    async def token(self) -> str:
        """A token for one more host."""
        token: str = (await self.api("createHostToken", zoneid=self.zone))["token"]
        return token

    async def end(self) -> None:
        """End all of it."""
        await self.other.end(signal.SIGKILL)
        await super().end()

    async def pool(self, host: str) -> str:
        """The id of the pool of the host with this name."""
        (found,) = [p["id"] for p in await self.pools() if p["name"] == f"{host}-pool"]
        assert isinstance(found, str)
        return found

    async def bring(self, template: str, host: AgentProcess) -> dict[str, Any]:
        """Bring the template to *host*, where its bytes are right; the row of the download."""
        pool = await self.pool(host.name)
        job = await self.api.job(await self.prepare_at(template, pool), within=60)
        assert job["jobstatus"] == 1, job
        (copy,) = [c for c in await self.copies(templateid=template) if c["storageid"] == pool]
        assert (host.pool / copy["installpath"]).read_bytes() == CONTENT
        (row,) = [d for d in await self.downloads(template) if d["storageid"] == pool]
        return row

    async def of_metalink(self) -> str:
        """Register the metalink as a template; its id."""
        answer = await self.api(
            "registerTemplate", name="t2", url=self.origin.url("/x.meta4"), format="RAW",
            hypervisor="KVM", zoneid=self.zone, directdownload="true",
            checksum="{SHA-256}" + self.sha256,
        )  # fmt: skip
        id_: str = answer["template"][0]["id"]
        return id_


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Hosts]:
    resources = {"/x.raw": Resource.of(CONTENT), "/y.raw": Resource.of(CONTENT)}
    with FaultOrigin(resources) as origin:
        mirrors = [origin.url("/y.raw"), origin.url("/x.raw")]
        document = metalink_of(CONTENT, mirrors).encode()
        origin.resources["/x.meta4"] = Resource.of(document)
        made = Hosts(tmp_path / "site", origin, CONTENT)
        await made.start()
        try:
            yield made
        finally:
            await made.end()


async def test_the_next_host_knows_which_mirror_is_wrong(site: Hosts) -> None:
    """With the digest of the whole alone, it would have fetched all of it from each in turn."""
    template = await site.of_metalink()
    await site.bring(template, site.host)
    site.origin.resources["/y.raw"] = Resource.of(pseudo_random(48, len(CONTENT)))
    before = site.origin.sent
    row = await site.bring(template, site.other)
    assert site.origin.sent - before < 1.6 * len(CONTENT)
    mirrors = {x["url"].rpartition("/")[2]: x for x in row["mirrors"]}
    wrong = mirrors["y.raw"]
    assert wrong["state"] == "disqualified" or wrong["bytes"] == 0, mirrors


async def test_a_host_with_a_wrong_list_of_pieces_costs_time_only(site: Hosts) -> None:
    """The next host finds out, and its list is what the others get."""
    template = await site.template()
    host, _, port = site.manager.agents.rpartition(":")
    bad = FakeAgent(
        address=(host, int(port)),
        name="kvm9",
        pools=(local_pool("kvm9-pool"),),
        kinds=("download", "remove", "certificates"),
    )

    sent: list[m.PiecesFound] = []

    async def lie(_agent: FakeAgent, command: m.Command) -> m.Done:
        assert isinstance(command.args, m.DownloadArgs)
        done = m.DownloadDone(
            install_path=command.args.volume,
            virtual_size=len(CONTENT),
            integrity="strong",
            source_bytes=len(CONTENT),
            digests={"sha-256": site.sha256},
        )
        wrong = m.PieceList(
            sha256=site.sha256, size=len(CONTENT), length=PIECE, hashes=packed(bytes(32 * COUNT))
        )
        sent.append(m.PiecesFound(job=command.job, fence=command.fence, pieces=wrong))
        return done

    bad.work["download"] = lie
    await bad.enrol(await site.token())
    try:
        await bad.connect()
        await eventually(lambda: site.pool("kvm9"))
        pool = await site.pool("kvm9")
        job = await site.api.job(await site.prepare_at(template, pool))
        assert job["jobstatus"] == 1, job
        await bad.say(sent[0])
        await bad.say(m.PiecesWanted(job="nobody's", fence=1))

        async def processed() -> bool:
            return bool(bad.heard)

        await eventually(processed)
    finally:
        await bad.close()
    await site.bring(template, site.host)
    (event,) = await eventually(lambda: site.events("TEMPLATE.PIECES.REFUSED"))
    assert "that host kvm9 made" in event["description"]
    before = site.origin.sent
    await site.bring(template, site.other)
    assert site.origin.sent - before < 1.2 * len(CONTENT)
    assert len(await site.events("TEMPLATE.PIECES.REFUSED")) == 1
