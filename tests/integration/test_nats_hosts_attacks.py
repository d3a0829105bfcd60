# SPDX-License-Identifier: Apache-2.0
"""What can a host on NATS do to the others, with the servers' permissions and without any?"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from pathlib import Path

import pytest
from nats.aio.client import Client
from nats.errors import Error as NatsError

from fastdl.agent.identity import Identity
from fastdl.agent.nats import NatsCarrier
from fastdl.errors import FastdlError, Reason
from fastdl.manager.config import ManagerConfig
from fastdl.manager.hosts import nats_callout, nats_config
from fastdl.wire import codec
from fastdl.wire import messages as m
from fastdl.wire.nats import sealed, subjects
from fastdl.wire.nats.sealed import Seal
from fastdl.wire.nats.servers import PAYLOAD_MAX, parse_servers
from tests.env import nats
from tests.env.manager import zone
from tests.env.nats_site import connected, enrolled, hello, managers
from tests.env.seats import until

SESSION = "0" * 32
CHOSEN = b"what h1 wants h2 to read"


@pytest.mark.parametrize("callout", [False, True], ids=["listed", "callout"])
async def test_permissions_keep_hosts_apart(tmp_path: Path, *, callout: bool) -> None:
    """A host cannot read another's mailbox or session, publish as it, or touch managers' things."""
    if callout:
        pytest.importorskip("nacl", reason="PyNaCl is not installed")
    server = nats.Server(tmp_path, name="nats", more=['include "fastdl-hosts.conf"'])
    url = f"tls://{server.address}"
    folder = tmp_path / "nats"
    try:
        async with zone(tmp_path / "state", agent_nats=url) as here, asyncio.timeout(60):
            h1, h2 = [await enrolled(here, tmp_path / name) for name in ("h1", "h2")]
            config = ManagerConfig(state=tmp_path / "state")
            await nats_config.write(config, folder, callout=callout)
            server.start()
            if not callout:
                late = await enrolled(here, tmp_path / "late")
                await _refused(url, late.context())
            await _refused(url, ssl.create_default_context(cafile=str(folder / "ca.pem")))
            await _until_stored(url, folder)
            await _attack(url, folder, h1, h2.host_id)
    finally:
        server.kill()


async def _refused(url: str, context: ssl.SSLContext) -> None:
    """Whoever shows no certificate, or one that the configuration does not know, gets nothing."""
    async with contextlib.AsyncExitStack() as held:
        with pytest.raises((NatsError, OSError)):
            await held.enter_async_context(connected(url, context))


async def _until_stored(url: str, folder: Path) -> None:
    async with connected(url, managers(folder)) as (client, _), asyncio.timeout(20):
        while True:
            with contextlib.suppress(NatsError):
                await client.jetstream().consumer_info(subjects.RESULTS, subjects.CONSUMER)
                return
            await asyncio.sleep(0.05)


async def _attack(url: str, folder: Path, h1: Identity, h2: str) -> None:
    own = h1.host_id
    reads = [
        *(subjects.box(h2), subjects.down(h2, "*"), subjects.up(h2, "*"), subjects.results(h2)),
        *(f"{subjects.inbox(h2)}.>", "_INBOX.>", "fdl.hosts.>", "fdl.>", ">", subjects.ANY_OPEN),
        *("fdl.0123456789abcdef.passing", "$JS.EVENT.>", "$SYS.>", nats_callout.SUBJECT),
    ]
    writes = [
        *(subjects.opening(h2, SESSION), subjects.up(h2, SESSION), subjects.down(h2, SESSION)),
        *(subjects.box(h2), subjects.box(own), subjects.results(h2), subjects.reading(h2)),
        *(subjects.down(own, SESSION), "fdl.0123456789abcdef.passing", "$JS.API.INFO"),
        *(f"$JS.API.{what}.{subjects.BOX}" for what in ("DIRECT.GET", "STREAM.MSG.GET")),
        *(f"$JS.API.STREAM.{what}.{subjects.RESULTS}" for what in ("DELETE", "PURGE", "INFO")),
        f"$JS.API.CONSUMER.CREATE.{subjects.RESULTS}",
        f"$JS.API.CONSUMER.MSG.NEXT.{subjects.RESULTS}.{subjects.CONSUMER}",
        *(f"$JS.ACK.{subjects.RESULTS}.{subjects.CONSUMER}.1.1.1.1.1", nats_callout.SUBJECT),
    ]
    async with (
        connected(url, managers(folder)) as (manager, _),
        connected(url, h1.context(), subjects.inbox(own)) as (client, complaints),
    ):
        js = manager.jetstream()
        await js.publish(subjects.box(h2), b"for h2")
        await js.publish(subjects.box(own), b"for h1")
        found = await client.request(subjects.reading(own), timeout=5)
        assert found.data == b"for h1"  # the connection itself is good
        heard = list[str]()

        async def overheard(msg: object) -> None:
            heard.append(str(msg))

        for number, subject in enumerate(reads, 1):
            await client.subscribe(subject, cb=overheard)  # type: ignore[arg-type]
            await _complained(complaints, number, subject)
        complaints.clear()
        for number, subject in enumerate(writes, 1):
            await client.publish(subject, b"x", reply=f"{subjects.inbox(own)}.x")
            await _complained(complaints, number, subject)
        # What the server sends to the subject of a reply is not checked: it is the server's own.
        for target in (
            subjects.box(h2),
            f"$JS.API.STREAM.DELETE.{subjects.BOX}",
            f"$JS.API.STREAM.DELETE.{subjects.RESULTS}",
        ):
            await client.publish(subjects.results(own), CHOSEN, reply=target)
            await client.publish(subjects.reading(own), b"", reply=target)
        await client.flush(5)
        await manager.flush(5)
        await js.stream_info(subjects.RESULTS)
        # So it can disturb a mailbox, by the server's words and not its own: they open nothing.
        kept = await js.get_last_msg(subjects.BOX, subjects.box(h2))
        assert kept.data is not None
        assert CHOSEN not in kept.data
        assert not heard


async def _complained(complaints: list[str], number: int, subject: str) -> None:
    """The server refuses *subject*, as the one with this number."""
    with contextlib.suppress(TimeoutError):
        await until(lambda: len(complaints) >= number, within=5)
    assert len(complaints) == number, subject
    assert subject.split(".*", maxsplit=1)[0].lower() in complaints[-1].lower()


async def test_without_permissions_a_host_is_still_only_itself(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The server lets everybody do everything: the proof is in the messages."""
    caplog.set_level(logging.INFO)
    with nats.server(tmp_path, more=[f"max_payload: {PAYLOAD_MAX}"]) as server:
        async with zone(tmp_path / "state", agent_nats=server.url) as here:
            h1, h2 = [await enrolled(here, tmp_path / name) for name in ("h1", "h2")]
            await _until_heard(caplog)
            liar = Identity(h1.folder, h2.host_id, h2.zone_id)  # h1's key and certificate
            assert await _welcome(server.url, liar, h2.host_id) is None
            assert f"the client certificate belongs to {h1.host_id}" in _said(caplog, "reason")
            assert await _welcome(server.url, h1, h2.host_id) is None
            assert "the client certificate belongs to another host" in _said(caplog, "reason")
            welcome = await _welcome(server.url, h1, h1.host_id)
            assert welcome is not None
            key = bytes.fromhex(welcome.mailbox_key)
            await _forge(server.url, key, h1.host_id, h2.host_id)
            forged = "it was not made with that host's key"
            await until(lambda: _said(caplog, "why").count(forged) == 3)
            assert here.manager.context.metrics.stale_results._value.get() == 0


async def test_a_deleted_host_is_out_of_nats_at_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With its session, the results that it stored, and its key."""
    caplog.set_level(logging.INFO)
    with nats.server(tmp_path, more=[f"max_payload: {PAYLOAD_MAX}"]) as server:
        async with zone(tmp_path / "state", agent_nats=server.url) as here, asyncio.timeout(30):
            who = await enrolled(here, tmp_path / "h1")
            carrier = NatsCarrier(who, parse_servers(server.url, option="--nats"), tls=False)
            await _until_heard(caplog)
            async with carrier.connected(server.url, lambda _at: None) as channel:
                await channel.send(hello(who.host_id))
                assert isinstance(await channel.receive(), m.Welcome)
                await here.api("deleteHost", id=who.host_id, forced="true")
                while not isinstance(message := await channel.receive(), m.Refused):
                    assert message is not None
                assert message.reason == Reason.UNKNOWN_HOST
                assert await channel.receive() is None
            failure = m.Failure(code=1, message="x")
            await carrier.leave([m.JobResult(job="j", fence=1, kind=m.Kind.PROBE, failure=failure)])
            await until(lambda: "no such host" in _said(caplog, "why"))
            assert await _welcome(server.url, who, who.host_id) is None


async def _until_heard(caplog: pytest.LogCaptureFixture) -> None:
    await until(lambda: "hosts on NATS are heard" in caplog.text)


def _said(caplog: pytest.LogCaptureFixture, field: str) -> list[str]:
    """What the manager's log gives as the reason."""
    return [str(getattr(record, field, "")) for record in caplog.records]


async def _welcome(url: str, who: Identity, says: str) -> m.Welcome | None:
    """Connect as *who*; the manager's Welcome for a Hello as *says*, if there is one."""
    carrier = NatsCarrier(who, parse_servers(url, option="--nats"), tls=False)
    with contextlib.suppress(FastdlError, OSError):
        async with asyncio.timeout(10), carrier.connected(url, lambda _at: None) as channel:
            await channel.send(hello(says))
            answer = await channel.receive()
            return answer if isinstance(answer, m.Welcome) else None
    return None


async def _forge(url: str, key: bytes, own: str, victim: str) -> None:
    """Results of another host: in clear, with the forger's key, and with a result of its own."""
    failure = m.Failure(code=1, message="x")
    result = m.JobResult(job="j", fence=1, kind=m.Kind.DOWNLOAD, failure=failure)
    client = Client()
    await client.connect([url])
    text = codec.encode(result)
    seal = Seal(key)
    for data in (
        text.encode(),
        seal.close(sealed.result(victim), text),
        seal.close(sealed.result(own), text),
    ):
        await client.jetstream().publish(subjects.results(victim), data)
    await client.close()
