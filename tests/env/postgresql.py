# SPDX-License-Identifier: Apache-2.0
"""A PostgreSQL server of our own, on a free port, in a folder that goes away."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


def _binaries() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("PostgreSQL is not installed")
    return found[-1].parent


def _as_postgres(*command: str) -> None:
    prefix = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    subprocess.run([*prefix, *command], check=True, capture_output=True, timeout=60)


@contextlib.contextmanager
def server(*, fsync: bool = False) -> Iterator[str]:
    """The URL of a server (database ``postgres``) that runs as long as the context."""
    binaries = _binaries()
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/var/tmp"))
    folder.chmod(0o755)
    data = folder / "data"
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    try:
        _as_postgres(str(binaries / "initdb"), "-D", str(data), "-A", "trust", "-N")
        options = f"-p {port} -h 127.0.0.1 -k {folder} -c fsync={'on' if fsync else 'off'}"
        _as_postgres(
            str(binaries / "pg_ctl"), "-D", str(data), "-w", "-l", str(folder / "log"),
            "-o", options, "start",
        )  # fmt: skip
        try:
            yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
        finally:
            _as_postgres(str(binaries / "pg_ctl"), "-D", str(data), "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def fresh_database(url: str, name: str) -> str:
    """A new, empty database on the server at *url*."""
    base, _ = url.rsplit("/", 1)
    psql = _binaries() / "psql"
    subprocess.run(
        [str(psql), url, "-q", "-c", f'DROP DATABASE IF EXISTS "{name}"', "-c",
         f'CREATE DATABASE "{name}"'],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    return f"{base}/{name}"
