# SPDX-License-Identifier: Apache-2.0
"""How does a real, ordinary mirror behave? One nginx with a server block per manner.

``start_nginx`` serves one folder on free loopback ports: plain, TLS, mutual TLS, obsolete
TLS, throttled, without ranges, with the digest and mirror fields of RFC 9530, 3230 and 6249,
and with a limit of requests at once that is answered with one of the statuses in use for it.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fastdl.lab import nginx as lab
from tests.env.certs import CertLab

LIMITS = (403, 404, 421, 429, 503)
"""Statuses with which servers refuse one request too many."""
MANNERS = (
    *("plain", "tls", "mutual", "obsolete", "throttled", "no-ranges", "links", "redirect"),
    *(f"limited-{status}" for status in LIMITS),
)
TLS = ("tls", "mutual", "obsolete")
THROTTLE = 1024 * 1024
"""Bytes a second of one connection to the throttled server."""

_HTTP = """
    access_log {folder}/access.log;
    types {{ application/metalink4+xml meta4; application/metalink+xml metalink; }}
    limit_conn_zone $server_port zone=servers:1m;
    root {root};
{servers}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Nginx:
    """A running nginx: the port of each manner, the served folder and the access log."""

    ports: dict[str, int]
    root: Path
    access_log: Path

    def url(self, manner: str, name: str) -> str:
        """The URL of the file *name* as served in one of :data:`MANNERS`."""
        scheme = "https" if manner in TLS else "http"
        return f"{scheme}://127.0.0.1:{self.ports[manner]}/{name}"

    def put(self, name: str, content: bytes) -> None:
        """Place a file to serve; the ``links`` server must be told its digest at start."""
        (self.root / name).write_bytes(content)


@contextlib.contextmanager
def start_nginx(folder: Path, certs: CertLab, files: dict[str, bytes]) -> Iterator[Nginx]:
    """Serve *files* until the block ends; skips the test where nginx is not installed."""
    if lab.find() is None:
        pytest.skip("nginx is not installed")
    root = folder / "root"
    root.mkdir(parents=True)
    for name, content in files.items():
        (root / name).write_bytes(content)
    folder.chmod(0o755)
    ports = dict(zip(MANNERS, lab.free_ports(len(MANNERS)), strict=True))
    nginx = Nginx(ports=ports, root=root, access_log=folder / "access.log")
    servers = "\n".join(_server(nginx, manner, certs, files) for manner in MANNERS)
    http = _HTTP.format(folder=folder, root=root, servers=servers)
    listens = [("127.0.0.1", port) for port in ports.values()]
    with lab.running(folder, http, listens=listens, main="master_process off;"):
        yield nginx


def _server(nginx: Nginx, manner: str, certs: CertLab, files: dict[str, bytes]) -> str:
    tls = manner in TLS
    good = certs.leaf("good")
    lines = [f"listen 127.0.0.1:{nginx.ports[manner]}{' ssl' if tls else ''};"]
    if tls:
        lines += [f"ssl_certificate {good.chain};", f"ssl_certificate_key {good.key};"]
    if manner == "mutual":
        lines += [f"ssl_client_certificate {certs.ca.cert_file};", "ssl_verify_client on;"]
    if manner == "obsolete":
        lines += ["ssl_protocols TLSv1 TLSv1.1;", "ssl_ciphers DEFAULT:@SECLEVEL=0;"]
    if manner == "throttled":
        lines.append(f"limit_rate {THROTTLE};")
    if manner.startswith("limited-"):
        status = manner.removeprefix("limited-")
        lines += ["limit_conn servers 1;", f"limit_conn_status {status};", "limit_rate 8m;"]
        lines += ["error_page 429 = @later;", "location @later {", "return 429;"]
        lines += ["add_header Retry-After 20 always;", "}"]
    if manner == "no-ranges":
        lines.append("max_ranges 0;")
    if manner == "redirect":
        lines.append(f"return 302 http://127.0.0.1:{nginx.ports['plain']}$request_uri;")
    if manner == "links":
        lines += [_described(nginx, name, content) for name, content in files.items()]
    return "server {\n" + "\n".join(lines) + "\n}"


def _described(nginx: Nginx, name: str, content: bytes) -> str:
    """A location whose answers carry the file's digest and its two other mirrors."""
    digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
    link = "add_header Link '<{url}>; rel=duplicate; pri={priority}' always;"
    return "\n".join(
        [
            f"location = /{name} {{",
            link.format(url=nginx.url("plain", name), priority=1),
            link.format(url=nginx.url("throttled", name), priority=2),
            f"add_header Digest 'SHA-256={digest}' always;",
            f"add_header Repr-Digest 'sha-256=:{digest}:' always;",
            "}",
        ]
    )
