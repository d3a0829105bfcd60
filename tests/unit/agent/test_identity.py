# SPDX-License-Identifier: Apache-2.0
"""Does a host keep its identity, renew it in time, and take no other?"""

from __future__ import annotations

import asyncio
import json
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fastdl.agent import identity
from fastdl.agent.identity import Identity
from fastdl.errors import AgentLostError, AgentRefusedError, UsageError
from fastdl.manager.hosts.ca import Authority, open_authority


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """A manager's CA."""
    return open_authority(tmp_path / "manager")


@pytest.fixture
def host(tmp_path: Path, authority: Authority) -> Identity:
    """An enrolled host."""
    folder = tmp_path / "host"
    folder.mkdir()
    who = Identity(folder, "host-1", "zone-1")
    (folder / "ca.pem").write_text(authority.pem)
    who.renew(authority.sign_host(who.csr(), "host-1")[0])
    (folder / "host.json").write_text(json.dumps({"host_id": "host-1", "zone_id": "zone-1"}))
    return who


def test_an_identity_is_read_back(host: Identity) -> None:
    """The state folder alone makes the host what it is."""
    assert identity.load(host.folder) == host
    host.context()
    assert (host.folder / "host.key").stat().st_mode & 0o077 == 0


def test_a_certificate_is_renewed_with_thirty_days_left(
    host: Identity, authority: Authority
) -> None:
    """Ninety days are given; a host that was off for two months still comes back."""
    now = datetime.now(UTC)
    assert not host.due(now + timedelta(days=58))
    assert host.due(now + timedelta(days=62))
    before = (host.folder / "host.pem").read_bytes()
    host.renew(authority.sign_host(host.csr(), "host-1")[0])
    assert (host.folder / "host.pem").read_bytes() != before


def test_a_certificate_for_another_is_not_kept(
    host: Identity, authority: Authority, tmp_path: Path
) -> None:
    """Neither another host's name nor another key."""
    (tmp_path / "stranger").mkdir()
    stranger = Identity(tmp_path / "stranger", "host-1", "zone-1")
    before = (host.folder / "host.pem").read_bytes()
    for pem in (
        authority.sign_host(host.csr(), "host-2")[0],
        authority.sign_host(stranger.csr(), "host-1")[0],
        "nonsense",
    ):
        with pytest.raises(AgentRefusedError):
            host.renew(pem)
    assert (host.folder / "host.pem").read_bytes() == before


def test_a_damaged_note_is_named(host: Identity) -> None:
    """Enrolling again by itself would make a second host of this one."""
    (host.folder / "host.json").write_text("{")
    with pytest.raises(UsageError, match=r"host\.json"):
        identity.load(host.folder)
    assert identity.load(host.folder.parent) is None


async def test_where_no_manager_is_says_what_the_port_did(tmp_path: Path) -> None:
    """The usual mistypes: a port that nobody has, one without TLS, a name that does not exist."""
    token = f"fdl1.{'a' * 32}.{'b' * 43}.{'c' * 64}"
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        socket.create_server(("127.0.0.1", 0)) as s,
    ):
        free = taken.getsockname()[1]
        taken.close()
        plain = s.getsockname()[1]
        answering = asyncio.create_task(asyncio.to_thread(_answer_in_plain, s))
        with pytest.raises(AgentLostError) as failed:
            await identity.enrol(
                [
                    f"https://127.0.0.1:{free}",
                    f"https://127.0.0.1:{plain}",
                    "https://no-such-host.invalid:8250",
                ],
                token,
                tmp_path,
                name="kvm1",
            )
        await answering
    text = str(failed.value)
    assert f"cannot connect to 127.0.0.1:{free}: connection refused" in text
    assert f"cannot connect to 127.0.0.1:{plain}: TLS: wrong version number" in text
    assert "cannot connect to no-such-host.invalid:8250: " in text
    assert "SSLContext" not in text


def _answer_in_plain(server: socket.socket) -> None:
    server.settimeout(5)
    with server.accept()[0] as client:
        client.recv(1)
        client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        client.recv(65536)
