# SPDX-License-Identifier: Apache-2.0
"""How does a test get a real NFS server? nfs-ganesha in user space, on 127.0.0.1.

Versions 3 and 4 on one port each for NFS and MOUNT, both free ones, told to the client in
the URL. Version 3 registers at a portmapper that it cannot do without: `rpcbind` makes
no difference between addresses, so it runs with the server in a network namespace.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.env.netns import Namespace

_START_S = 30.0

_CONFIG = """
NFS_CORE_PARAM {{
    NFS_Protocols = {protocols};
    NFS_Port = {nfs_port};
    MNT_Port = {mount_port};
    {bind}
    Enable_NLM = false;
    Enable_RQUOTA = false;
}}
NFSv4 {{
    Graceless = true;
    Lease_Lifetime = {lease};
    RecoveryRoot = "{state}";
}}
EXPORT {{
    Export_Id = 7;
    Path = "{folder}";
    Pseudo = "/export/images";
    Access_Type = RO;
    Squash = No_Root_Squash;
    SecType = sys;
    Protocols = {protocols};
    Attr_Expiration_Time = 0; # tests change files behind the server's back
    FSAL {{ Name = VFS; }}
}}
LOG {{ Default_Log_Level = EVENT; }}
"""


@dataclass(slots=True, kw_only=True)
class NfsServer:
    """A running server. *folder* is what it exports, as ``/export/images`` to version 4."""

    folder: Path
    nfs_port: int
    mount_port: int
    process: subprocess.Popen[bytes]
    pid: int

    def url(self, name: str, *, host: str = "127.0.0.1", version: int | None = 4) -> str:
        """The URL of the file *name*. Version 3 knows the folder by its real path."""
        path = f"/export/images/{name}" if version == 4 else f"{self.folder}/{name}"
        words = [f"version={version}"] if version else []
        words += [f"nfsport={self.nfs_port}", f"mountport={self.mount_port}"]
        return f"nfs://{host}{path}?{'&'.join(words)}"

    def send(self, number: signal.Signals) -> None:
        """Signal the server alone."""
        os.kill(self.pid, number)


@contextlib.contextmanager
def nfs_server(
    folder: Path, state: Path, *, space: Namespace | None = None, lease: int = 60
) -> Iterator[NfsServer]:
    """Export *folder* read-only; logs and state go into *state*.

    Version 4 alone, unless *space* is a namespace for it and a portmapper to run in.
    Skips the test where nfs-ganesha is absent or there is no root.
    """
    if os.geteuid() != 0 or not shutil.which("ganesha.nfsd"):
        pytest.skip("nfs-ganesha needs root and the packages nfs-ganesha, nfs-ganesha-vfs")
    if space is not None and not shutil.which("rpcbind"):
        pytest.skip("version 3 needs rpcbind")
    for name in ("/run/ganesha", "/var/lib/nfs/ganesha"):
        Path(name).mkdir(parents=True, exist_ok=True)
    state.mkdir(parents=True, exist_ok=True)
    nfs_port, mount_port = (12049, 12050) if space else (_free_port(), _free_port())
    config = state / "ganesha.conf"
    config.write_text(
        _CONFIG.format(
            protocols="3, 4" if space else "4",
            nfs_port=nfs_port,
            mount_port=mount_port,
            bind="" if space else "Bind_Addr = 127.0.0.1;",
            lease=lease,
            state=state,
            folder=folder,
        )
    )
    log = state / "ganesha.log"
    log.unlink(missing_ok=True)
    prefix = [*space.prefix] if space else []
    with contextlib.ExitStack() as stack:
        if space is not None:
            stack.enter_context(_portmapper(prefix))
        # The server makes a table for as many files as it may open.
        words = ["prlimit", "--nofile=8192:8192", "ganesha.nfsd", "-F"]
        words += ["-f", str(config), "-L", str(log), "-p", str(state / "ganesha.pid")]
        process = subprocess.Popen(
            [*prefix, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        stack.callback(_end, process)
        _wait_until_served(process, log)
        # `ip netns exec` and `prlimit` become the command that they are given: one process.
        yield NfsServer(
            folder=folder,
            nfs_port=nfs_port,
            mount_port=mount_port,
            process=process,
            pid=process.pid,
        )


@contextlib.contextmanager
def _portmapper(prefix: list[str]) -> Iterator[None]:
    process = subprocess.Popen(
        [*prefix, "rpcbind", "-f", "-w"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        _end(process)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _wait_until_served(process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while "NFS SERVER INITIALIZED" not in (log.read_text(errors="replace") if log.exists() else ""):
        if process.poll() is not None or time.monotonic() > deadline:
            text = log.read_text(errors="replace")[-1500:] if log.exists() else ""
            pytest.fail(f"nfs-ganesha does not start: {text}")
        time.sleep(0.05)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ganesha's orderly stop takes seconds and keeps nothing that a test needs."""
    if process.poll() is None:
        process.kill()
    process.wait()
