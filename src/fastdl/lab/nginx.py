# SPDX-License-Identifier: Apache-2.0
"""How is a real nginx started on loopback, and ended? What it serves is its user's business."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

_START_S: Final = 20.0
_STOP_S: Final = 20.0
_CONFIG: Final = """\
daemon off;
{user}
{main}
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 1024; }}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    default_type application/octet-stream;
    sendfile on;
{http}
}}
"""


def find() -> str | None:
    """Return the program, or None where nginx is not installed."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


@contextlib.contextmanager
def running(
    folder: Path, http: str, *, listens: Sequence[tuple[str, int]], main: str = ""
) -> Iterator[subprocess.Popen[bytes]]:
    """nginx with the directives *http* (and *main* outside of them), until the block ends.

    It is ready once it accepts on each of *listens*; RuntimeError, with what nginx says, where
    it does not, or is not installed. Its own files lie in *folder*.
    """
    program = find()
    if program is None:
        raise RuntimeError("nginx is not installed")
    user = "user root;" if os.geteuid() == 0 else ""  # a worker of nobody's cannot read tmp_path
    config, log = folder / "nginx.conf", folder / "error.log"
    config.write_text(_CONFIG.format(folder=folder, user=user, main=main, http=http))
    process = subprocess.Popen(
        [program, "-p", folder, "-e", log, "-c", config], stdout=subprocess.DEVNULL
    )
    try:
        for host, port in listens:
            _wait_for(process, host, port, log)
        yield process
    finally:
        process.terminate()
        process.wait(_STOP_S)


def free_ports(count: int, hosts: Sequence[str] = ("127.0.0.1",)) -> list[int]:
    """Return *count* ports that no *hosts* used a moment ago.

    nginx cannot bind port 0 and report which one it got.
    """
    found: list[int] = []
    with contextlib.ExitStack() as held:
        for _ in range(100 + count):
            with contextlib.ExitStack() as one, contextlib.suppress(OSError):
                first = one.enter_context(socket.create_server((hosts[0], 0)))
                port = first.getsockname()[1]
                for host in hosts[1:]:
                    one.enter_context(socket.create_server((host, port)))
                held.enter_context(one.pop_all())  # so that the next one is another
                found.append(port)
            if len(found) == count:
                return found
    raise RuntimeError("no free ports on loopback")


def _wait_for(process: subprocess.Popen[bytes], host: str, port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection((host, port), 1):
            return
        time.sleep(0.02)
    text = log.read_text(errors="replace") if log.exists() else ""
    raise RuntimeError(f"nginx does not listen on {host}:{port}: {text[-2000:]}")
