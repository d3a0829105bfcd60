# SPDX-License-Identifier: Apache-2.0
"""On what machine does the suite run, and what else used it during the run?"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

CHECKOUT: Final = Path(__file__).resolve().parent.parent
_TICK: Final = os.sysconf("SC_CLK_TCK")
_KTHREADD: Final = 2


def describe(folder: Path) -> dict[str, Any]:
    """The machine as JSON: processor, cores, memory, kernel, file system of *folder*."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return {
        "cpu": model[1].strip() if model else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "filesystem": _output("findmnt", "-n", "-o", "FSTYPE", "-T", str(folder)),
        "libc": " ".join(platform.libc_ver()),
        "openssl": ssl.OPENSSL_VERSION,
        "python": platform.python_version(),
    }


def cpu_flags() -> list[str]:
    """What the processor offers, in Linux' words."""
    found = re.search(r"^flags\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1].split() if found else []


def commit() -> str:
    """The commit of this checkout, with ``+`` if tracked files differ from it."""
    head = _output("git", "-C", str(CHECKOUT), "rev-parse", "--short=12", "HEAD")
    dirty = _output(
        "git", "-C", str(CHECKOUT), "status", "--porcelain", "--untracked-files=no", "src", "csrc"
    )
    return (head or "unknown") + ("+" if dirty else "")


def _output(*argv: str) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=20)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


@dataclass(frozen=True, slots=True)
class CpuClock:
    """Processor seconds spent so far: by the whole machine, and by kernel threads alone.

    Kernel threads (write-back, loop devices) work for the measured contestant, so they are no
    disturbance although no process is charged for them.
    """

    machine_s: float
    kthreads_s: float

    @classmethod
    def now(cls) -> CpuClock:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
        busy = user + nice + system + irq + softirq + steal
        return cls(busy / _TICK, _kthread_ticks() / _TICK)


def _kthread_ticks() -> int:
    ticks = 0
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            fields = _stat_fields(entry.name)
            if fields and int(fields[1]) == _KTHREADD:
                ticks += int(fields[11]) + int(fields[12])
    return ticks


def process_cpu_s(pids: list[int]) -> float:
    """User and system seconds of living processes and all that they started, ended or not."""
    ticks, todo, seen = 0, list(pids), set[int]()
    while todo:
        pid = todo.pop()
        if pid not in seen and (fields := _stat_fields(str(pid))):
            ticks += sum(map(int, fields[11:15]))
            todo += _children(pid)
        seen.add(pid)
    return ticks / _TICK


def _children(pid: int) -> list[int]:
    """The processes that the threads of *pid* started and that live."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, path.read_text().split())
    return found


def _stat_fields(pid: str) -> list[str]:
    """The fields of /proc/PID/stat after the command's name: state, ppid, …; empty if gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
