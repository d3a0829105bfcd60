# SPDX-License-Identifier: Apache-2.0
"""Do NATS servers that ask managers admit the enrolled hosts, and nobody else, at every moment?

What an admitted host may do is in test_nats_hosts_attacks.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID
from nats.aio.client import Client
from nats.errors import Error as NatsError

from fastdl.agent import identity
from fastdl.agent.identity import Identity
from fastdl.manager.config import ManagerConfig
from fastdl.manager.hosts import ca, nats_callout, nats_config
from fastdl.wire.nats import subjects
from tests.env import nats, postgresql
from tests.env.manager import Zone, zone
from tests.env.nats_asking import AskingServer
from tests.env.nats_site import NatsSite, connected, enrolled, managers
from tests.env.origin import FaultOrigin, Resource
from tests.env.process import eventually
from tests.env.seats import until
from tests.env.site import CONTENT

HOSTS, EACH, TOGETHER = 15, 20, 60


@dataclass(slots=True)
class Asking:
    """A NATS server that asks, for hosts of the managers whose state is in folders of *folder*."""

    folder: Path
    server: nats.Server

    @property
    def url(self) -> str:
        """Where it is."""
        return f"tls://{self.server.address}"

    @property
    def files(self) -> Path:
        """Where its configuration is."""
        return self.folder / "nats"

    async def start(self, state: str = "state", database: str | None = None) -> None:
        """Write its configuration and start it."""
        config = ManagerConfig(state=self.folder / state, database=database)
        assert not await nats_config.write(config, self.files, callout=True)
        self.server.start()

    async def admits(self, who: Identity) -> bool:
        """Whether it admits *who*, as the host that it is."""
        with contextlib.suppress(NatsError, OSError):
            async with self.connected(who):
                return True
        return False

    @contextlib.asynccontextmanager
    async def connected(self, who: Identity) -> AsyncIterator[Client]:
        """A connection of *who*."""
        prefix = subjects.inbox(who.host_id)
        async with connected(self.url, who.context(), prefix) as (client, _):
            yield client

    async def admitted(self, who: Identity) -> None:
        """Wait until it admits *who*: a manager has to be there first."""

        async def admits() -> bool:
            return await self.admits(who)

        await eventually(admits)


@pytest.fixture
def asking(tmp_path: Path) -> Iterator[Asking]:
    """A server that is not started yet."""
    server = nats.Server(tmp_path, name="nats", more=['include "fastdl-hosts.conf"'])
    yield Asking(tmp_path, server)
    server.kill()


async def again(here: Zone, who: Identity, folder: Path) -> Identity:
    """The host *who*, enrolled once more: with another key."""
    host, port = here.manager.server.address
    token = await here.token(hostid=who.host_id)
    return await identity.enrol([f"https://{host}:{port}"], token, folder, name=folder.name)


async def test_hosts_come_and_go_without_a_change_at_the_servers(
    asking: Asking, tmp_path: Path
) -> None:
    """Whoever is enrolled is admitted; not with a key that was replaced, nor when deleted."""
    async with zone(tmp_path / "state", agent_nats=asking.url) as here, asyncio.timeout(60):
        await asking.start()
        first = await enrolled(here, tmp_path / "h1")
        await asking.admitted(first)
        anew = await again(here, first, tmp_path / "h1-anew")
        assert anew.host_id == first.host_id
        assert await asking.admits(anew)
        assert not await asking.admits(first)
        other = await enrolled(here, tmp_path / "h2")
        await here.api("deleteHost", id=anew.host_id, forced="true")
        assert not await asking.admits(anew)
        assert await asking.admits(other)


async def test_a_certificate_is_checked_by_the_manager_too(
    asking: Asking, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The server trusts another CA as well, whose certificate names a host of ours, and takes one
    of ours that names nobody: neither gets anything."""
    async with zone(tmp_path / "state", agent_nats=asking.url) as here, asyncio.timeout(60):
        good = await enrolled(here, tmp_path / "h1")
        other = ca.open_authority(tmp_path / "other")
        ours = here.manager.context.authority
        await nats_config.write(ManagerConfig(state=tmp_path / "state"), asking.files, callout=True)
        with (asking.files / "ca.pem").open("a") as file:
            file.write(other.pem)
        asking.server.start()
        await asking.admitted(good)
        usage = ExtendedKeyUsageOID.CLIENT_AUTH
        for authority, name, why in (
            (other, good.host_id, "issued by a CA that has been replaced"),
            (ours, "11111111-2222-4333-8444-555555555555", "this host is not enrolled here"),
            (ours, "*", "this host is not enrolled here"),
        ):
            chain = tmp_path / "chain.pem"
            chain.write_bytes(authority._sign_key("host", name, usage))
            context = managers(asking.files)
            context.load_cert_chain(chain)
            caplog.clear()
            with pytest.raises((NatsError, OSError)):
                async with connected(asking.url, context):
                    pass
            assert why in str([getattr(record, "reason", "") for record in caplog.records])
        assert await asking.admits(good)


async def test_a_deleted_host_that_is_connected_is_out_within_the_lifetime(
    asking: Asking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server ends every connection then; who is still enrolled may come back."""
    monkeypatch.setattr(nats_callout, "LIFETIME_S", 4.0)
    async with zone(tmp_path / "state", agent_nats=asking.url) as here, asyncio.timeout(60):
        await asking.start()
        h1, h2 = [await enrolled(here, tmp_path / name) for name in ("h1", "h2")]
        await asking.admitted(h1)
        async with asking.connected(h1) as one, asking.connected(h2) as two:
            await here.api("deleteHost", id=h1.host_id, forced="true")
            await one.flush(5)  # it is still connected: no manager knows its connection
            await until(lambda: one.is_closed and two.is_closed, within=30)
        assert not await asking.admits(h1)
        assert await asking.admits(h2)


async def test_any_manager_that_is_there_responds(
    asking: Asking, tmp_path: Path, postgres: str
) -> None:
    """Two share the requests; each admits the same hosts alone."""
    url = postgresql.fresh_database(postgres, "callout")
    async with contextlib.AsyncExitStack() as first, contextlib.AsyncExitStack() as second:
        a = await first.enter_async_context(
            zone(tmp_path / "a", database=url, agent_nats=asking.url)
        )
        (tmp_path / "b").mkdir(mode=0o700)
        shutil.copy(tmp_path / "a" / "secret.key", tmp_path / "b")
        b = await second.enter_async_context(
            zone(tmp_path / "b", database=url, agent_nats=asking.url)
        )
        await asking.start("b", url)
        who = await enrolled(a, tmp_path / "h1")
        counts = [_counted(here) for here in (a, b)]

        async def both() -> bool:
            assert await asking.admits(who) or not all(counts)
            return all(counts)

        await eventually(both, within=60)
        await first.aclose()
        assert await asking.admits(who)


def _counted(here: Zone) -> list[object]:
    """Grows with each request that this manager takes."""
    callout = here.manager._nats_hosts._callout  # type: ignore[union-attr]
    assert callout is not None
    seen, take = list[object](), callout._checked

    async def checked(msg: object) -> object:
        seen.append(msg)
        return await take(msg)  # type: ignore[arg-type]

    callout._checked = checked  # type: ignore[method-assign, assignment]
    return seen


async def test_without_a_manager_nobody_new_is_admitted_and_nobody_is_dropped(
    asking: Asking, tmp_path: Path
) -> None:
    """Until one is back."""
    async with contextlib.AsyncExitStack() as held:
        async with zone(tmp_path / "state", agent_nats=asking.url) as here:
            await asking.start()
            h1, h2 = [await enrolled(here, tmp_path / name) for name in ("h1", "h2")]
            await asking.admitted(h1)
            client = await held.enter_async_context(asking.connected(h1))
        await client.flush(5)
        assert not await asking.admits(h2)
        await client.flush(5)
        async with zone(tmp_path / "state", agent_nats=asking.url):
            await asking.admitted(h2)
            await client.flush(5)


async def test_a_host_comes_back_by_itself(tmp_path: Path) -> None:
    """Manager and server are killed, and the server is back first: it refuses the host, which goes
    on trying as it does without any server."""
    with FaultOrigin({"/x.raw": Resource.of(CONTENT)}) as origin:
        site = NatsSite(tmp_path, origin, callout=True)
        try:
            await site.start()
            await site.manager.end(signal.SIGKILL)
            site.server.kill()
            await asyncio.to_thread(site.server.start)

            async def refused() -> bool:
                return "without letting this host in" in site.host.log()

            await eventually(refused)
            await site.serve()

            async def up() -> bool:
                return len(await site.hosts("Up")) == 1

            await eventually(up)
            await site.brought(await site.template())
        finally:
            await site.end()


async def test_a_deleted_host_says_so_and_uses_a_new_token(tmp_path: Path) -> None:
    """It was away when it was deleted, so that the server, and no manager, refuses it."""
    with FaultOrigin({"/x.raw": Resource.of(CONTENT)}) as origin:
        site = NatsSite(tmp_path, origin, callout=True)
        try:
            await site.start()
            await site.host.end(signal.SIGTERM)
            await site.api("deleteHost", id=site.who.host_id, forced="true")
            await site.host.start(None, "--nats", site.url)

            async def said() -> bool:
                words = "does not let this host in: it was deleted"
                return words in site.host.log() and "new token (--token)" in site.host.log()

            await eventually(said)
            await site.host.end(signal.SIGTERM)
            await site.host.start(await site.token(), "--nats", site.url)

            async def up() -> bool:
                return [host["id"] for host in await site.hosts("Up")] not in (
                    [],
                    [site.who.host_id],
                )

            await eventually(up)
        finally:
            await site.end()


async def test_a_storm_of_connections_is_answered(asking: Asking, tmp_path: Path) -> None:
    """As after a restart of the servers; every one is admitted, and nothing is left waiting."""
    async with zone(tmp_path / "state", agent_nats=asking.url) as here, asyncio.timeout(300):
        await asking.start()
        who = [await enrolled(here, tmp_path / f"h{number}") for number in range(HOSTS)]
        await asking.admitted(who[0])
        few = asyncio.Semaphore(TOGETHER)

        async def one(identity: Identity) -> bool:
            async with few:
                return await asking.admits(identity)

        found = await asyncio.gather(*(one(identity) for identity in who for _ in range(EACH)))
        assert sum(found) == HOSTS * EACH == 300
        callout = here.manager._nats_hosts._callout  # type: ignore[union-attr]
        assert callout is not None
        assert callout._waiting.empty()


async def test_what_anybody_sends_in_a_server_s_place_harms_nobody(
    asking: Asking, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A connection that may do everything but is no server's: what is no request is not responded
    to, a forged one gets a response that admits nobody, and servers are still served."""
    caplog.set_level(logging.INFO)
    async with zone(tmp_path / "state", agent_nats=asking.url) as here, asyncio.timeout(60):
        await asking.start()
        who = await enrolled(here, tmp_path / "h1")
        await asking.admitted(who)
        callout = here.manager._nats_hosts._callout  # type: ignore[union-attr]
        assert callout is not None
        forger, issuer = AskingServer(), callout._issuer.public
        forged = forger.claims(issuer, (who.folder / "host.pem").read_text())
        heard = list[bytes]()
        bad: Sequence[bytes] = (b"", b"x" * 200_000, b"xkv1", b"a.b.c", forger.signed({}))
        async with connected(asking.url, managers(asking.files)) as (client, complaints):

            async def hear(msg: object) -> None:
                heard.append(msg.data)  # type: ignore[attr-defined]

            await client.subscribe("heard", cb=hear)  # type: ignore[arg-type]
            await client.publish(nats_callout.SUBJECT, b"", reply="heard")
            await until(lambda: bool(complaints), within=5)  # not even managers may
        assert not heard
        for data in (*bad, forger.signed(forged)):
            await _give(callout, data, heard)
        (response,) = heard
        assert "jwt" in forger.response(response, issuer)
        assert await asking.admits(who)


async def _give(callout: nats_callout.Callout, data: bytes, heard: list[bytes]) -> None:
    class Sent:
        headers: dict[str, str] | None = None

        def __init__(self) -> None:
            self.data = data

        async def respond(self, data: bytes) -> None:
            heard.append(data)

    one = await callout._checked(Sent())  # type: ignore[arg-type]
    if one is not None:
        await callout._decide([one])
