# SPDX-License-Identifier: Apache-2.0
"""Does a host keep its identity, renew it in time, and take no other?"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fastdl.agent import identity
from fastdl.agent.identity import Identity
from fastdl.errors import AgentRefusedError, UsageError
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
