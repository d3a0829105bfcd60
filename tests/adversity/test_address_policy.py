# SPDX-License-Identifier: Apache-2.0
"""Can a redirect, a metalink or a Link field lead the host where nobody typed? (H22, M09)

In a network namespace whose loopback carries public, private and metadata addresses; a
second server takes every address there and must never see a connection.
"""

from __future__ import annotations

import base64
import hashlib

import pytest

from tests.env.faults import Rule, When
from tests.env.origin import FaultOrigin, Resource
from tests.env.sides import IMAGE, LINK_LOCAL, METADATA, PRIVATE, PUBLIC, PUBLIC_TOO, Net, metalink

FORBIDDEN_FROM_PUBLIC = {
    "loopback": "127.0.0.1",
    "loopback-elsewhere": "127.9.8.7",
    "private": PRIVATE,
    "metadata": METADATA,
    "link-local": LINK_LOCAL,
    "unspecified": "0.0.0.0",
    "loopback-6": "[::1]",
    "mapped-loopback": "[::ffff:127.0.0.1]",
    "mapped-metadata": "[::ffff:a9fe:a9fe]",
    "unspecified-6": "[::]",
    "decimal": "2130706433",
    "hexadecimal": "0x7f000001",
    "octal": "0177.0.0.1",
    "short": "127.1",
    "absolute": "127.0.0.1.",
    "userinfo": "8.8.8.8@127.0.0.1",
    "userinfo-and-port": "8.8.8.8:80@127.0.0.1",
    "nat64-loopback": "[64:ff9b::127.0.0.1]",
    "nat64-metadata": "[64:ff9b::a9fe:a9fe]",
    "6to4-private": "[2002:a4d:1::1]",
    "teredo-loopback": "[2001:0:808:808::80ff:fffe]",
    "interface": "[fe80::1%25lo]",
    "openstack-metadata": "[fe80::a9fe:a9fe]",
    "localhost": "localhost",
    "a-name-of-loopback": "mirror.test",
    "a-name-of-private": "inside.test",
}


POLICIES = ([], ["--policy", "strict"])


@pytest.mark.parametrize("policy", POLICIES, ids=["user", "strict"])
@pytest.mark.parametrize("where", FORBIDDEN_FROM_PUBLIC)
def test_a_redirect_from_a_public_address_stays_outside(
    net: Net, where: str, policy: list[str]
) -> None:
    """However the address is spelled: what counts is where the connection would go."""
    to = net.url(FORBIDDEN_FROM_PUBLIC[where])
    net.typed.resources["/image.raw"].rules = [Rule(redirect=to)]
    net.check_refused(net.get(net.typed.url("/image.raw"), *policy))


@pytest.mark.parametrize("policy", POLICIES, ids=["user", "strict"])
@pytest.mark.parametrize("where", FORBIDDEN_FROM_PUBLIC)
def test_a_metalink_from_a_public_address_stays_outside(
    net: Net, where: str, policy: list[str]
) -> None:
    """A mirror list is a redirect with more lines."""
    to = net.url(FORBIDDEN_FROM_PUBLIC[where])
    net.typed.resources["/x.meta4"] = metalink(to)
    net.check_refused(net.get(net.typed.url("/x.meta4"), *policy))


def test_a_forbidden_mirror_beside_a_right_one_is_left_out(net: Net) -> None:
    """The job goes on with what is allowed; the other one is never asked."""
    net.typed.resources["/x.meta4"] = metalink(net.url(PRIVATE), net.typed.url("/image.raw"))
    net.check_fetched(net.get(net.typed.url("/x.meta4")))
    assert net.other.connections == 0


@pytest.mark.parametrize("policy", POLICIES, ids=["user", "strict"])
def test_a_link_field_may_not_lead_inside(net: Net, policy: list[str]) -> None:
    """RFC 6249 mirrors are a stranger's proposal too."""
    digest = ("Repr-Digest", "sha-256=:" + _base64_of_sha256() + ":")
    link = ("Link", f"<{net.url(PRIVATE)}>; rel=duplicate")
    net.typed.resources["/image.raw"].headers = [digest, link]
    net.check_fetched(net.get(net.typed.url("/image.raw"), *policy))
    assert net.other.connections == 0


def _base64_of_sha256() -> str:
    return base64.b64encode(hashlib.sha256(IMAGE).digest()).decode()


@pytest.mark.parametrize("host", [PUBLIC_TOO, "outside.test"])
def test_a_redirect_to_another_public_address_is_followed(net: Net, host: str) -> None:
    """The policy refuses places, not redirects."""
    net.typed.resources["/image.raw"].rules = [Rule(redirect=net.url(host))]
    net.check_fetched(net.get(net.typed.url("/image.raw")))


@pytest.mark.parametrize("host", ["127.0.0.1", PRIVATE, PUBLIC, "[::1]", "localhost"])
def test_what_the_user_typed_may_be_anywhere(net: Net, host: str) -> None:
    """Loopback and private mirrors are common; on the command line the user decides."""
    net.check_fetched(net.get(net.url(host)))


@pytest.mark.parametrize("host", ["127.0.0.1", PRIVATE])
def test_nobody_is_led_to_a_metadata_service(net: Net, host: str) -> None:
    """Not even a server inside may send the host there."""
    with FaultOrigin(
        {"/image.raw": Resource.of(IMAGE)}, listener=net.space.listen(METADATA)
    ) as metadata:
        to = f"http://{METADATA}:{metadata.port}/image.raw"
        net.other.resources["/image.raw"].rules = [Rule(when=When(last_nth=9), redirect=to)]
        refused = net.get(net.url(host))
        assert (refused.code, refused.classes) == (15, ["POLICY"]), refused
        assert metadata.connections == 0


@pytest.mark.parametrize(
    "host", ["127.0.0.1", METADATA, LINK_LOCAL, "[::1]", "0.0.0.0", "mirror.test", "localhost"]
)
def test_the_strict_policy_also_checks_what_was_typed(net: Net, host: str) -> None:
    """What the agent is told comes from tenants."""
    net.check_refused(net.get(net.url(host), "--policy", "strict"))
