# SPDX-License-Identifier: Apache-2.0
"""Keystores and certificates that the tests of this folder share."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastdl.trust.keystore import Keystore, Passphrase
from fastdl.trust.keystore.jks import Jks
from tests.env.certs import CertLab

PASSPHRASE = "correct horse"


@pytest.fixture(scope="session")
def mirror_pem(certs: CertLab) -> str:
    """A self-signed certificate that may be imported."""
    return certs.leaf("self-signed").cert_file.read_text()


@pytest.fixture(scope="session")
def other_pem(certs: CertLab) -> str:
    """Another certificate that may be imported."""
    return certs.ca.cert_file.read_text()


@pytest.fixture(params=["jks", "pkcs12"])
def keystore(request: pytest.FixtureRequest, tmp_path: Path) -> Keystore:
    """An empty keystore of either format, its file in the test's own folder."""
    path = tmp_path / "cloud.jks"
    if request.param == "jks":
        path.write_bytes(Jks(version=2, slots=(), original=None).encode(PASSPHRASE))
        path.chmod(0o600)
    found = Keystore(path, Passphrase(PASSPHRASE))
    found.create()
    return found
