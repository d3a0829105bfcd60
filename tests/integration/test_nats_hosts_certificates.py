# SPDX-License-Identifier: Apache-2.0
"""Do hosts on a real NATS server stay who they are when their certificates are replaced?"""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fastdl.manager.config import ManagerConfig
from fastdl.manager.hosts import ca, nats_config
from tests.env.nats_site import NatsSite
from tests.env.origin import FaultOrigin, Resource
from tests.env.process import AgentProcess, eventually
from tests.env.site import CONTENT


@pytest.fixture
def origin() -> Iterator[FaultOrigin]:
    """A template of 8 MiB."""
    with FaultOrigin({"/x.raw": Resource.of(CONTENT)}) as running:
        yield running


@pytest.fixture
async def site(tmp_path: Path, origin: FaultOrigin) -> AsyncIterator[NatsSite]:
    """A manager and a host on NATS."""
    made = NatsSite(tmp_path, origin)
    try:
        await made.start()
        yield made
    finally:
        await made.end()


async def test_a_certificate_is_renewed_over_nats(
    site: NatsSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session goes on; the next connection is made with the new one, as the same user."""
    await site.host.end(signal.SIGTERM)
    monkeypatch.setattr(ca, "HOST_DAYS", 10)
    authority = ca.open_authority(site.manager.state / "ca")
    short, _ = authority.sign_host(site.who.csr(), site.who.host_id)
    site.who.renew(short)
    assert site.who.due()
    await site.host.start(None, "--nats", site.url)

    async def renewed() -> bool:
        return site.who.until() - datetime.now(UTC) > timedelta(days=80)

    await eventually(renewed)
    before = site.host.log().count("info connected")
    await site.brought(await site.template("t1"))
    assert site.host.log().count("info connected") == before
    site.server.kill()
    site.server.start()
    await eventually(lambda: _connections(site, before + 1))
    await site.brought(await site.template("t2"))


async def test_the_ca_is_replaced_under_hosts_on_nats(site: NatsSite) -> None:
    """Once the servers trust both, and again once they trust the next one alone, whoever has a
    certificate of it is let in; who was left behind is, as the same host, with a token."""
    await site.api("startHostCaRotation")
    await _written(site)
    await eventually(lambda: _moved(site))
    await site.brought(await site.template("t1"))
    await site.api("finishHostCaRotation", forced="true")
    await _written(site)
    await eventually(lambda: _trusts(site, 1))
    await eventually(lambda: site.hosts("Up"))
    await site.brought(await site.template("t2"))
    await site.host.end(signal.SIGTERM)
    left = AgentProcess(site.host.folder.parent, "other", site.manager)
    try:
        await left.start(None, "--nats", site.url)
        await eventually(lambda: _said(left, "CERTIFICATE_VERIFY_FAILED"))
        await left.end(signal.SIGTERM)
        await left.start(await site.token(), "--nats", site.url)
        await eventually(lambda: _said(left, f"enrolled as host {site.other.host_id}"))
        await eventually(lambda: _said(left, "info connected"))
    finally:
        await left.end(signal.SIGKILL)


async def _written(site: NatsSite) -> None:
    """The servers' configuration, as the operator writes it again, is read."""
    await nats_config.write(ManagerConfig(state=site.manager.state), site.server.folder)
    site.server.reload()


async def _moved(site: NatsSite) -> bool:
    cas = (await site.api("listHostCas"))["hostca"]
    return any(one["state"] == "Next" and one["hosts"] for one in cas)


async def _trusts(site: NatsSite, count: int) -> bool:
    return len(site.who.authorities()) == count


async def _connections(site: NatsSite, count: int) -> bool:
    return site.host.log().count("info connected") >= count


async def _said(agent: AgentProcess, text: str) -> bool:
    return text in agent.log()
