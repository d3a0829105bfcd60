# SPDX-License-Identifier: Apache-2.0
"""fastdl itself with its defaults; a number of connections only where the scenario names one."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

from benchmarks import machine
from benchmarks.meter import Command, Step
from benchmarks.rivals.base import Job, Rival
from fastdl import __version__

# What the installed command does, in the interpreter that runs the suite.
PROGRAM: Final = (
    sys.executable,
    "-c",
    "from fastdl.cli.main import entry; entry()",
)


def get_argv(job: Job, *options: str, program: tuple[str, ...] = PROGRAM) -> tuple[str, ...]:
    """``fastdl get`` for *job*."""
    sources = job.urls if job.metalink is None else [str(job.metalink)]
    argv = [*program, "get", *sources, "-o", job.target.word, "--json"]
    argv += ["--progress", "none"]
    if job.scenario.digest == "wholepieces":
        argv.append("--require-whole-digest")
    elif job.hashed and job.metalink is None:
        argv += ["--checksum", f"sha-256:{job.sha256}"]
    if job.tls:
        argv += ["--cacert", str(job.cacert)]
    if job.scenario.connections:
        number = str(job.scenario.connections)
        argv += ["--max-connections", number, "--max-connections-per-origin", number]
    return (*argv, *options)


class Fastdl(Rival):
    """``options`` are added to the command line: sweeps vary what scenarios do not name."""

    name = "fastdl"
    needs = ()
    uses_mirrors = True
    # Its own kernels ask the processor, not OpenSSL's variable.
    without_sha = "avx512" if "avx512f" in machine.cpu_flags() else "avx2"

    def __init__(self, *options: str) -> None:
        self._options = options

    def steps(self, job: Job) -> list[Step]:
        # Bytecode is cached as in an installation, even where the environment forbids it.
        env = {"PYTHONDONTWRITEBYTECODE": "", **tree_env()}
        if job.scenario.cpu == "nosha":
            env["FASTDL_SHA256"] = self.without_sha
        return [Step(pipeline=(Command(argv=get_argv(job, *self._options), env=env),))]

    def versions(self) -> dict[str, str]:
        return {"fastdl": __version__, "python": sys.version.split()[0]}


def tree_env() -> dict[str, str]:
    """Import fastdl from the tree in FASTDL_BENCH_TREE, where the gate compares a copy."""
    tree = os.environ.get("FASTDL_BENCH_TREE")
    return {"PYTHONPATH": str(Path(tree) / "src")} if tree else {}


RIVAL = Fastdl()
