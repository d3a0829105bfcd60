# SPDX-License-Identifier: Apache-2.0
"""Where an IP address leads, and whether a source may lead there.

The decision that counts is taken at connect time by the C core's twin of this file;
this one gives early messages and is the oracle of the twin's tests. Ranges are those of
the IANA special-purpose registries (RFC 6890 and its updates). An IPv6 address that
carries an IPv4 address is checked by the latter, because that is where packets go.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

from fastdl.errors import UsageError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


class AddressClass(Enum):
    """What kind of place an address is; the value is the word that messages use."""

    PUBLIC = "public"
    PRIVATE = "private"
    LOOPBACK = "loopback"
    LINK_LOCAL = "link-local"
    METADATA = "metadata"
    MULTICAST = "multicast"
    UNSPECIFIED = "unspecified"
    RESERVED = "reserved"


_C = AddressClass

# The first match counts. Metadata services come first: they sit in ranges that would
# otherwise be private, link-local or public.
_V4: tuple[tuple[IPv4Network, AddressClass], ...] = tuple(
    (IPv4Network(text), cls)
    for text, cls in (
        ("169.254.169.254/32", _C.METADATA),  # nearly every cloud
        ("169.254.170.2/32", _C.METADATA),  # AWS containers
        ("169.254.170.23/32", _C.METADATA),  # AWS pods
        ("169.254.42.42/32", _C.METADATA),  # Scaleway
        ("169.254.0.23/32", _C.METADATA),  # Tencent
        ("100.100.100.200/32", _C.METADATA),  # Alibaba
        ("168.63.129.16/32", _C.METADATA),  # Azure
        ("192.0.0.192/32", _C.METADATA),  # Oracle
        ("0.0.0.0/8", _C.UNSPECIFIED),
        ("10.0.0.0/8", _C.PRIVATE),
        ("100.64.0.0/10", _C.PRIVATE),
        ("127.0.0.0/8", _C.LOOPBACK),
        ("169.254.0.0/16", _C.LINK_LOCAL),
        ("172.16.0.0/12", _C.PRIVATE),
        ("192.0.0.0/24", _C.RESERVED),
        ("192.0.2.0/24", _C.RESERVED),
        ("192.88.99.0/24", _C.RESERVED),
        ("192.168.0.0/16", _C.PRIVATE),
        ("198.18.0.0/15", _C.RESERVED),
        ("198.51.100.0/24", _C.RESERVED),
        ("203.0.113.0/24", _C.RESERVED),
        ("224.0.0.0/4", _C.MULTICAST),
        ("240.0.0.0/4", _C.RESERVED),
    )
)
_V6: tuple[tuple[IPv6Network, AddressClass], ...] = tuple(
    (IPv6Network(text), cls)
    for text, cls in (
        ("fd00:ec2::254/128", _C.METADATA),  # AWS
        ("fd00:ec2::23/128", _C.METADATA),  # AWS pods
        ("fd20:ce::254/128", _C.METADATA),  # Google
        ("fd00:42::42/128", _C.METADATA),  # Scaleway
        ("fe80::a9fe:a9fe/128", _C.METADATA),  # OpenStack
        ("::/128", _C.UNSPECIFIED),
        ("::1/128", _C.LOOPBACK),
        ("fc00::/7", _C.PRIVATE),
        ("fe80::/10", _C.LINK_LOCAL),
        ("ff00::/8", _C.MULTICAST),
        ("2001::/23", _C.RESERVED),  # protocol assignments
        ("2001:db8::/32", _C.RESERVED),
        ("3fff::/20", _C.RESERVED),
        ("2000::/3", _C.PUBLIC),
        ("::/0", _C.RESERVED),  # nothing else is assigned for global use
    )
)

# Prefix → how many bits stand right of the embedded IPv4 address, and what it is XORed
# with. Of the local NAT64 prefix 64:ff9b:1::/48 only the /96 at its start is read: the
# other layouts of RFC 6052 put the address elsewhere, so they stay "reserved".
_EMBEDDED: tuple[tuple[IPv6Network, int, int], ...] = (
    (IPv6Network("::ffff:0:0/96"), 0, 0),  # IPv4-mapped
    (IPv6Network("64:ff9b::/96"), 0, 0),  # NAT64, RFC 6052
    (IPv6Network("64:ff9b:1::/96"), 0, 0),  # NAT64, RFC 8215
    (IPv6Network("2002::/16"), 80, 0),  # 6to4, RFC 3056
    (IPv6Network("2001::/32"), 0, 0xFFFFFFFF),  # Teredo, RFC 4380: the client, inverted
)

_STRICT = frozenset({_C.PUBLIC, _C.PRIVATE})
_MAY_LEAD = {
    _C.PRIVATE: frozenset({_C.PUBLIC, _C.PRIVATE}),
    _C.LOOPBACK: frozenset({_C.PUBLIC, _C.PRIVATE, _C.LOOPBACK, _C.RESERVED}),
    _C.LINK_LOCAL: frozenset({_C.PUBLIC, _C.PRIVATE, _C.LINK_LOCAL}),
    _C.RESERVED: frozenset({_C.PUBLIC, _C.RESERVED}),  # whoever that is
}
"""Class of the referring host → classes that its redirects, metalinks and links may lead to;
public only for every other class."""

_CIDR = re.compile(r"[0-9A-Fa-f:.]+(?:/[0-9]{1,3})?")


def parse_address(text: str) -> Address:
    """Return the address that *text* spells in the standard way; UsageError otherwise."""
    try:
        return ip_address(text)
    except ValueError:
        raise UsageError(f"{text[:60]!a} is not an IP address") from None


def parse_cidrs(texts: Iterable[str] | str) -> tuple[Network, ...]:
    """Return the networks that *texts* (or one text, comma-separated) spell; UsageError otherwise.

    A single address is a network of one; host bits are ignored, as CloudStack does.
    """
    items = texts.split(",") if isinstance(texts, str) else texts
    return tuple(_network(s) for item in items if (s := item.strip()))


def _network(text: str) -> Network:
    try:
        if _CIDR.fullmatch(text):
            return ip_network(text, strict=False)
    except ValueError:
        pass
    raise UsageError(f"{text[:80]!a} is not a network in CIDR notation, like 10.20.0.0/16")


def embedded_ipv4(ip: IPv6Address) -> IPv4Address | None:
    """Return the IPv4 address that packets to *ip* end up at, or None if it carries none."""
    for network, shift, mask in _EMBEDDED:
        if ip in network:
            return IPv4Address(((int(ip) >> shift) & 0xFFFFFFFF) ^ mask)
    return None


def classify(ip: Address | str) -> AddressClass:
    """Return what kind of place *ip* is. UsageError if it is text that spells no address."""
    address = parse_address(ip) if isinstance(ip, str) else ip
    if isinstance(address, IPv6Address):
        inner = embedded_ipv4(address)
        if inner is None:
            return next(cls for network, cls in _V6 if address in network)
        address = inner
    return next((cls for network, cls in _V4 if address in network), _C.PUBLIC)


def is_metadata(network: Network) -> bool:
    """Whether *network* is a metadata service and nothing else."""
    return network.num_addresses == 1 and classify(network.network_address) is _C.METADATA


def literal_address(host: str) -> Address | None:
    """Return the address that *host* (of a ``Url``) is without asking anybody, or None.

    ``localhost`` and what ends in it count as 127.0.0.1 (RFC 6761, 6.3).
    """
    name = host.removesuffix(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return IPv4Address("127.0.0.1")
    try:
        return ip_address(name)
    except ValueError:
        return None


def refused(
    ip: Address | str,
    policy: str = "user",
    allowed_cidrs: Iterable[Network | str] = (),
    from_class: AddressClass | None = None,
) -> str | None:
    """Return why a connection to *ip* is refused, as a phrase, or None if it is allowed.

    *policy*        ``user``: a typed host may be anywhere; ``strict``: public and private
                    addresses only. Under both, no source may lead to a more internal address than
    its own. *allowed_cidrs* the operator's exceptions; a metadata service is never one.
    *from_class* class of the host whose redirect or metalink leads here; None if typed.

    UsageError if *ip*, *policy* or *allowed_cidrs* is not what it should be.
    """
    if policy not in ("user", "strict"):
        raise UsageError(f"unknown address policy {policy[:40]!a}: use user or strict")
    address = parse_address(ip) if isinstance(ip, str) else ip
    cls = classify(address)
    if cls is not _C.METADATA and _listed(address, allowed_cidrs):
        return None
    if policy == "strict" and cls not in _STRICT:
        return f"{address} is a {cls.value} address, which the address policy forbids"
    if from_class is not None and cls not in _MAY_LEAD.get(from_class, {_C.PUBLIC}):
        return f"a {from_class.value} host may not lead to {address}, a {cls.value} address"
    return None


def refused_nfs(
    ip: Address | str,
    policy: str = "user",
    allowed_cidrs: Iterable[Network | str] = (),
    nfs_servers: Iterable[Network | str] = (),
    from_class: AddressClass | None = None,
) -> str | None:
    """As ``refused``, for a connection that would use NFS.

    An NFS server trusts the host's own address, and may expose other tenants' data to it. So
    under ``strict`` the server has to be among *nfs_servers*, or, where it was typed, have
    an address that only an exception allows.
    """
    address = parse_address(ip) if isinstance(ip, str) else ip
    allowed = parse_cidrs(str(n) for n in allowed_cidrs)
    reason = refused(address, policy, allowed, from_class)
    if policy != "strict":
        return reason
    cls, typed = classify(address), from_class is None
    if cls is not _C.METADATA and _listed(address, nfs_servers):
        return None if typed else reason
    if typed and cls not in _STRICT | {_C.METADATA} and _listed(address, allowed):
        return None
    return f"{address} is not among the NFS servers that the address policy allows"


def _listed(address: Address, cidrs: Iterable[Network | str]) -> bool:
    """Whether *address* is in one of *cidrs*; ::ffff:10.1.2.3 is the same place as 10.1.2.3."""
    same = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    networks = (parse_cidrs((n,)) if isinstance(n, str) else (n,) for n in cidrs)
    return any(address in n or (same is not None and same in n) for some in networks for n in some)
