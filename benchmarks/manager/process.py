# SPDX-License-Identifier: Apache-2.0
"""A real ``fastdl manager`` in a process of its own, its client, and what it costs."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

from benchmarks.machine import CHECKOUT, process_cpu_s
from fastdl.cli import api_client

T = TypeVar("T")
FASTDL: Final = ("-c", "from fastdl.cli.main import main; raise SystemExit(main())")
START_S: Final = 60.0


class ManagerProcess:
    """One running manager. ``credentials`` and ``agents_at`` are known once it serves."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes]) -> None:
        self.folder = folder
        self.process = process
        self.credentials: dict[str, str] = {}
        self.agents_at = ""

    def api(self, command: str, **params: Any) -> dict[str, Any]:
        """Call the API as ``fastdl api`` does; a dot in a name is written ``__``."""
        given = {name.replace("__", "."): str(value) for name, value in params.items()}
        return api_client.call(self.credentials, command, given)

    def cpu_s(self) -> float:
        """Processor seconds so far."""
        return process_cpu_s([self.process.pid])

    def rss_bytes(self) -> int:
        """Resident memory now."""
        return _status_bytes(self.process.pid, "VmRSS")

    def until(self, what: str, check: Callable[[], T | None], *, timeout_s: float = START_S) -> T:
        """Wait for *check*'s first true answer; RuntimeError with the log's place otherwise."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, ValueError):
                if found := check():
                    return found
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise RuntimeError(f"{what} did not happen:\n{self.log_tail()}")

    def log_tail(self) -> str:
        """The last lines of the manager's log."""
        return "\n".join((self.folder / "manager.log").read_text().splitlines()[-10:])

    def _serves(self) -> str | None:
        admin = self.folder / "state" / "admin.json"
        if not admin.exists():
            return None
        for line in (self.folder / "manager.log").read_text().splitlines():
            if line.startswith("{") and (at := json.loads(line).get("agents")):
                self.credentials = json.loads(admin.read_text())
                return str(at)
        return None

    def wait(self) -> None:
        """Until it serves."""
        self.agents_at = self.until("the manager's start", self._serves)


@contextlib.contextmanager
def manager(folder: Path, *, database: str | None = None) -> Iterator[ManagerProcess]:
    """A manager with its state in *folder*/state; ended gracefully at the end."""
    words = [
        "manager",
        "--state",
        str(folder / "state"),
        "--listen",
        "127.0.0.1:0",
        "--agent-listen",
        "127.0.0.1:0",
    ]
    words += ["--database", database] if database else []
    with started(folder, "manager", *FASTDL, *words) as process:
        made = ManagerProcess(folder, process)
        made.wait()
        yield made


@contextlib.contextmanager
def started(
    folder: Path, name: str, *words: str, talks: bool = False
) -> Iterator[subprocess.Popen[bytes]]:
    """A Python process in *folder*, its output in NAME.log or, if it *talks*, on pipes."""
    path = os.pathsep.join(filter(None, (str(CHECKOUT), os.environ.get("PYTHONPATH"))))
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *words],
            cwd=folder,
            start_new_session=True,
            stderr=log,
            stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
            stdout=subprocess.PIPE if talks else log,
            env=os.environ | {"PYTHONPATH": path, "TMPDIR": str(folder)},
        )
    try:
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask *process* to end, then insist."""
    if process.stdin is not None:
        process.stdin.close()
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def tree_rss_bytes(pid: int) -> int:
    """Resident memory of *pid* and all its descendants now; 0 for one that is gone."""
    total, pending = 0, [pid]
    while pending:
        at = pending.pop()
        with contextlib.suppress(OSError, RuntimeError):
            total += _status_bytes(at, "VmRSS")
            children = Path(f"/proc/{at}/task/{at}/children").read_text()
            pending += map(int, children.split())
    return total


def _status_bytes(pid: int, key: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) << 10
    raise RuntimeError(f"no {key} of process {pid}")
