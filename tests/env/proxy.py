# SPDX-License-Identifier: Apache-2.0
"""How does a forward proxy behave? It tunnels on CONNECT and fetches for absolute-form GET.

Plain or over TLS, with Basic credentials where they are wanted. Names that end in
``.invalid`` lead to ``home``, so that a test sees who resolved them.
"""

from __future__ import annotations

import base64
import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(slots=True)
class Proxy:
    """A running proxy: its address, and the request lines and fields that it was sent."""

    port: int
    credentials: str | None = None
    connect_status: int = 200
    home: tuple[str, int] | None = None
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    @property
    def address(self) -> str:
        """HOST:PORT."""
        return f"127.0.0.1:{self.port}"

    def admits(self, fields: dict[str, str]) -> bool:
        """Whether the credentials of a request are the wanted ones."""
        if self.credentials is None:
            return True
        wanted = "Basic " + base64.b64encode(self.credentials.encode()).decode()
        return fields.get("proxy-authorization") == wanted

    def place(self, host: str, port: int) -> tuple[str, int]:
        """Where a host that a client names is."""
        return self.home if self.home and host.endswith(".invalid") else (host, port)


@contextlib.contextmanager
def start_proxy(
    *,
    tls: ssl.SSLContext | None = None,
    credentials: str | None = None,
    connect_status: int = 200,
    home: tuple[str, int] | None = None,
) -> Iterator[Proxy]:
    """A proxy on a free port of loopback until the block ends."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = Proxy(listener.getsockname()[1], credentials, connect_status, home)
        threading.Thread(target=_accept, args=(listener, proxy, tls), daemon=True).start()
        try:
            yield proxy
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)


def _accept(listener: socket.socket, proxy: Proxy, tls: ssl.SSLContext | None) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_serve, args=(client, proxy, tls), daemon=True).start()


def _serve(client: socket.socket, proxy: Proxy, tls: ssl.SSLContext | None) -> None:
    with contextlib.suppress(OSError), client:
        client.settimeout(30)
        stream = tls.wrap_socket(client, server_side=True) if tls else client
        with stream:
            _talk(stream, proxy)


def _talk(client: socket.socket, proxy: Proxy) -> None:
    while head := _read_head(client):
        line, *rest = head.split("\r\n")
        fields = {k.strip().lower(): v.strip() for k, _, v in (x.partition(":") for x in rest)}
        proxy.requests.append((line, fields))
        method, target, _ = line.split(" ")
        if not proxy.admits(fields):
            client.sendall(
                b"HTTP/1.1 407 Proxy Authentication Required\r\n"
                b'Proxy-Authenticate: Basic realm="test"\r\nContent-Length: 0\r\n\r\n'
            )
        elif method == "CONNECT":
            if proxy.connect_status != 200:
                client.sendall(
                    b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % proxy.connect_status
                )
                continue
            host, _, port = target.rpartition(":")
            _tunnel(client, proxy.place(host.strip("[]"), int(port)))
            return
        else:
            _forward(client, proxy, line, rest)


def _read_head(client: socket.socket) -> str:
    data = b""
    while b"\r\n\r\n" not in data:
        more = client.recv(1)
        if not more:
            return ""
        data += more
    return data.decode("latin-1").removesuffix("\r\n\r\n")


def _tunnel(client: socket.socket, place: tuple[str, int]) -> None:
    with socket.create_connection(place, timeout=30) as server:
        client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        up = threading.Thread(target=_pump, args=(client, server), daemon=True)
        up.start()
        _pump(server, client)
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)
        up.join(30)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def _forward(client: socket.socket, proxy: Proxy, line: str, rest: list[str]) -> None:
    """One exchange with the origin, whose answer must tell its length."""
    method, target, version = line.split(" ")
    host_port, slash, path = target.removeprefix("http://").partition("/")
    host, _, port = host_port.partition(":")
    kept = [x for x in rest if not x.lower().startswith("proxy-")]
    with socket.create_connection(proxy.place(host, int(port or 80)), timeout=30) as server:
        request = "\r\n".join([f"{method} {slash}{path} {version}", *kept])
        server.sendall(request.encode("latin-1") + b"\r\n\r\n")
        head = _read_head(server)
        client.sendall(head.encode("latin-1") + b"\r\n\r\n")
        left = next(
            int(x.partition(":")[2])
            for x in head.split("\r\n")
            if x.lower().startswith("content-length:")
        )
        while left > 0 and (data := server.recv(min(left, 1 << 16))):
            client.sendall(data)
            left -= len(data)
