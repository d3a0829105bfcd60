# SPDX-License-Identifier: Apache-2.0
"""Does any manager of a ledger take the results that hosts stored in NATS, and serve them there?"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from pathlib import Path

import pytest

from fastdl.agent.nats import NatsCarrier
from fastdl.errors import FastdlError
from fastdl.manager import peers
from fastdl.manager.hosts import handler
from fastdl.manager.ledger import jobs
from fastdl.manager.ledger.jobs import State
from fastdl.wire import messages as m
from fastdl.wire.nats.servers import PAYLOAD_MAX, parse_servers
from tests.env import nats, postgresql
from tests.env.manager import Zone, zone
from tests.env.nats_site import enrolled, hello
from tests.env.process import eventually
from tests.env.relay import relay

FAILURE = m.Failure(code=1, message="it is not there")


async def test_another_manager_takes_what_was_left_when_ours_stopped(
    tmp_path: Path, postgres: str
) -> None:
    """A gave the host a job and stopped. B, which never saw the host, has the result at once; it
    also takes the host's next session, and its results, and confirms them."""
    url = postgresql.fresh_database(postgres, "natshosts")
    async with contextlib.AsyncExitStack() as held, contextlib.AsyncExitStack() as first:
        server = held.enter_context(nats.server(tmp_path, more=[f"max_payload: {PAYLOAD_MAX}"]))
        a = await first.enter_async_context(
            zone(tmp_path / "a", database=url, agent_nats=server.url)
        )
        (tmp_path / "b").mkdir(mode=0o700)
        shutil.copy(tmp_path / "a" / "secret.key", tmp_path / "b")
        who = await enrolled(a, tmp_path / "kvm1")
        carrier = NatsCarrier(who, parse_servers(server.url, option="--nats"), tls=False)

        command, asked = await asyncio.wait_for(_served(a, carrier, who.host_id), 20)
        asked.cancel()
        await first.aclose()
        result = m.JobResult(
            job=command.job, fence=command.fence, kind=command.kind, failure=FAILURE
        )
        await carrier.leave([result])
        b = await held.enter_async_context(
            zone(tmp_path / "b", database=url, agent_nats=server.url)
        )

        async def taken() -> bool:
            async with b.manager.context.ledger.read() as tx:
                row = await jobs.get(tx, command.job)
            return row is not None and row.state == State.FAILED and "not there" in row.failure

        await eventually(taken, within=20)
        assert who.host_id not in b.manager.context.fleet.hosts
        _, asked = await asyncio.wait_for(_served(b, carrier, who.host_id, result), 20)
        asked.cancel()


async def test_a_manager_that_its_ledger_does_not_reach_lets_its_hosts_go(
    tmp_path: Path, postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers no ping, and takes neither sessions nor results until it is back: B does."""
    monkeypatch.setattr(handler, "QUIET_S", 2.0)
    monkeypatch.setattr(peers, "ROUND_S", 0.3)
    url = postgresql.fresh_database(postgres, "natscut")
    address = url.partition("@")[2].partition("/")[0]
    async with contextlib.AsyncExitStack() as held:
        server = held.enter_context(nats.server(tmp_path, more=[f"max_payload: {PAYLOAD_MAX}"]))
        wire = await held.enter_async_context(relay(address))
        a = await held.enter_async_context(
            zone(
                tmp_path / "a",
                database=url.replace(address, wire.address),
                agent_nats=server.url,
            )
        )
        held.callback(wire.mend)
        who = await enrolled(a, tmp_path / "kvm1")
        carrier = NatsCarrier(who, parse_servers(server.url, option="--nats"), tls=False)
        host = who.host_id
        async with carrier.connected(server.url, lambda _at: None) as channel:
            await channel.send(hello(host))
            assert isinstance(await channel.receive(), m.Welcome)
            (tmp_path / "b").mkdir(mode=0o700)
            shutil.copy(tmp_path / "a" / "secret.key", tmp_path / "b")
            b = await held.enter_async_context(
                zone(tmp_path / "b", database=url, agent_nats=server.url)
            )

            async def known() -> bool:
                return host in b.manager.context.fleet.hosts

            await eventually(known, within=20)
            await a.manager._fabric.receive.__self__.round()  # type: ignore[union-attr, attr-defined]
            wire.cut()

            async def let_go() -> bool:
                try:
                    await channel.ping(1.0)
                except ConnectionError:
                    return True
                return False

            await eventually(let_go, within=20)
        assert not a.manager.handler.counts

        async def moved() -> bool:
            with contextlib.suppress(FastdlError, OSError):
                async with carrier.connected(server.url, lambda _at: None) as channel:
                    await channel.send(hello(host))
                    return isinstance(await channel.receive(), m.Welcome)
            return False

        await eventually(moved, within=20)
        assert not a.manager.context.fleet.is_here(host)


async def _served(
    by: Zone, carrier: NatsCarrier, host: str, left: m.JobResult | None = None
) -> tuple[m.Command, asyncio.Task[m.Done]]:
    """Connect to the manager *by*, repeat the result *left*, and get a command of it."""
    heard = list[float]()
    async with contextlib.AsyncExitStack() as held:
        while True:
            with contextlib.suppress(FastdlError):
                channel = await held.enter_async_context(
                    carrier.connected(carrier.places[0], heard.append)
                )
                break
            await asyncio.sleep(0.05)
        await channel.send(hello(host))
        assert isinstance(await channel.receive(), m.Welcome)
        await channel.ping(1.5)  # the lease rests on the answer
        if left is not None:
            await channel.send(left)
            while not isinstance(message := await channel.receive(), m.ResultAck):
                assert message is not None
            assert (message.job, message.fence) == (left.job, left.fence)
        connected = by.manager.context.fleet.hosts[host]
        asked = asyncio.create_task(
            by.manager.context.requests.send(connected, m.Kind.COPIES, m.CopiesArgs(pool="p"))
        )
        while not (isinstance(message := await channel.receive(), m.Document) and message.commands):
            assert message is not None
        assert heard == [1.5]
        return message.commands[0], asked
