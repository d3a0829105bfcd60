# SPDX-License-Identifier: Apache-2.0
"""How does a test get a real libvirtd on a machine without an init system?

One that runs already is used and left running; otherwise virtlogd and libvirtd are
started, and ended again by their own process ids.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

URI = "qemu:///system"
_START_SECONDS = 40.0  # the first start probes every emulator


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
    started: list[Path] = []
    try:
        if not _answers(libvirt):
            for name in ("virtlogd", "libvirtd"):
                pid_file = folder / f"{name}.pid"
                done = subprocess.run(
                    [name, "-d", "-p", pid_file], capture_output=True, timeout=60, check=False
                )
                if done.returncode == 0:
                    started.append(pid_file)
            _wait(libvirt)
        yield URI
    finally:
        for pid_file in reversed(started):
            with contextlib.suppress(OSError, ValueError):
                os.kill(int(pid_file.read_text()), signal.SIGTERM)


def _answers(libvirt: object) -> bool:
    try:
        libvirt.open(URI).close()  # type: ignore[attr-defined]
    except Exception:
        return False
    return True


def _wait(libvirt: object) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not _answers(libvirt):
        if time.monotonic() > deadline:
            pytest.skip("libvirtd did not come up")
        time.sleep(0.1)
