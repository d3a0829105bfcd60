# SPDX-License-Identifier: Apache-2.0
"""Do the C address check and its Python twin agree on everything?"""

from __future__ import annotations

import random
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import pytest

from fastdl.model.address import (
    _EMBEDDED,
    _V4,
    _V6,
    AddressClass,
    classify,
    refused,
    refused_nfs,
)
from tests.env.address_checker import ask, compile_checker

CLASSES = list(AddressClass)
"""In the order of enum fdl_addr_class."""
CIDRS = [
    [],
    ["127.0.0.0/8"],
    ["10.1.2.3/9", "fe80::/10", "169.254.0.0/16"],
    ["0.0.0.0/0", "::/0"],
    ["::ffff:0:0/96", "192.0.2.7"],
]


@pytest.fixture(scope="module")
def checker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C check as a program."""
    return compile_checker(tmp_path_factory.mktemp("checker"))


def addresses() -> Iterator[IPv4Address | IPv6Address]:
    """Both sides of every range's edges, what embeds them, and thousands at random."""
    rng = random.Random(7)
    v4 = [IPv4Address(rng.getrandbits(32)) for _ in range(1500)]
    for network, _ in _V4:
        first, last = int(network.network_address), int(network.broadcast_address)
        v4 += [IPv4Address(n) for n in (first - 1, first, last, last + 1) if 0 <= n < 1 << 32]
    yield from v4
    for network, shift, mask in _EMBEDDED:
        for inner in v4[::3]:
            bits = (int(inner) ^ mask) << shift
            yield IPv6Address(int(network.network_address) | bits)
    for network6 in [n for n, _ in _V6] + [n for n, _, _ in _EMBEDDED]:
        first, last = int(network6.network_address), int(network6.broadcast_address)
        for n in (first - 1, first, last, last + 1):
            if 0 <= n < 1 << 128:
                yield IPv6Address(n)
        for _ in range(100):
            yield IPv6Address(first | rng.getrandbits(128) & (last - first))


def test_the_c_check_and_its_twin_agree(checker: Path) -> None:
    """What is refused early and what is refused at connect time must be the same."""
    rng = random.Random(8)
    cases = []
    for address in addresses():
        origin = rng.choice([None, *CLASSES])
        cidrs, servers = rng.choice(CIDRS), rng.choice(CIDRS)
        cases.append((address, rng.choice([True, False]), origin, cidrs, servers))
    assert len(cases) > 5000
    answers = ask(
        checker,
        [
            f"{address} {int(strict)} {-1 if origin is None else CLASSES.index(origin)} "
            + " ".join([*cidrs, "nfs", *servers])
            for address, strict, origin, cidrs, servers in cases
        ],
    )
    for case, answer in zip(cases, answers, strict=True):
        address, strict, origin, cidrs, servers = case
        policy = "strict" if strict else "user"
        allowed = refused(address, policy, cidrs, origin) is None
        nfs = refused_nfs(address, policy, cidrs, servers, origin) is None
        wanted = f"{CLASSES.index(classify(address))} {int(allowed)} {int(nfs)}"
        assert answer == wanted, case


def test_malformed_ranges_are_refused_by_both(checker: Path) -> None:
    """An operator's typing error must not silently allow or forbid."""
    bad = ["10.0.0.0/33", "10.0.0/8", "fe80::/129", "10.0.0.0/", "10.0.0.0/-1", "x", "1.2.3.4/8x"]
    assert ask(checker, [f"127.0.0.1 1 -1 {cidr}" for cidr in bad]) == ["bad"] * len(bad)
    for cidr in bad:
        with pytest.raises(Exception, match="CIDR"):
            refused(ip_address("127.0.0.1"), "strict", [cidr])
