# SPDX-License-Identifier: Apache-2.0
"""Do managers find each other through real NATS servers, and refuse those that they cannot use?"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path

import pytest
from nats.aio.client import Client

from fastdl.errors import UsageError
from fastdl.lab.certs import Authority
from fastdl.manager.fabric import GONE, RESYNC
from fastdl.manager.fabric.nats_fabric import NatsFabric
from fastdl.manager.fabric.nats_subjects import Subjects
from fastdl.wire.nats.connection import FLOOR
from fastdl.wire.nats.servers import servers_of
from tests.env import nats
from tests.env.relay import relay
from tests.env.seats import derive, fabric, listening, until

PASSWORD = "s3cr3t-p4ss"


async def test_an_old_server_is_refused(tmp_path: Path) -> None:
    """Debian 12 has one: it could lose what it had confirmed."""
    old = nats.old_binary()
    if old is None or nats.version(old) >= FLOOR:
        pytest.skip("no old nats-server is installed")
    with (
        nats.server(tmp_path, program=old) as server,
        pytest.raises(UsageError, match=r"has version 2\.\d+\.\d+, 2\.10\.23 or newer"),
    ):
        await fabric(server.url).check()


async def test_a_server_without_jetstream_is_refused(tmp_path: Path) -> None:
    """With what is to be done."""
    more = ["accounts { A { users: [{user: u, password: p}] } }"]
    with (
        nats.server(tmp_path, more=more) as server,
        pytest.raises(UsageError, match="no JetStream"),
    ):
        await fabric(f"nats://u:p@{server.address}").check()


async def test_credentials(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The right ones work; wrong ones are refused at the start, and never shown."""
    more = [f"authorization {{ user: u, password: {PASSWORD} }}"]
    with nats.server(tmp_path, more=more) as server:
        await fabric(f"nats://u:{PASSWORD}@{server.address}").check()
        for account in (f"u:{PASSWORD}x@", f"{PASSWORD}@", ""):
            with pytest.raises(UsageError, match="refuses this manager") as caught:
                await fabric(f"nats://{account}{server.address}").check()
            assert PASSWORD not in str(caught.value)
    caplog.set_level(logging.DEBUG)
    await fabric(f"nats://u:{PASSWORD}@{server.address}").check()
    assert "not reached yet" in caplog.text
    assert PASSWORD not in caplog.text


async def test_a_manager_needs_no_more_permissions_than_documented(tmp_path: Path) -> None:
    """An account of its own, that may not touch what others have on the same servers."""
    few = '["fdl.>", "$JS.API.>", "_INBOX.>"]'
    allowed = f"{{ publish: {few}, subscribe: {few} }}"
    users = f"authorization {{ users: [{{ user: u, password: p, permissions: {allowed} }}] }}"
    with nats.server(tmp_path, more=[users]) as server:
        url = f"nats://u:p@{server.address}"
        async with listening(fabric(url, "a"), b := fabric(url, "b")) as (heard, _):
            b.notify("post", "h1")
            b.notify("wake", "job:1")
            await until(lambda: {("post", "h1"), ("wake", "job:1")} <= set(heard))


async def test_tls(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The server's certificate is checked, the manager shows its own, and no secret is given away
    to a server that offers no TLS."""
    authority = Authority(tmp_path)
    leaf = authority.make("server", issuer=authority.ca)
    own = authority.make("manager", issuer=authority.ca, client=True)
    ca, other = str(authority.ca.cert_file), Authority(tmp_path / "other")
    files = {"ca": ca, "cert": str(own.chain), "key": str(own.key)}
    tls = (
        f'tls {{ cert_file: "{leaf.chain}", key_file: "{leaf.key}", ca_file: "{ca}", '
        "verify: true }"
    )
    with nats.server(tmp_path, more=[tls]) as server:
        url = f"tls://{server.address}"
        async with listening(fabric(url, "a", **files), fabric(url, "b", **files)):
            pass
        with pytest.raises(UsageError, match="TLS"):
            await fabric(url, ca=str(other.ca.cert_file)).check()
        with contextlib.suppress(UsageError):  # raised if the server's alert comes in time
            await fabric(url, ca=ca).check()
            assert "not reached yet" in caplog.text
    more = [f"authorization {{ user: u, password: {PASSWORD} }}", "debug: true", "trace: true"]
    with nats.server(tmp_path / "plain", more=more) as server:
        with pytest.raises(UsageError, match="does not offer TLS"):
            await fabric(f"tls://u:{PASSWORD}@{server.address}").check()
        assert "CONNECT" not in server.log()


async def test_strangers_say_nothing(tmp_path: Path) -> None:
    """Whoever else may publish on these servers, and another installation."""
    with nats.server(tmp_path) as server:
        a, b = fabric(server.url, "a"), fabric(server.url, "b")
        foreign = NatsFabric(servers_of(server.url), "c", lambda purpose: b"x" * 32)
        async with listening(a, b, foreign) as (_, heard, _):
            stranger = Client()
            await stranger.connect([server.url])
            subjects = Subjects(derive)
            for message in (("evict", "h", "k"), ("send", "h", "{}")):
                await stranger.publish(subjects.of(message), b'["a", "evict", "h", "k"]')
            await stranger.publish(subjects.beat, b"x" * 100)
            await stranger.close()
            foreign.notify("evict", "h", "k")
            a.notify("post", "h1")
            await until(lambda: bool(heard))
            assert heard == [("post", "h1")]


async def test_a_manager_that_falls_silent_is_reported(tmp_path: Path) -> None:
    """Within seconds; when its way is mended, it reads what it missed."""
    with nats.server(tmp_path) as server:
        async with relay(server.address) as way:
            a, b = fabric(server.url, "a"), fabric(f"nats://{way.address}", "b")
            async with listening(a, b) as (heard, other):
                await asyncio.sleep(1.5)  # b was heard once
                way.cut()
                await until(lambda: (GONE, "b") in heard, within=10)
                a.notify("post", "h1")
                way.mend()
                await until(lambda: ("post", "h1") in other)
                assert (RESYNC,) not in other, "the stream had what it missed"


async def test_a_deleted_stream_comes_back(tmp_path: Path) -> None:
    """Somebody deletes it while managers use it: what is said next makes it anew."""
    with nats.server(tmp_path) as server:
        a, b = fabric(server.url, "a"), fabric(server.url, "b")
        async with listening(a, b) as (_, heard):
            client = Client()
            await client.connect([server.url])
            await client.jetstream().delete_stream(Subjects(derive).stream)
            await client.close()
            a.notify("post", "h1")
            await until(lambda: bool({("post", "h1"), (RESYNC,)} & set(heard)))
