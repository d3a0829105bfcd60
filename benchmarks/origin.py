# SPDX-License-Identifier: Apache-2.0
"""Where do the bytes come from? A real nginx on loopback, with its own CA and mirrors.

Mirror *i* listens on 127.0.0.(2+i), plain and with TLS. ``/rate/8m/…`` throttles each connection
(nginx's limit_rate); round trips and shared links are made by delay proxies before the mirrors.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from cryptography import x509

from benchmarks import machine
from benchmarks.scenarios import SLOW_BYTES_S, MiB, Scenario
from fastdl.lab import nginx
from fastdl.lab.certs import Authority
from fastdl.model.address import parse_address

MIRRORS_MAX: Final = 8
LOOPBACK: Final = tuple(f"127.0.0.{2 + index}" for index in range(MIRRORS_MAX))
_PROXY: Final = machine.CHECKOUT / "tests" / "env" / "delay_proxy.py"
_HTTP: Final = """\
    log_format requests '$status $body_bytes_sent $http_range';
    access_log {run}/access.log requests;
    tcp_nopush on;
    keepalive_requests 1000000;
    ssl_certificate {run}/server.chain.pem;
    ssl_certificate_key {run}/server.key;
    ssl_protocols TLSv1.3;
    ssl_session_cache shared:tls:1m;
    server {{
{listen}
        root {files};
        location ~ ^/rate/([0-9]+[km]?)/(.+)$ {{ limit_rate $1; alias {files}/$2; }}
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
        """Processor seconds of nginx and of the processes that make the path."""
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
        """URLs of the file *name* as *scenario* wants it, behind delay proxies if it needs them.

        *rates* gives mirrors their own links (bytes/s), otherwise all get the scenario's. Between
        network namespaces the line itself is the path.
        """
        bases = (self.https if scenario.scheme == "https" else self.http)[: scenario.mirrors]
        limits = [scenario.per_connection_bytes_s] * (len(bases) - scenario.slow_mirrors)
        limits += [SLOW_BYTES_S] * scenario.slow_mirrors
        paths = [f"rate/{limit // MiB}m/{name}" if limit else name for limit in limits]
        if not (scenario.shaped or rates) or scenario.path == "netns":
            yield [f"{base}/{path}" for base, path in zip(bases, paths, strict=True)]
            return
        links = list(rates) or [scenario.link_bytes_s] * len(bases)
        try:
            shaped = [
                self._behind_proxy(base, scenario.rtt_ms, link)
                for base, link in zip(bases, links, strict=True)
            ]
            yield [f"{base}/{path}" for base, path in zip(shaped, paths, strict=True)]
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
    """Why an origin cannot be started here, or None."""
    return None if nginx.find() else "nginx is not installed"


@contextlib.contextmanager
def running(folder: Path, files: Path, *, hosts: Sequence[str] = LOOPBACK) -> Iterator[Origin]:
    """nginx serving the folder *files* on the addresses *hosts*, one per mirror.

    Its own state is in *folder*; it is stopped at the end.
    """
    folder.mkdir(parents=True, exist_ok=True)
    authority = Authority(folder)
    san = [x509.IPAddress(parse_address(host)) for host in hosts]
    authority.make("server", issuer=authority.ca, san=san)
    plain, tls = nginx.free_ports(2, hosts)
    listen = "\n".join(
        f"        listen {host}:{plain} backlog=1024; listen {host}:{tls} ssl backlog=1024;"
        for host in hosts
    )
    http = _HTTP.format(run=folder, files=files, listen=listen)
    listens = [(host, plain) for host in hosts]
    with nginx.running(folder, http, listens=listens, main="worker_processes 2;") as process:
        yield Origin(
            folder=folder,
            http=[f"http://{host}:{plain}" for host in hosts],
            https=[f"https://{host}:{tls}" for host in hosts],
            process=process,
            cacert=folder / "ca.pem",
        )
