# SPDX-License-Identifier: Apache-2.0
"""What does a fixed `fastdl get` do, counted? Calls, copies, allocations, requests, bytes.

Each is counted for a small and a large file from nginx on loopback. The difference is the cost of
the bytes; what both share (interpreter, imports, TLS handshakes) falls out of it. Whatever else
the machine does only ever adds, so of several transfers the lowest count is kept.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks import machine, runner
from benchmarks.meter import Command, Step
from benchmarks.rivals.base import Job, Rival
from benchmarks.rivals.fastdl import PROGRAM, RIVAL, Fastdl, get_argv, tree_env
from benchmarks.scenarios import MiB, Scenario

_HERE: Final = Path(__file__).parent
SMALL: Final = 64 * MiB
LARGE: Final = 320 * MiB
CONNECTIONS: Final = 4
_GB: Final = 1e9
_TRIES: Final = 3
_LANES: Final = 8  # of AVX2
_WINDOW: Final = "16M"  # the least: how much of a window is used depends on who is faster

# System calls by what they are for; those that wait depend on luck and are not counted.
_GROUPS: Final[Mapping[str, frozenset[str]]] = {
    "writes": frozenset({"write", "writev", "pwrite64", "pwritev", "pwritev2"}),
    "reads": frozenset({"read", "readv", "pread64", "preadv", "recvfrom", "recvmsg"}),
    "waits": frozenset(
        {
            "futex",
            "poll",
            "ppoll",
            "select",
            "pselect6",
            "epoll_wait",
            "epoll_pwait",
            "nanosleep",
            "clock_nanosleep",
            "sched_yield",
            "restart_syscall",
        }
    ),
    "flushes": frozenset({"fsync", "fdatasync", "sync_file_range", "syncfs"}),
}


@dataclass(slots=True)
class Counted:
    """Everything that was counted in one transfer of ``size`` bytes."""

    size: int
    calls: dict[str, int]
    sent_bytes: int
    cached_bytes: int
    io: dict[str, int]
    syscalls: dict[str, int]


class _Traced(Rival):
    """fastdl with something around it: an environment, or a program in front."""

    name = "fastdl"
    needs = ()

    def __init__(
        self,
        *,
        env: Mapping[str, str],
        before: tuple[str, ...] = (),
        program: tuple[str, ...] = PROGRAM,
    ) -> None:
        self._env = env
        self._before = before
        self._program = program

    def steps(self, job: Job) -> list[Step]:
        env = {"PYTHONDONTWRITEBYTECODE": "", **tree_env(), **self._env}
        argv = (*self._before, *get_argv(job, program=self._program))
        return [Step(pipeline=(Command(argv=argv, env=env),))]


def missing() -> str | None:
    """Why nothing can be counted here, or None."""
    absent = [tool for tool in ("cc", "strace") if not shutil.which(tool)]
    return f"{', '.join(absent)} not installed" if absent else None


def count(
    bench: runner.Bench,
    folder: Path,
    *,
    tree: Path | None = None,
    schemes: Sequence[str] = ("http", "https"),
) -> dict[str, float]:
    """All metrics of the transfer over *schemes*, of the built sources in *tree* if given."""
    counter = folder / "calls.so"
    subprocess.run(
        [
            "cc",
            "-O2",
            "-fPIC",
            "-shared",
            "-fno-builtin",
            "-fno-tree-loop-distribute-patterns",
            "-o",
            counter,
            _HERE / "calls.c",
            "-ldl",
        ],
        check=True,
    )
    metrics: dict[str, float] = {}
    with _using(tree):
        for scheme in schemes:
            small, large = (
                _transfer(bench, counter, scheme=scheme, size=size) for size in (SMALL, LARGE)
            )
            metrics |= {f"{scheme}.{key}": value for key, value in _slopes(small, large).items()}
            metrics[f"{scheme}.requests"] = _requests(bench, scheme)
            metrics[f"{scheme}.peak_mib"] = _peak_mib(bench, scheme)
        if "avx2" in machine.cpu_flags():
            metrics["lanes.idle_share"] = _idle_lanes(bench, folder)
        metrics["start.modules"] = _modules(folder)
    return metrics


@contextlib.contextmanager
def _using(tree: Path | None) -> Iterator[None]:
    """Let fastdl be imported from *tree* meanwhile."""
    if tree is None:
        yield
        return
    os.environ["FASTDL_BENCH_TREE"] = str(tree)
    try:
        yield
    finally:
        del os.environ["FASTDL_BENCH_TREE"]


def _transfer(bench: runner.Bench, counter: Path, *, scheme: str, size: int) -> Counted:
    """The same transfer again and again: with the preloaded counter, then under strace."""
    scenario = Scenario(scheme=scheme, connections=CONNECTIONS, size=size)
    with runner.prepared(bench, scenario) as job:
        folder = job.scratch.parent
        calls, trace = folder / "calls", folder / "trace"
        env = {"LD_PRELOAD": str(counter), "FASTDL_GATE_CALLS": str(calls)}
        traced = _Traced(env={}, before=("strace", "-f", "-c", "-o", str(trace)))
        runs, counted, called = [], [], []
        for _ in range(_TRIES):
            runs.append(_run(bench, _Traced(env=env), job))
            counted.append(_pairs(calls))
            _run(bench, traced, job)
            called.append(_strace_counts(trace.read_text()))
        return Counted(
            size=size,
            calls=_lowest(counted),
            sent_bytes=min(run.sent_bytes for run in runs),
            cached_bytes=min(run.cached_bytes for run in runs),
            io=_lowest([run.cost.io for run in runs]),
            syscalls=_lowest(called),
        )


def _lowest(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    return {key: min(each[key] for each in counts) for key in counts[0]}


def _peak_mib(bench: runner.Bench, scheme: str) -> float:
    """Memory of a transfer with a small window: what is not window, and all of the window."""
    scenario = Scenario(scheme=scheme, connections=CONNECTIONS, size=LARGE)
    with runner.prepared(bench, scenario) as job:
        small = Fastdl("--window", _WINDOW)
        peak = min(_run(bench, small, job).cost.peak_bytes for _ in range(_TRIES))
    return round(peak / MiB, 1)


def _idle_lanes(bench: runner.Bench, folder: Path) -> float:
    """The share of AVX2's eight lanes that hashed nothing, on a processor without SHA
    instructions. On a busy machine a pass begins late, and less full: the lowest stands."""
    noted = folder / "lanes"
    program = (sys.executable, str(_HERE / "lanes.py"), str(noted))
    watched = _Traced(env={"FASTDL_SHA256": "avx2"}, program=program)
    scenario = Scenario(digest="pieces", cpu="nosha", connections=CONNECTIONS, size=LARGE)
    shares: list[float] = []
    with runner.prepared(bench, scenario) as job:
        for _ in range(_TRIES):
            _run(bench, watched, job)
            found = _pairs(noted)
            shares.append(1 - found["pass_blocks"] / max(1, found["passes"] * _LANES))
    return round(min(shares), 3)


def _requests(bench: runner.Bench, scheme: str) -> int:
    """Requests of a single connection on loopback, where nothing is stolen, hedged or shared."""
    with runner.prepared(bench, Scenario(scheme=scheme, connections=1, size=LARGE)) as job:
        return min(_run(bench, RIVAL, job).requests for _ in range(_TRIES))


def _run(bench: runner.Bench, rival: Rival, job: Job) -> runner.Run:
    run = runner.run_once(bench, rival, job, 0)
    if run.cost.failure:
        raise RuntimeError(f"fastdl failed in the gate: {run.cost.failure}")
    return run


def _pairs(path: Path) -> dict[str, int]:
    return {key: int(value) for key, value in map(str.split, path.read_text().splitlines())}


def _strace_counts(summary: str) -> dict[str, int]:
    """Calls by group from the table of ``strace -c``; unknown ones are ``other``."""
    groups = dict.fromkeys((*_GROUPS, "other"), 0)
    for line in summary.splitlines():
        words = line.split()
        if len(words) < 5 or not words[3].isdigit() or words[-1] == "total":
            continue
        group = next((name for name, calls in _GROUPS.items() if words[-1] in calls), "other")
        groups[group] += int(words[3])
    return groups


def _slopes(small: Counted, large: Counted) -> dict[str, float]:
    """What the bytes cost: differences between the sizes, per GB or per byte."""
    size = large.size - small.size

    def per_gb(key: str, group: str) -> float:
        before, after = getattr(small, group)[key], getattr(large, group)[key]
        return round((after - before) / size * _GB, 1)

    return {
        "sent_per_byte": round(large.sent_bytes / large.size, 4),
        "allocations_per_gb": per_gb("allocations", "calls"),
        "copied_per_byte": round(per_gb("copied_bytes", "calls") / _GB, 4),
        "write_calls_per_gb": per_gb("writes", "syscalls"),
        "read_calls_per_gb": per_gb("reads", "syscalls"),
        "other_calls_per_gb": per_gb("other", "syscalls"),
        "flush_calls": large.syscalls["flushes"],
        "written_per_byte": round(per_gb("write_bytes", "io") / _GB, 4),
        "read_per_byte": round(per_gb("read_bytes", "io") / _GB, 4),
        "cached_per_byte": round(large.cached_bytes / large.size, 4),
    }


def _modules(folder: Path) -> int:
    """How many modules `fastdl get` imports before it finds that its source is missing."""
    argv = [sys.executable, "-X", "importtime", *PROGRAM[1:], "get"]
    done = subprocess.run(
        [*argv, folder / "no-such-source", "-o", folder / "never"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **tree_env()},
        timeout=60,
    )
    return sum(line.startswith("import time:") for line in done.stderr.splitlines())
