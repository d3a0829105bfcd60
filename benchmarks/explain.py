# SPDX-License-Identifier: Apache-2.0
"""Where does the time go? fastdl's own ledger per GB, next to an independent profile."""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks import runner
from benchmarks.meter import Command, Step
from benchmarks.options import say
from benchmarks.rivals.base import Job, Rival
from benchmarks.rivals.fastdl import RIVAL, get_argv, tree_env
from benchmarks.scenarios import parse_scenario

STAGES: Final = ("fetch", "tls", "hash", "decode", "write", "flush")
_HERTZ: Final = 997
# What a frame of a stack says about the sample: the first rule that finds a match decides.
_RULES: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("flush", ("sys_fdatasync", "sys_fsync", "sys_sync")),
    ("write", ("sys_pwrite", "sys_write", "sys_fallocate", "sys_ioctl")),
    ("receive", ("sys_recv", "sys_read", "tcp_recvmsg")),
    ("hash", ("sha1_", "sha256_", "sha512_", "md5_", "EVP_Digest")),
    ("tls", ("aesni", "gcm_", "ghash", "chacha20", "poly1305", "SSL_read", "ssl3_", "libssl")),
    ("block check", ("XXH3",)),
    ("decode", ("inflate", "deflate", "ZSTD_", "HUF_", "lzma_", "BZ2_", "qcow2")),
    ("receive", ("recv", "asm_common_interrupt", "softirq", "net_rx")),
    ("python", ("libpython", "_PyEval", "PyObject", "bin/python")),
    ("threads", ("sys_futex", "sys_clone", "sys_eventfd", "schedule")),
    ("memory", ("page_fault", "clear_page", "sys_mmap", "sys_munmap", "sys_madvise", "exit_mmap")),
)


class _Profiled(Rival):
    """fastdl under perf: the processor's clock, sampled with kernel and user stacks."""

    name = "fastdl"
    needs = ("perf",)

    def __init__(self, record: Path) -> None:
        self._record = record

    def steps(self, job: Job) -> list[Step]:
        perf = ("perf", "record", "-q", "-e", "cpu-clock", "-F", str(_HERTZ), "-g")
        argv = (*perf, "-o", str(self._record), "--", *get_argv(job))
        return [Step(pipeline=(Command(argv=argv, env=tree_env()),))]


@dataclass(slots=True)
class Ledger:
    """All that is printed; seconds are per GB (1e9 bytes) of the source."""

    scenario: str
    durable: float
    user: float
    system: float
    origin: float
    kernel_threads: float
    stages: dict[str, float]
    bottleneck: str
    profile: dict[str, float]


def run(args: argparse.Namespace) -> int:
    """Print the ledger of ``args.explain``: medians over ``args.rounds`` runs."""
    scenario = parse_scenario(args.explain)
    with (
        runner.bench(args.work, timeout_s=args.timeout) as bench,
        runner.prepared(bench, scenario) as job,
    ):
        ledger = _measure(bench, job, args.rounds)
    print(json.dumps(_as_dict(ledger)) if args.json else _text(ledger))
    return 0


def _measure(bench: runner.Bench, job: Job, rounds: int) -> Ledger:
    gb = job.source_bytes / 1e9
    runs, reports = [], []
    for turn in range(-1, rounds):
        done = runner.run_once(bench, RIVAL, job, turn)
        if done.cost.failure:
            raise RuntimeError(f"fastdl failed: {done.cost.failure}")
        say(f"{done.durable_s:.3f} s, others {done.disturbed:.0%}")
        if turn >= 0:
            runs.append(done)
            reports.append(json.loads(done.cost.output))

    def median(values: Iterable[float]) -> float:
        return statistics.median(values) / gb

    return Ledger(
        scenario=job.scenario.name,
        durable=median(done.durable_s for done in runs),
        user=median(done.cost.user_s for done in runs),
        system=median(done.cost.sys_s for done in runs),
        origin=median(done.origin_cpu_s for done in runs),
        kernel_threads=median(done.kthread_cpu_s for done in runs),
        stages={
            stage: median(report["stages"].get(stage, 0.0) for report in reports)
            for stage in STAGES
        },
        bottleneck=Counter(report["bottleneck"] for report in reports).most_common(1)[0][0],
        profile={key: value / gb for key, value in _profile(bench, job).items()},
    )


def _profile(bench: runner.Bench, job: Job) -> dict[str, float]:
    """Processor seconds by what the stacks say; {} if perf is unavailable."""
    if not shutil.which("perf"):
        say("perf is not installed: no independent profile")
        return {}
    record = job.scratch.parent / "perf.data"
    done = runner.run_once(bench, _Profiled(record), job, 0)
    if done.cost.failure:
        say(f"perf failed: {done.cost.failure}")
        return {}
    script = subprocess.run(
        ["perf", "script", "-i", record, "-F", "tid,ip,sym,dso"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return {kind: count / _HERTZ for kind, count in sort_samples(stacks(script)).most_common()}


def stacks(script: str) -> Iterator[tuple[str, list[str]]]:
    """(thread, frames with symbol and library, innermost first) of each sample of perf script."""
    thread, frames = "", []
    for line in (*script.splitlines(), ""):
        words = line.split(None, 1)
        if not words:
            if frames:
                yield thread, frames
            frames = []
        elif line[0].isspace() and frames is not None and not words[0].isdigit():
            frames.append(words[1] if len(words) > 1 else "")
        else:
            thread = words[0]


def sort_samples(samples: Iterable[tuple[str, list[str]]]) -> Counter[str]:
    """Samples by what they were busy with.

    libcrypto has no symbols for its inner loops: in them, a thread that receives is decrypting
    and any other one is hashing.
    """
    known = [(thread, frames, classify(frames)) for thread, frames in samples]
    receiving = {
        thread
        for thread, frames, _ in known
        if any("sys_recv" in frame or "tcp_recvmsg" in frame for frame in frames)
    }
    found: Counter[str] = Counter()
    for thread, frames, kind in known:
        if kind == "other" and any("libcrypto" in frame for frame in frames):
            found["tls" if thread in receiving else "hash"] += 1
        else:
            found[kind] += 1
    return found


def classify(frames: list[str]) -> str:
    """What a sample was busy with, by the first rule that any of its frames fits."""
    for kind, words in _RULES:
        if any(word in frame for frame in frames for word in words):
            return kind
    return "other"


def _as_dict(ledger: Ledger) -> dict[str, Any]:
    return {name: getattr(ledger, name) for name in Ledger.__slots__}


def _text(ledger: Ledger) -> str:
    def line(word: str, seconds: float) -> str:
        return f"  {word:<16} {seconds:7.3f} s/GB  {seconds / ledger.durable:6.0%} of the time"

    headline = (
        f"{ledger.scenario}: {ledger.durable:.3f} s/GB until durable, "
        f"bottleneck {ledger.bottleneck} (by fastdl)"
    )
    parts = [
        headline,
        "busy by stage (fastdl's own clock, summed over threads, waiting included):",
        *(line(stage, ledger.stages[stage]) for stage in STAGES),
        "processor time:",
        line("fastdl user", ledger.user),
        line("fastdl system", ledger.system),
        line("origin", ledger.origin),
        line("kernel threads", ledger.kernel_threads),
    ]
    if ledger.profile:
        parts.append("fastdl's processor time by perf's stacks:")
        parts += [line(kind, seconds) for kind, seconds in ledger.profile.items()]
    return "\n".join(parts)
