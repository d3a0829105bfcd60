# SPDX-License-Identifier: Apache-2.0
"""Is what a job may reach as much as it needs, and no more?

With real processes: tests/adversity/test_confined_network.py.
"""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from typing import Any

import pytest

from fastdl.agent import reach
from fastdl.agent.reach import Reach
from fastdl.engine.options import FetchOptions, Proxies


def _sockaddr(text: str, port: int) -> bytes:
    """A socket address, as connect(2) takes it."""
    if ":" in text:
        head = struct.pack("=H", socket.AF_INET6) + struct.pack(">HI", port, 0)
        return head + socket.inet_pton(socket.AF_INET6, text) + bytes(4)
    head = struct.pack("=H", socket.AF_INET) + struct.pack(">H", port)
    return head + socket.inet_pton(socket.AF_INET, text) + bytes(8)


PUBLIC, PUBLIC_TOO, PRIVATE = "8.8.4.4", "2606:4700::1", "10.77.0.1"


def _reach(*sources: str, **options: Any) -> Reach:
    return Reach(sources, FetchOptions.build(policy=options.pop("policy", "strict"), **options))


def _allowed(found: Reach, *places: tuple[str, int]) -> list[tuple[str, int]]:
    return [place for place in places if found.may_connect(_sockaddr(*place))]


def test_the_first_connection_says_from_how_far_outside_the_job_comes() -> None:
    """Before it not a byte of an origin has been read."""
    found = _reach("https://origin.example/x")
    everywhere = ((PRIVATE, 443), (PUBLIC, 443), (PUBLIC_TOO, 443), ("127.0.0.1", 443))
    assert _allowed(found, (PUBLIC, 443)) == [(PUBLIC, 443)]
    assert _allowed(found, *everywhere) == [(PUBLIC, 443), (PUBLIC_TOO, 443)]
    found = _reach("https://origin.example/x")
    assert _allowed(found, *everywhere) == [(PRIVATE, 443), (PUBLIC, 443), (PUBLIC_TOO, 443)]


def test_mirrors_at_several_hosts_may_be_in_several_places() -> None:
    """Which of them led where only the engine knows."""
    found = _reach("https://a.example/x", "https://b.example/x")
    assert _allowed(found, (PUBLIC, 443), (PRIVATE, 443)) == [(PUBLIC, 443), (PRIVATE, 443)]
    found = _reach("https://a.example/x", "https://a.example:8443/x")
    assert _allowed(found, (PUBLIC, 443), (PRIVATE, 443)) == [(PUBLIC, 443)]


@pytest.mark.parametrize(
    ("address", "port", "allowed"),
    [
        (PUBLIC, 80, True),
        (PUBLIC, 81, True),  # typed
        (PUBLIC, 22, False),
        (PUBLIC, 8080, True),
        ("169.254.169.254", 80, False),
        ("fd00:ec2::254", 80, False),
        ("::ffff:169.254.169.254", 80, False),
        ("64:ff9b::a9fe:a9fe", 80, False),
        ("127.0.0.1", 80, False),
        ("192.0.2.7", 80, True),  # the operator's exception
        ("0.0.0.0", 80, False),
        ("224.0.0.1", 80, False),
    ],
)
def test_the_address_policy_is_the_engines(address: str, port: int, *, allowed: bool) -> None:
    """The same check, in a process that nobody has talked to."""
    found = _reach(f"http://{PUBLIC}:81/x", allowed_cidrs=("192.0.2.0/24", "169.254.0.0/16"))
    assert found.may_connect(_sockaddr(address, port)) is allowed


def test_nfs_is_a_matter_of_listed_servers_and_of_all_their_ports() -> None:
    """Portmapper and mountd listen where they like; ports of root's are asked for."""
    found = _reach("nfs://10.77.0.1/export/x", nfs_servers=("10.77.0.1/32",))
    assert _allowed(found, (PRIVATE, 111), (PRIVATE, 892), (PRIVATE, 2049), ("10.77.0.2", 111)) == [
        (PRIVATE, 111),
        (PRIVATE, 892),
        (PRIVATE, 2049),
    ]
    assert found.may_bind(_sockaddr("0.0.0.0", 1000))
    assert found.may_bind(_sockaddr("::", 512))
    assert not found.may_bind(_sockaddr("0.0.0.0", 80))
    assert not found.may_bind(_sockaddr("0.0.0.0", 2000))
    assert not found.may_bind(_sockaddr("127.0.0.1", 1000))
    other = _reach(f"http://{PUBLIC}/x")
    assert not other.may_bind(_sockaddr("0.0.0.0", 1000))
    assert _allowed(other, (PUBLIC, 111)) == []


@pytest.mark.parametrize(
    ("proxy", "place"),
    [
        ("http://127.0.0.1:3128", ("127.0.0.1", 3128)),
        ("http://user:pass@[::1]:3128/", ("::1", 3128)),
        ("socks5h://10.77.0.1", (PRIVATE, 1080)),
        ("https://proxy.example", (PUBLIC, 443)),
        ("proxy.example:8080", (PRIVATE, 8080)),
    ],
)
def test_behind_a_proxy_there_is_the_proxy_alone(proxy: str, place: tuple[str, int]) -> None:
    """In every way that libcurl takes one."""
    found = _reach(f"http://{PUBLIC}/x", proxy=proxy)
    assert found.may_connect(_sockaddr(*place))
    assert not found.may_connect(_sockaddr(place[0], place[1] + 1))
    assert not found.may_connect(_sockaddr(PUBLIC, 80))
    assert not found.may_connect(_sockaddr("169.254.169.254", place[1]))


def test_each_scheme_may_have_its_own_way() -> None:
    """Straight where no proxy is named for it, or where one is not to be used."""
    for ways in (Proxies(http="10.0.0.9:3128"), Proxies("10.0.0.9:3128", "10.0.0.9:3128", "*")):
        found = _reach(f"http://{PUBLIC}/x", proxy=ways)
        assert _allowed(found, ("10.0.0.9", 3128), (PUBLIC, 80)) == [
            ("10.0.0.9", 3128),
            (PUBLIC, 80),
        ]


def test_name_servers_are_those_of_this_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As glibc reads them; without any it asks this machine."""
    conf = tmp_path / "resolv.conf"
    monkeypatch.setattr(reach, "_RESOLV_CONF", str(conf))
    found = _reach(f"http://{PUBLIC}/x")
    assert found.may_ask(_sockaddr("127.0.0.1", 53))
    conf.write_text("# comment\nnameserver 10.0.0.53 x\nnameserver fe80::53%eth0\nnameserver bad\n")
    for address in ("10.0.0.53", "fe80::53", "::ffff:10.0.0.53"):
        assert found.may_ask(_sockaddr(address, 53))
        assert found.may_connect(_sockaddr(address, 53))
        assert not found.may_ask(_sockaddr(address, 54))
    assert not found.may_ask(_sockaddr("127.0.0.1", 53))
    assert not found.may_ask(_sockaddr(PUBLIC, 53))


def test_a_local_source_reaches_nothing_of_the_operators_network() -> None:
    """It leads nowhere; what a local metalink names is checked as typed by the engine."""
    found = _reach("/srv/x.raw")
    assert _allowed(found, ("127.0.0.1", 80), ("169.254.169.254", 80)) == []


def test_whether_all_was_public_is_what_was_asked_for() -> None:
    """A tenant is told why a public source failed. Refused attempts count: they looked inside."""
    found = _reach("https://origin.example/x")
    assert not found.public_only
    assert _allowed(found, (PUBLIC, 443), (PUBLIC_TOO, 443))
    assert found.public_only
    assert not _allowed(found, (PRIVATE, 443))
    assert not found.public_only
    found = _reach("https://origin.example/x")
    assert _allowed(found, (PRIVATE, 443), (PUBLIC, 443))
    assert not found.public_only
