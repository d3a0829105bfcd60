# SPDX-License-Identifier: Apache-2.0
"""Do hosts on a real NATS server get their work done, whatever fails on the way?"""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from fastdl.wire.nats import subjects
from tests.env.faults import Rule, When
from tests.env.nats_site import NatsSite
from tests.env.origin import FaultOrigin, Resource
from tests.env.process import eventually
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


async def test_templates_arrive_whatever_happens_to_nats(
    site: NatsSite, origin: FaultOrigin
) -> None:
    """Nothing but enrolment goes another way; a server that is away in the middle of a download,
    and loses its JetStream folder, costs nothing."""
    lost = site.host.log().count("over NATS")  # it may be there before its manager
    first = await site.brought(await site.template())
    assert hashlib.sha256(first.read_bytes()).hexdigest() == site.sha256
    assert site.host.log().count("over NATS") == lost
    async with site.as_manager() as client:
        info = await client.jetstream().stream_info(subjects.BOX)
        assert info.state.messages == 1  # its mailbox
        info = await client.jetstream().stream_info(subjects.RESULTS)
        assert info.state.last_seq == 2  # its results: a probe and the download,
        assert info.state.messages == 0  # which are in the ledger
    origin.resources["/x.raw"].rules.append(Rule(when=When(), rate=4e6))
    job = await site.prepare(await site.template("t2"))

    async def running() -> bool:
        return site.host.log().count("kind=download fence") == 2

    await eventually(running)
    site.server.kill(wipe=True)

    async def disconnected() -> bool:
        return bool(await site.hosts("Disconnected"))

    await eventually(disconnected)
    await asyncio.to_thread(site.server.start)
    assert (await site.api.job(job, within=60))["jobstatus"] == 1


async def test_a_stored_result_outlives_its_host_and_its_manager(
    site: NatsSite, origin: FaultOrigin
) -> None:
    """The manager is killed while the result is on its way, and the host after it was stored."""
    origin.resources["/x.raw"].rules.append(Rule(when=When(), rate=4e6))
    template = await site.template()
    await site.prepare(template)
    await eventually(lambda: _started(site))
    os.kill(site.manager.pid, signal.SIGSTOP)
    async with site.as_manager() as client:
        js = client.jetstream()

        async def stored() -> bool:
            return (await js.stream_info(subjects.RESULTS)).state.messages > 0

        await eventually(stored)
        await site.manager.end(signal.SIGKILL)
        await site.host.end(signal.SIGKILL)
        await site.serve()

        async def ended() -> bool:
            return bool(await site.copies(templateid=template))

        await eventually(ended)
        assert not await site.hosts("Up")

        async def taken() -> bool:
            return not await stored()

        await eventually(taken)


async def test_a_host_reports_while_there_is_no_manager(
    site: NatsSite, origin: FaultOrigin
) -> None:
    """The manager is killed in the middle of a download; what the host leaves is found later, even
    if the host is not there any more."""
    origin.resources["/x.raw"].rules.append(Rule(when=When(), rate=2e6))
    template = await site.template()
    await site.prepare(template)
    await eventually(lambda: _started(site))
    await site.manager.end(signal.SIGKILL)
    async with site.as_manager() as client:
        js = client.jetstream()

        async def left() -> bool:
            return (await js.stream_info(subjects.RESULTS)).state.messages > 0

        await eventually(left)
    log = site.host.log()
    assert log.index("no connection to the manager") < log.index("kind=download code=0")
    await site.host.end(signal.SIGKILL)
    await site.serve()

    async def ended() -> bool:
        return bool(await site.copies(templateid=template))

    await eventually(ended)


async def _started(site: NatsSite) -> bool:
    return "kind=download" in site.host.log()
