# SPDX-License-Identifier: Apache-2.0
"""NATS servers of our own, on free ports, with their files in a folder of the test."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from fastdl.wire.nats.connection import FLOOR

READY_S = 10.0


def binary() -> str:
    """A server that is new enough: the environment's own, or the system's. Skips without."""
    own = Path(sys.executable).with_name("nats-server")
    for found in (str(own) if own.exists() else None, shutil.which("nats-server"), old_binary()):
        if found and version(found) >= FLOOR:
            return found
    pytest.skip(f"no nats-server {'.'.join(map(str, FLOOR))} or newer is installed")


def old_binary() -> str | None:
    """The system's server, whatever its version."""
    return shutil.which("nats-server", path="/usr/sbin:/usr/bin:/usr/local/bin")


def version(path: str) -> tuple[int, ...]:
    """The version that a server says it has."""
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"v(\d+)\.(\d+)\.(\d+)", said)
    assert found is not None, said
    return tuple(map(int, found.groups()))


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Ports of *host* that nobody listens on, at this moment."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind((host, 0))
        return [one.getsockname()[1] for one in sockets]


class Server:
    """One server. *more*: lines of its configuration; *host*: where it listens."""

    def __init__(
        self,
        folder: Path,
        *,
        name: str = "n1",
        more: Sequence[str] = (),
        program: str | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self.name = name
        self._program = program or binary()
        self.folder = folder / name
        self.folder.mkdir(parents=True)
        self.store = self.folder / "jetstream"
        (self.port,) = free_ports(1, host)
        (self._monitor,) = free_ports(1)
        self._host = host
        self.address = f"{host}:{self.port}"
        self.url = f"nats://{self.address}"
        self.route = 0
        """Its port for the others of its cluster."""
        flush = ["  sync_interval: always"] if version(self._program) >= FLOOR else []
        lines = [
            f"server_name: {name}",
            f"listen: {self.address}",
            f'http: "127.0.0.1:{self._monitor}"',
            "jetstream {",
            f'  store_dir: "{self.store}"',
            *flush,
            "}",
            *more,
        ]
        self._config = self.folder / "nats.conf"
        self._config.write_text("\n".join(lines))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; returns when it answers."""
        with (self.folder / "log").open("ab") as out:
            self._process = subprocess.Popen(
                [self._program, "-c", str(self._config)],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            )  # fmt: skip
        until = time.monotonic() + READY_S
        while True:
            with contextlib.suppress(OSError), socket.create_connection((self._host, self.port)):
                return
            assert self._process.poll() is None, self.log()
            assert time.monotonic() < until, self.log()
            time.sleep(0.02)

    def log(self) -> str:
        """What it wrote."""
        return (self.folder / "log").read_text()

    def clients(self) -> list[str]:
        """The names of those who are connected."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._monitor}/connz", timeout=5) as answer:
            return [client.get("name", "") for client in json.load(answer)["connections"]]

    def reload(self) -> None:
        """Have it read its configuration again."""
        self._signal(signal.SIGHUP)

    def pause(self) -> None:
        """Let it answer nothing, as a machine that hangs."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """End a ``pause``."""
        self._signal(signal.SIGCONT)

    def kill(self, *, wipe: bool = False) -> None:
        """End it at once; *wipe*: all that it stored is lost."""
        if self._process is not None:
            self._signal(signal.SIGCONT)
            self._signal(signal.SIGKILL)
            self._process.wait(timeout=10)
            self._process = None
        if wipe:
            shutil.rmtree(self.store)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            os.kill(self._process.pid, number)


@contextlib.contextmanager
def server(
    folder: Path, *, more: Sequence[str] = (), program: str | None = None
) -> Iterator[Server]:
    """A running server."""
    made = Server(folder, more=more, program=program)
    made.start()
    try:
        yield made
    finally:
        made.kill()


def members(
    folder: Path, count: int = 3, *, more: Sequence[str] = (), host: str = "127.0.0.1"
) -> list[Server]:
    """Servers of one cluster, not started. *more* and *host*: as ``Server``."""
    routes = free_ports(count)
    urls = ", ".join(f'"nats://127.0.0.1:{port}"' for port in routes)
    made = []
    for number, port in enumerate(routes, 1):
        own = f'cluster {{ name: c, listen: "127.0.0.1:{port}", routes: [{urls}] }}'
        made.append(Server(folder, name=f"n{number}", more=[own, *more], host=host))
        made[-1].route = port
    return made


@contextlib.contextmanager
def cluster(folder: Path, count: int = 3) -> Iterator[list[Server]]:
    """Running servers of one cluster."""
    made = members(folder, count)
    try:
        for one in made:
            one.start()
        yield made
    finally:
        for one in made:
            one.kill()
