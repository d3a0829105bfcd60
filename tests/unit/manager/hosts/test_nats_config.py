# SPDX-License-Identifier: Apache-2.0
"""Is the configuration of NATS servers one that they read, with nobody in it who should not be?"""

from __future__ import annotations

import asyncio
import base64
import subprocess
import sys
from pathlib import Path

import pytest

from fastdl.cli.main import main
from fastdl.manager import state as state_folder
from fastdl.manager.config import ManagerConfig
from fastdl.manager.hosts import ca, known_ca
from fastdl.manager.hosts.nats_config import asking, part, write
from fastdl.manager.ledger.engine import default_url, open_ledger
from fastdl.manager.vault import Vault
from fastdl.wire.nats import subjects
from tests.env import nats


def test_ids_that_are_none_get_no_user() -> None:
    """Nothing that a subject gives a meaning to, and nothing that ends a string."""
    text = part(Path("/etc/nats"), ["h1", "*", ">", "h.2", 'h3" }', "", "_INBOX.>"])
    assert text.count("permissions:") == 1
    assert text.count("{ user:") == 2


async def _state(folder: Path) -> None:
    """What the first start of a manager leaves."""
    with state_folder.held(folder):
        vault = state_folder.open_vault(folder)
        ledger = open_ledger(default_url(folder))
        await known_ca.open_known(ledger, vault, folder / "ca", accept_new=False)
        await ledger.close()


async def test_it_is_written_for_a_manager_that_has_started(
    tmp_path: Path,
) -> None:
    """A server accepts it; what the operator changed stays."""
    await _state(tmp_path / "state")
    folder = tmp_path / "nats"
    words = ["manager", "--state", str(tmp_path / "state"), "--write-nats-config", str(folder)]
    done = subprocess.run(
        [sys.executable, "-m", "fastdl", *words], capture_output=True, text=True, check=True
    )
    assert "0 hosts may connect" in done.stdout
    assert subjects.MANAGER in (folder / "fastdl-hosts.conf").read_text()
    assert {path.stat().st_mode & 0o077 for path in folder.iterdir()} == {0}
    words = [nats.binary(), "-t", "-c", str(folder / "nats.conf")]
    subprocess.run(words, check=True, capture_output=True)
    (folder / "nats.conf").write_text("# mine")
    await write(ManagerConfig(state=tmp_path / "state"), folder)
    assert (folder / "nats.conf").read_text() == "# mine"


def test_without_a_manager_there_is_nothing_to_write(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And nothing is made: a new CA would lock hosts out."""
    words = ["manager", "--state", str(tmp_path / "state"), "--write-nats-config", str(tmp_path)]
    assert main(words) == 2
    assert "not the state folder" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def _written(folder: Path, *words: str) -> int:
    """The exit code of the command, for the state in *folder*."""
    state = str(folder / "state")
    return main(["manager", "--state", state, "--write-nats-config", str(folder / "nats"), *words])


async def test_without_the_managers_ledger_there_is_nothing_to_write(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A manager's ledger is on PostgreSQL and nobody says so: no other is made in its place, in
    which no host would be enrolled; nor does an empty one count."""
    await _state(tmp_path / "state")
    (tmp_path / "state" / "manager.db").unlink()
    assert await asyncio.to_thread(_written, tmp_path) == 2
    assert "--database" in capsys.readouterr().err
    assert not (tmp_path / "state" / "manager.db").exists()
    other = f"sqlite:///{tmp_path}/other.db"
    assert await asyncio.to_thread(_written, tmp_path, "--database", other) == 2
    assert "--database" in capsys.readouterr().err
    assert not (tmp_path / "nats").exists()


async def test_both_cas_are_trusted_before_the_manager_of_this_folder_follows(
    tmp_path: Path,
) -> None:
    """What it does then does not depend on who looked first: nothing is changed in its folder."""
    await _state(tmp_path / "state")
    vault = state_folder.open_vault(tmp_path / "state")
    authority = ca.open_authority(tmp_path / "state" / "ca")
    files = ca.kept(authority.folder)
    begun = authority.begun()
    ledger = open_ledger(default_url(tmp_path / "state"))
    try:
        await ledger.write(lambda tx: known_ca.change(tx, vault, authority, begun))
        await write(ManagerConfig(state=tmp_path / "state"), tmp_path / "nats")
        assert ca.kept(authority.folder) == files
        assert await known_ca.follow(ledger, vault, authority)
    finally:
        await ledger.close()
    assert len(authority.cas) == 2
    assert (tmp_path / "nats" / "ca.pem").read_text() == authority.pem


async def test_servers_may_ask_instead(tmp_path: Path) -> None:
    """A server accepts it; it names no host and holds no secret, and is the same for every manager
    that shares ``secret.key``."""
    await _state(tmp_path / "state")
    vault = state_folder.open_vault(tmp_path / "state")
    folder = tmp_path / "nats"
    words = ["manager", "--state", str(tmp_path / "state"), "--write-nats-config", str(folder)]
    done = subprocess.run(
        [sys.executable, "-m", "fastdl", *words, "--nats-callout"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "ask the managers" in done.stdout
    subprocess.run(
        [nats.binary(), "-t", "-c", str(folder / "nats.conf")], check=True, capture_output=True
    )
    text = (folder / "fastdl-hosts.conf").read_text()
    assert text.count("user:") == 1
    assert "permissions" not in text
    assert all(line in text for line in asking(vault.derive))
    for purpose in ("issuer", "curve"):
        secret = vault.derive(f"hosts on nats: {purpose}")
        for spelling in (secret.hex(), base64.b32encode(secret).decode().rstrip("=")):
            assert spelling not in text
    assert asking(vault.derive) != asking(Vault(bytes(32)).derive)


def test_only_the_written_configuration_can_ask(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The option says nothing to a manager that serves: it responds to whoever asks."""
    assert main(["manager", "--state", str(tmp_path), "--nats-callout"]) == 2
    assert "--write-nats-config" in capsys.readouterr().err
