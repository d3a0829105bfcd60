# SPDX-License-Identifier: Apache-2.0
"""A PostgreSQL server of our own, on a free port, in a folder that goes away."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest


def _binaries() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("PostgreSQL is not installed")
    return found[-1].parent


_PREFIX = ("runuser", "-u", "postgres", "--") if os.geteuid() == 0 else ()


def _as_postgres(*command: str) -> None:
    subprocess.run([*_PREFIX, *command], check=True, capture_output=True, timeout=60)


_SWEEP = """
folder=$1; shift
read -r _
for data in "$folder"/*/postmaster.pid; do "$@" -D "${data%/*}" -m immediate stop; done
rm -rf -- "$folder"
"""


@contextlib.contextmanager
def _swept(folder: Path) -> Iterator[None]:
    """Servers in *folder* end, and it is removed, at the latest when this process has ended.

    A server belongs to nobody, and a run that is killed finishes nothing: another process waits
    for the end of a pipe that this one holds.
    """
    stop = (*_PREFIX, str(_binaries() / "pg_ctl"))
    sweeper = subprocess.Popen(
        ["/bin/sh", "-c", _SWEEP, "sh", folder, *stop],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        assert sweeper.stdin is not None
        sweeper.stdin.close()
        sweeper.wait(90)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """One server on a port of its own, with all its files in *folder*. *url*: of its database
    ``postgres``; *addresses*: of this machine, all of which it is at."""

    def __init__(self, folder: Path, *, fsync: bool, addresses: Sequence[str]) -> None:
        self.folder = folder
        self._addresses = addresses
        self._data = folder / "data"
        self._fsync = fsync
        self.port = _free_port()
        self.url = f"postgresql://postgres@{addresses[0]}:{self.port}/postgres"
        _as_postgres(str(_binaries() / "initdb"), "-D", str(self._data), "-A", "trust", "-N")

    def start(self) -> None:
        """Start it; returns when it answers."""
        self._start(self._data, self.port)

    def stop(self) -> None:
        """End it at once, as a crash does: nothing is finished, the next start recovers."""
        self._control(self._data, "-m", "immediate", "stop")

    def start_standby(self) -> None:
        """Start a server that follows this one; ``stop_standby`` leaves it behind."""
        self._standby = self._data.with_name(self._data.name + "-next")
        words = ["-D", str(self._standby), "-d", self.url, "-R", "-c", "fast"]
        _as_postgres(str(_binaries() / "pg_basebackup"), *words)
        self._start(self._standby, _free_port())

    def stop_standby(self) -> None:
        """End the standby: what is committed from now on it does not have."""
        self._control(self._standby, "-m", "fast", "stop")

    def fail_over(self) -> None:
        """Lose this server, and have the (stopped) standby take its place and its address."""
        self.stop()
        self._data = self._standby
        self.start()
        self._control(self._data, "-w", "promote")

    def _start(self, data: Path, port: int) -> None:
        fsync = "on" if self._fsync else "off"
        at = ",".join(self._addresses)
        options = f"-p {port} -h {at} -k {self.folder} -c fsync={fsync}"
        self._control(data, "-w", "-l", f"{data}.log", "-o", options, "start")

    def _control(self, data: Path, *words: str) -> None:
        _as_postgres(str(_binaries() / "pg_ctl"), "-D", str(data), *words)


@contextlib.contextmanager
def mortal_server(
    *, fsync: bool = False, addresses: Sequence[str] = ("127.0.0.1",)
) -> Iterator[Server]:
    """A running server that the test may stop and start."""
    _binaries()
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/var/tmp"))
    folder.chmod(0o755)
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres")
    with _swept(folder):
        made = Server(folder, fsync=fsync, addresses=addresses)
        made.start()
        yield made


@contextlib.contextmanager
def server(*, fsync: bool = False) -> Iterator[str]:
    """The URL of a server (database ``postgres``) that runs as long as the context."""
    with mortal_server(fsync=fsync) as made:
        yield made.url


def fresh_database(url: str, name: str) -> str:
    """A new, empty database on the server at *url*."""
    base, _ = url.rsplit("/", 1)
    psql = _binaries() / "psql"
    subprocess.run(
        [
            str(psql),
            url,
            "-q",
            "-c",
            f'DROP DATABASE IF EXISTS "{name}"',
            "-c",
            f'CREATE DATABASE "{name}"',
        ],
        check=True,
        capture_output=True,
        timeout=60,
    )
    return f"{base}/{name}"
