# SPDX-License-Identifier: Apache-2.0
"""Where addresses lead and who may lead there."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastdl.errors import UsageError
from fastdl.model.address import AddressClass, classify, parse_cidrs, refused, refused_nfs

C = AddressClass


@pytest.mark.parametrize(
    ("ip", "expected"),
    [
        ("8.8.8.8", C.PUBLIC), ("1.1.1.1", C.PUBLIC), ("172.32.0.1", C.PUBLIC),
        ("192.88.98.1", C.PUBLIC), ("198.20.0.1", C.PUBLIC), ("100.63.0.1", C.PUBLIC),
        ("10.0.0.1", C.PRIVATE), ("172.16.0.1", C.PRIVATE), ("172.31.255.255", C.PRIVATE),
        ("192.168.1.1", C.PRIVATE), ("100.64.0.1", C.PRIVATE), ("100.127.255.255", C.PRIVATE),
        ("127.0.0.1", C.LOOPBACK), ("127.255.255.255", C.LOOPBACK),
        ("169.254.0.1", C.LINK_LOCAL), ("169.254.169.253", C.LINK_LOCAL),
        ("169.254.169.254", C.METADATA), ("169.254.170.2", C.METADATA),
        ("100.100.100.200", C.METADATA), ("168.63.129.16", C.METADATA),
        ("224.0.0.1", C.MULTICAST), ("239.255.255.255", C.MULTICAST),
        ("0.0.0.0", C.UNSPECIFIED), ("0.1.2.3", C.UNSPECIFIED),
        ("192.0.0.8", C.RESERVED), ("192.0.2.1", C.RESERVED), ("192.88.99.1", C.RESERVED),
        ("198.18.0.1", C.RESERVED), ("198.19.255.255", C.RESERVED), ("198.51.100.1", C.RESERVED),
        ("203.0.113.1", C.RESERVED), ("240.0.0.1", C.RESERVED), ("255.255.255.255", C.RESERVED),
        ("2606:4700::1", C.PUBLIC), ("2a00::1", C.PUBLIC),
        ("::", C.UNSPECIFIED), ("::1", C.LOOPBACK), ("::2", C.RESERVED), ("::7f00:1", C.RESERVED),
        ("fc00::1", C.PRIVATE), ("fdff::1", C.PRIVATE), ("fd00:ec2::254", C.METADATA),
        ("fd20:ce::254", C.METADATA), ("fd00:ec2::253", C.PRIVATE),
        ("fe80::1", C.LINK_LOCAL), ("fe80::1%eth0", C.LINK_LOCAL), ("febf::1", C.LINK_LOCAL),
        ("fec0::1", C.RESERVED), ("ff02::1", C.MULTICAST), ("100::1", C.RESERVED),
        ("2001:db8::1", C.RESERVED), ("3fff::1", C.RESERVED), ("4000::1", C.RESERVED),
        ("64:ff9b:1:1::1", C.RESERVED),
    ],
)  # fmt: skip
def test_an_address_has_one_class(ip: str, expected: AddressClass) -> None:
    """Both ends of every range that matters are where the registries say."""
    assert classify(ip) is expected


EMBEDDINGS = {
    "mapped": lambda v4: int(IPv6Address("::ffff:0:0")) | v4,
    "nat64": lambda v4: int(IPv6Address("64:ff9b::")) | v4,
    "local-nat64": lambda v4: int(IPv6Address("64:ff9b:1::")) | v4,
    "6to4": lambda v4: int(IPv6Address("2002::1")) | v4 << 80,
    "teredo": lambda v4: int(IPv6Address("2001:0:808:808::")) | (v4 ^ 0xFFFFFFFF),
}


@pytest.mark.parametrize("form", EMBEDDINGS)
@given(
    v4=st.sampled_from([0, 0x7F000001, 0xA9FEA9FE, 0x0A000001, 0x08080808, 0xE0000001])
    | st.integers(0, 2**32 - 1)
)
def test_an_embedded_ipv4_address_is_what_counts(form: str, v4: int) -> None:
    """Packets go to the inner address, so the outer one must not hide it."""
    assert classify(IPv6Address(EMBEDDINGS[form](v4))) is classify(IPv4Address(v4))


@given(st.ip_addresses(), st.sampled_from(["user", "strict"]), st.none() | st.sampled_from(C))
def test_every_address_gets_a_decision(
    ip: IPv4Address | IPv6Address, policy: str, from_class: AddressClass | None
) -> None:
    """No address falls through; a reason names the address and its class."""
    reason = refused(ip, policy, from_class=from_class)
    assert reason is None or (str(ip) in reason and classify(ip).value in reason)


ONE_OF_EACH = {
    C.PUBLIC: "8.8.8.8",
    C.PRIVATE: "10.0.0.1",
    C.LOOPBACK: "127.0.0.1",
    C.LINK_LOCAL: "169.254.1.1",
    C.METADATA: "169.254.169.254",
    C.MULTICAST: "224.0.0.1",
    C.UNSPECIFIED: "0.0.0.0",
    C.RESERVED: "203.0.113.1",
}


def _reachable(policy: str, from_class: AddressClass | None) -> set[AddressClass]:
    return {c for c, ip in ONE_OF_EACH.items() if not refused(ip, policy, from_class=from_class)}


def test_a_user_may_type_any_address() -> None:
    """The person at the command line knows their network."""
    assert _reachable("user", None) == set(C)


@pytest.mark.parametrize(
    ("from_class", "reachable"),
    [
        (C.PUBLIC, {C.PUBLIC}),
        (C.PRIVATE, {C.PUBLIC, C.PRIVATE}),
        (C.LOOPBACK, {C.PUBLIC, C.PRIVATE, C.LOOPBACK, C.RESERVED}),
        (C.LINK_LOCAL, {C.PUBLIC, C.PRIVATE, C.LINK_LOCAL}),
        (C.RESERVED, {C.PUBLIC, C.RESERVED}),
        (C.METADATA, {C.PUBLIC}),
        (C.MULTICAST, {C.PUBLIC}),
        (C.UNSPECIFIED, {C.PUBLIC}),
    ],
)
def test_a_source_leads_no_further_inside(
    from_class: AddressClass, reachable: set[AddressClass]
) -> None:
    """A redirect or mirror list from outside must not reach what is inside."""
    assert _reachable("user", from_class) == reachable
    assert _reachable("strict", from_class) == reachable & {C.PUBLIC, C.PRIVATE}


def test_the_strict_policy_allows_public_and_private_only() -> None:
    """An agent runs commands of others: what is typed is not the operator's word."""
    assert _reachable("strict", None) == {C.PUBLIC, C.PRIVATE}


def test_nfs_needs_the_operators_word() -> None:
    """A server that trusts the host shows it every tenant's disk."""
    assert refused_nfs("10.0.0.1", "user") is None
    assert refused_nfs("10.0.0.1", "user", from_class=C.PUBLIC)
    for address in ("8.8.8.8", "10.0.0.1", "127.0.0.1"):
        assert refused_nfs(address, "strict")
        assert refused_nfs(address, "strict", (), (f"{address}/31",)) is None
    assert refused_nfs("10.0.0.1", "strict", ("10.0.0.0/8",)), "an exception is not a list"
    assert refused_nfs("127.0.0.1", "strict", ("127.0.0.0/8",)) is None
    assert refused_nfs("127.0.0.1", "strict", ("127.0.0.0/8",), (), C.LOOPBACK)
    assert refused_nfs("10.0.0.1", "strict", (), ("10.0.0.0/8",), C.PUBLIC)
    assert refused_nfs("10.0.0.1", "strict", (), ("10.0.0.0/8",), C.PRIVATE) is None
    assert refused_nfs("169.254.169.254", "strict", ("0.0.0.0/0",), ("0.0.0.0/0",))


def test_the_operator_can_allow_anything_but_metadata() -> None:
    """An allow-list of everything still keeps the host's credentials in."""
    everything = ("0.0.0.0/0", "::/0")
    allowed = {c for c, ip in ONE_OF_EACH.items() if not refused(ip, "strict", everything)}
    assert allowed == set(C) - {C.METADATA}
    assert refused("64:ff9b::169.254.169.254", "strict", everything)
    assert refused("10.0.0.1", "user", ("10.0.0.0/8",), C.PUBLIC) is None
    assert refused("11.0.0.1", "user", ("10.0.0.0/8",), C.LOOPBACK) is None


def test_an_exception_covers_the_mapped_spelling() -> None:
    """A dual-stack socket reports 127.0.0.2 as ::ffff:127.0.0.2: the same place."""
    assert refused("::ffff:127.0.0.2", "strict", ("127.0.0.0/8",)) is None
    assert refused("::ffff:127.0.0.2", "strict", ("127.1.0.0/16",))


def test_cidr_lists_are_read_as_cloudstack_writes_them() -> None:
    """Commas, spaces, single addresses and host bits are all found in real settings."""
    assert [str(n) for n in parse_cidrs("10.1.2.3/8, 192.168.1.1,,fd00::/8")] == [
        "10.0.0.0/8",
        "192.168.1.1/32",
        "fd00::/8",
    ]


@pytest.mark.parametrize(
    "text",
    ["10.0.0.0/33", "x", "10.0.0/8", "010.0.0.1", "10.0.0.0/255.0.0.0", "fe80::1%eth0/64", "10/8"],
)
def test_what_is_no_network_is_a_usage_error(text: str) -> None:
    """A mistyped exception must not silently allow or forbid."""
    with pytest.raises(UsageError):
        parse_cidrs(text)
    with pytest.raises(UsageError):
        refused("127.0.0.1", "strict", (text,))


def test_wrong_arguments_are_usage_errors() -> None:
    """Text that is no address and a policy that does not exist are said so."""
    with pytest.raises(UsageError):
        classify("127.1")
    with pytest.raises(UsageError):
        refused("127.0.0.1", "lenient")
