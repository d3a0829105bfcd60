# SPDX-License-Identifier: Apache-2.0
"""Which real servers and tools did a test run use, and which does this machine lack?

A pytest plugin (``python -m pytest -p scripts.components``). It counts the programs that the
run starts, as reported by Python's audit events, so it shows what was used, not what is installed.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections import Counter
from pathlib import PurePath
from typing import Any

import pytest

COMPONENTS = {
    "HTTP servers": ("nginx",),
    "downloaders to compare with": ("aria2c", "axel", "curl", "wget2"),
    "images": ("qemu-img", "qemu-io", "qemu-nbd", "qemu-system-x86_64"),
    "NBD": ("nbdkit", "nbdfuse", "nbdcopy", "nbdinfo"),
    "NFS": ("ganesha.nfsd",),
    "storage pools": ("libvirtd", "virsh"),
    "block devices": ("losetup", "parted", "mkfs.ext4", "mkfs.xfs", "mkswap", "sgdisk", "blkid"),
    "network": ("ip", "nft"),
    "keystores": ("keytool", "openssl"),
    "databases, fabric": ("postgres", "initdb", "pg_ctl", "nats-server"),
    "fault injection": ("strace", "valgrind"),
    "compilers": ("cc", "gcc", "clang", "make"),
}
_started: Counter[str] = Counter()
_KEY = "fastdl-started"


def _note(event: str, args: tuple[Any, ...]) -> None:
    if event == "subprocess.Popen":
        command = args[1] if len(args) > 1 and args[1] else [args[0]]
        words = [command] if isinstance(command, str | bytes | os.PathLike) else list(command)
        # The program may come after a wrapper: env, timeout, ip netns exec NAME, strace …
        for word in words[:12]:
            _started[PurePath(os.fsdecode(word)).name] += 1


def pytest_configure() -> None:
    """Start counting before the first fixture runs."""
    sys.addaudithook(_note)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Add what a process of pytest-xdist counted."""
    _started.update(getattr(node, "workeroutput", {}).get(_KEY, {}))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In such a process: hand the counts over."""
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output[_KEY] = dict(_started)


def _state(name: str) -> str:
    if _started[name]:
        return f"{name} ({_started[name]}x)"
    there = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    return f"[{name}: installed, not needed]" if there else f"[{name}: NOT INSTALLED]"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line per group: what ran how often, what did not and why."""
    terminalreporter.write_sep("-", "real components used")
    for group, names in COMPONENTS.items():
        terminalreporter.write_line(f"{group}: {', '.join(map(_state, names))}")
