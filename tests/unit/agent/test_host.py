# SPDX-License-Identifier: Apache-2.0
"""What does a host remember from one look to the next? Of its keystore never what has changed."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from fastdl.agent.config import PASSPHRASE, HostConfig
from fastdl.agent.host import Host
from fastdl.errors import TrustError
from fastdl.trust.keystore import pbe
from tests.env.certs import CertLab


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A host with an empty keystore."""
    HostConfig.ensure(tmp_path / "etc")
    return Host("h1", tmp_path / "etc", tmp_path / "state")


def _import(host: Host, alias: str, pem: str) -> None:
    host.config.keystore().import_certificate(alias, pem)


def _pem(certs: CertLab) -> str:
    return certs.leaf("self-signed").cert_file.read_text()


def test_the_keys_are_derived_once_for_the_same_file(
    host: Host, certs: CertLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The derivation is slow on purpose; a host looks at its keystore for every job."""
    _import(host, "mirror", _pem(certs))
    assert list(host.anchors()) == ["mirror"]

    def again(*_args: object) -> bytes:
        raise AssertionError("derived again")

    monkeypatch.setattr(pbe, "mac_of", again)
    assert list(host.anchors()) == ["mirror"]
    assert len(host.inventory().certificates) == 1


def test_a_rewrite_that_no_time_and_no_size_tells_is_seen(host: Host, certs: CertLab) -> None:
    """K09: an in-place rewrite within one tick of the clock must not leave a revoked anchor."""
    path = host.config.keystore_path
    _import(host, "mirror-a", _pem(certs))
    first, stamp = path.read_bytes(), path.stat()
    host.config.keystore().delete("mirror-a")
    _import(host, "mirror-b", _pem(certs))
    second = path.read_bytes()
    path.write_bytes(first)
    assert list(host.anchors()) == ["mirror-a"]
    with path.open("r+b") as file:
        file.write(second)
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert path.stat().st_size == stamp.st_size
    assert list(host.anchors()) == ["mirror-b"]


def test_another_passphrase_is_not_answered_from_memory(host: Host, certs: CertLab) -> None:
    """A passphrase that no longer opens the file trusts nothing, whatever was read before."""
    _import(host, "mirror", _pem(certs))
    assert list(host.anchors()) == ["mirror"]
    properties = host.config_dir / "agent.properties"
    right = properties.read_text()
    properties.write_text(f"{right}{PASSPHRASE}=something else\n")
    with pytest.raises(TrustError, match="passphrase"):
        host.anchors()
    properties.write_text(right)
    assert list(host.anchors()) == ["mirror"]


def test_no_secret_is_remembered(host: Host, certs: CertLab) -> None:
    """Certificates are public; the passphrase and the keys made from it are not kept."""
    _import(host, "mirror", _pem(certs))
    host.anchors()
    assert host._known._held is not None
    key, items = host._known._held
    assert len(key) == 32
    assert [(item.alias, item.kind) for item in items] == [("mirror", "trusted")]
    assert host.config.values[PASSPHRASE] not in repr(host)


def test_a_pool_that_cannot_be_used_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever mistyped the folder reads it where he started the agent."""
    HostConfig.ensure(tmp_path / "etc")
    folder = tmp_path / "images"
    host = Host(
        "h1", tmp_path / "etc", tmp_path / "state", (f"images={folder}",), "test:///default"
    )
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            host.availability()
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert caplog.messages[0].startswith("a pool cannot be used: the pool images: ")
    assert str(folder) in caplog.text
