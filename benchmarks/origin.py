# SPDX-License-Identifier: Apache-2.0
"""Where do the bytes come from? A real nginx on loopback, with its own authority and mirrors.

Mirror *i* listens on 127.0.0.(2+i), plain and with TLS. ``/rate/8m/…`` throttles each connection
(nginx's limit_rate); round trips and shared links are made by delay proxies before the mirrors.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from cryptography import x509

from benchmarks import machine
from benchmarks.scenarios import MiB, Scenario
from fastdl.lab.certs import Authority
from fastdl.model.address import parse_address

MIRRORS_MAX: Final = 8
LOOPBACK: Final = tuple(f"127.0.0.{2 + index}" for index in range(MIRRORS_MAX))
_PROXY: Final = machine.CHECKOUT / "tests" / "env" / "delay_proxy.py"
_CONFIG: Final = """\
daemon off;
worker_processes 2;
pid {run}/nginx.pid;
error_log {run}/error.log warn;
{user}
events {{ worker_connections 1024; }}
http {{
    log_format requests '$status $body_bytes_sent $http_range';
    access_log {run}/access.log requests;
    client_body_temp_path {run}/t1; proxy_temp_path {run}/t2; fastcgi_temp_path {run}/t3;
    uwsgi_temp_path {run}/t4; scgi_temp_path {run}/t5;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000;
    default_type application/octet-stream;
    ssl_certificate {run}/server.chain.pem;
    ssl_certificate_key {run}/server.key;
    ssl_protocols TLSv1.3;
    ssl_session_cache shared:tls:1m;
    server {{
{listen}
        root {files};
        location ~ ^/rate/([0-9]+[km]?)/(.+)$ {{ limit_rate $1; alias {files}/$2; }}
    }}
}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One line of the origin's log: the status and the bytes of the body that it sent."""

    status: int
    body_bytes: int
    range: str


@dataclass(slots=True)
class Origin:
    """A running nginx. ``http`` and ``https`` are the base URLs of its mirrors."""

    folder: Path
    http: list[str]
    https: list[str]
    process: subprocess.Popen[bytes]
    cacert: Path
    proxies: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def cpu_s(self) -> float:
        """Processor seconds of nginx and of what makes the path."""
        workers = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        pids = [self.process.pid, *map(int, workers.read_text().split())]
        return machine.process_cpu_s([*pids, *(proxy.pid for proxy in self.proxies)])

    def requests(self) -> list[Request]:
        """The requests since the last forget_requests()."""
        found = []
        for line in (self.folder / "access.log").read_text().splitlines():
            status, sent, wanted = line.split(" ", 2)
            found.append(Request(status=int(status), body_bytes=int(sent), range=wanted))
        return found

    def forget_requests(self) -> None:
        with (self.folder / "access.log").open("wb"):
            pass

    @contextlib.contextmanager
    def urls(self, scenario: Scenario, name: str, rates: Sequence[int] = ()) -> Iterator[list[str]]:
        """URLs of the file *name* as *scenario* wants it, behind delay proxies where it does.

        *rates* gives mirrors links of their own (bytes/s), else all get the scenario's. Between
        network namespaces the line itself is the path.
        """
        bases = (self.https if scenario.scheme == "https" else self.http)[: scenario.mirrors]
        path = name
        if scenario.per_connection_bytes_s:
            path = f"rate/{scenario.per_connection_bytes_s // MiB}m/{name}"
        if not (scenario.shaped or rates) or scenario.path == "netns":
            yield [f"{base}/{path}" for base in bases]
            return
        links = list(rates) or [scenario.link_bytes_s] * len(bases)
        try:
            shaped = [
                self._behind_proxy(base, scenario.rtt_ms, link)
                for base, link in zip(bases, links, strict=True)
            ]
            yield [f"{base}/{path}" for base in shaped]
        finally:
            for proxy in self.proxies:
                proxy.terminate()
                proxy.wait()
            self.proxies.clear()

    def _behind_proxy(self, base: str, rtt_ms: int, link: int) -> str:
        parts = urlsplit(base)
        proxy = subprocess.Popen(
            [
                sys.executable,
                _PROXY,
                f"{parts.hostname}:0",
                f"{parts.hostname}:{parts.port}",
                "--rtt",
                str(rtt_ms / 1000),
                "--rate",
                str(link),
            ],
            stdout=subprocess.PIPE,
        )
        self.proxies.append(proxy)
        assert proxy.stdout is not None
        address = proxy.stdout.readline().decode().strip()
        if not address:
            raise RuntimeError("the delay proxy did not start")
        return f"{parts.scheme}://{address}"


def missing() -> str | None:
    """Why no origin can be started here, or None."""
    return None if _nginx() else "nginx is not installed"


def _nginx() -> str | None:
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


@contextlib.contextmanager
def running(folder: Path, files: Path, *, hosts: Sequence[str] = LOOPBACK) -> Iterator[Origin]:
    """nginx serving the folder *files* on the addresses *hosts*, one a mirror.

    Its own state lies in *folder*; it is stopped at the end.
    """
    nginx = _nginx()
    if nginx is None:
        raise RuntimeError("nginx is not installed")
    folder.mkdir(parents=True, exist_ok=True)
    authority = Authority(folder)
    san = [x509.IPAddress(parse_address(host)) for host in hosts]
    authority.make("server", issuer=authority.ca, san=san)
    plain, tls = _free_ports(hosts, 2)
    listen = "\n".join(
        f"        listen {host}:{plain} backlog=1024; listen {host}:{tls} ssl backlog=1024;"
        for host in hosts
    )
    user = "user root;" if _is_root() else ""
    config = folder / "nginx.conf"
    config.write_text(_CONFIG.format(run=folder, files=files, listen=listen, user=user))
    process = subprocess.Popen([nginx, "-p", folder, "-e", folder / "error.log", "-c", config])
    try:
        _wait_for_port(process, hosts[0], plain)
        yield Origin(
            folder=folder,
            http=[f"http://{host}:{plain}" for host in hosts],
            https=[f"https://{host}:{tls}" for host in hosts],
            process=process,
            cacert=folder / "ca.pem",
        )
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=20)


def _is_root() -> bool:
    return Path("/proc/self").stat().st_uid == 0


def _free_ports(hosts: Sequence[str], count: int) -> list[int]:
    """Ports that are free on all *hosts* at this moment."""
    found: list[int] = []
    for _ in range(100):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            first = stack.enter_context(socket.create_server((hosts[0], 0)))
            port = first.getsockname()[1]
            for host in hosts[1:]:
                stack.enter_context(socket.create_server((host, port)))
            if port not in found:
                found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError("no free ports on loopback")


def _wait_for_port(process: subprocess.Popen[bytes], host: str, port: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError), socket.create_connection((host, port), 1):
            return
        time.sleep(0.02)
    raise RuntimeError("nginx did not start")
