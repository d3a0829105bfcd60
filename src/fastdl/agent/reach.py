# SPDX-License-Identifier: Apache-2.0
"""Where may the process of a job connect? At most where the job needs to, decided outside it.

The engine checks every connection by where it was redirected from (``csrc/base/addr.c``). A
compromised process would not: this is the second wall, which knows the job and the address.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Sequence

from fastdl.core.net import Net, address_class, is_hop_port
from fastdl.engine.options import FetchOptions, Proxies
from fastdl.errors import UsageError
from fastdl.model.url import Url
from fastdl.sources.origin_rules import mirrors_of

_DNS_PORT = 53
_RESOLV_CONF = "/etc/resolv.conf"
_RESERVED_PORTS = range(512, 1024)


class Reach:
    """What one job with *sources* and *options* may reach. Addresses are ``struct sockaddr``."""

    def __init__(self, sources: Sequence[str], options: FetchOptions) -> None:
        typed = [url for url in map(Url.parse, sources) if url.host]
        typed += [other for url in typed for other in mirrors_of(options.origin_rules, url)]
        self._ports = {url.port for url in typed}
        self._nfs = any(url.scheme == "nfs" for url in typed)
        # With several hosts it is unknown here which one redirected where.
        self._one_host = len({url.host for url in typed}) == 1
        self._from: int | None = None
        self._tried: set[int] = set()
        ways = options.proxy or Proxies()
        self._proxies = [_proxy(text) for text in (ways.http, ways.https) if text]
        # Each scheme may have its own proxy, and NFS has none.
        self._straight = self._nfs or bool(ways.exempt) or not (ways.http and ways.https)
        self._net = Net(
            connect_timeout=1,
            stall_timeout=1,
            follow_redirects=False,
            strict=options.policy == "strict",
            allowed_cidrs=options.allowed_cidrs,
            nfs_servers=options.nfs_servers,
            system_trust=False,
        )

    @property
    def public_only(self) -> bool:
        """Whether any connection was requested, and all of them to public addresses."""
        return self._tried == {_PUBLIC}

    def may_ask(self, address: bytes) -> bool:
        """Whether a datagram socket may be connected to *address*: only to a name server's."""
        return _port(address) == _DNS_PORT and _host(address) in _name_servers()

    def may_connect(self, address: bytes) -> bool:
        """Whether a stream may be; the first one's host is the one that the user named."""
        if self.may_ask(address):
            return True
        self._tried.add(address_class(address))
        if any(self._is_proxy(address, *proxy) for proxy in self._proxies):
            return True
        if not self._straight:
            return False
        if not self._net.allows(address, from_class=self._from) and not self._is_nfs(address):
            return False
        port = _port(address)
        if not (port in self._ports or is_hop_port(port) or self._is_nfs(address)):
            return False
        if self._from is None and self._one_host and not self._proxies:
            self._from = address_class(address)
        return True

    def may_bind(self, address: bytes) -> bool:
        """Whether a socket may be bound to *address*: for NFS servers, which trust ports."""
        free = _host(address) in {"0.0.0.0", "::"}  # noqa: S104 - compared, not bound
        return self._nfs and free and (_port(address) or 1023) in _RESERVED_PORTS

    def _is_nfs(self, address: bytes) -> bool:
        """Whether it may be an NFS server, whose services may be at any port."""
        return self._nfs and self._net.allows(address, nfs=True)

    def _is_proxy(self, address: bytes, host: str, port: int) -> bool:
        if _port(address) != port:
            return False
        with contextlib.suppress(UsageError):
            return _host(address) == _canonical(host)
        # A name: the proxy may be at any address that a proxy can have.
        return self._net.allows(address) or address_class(address) == _LOOPBACK


def _proxy(text: str) -> tuple[str, int]:
    """Host and port of a proxy as libcurl reads it; the port is 1080 if none is given."""
    rest = text.partition("://")[2] or text
    authority = rest.partition("/")[0].rpartition("@")[2]
    host, colon, port = authority.rpartition(":")
    if not colon or not port.isdigit():
        host, port = authority, "443" if text.startswith("https://") else "1080"
    return host.strip("[]"), int(port)


def _name_servers() -> set[str]:
    """The name servers of this host, as glibc reads them."""
    found = set()
    with contextlib.suppress(OSError), open(_RESOLV_CONF, encoding="latin-1") as file:  # noqa: PTH123
        for line in file:
            words = line.split()
            if len(words) > 1 and words[0] == "nameserver":
                with contextlib.suppress(UsageError):
                    found.add(_canonical(words[1].partition("%")[0]))
    return found or {"127.0.0.1"}


def _canonical(text: str) -> str:
    """An address in the spelling of ``_host``; UsageError for a name."""
    from fastdl.model.address import parse_address  # few jobs meet one

    address = parse_address(text)
    return _shown(socket.AF_INET6 if address.version == 6 else socket.AF_INET, address.packed)


def _host(address: bytes) -> str:
    family = struct.unpack_from("=H", address)[0]
    packed = address[8:24] if family == socket.AF_INET6 else address[4:8]
    return _shown(family, packed)


def _shown(family: int, packed: bytes) -> str:
    if family == socket.AF_INET6 and packed.startswith(bytes(10) + b"\xff\xff"):
        family, packed = socket.AF_INET, packed[12:]
    return socket.inet_ntop(family, packed)


def _port(address: bytes) -> int:
    return int(struct.unpack_from(">H", address, 2)[0])


_PUBLIC = address_class(struct.pack("=H2xB3x8x", socket.AF_INET, 8))
_LOOPBACK = address_class(struct.pack("=H2xB3x8x", socket.AF_INET, 127))
