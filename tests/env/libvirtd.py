# SPDX-License-Identifier: Apache-2.0
"""How does a test get a real libvirtd on a machine without an init system?

One that runs already is used and left running; otherwise virtlogd and libvirtd are
started as this process's children: they end with it, however it ends. There is one for the whole
machine, so other workers of the test run use it too: whoever started it ends it with its session,
and when nobody uses it any more. What a run that was killed defined has its pid in its name, and
the next run forgets it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastdl.lab import kvm
from tests.env import machines

URI = "qemu:///system"
_USE = Path("/run/lock/fastdl-tests-libvirtd.use")  # shared: somebody uses it
_START = Path("/run/lock/fastdl-tests-libvirtd.start")  # exclusive: somebody looks and starts it
_END_SECONDS = 300.0
_started_here: list[subprocess.Popen[bytes]] = []
_START_SECONDS = 40.0  # the first start probes every emulator
_NAME = re.compile(r"fastdl-(\d+)-(\d+)-[0-9a-f]+")
_DEFINED = (
    "/etc/libvirt/qemu",
    "/etc/libvirt/storage",
    "/run/libvirt/qemu",
    "/run/libvirt/storage",
    "/var/run/libvirt/storage",
)


def new_name() -> str:
    """A name for a domain or a pool, by which the next run knows whether its maker lives."""
    return f"fastdl-{os.getpid()}-{_started(os.getpid())}-{uuid.uuid4().hex[:12]}"


def forget_dead_runs(folders: tuple[str, ...] = _DEFINED) -> list[str]:
    """Remove what runs that are dead defined, and return its names: a libvirtd that starts would
    have it again, and fastdl takes it for machines whose libvirt does not answer."""
    found = []
    for path in (path for folder in folders for path in Path(folder).glob("fastdl-*.xml")):
        match = _NAME.fullmatch(path.stem)
        dead = match is not None and _started(int(match[1])) != int(match[2])
        if dead or machines.was_of_a_dead_run(path):
            _forget(path.stem)
            path.unlink(missing_ok=True)
            found.append(path.stem)
    return found


def _forget(name: str) -> None:
    """Have a libvirtd that runs forget the domain or pool."""
    libvirt: Any = pytest.importorskip("libvirt")
    libvirt.registerErrorHandler(lambda *_: None, None)
    with contextlib.suppress(libvirt.libvirtError):
        connection = libvirt.open(URI)
        for lookup in (connection.lookupByName, connection.storagePoolLookupByName):
            with contextlib.suppress(libvirt.libvirtError):
                defined = lookup(name)
                if defined.isActive():
                    defined.destroy()
                defined.undefine()
        connection.close()


def _started(pid: int) -> int:
    """When the process started, in the kernel's ticks; 0 where there is none."""
    with contextlib.suppress(OSError):
        text = Path(f"/proc/{pid}/stat").read_text()
        return int(text.rpartition(")")[2].split()[19])
    return 0


@contextlib.contextmanager
def running(folder: Path) -> Iterator[str]:
    """The URI of a libvirtd, for as long as the block runs; skips where there can be none."""
    libvirt = pytest.importorskip("libvirt", reason="libvirt-python is not installed")
    for name in ("libvirtd", "virtlogd"):
        if not shutil.which(name):
            pytest.skip(f"no {name} on this machine")
    if os.geteuid() != 0:
        pytest.skip("libvirtd needs root")
    libvirt.registerErrorHandler(lambda *_: None, None)
    forget_dead_runs()
    with _USE.open("w") as use:
        fcntl.flock(use, fcntl.LOCK_SH)
        with _START.open("w") as start:
            fcntl.flock(start, fcntl.LOCK_EX)
            if not _answers(libvirt):
                _start(folder)
                _wait(libvirt, _started_here)
        yield URI


def _start(folder: Path) -> None:
    kvm.let_group_open()
    for name in ("virtlogd", "libvirtd"):
        with (folder / f"{name}.log").open("wb") as log:
            _started_here.append(
                subprocess.Popen(
                    ["setpriv", "--pdeathsig", "TERM", name, "-p", folder / f"{name}.pid"],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
            )


def end_session() -> None:
    """End what this process started, once no other one uses it."""
    if not _started_here:
        return
    with _USE.open("w") as use:
        deadline = time.monotonic() + _END_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(use, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(0.1)
        for process in reversed(_started_here):
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        _started_here.clear()


def _answers(libvirt: object) -> bool:
    try:
        libvirt.open(URI).close()  # type: ignore[attr-defined]
    except Exception:
        return False
    return True


def _wait(libvirt: object, started: list[subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not _answers(libvirt):
        if time.monotonic() > deadline or any(p.poll() is not None for p in started):
            pytest.skip("libvirtd did not come up")
        time.sleep(0.1)
