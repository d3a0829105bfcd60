# SPDX-License-Identifier: Apache-2.0
"""Is it said rightly who vouches for an origin? (the answers before a download, and after T14)"""

from __future__ import annotations

import pytest

from fastdl.agent.trust import vouch
from fastdl.errors import NetError, PolicyError, TrustError
from tests.env.certs import CertLab
from tests.env.origin import FaultOrigin, Resource

LOOPBACK = ("127.0.0.0/8",)


def _origin(certs: CertLab, name: str) -> FaultOrigin:
    return FaultOrigin({"/x": Resource.of(b"x")}, tls=certs.leaf(name).server_context())


async def test_the_alias_that_suffices_is_named(certs: CertLab) -> None:
    """Among several, the one whose removal would matter."""
    anchors = {
        "other": certs.leaf("unknown-ca").cert_file.read_text(),
        "pinned": certs.leaf("self-signed").cert_file.read_text(),
        "authority": certs.ca.cert_file.read_text(),
    }
    with _origin(certs, "self-signed") as origin:
        found = await vouch(origin.url("/x"), anchors, allowed_cidrs=LOOPBACK)
        assert (found.accepted_by, found.subject) == ("pinned", "CN=self-signed")
    with _origin(certs, "with-intermediate") as origin:
        found = await vouch(origin.url("/x"), anchors, allowed_cidrs=LOOPBACK)
        assert found.accepted_by == "authority"
        del anchors["authority"]
        with pytest.raises(TrustError, match="keystore"):
            await vouch(origin.url("/x"), anchors, allowed_cidrs=LOOPBACK)


@pytest.mark.parametrize(
    "kind", ["expired", "not-yet-valid", "wrong-host", "cn-only", "unknown-ca", "ip-in-dns-name"]
)
async def test_an_anchor_excuses_nothing_else(certs: CertLab, kind: str) -> None:
    """T01 to T06: dates and names are checked whatever is trusted."""
    anchors = {"ca": certs.ca.cert_file.read_text()}
    with _origin(certs, kind) as origin, pytest.raises(TrustError):
        await vouch(origin.url("/x"), anchors, allowed_cidrs=LOOPBACK)


async def test_the_address_policy_comes_first(certs: CertLab) -> None:
    """Asking about trust must not become a way into the host's own network."""
    with _origin(certs, "good") as origin:
        with pytest.raises(PolicyError):
            await vouch(origin.url("/x"), {})
        assert origin.connections == 0
    with pytest.raises(PolicyError):
        await vouch("http://127.0.0.1/x", {}, allowed_cidrs=LOOPBACK)


async def test_an_origin_that_does_not_answer_is_a_network_error() -> None:
    """Nobody's certificate is to blame."""
    with pytest.raises(NetError):
        await vouch("https://127.0.0.1:9/x", {}, allowed_cidrs=LOOPBACK)
