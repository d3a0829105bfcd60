# SPDX-License-Identifier: Apache-2.0
"""How many instructions do the core's hot paths need? Small programs over csrc, under callgrind.

The journal is Python: there the interpreter runs under callgrind, for two numbers of records.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from benchmarks.machine import CHECKOUT

_HERE: Final = Path(__file__).parent
DRIVERS: Final = ("http_head", "http_chunked", "http_request", "plan", "blocks", "qcow2_map")
_SOURCES: Final = (
    "base/err.c",
    "base/buf.c",
    "http/http*.c",
    "job/plan.c",
    "decode/qcow2*.c",
)
_COLLECTED: Final = re.compile(r"Collected : (\d+)")
_RECORDS: Final = (200, 1200)


def missing() -> str | None:
    """Why nothing can be counted here, or None."""
    absent = [tool for tool in ("cc", "make", "valgrind") if not shutil.which(tool)]
    return f"{', '.join(absent)} not installed" if absent else None


def count(tree: Path | None, folder: Path) -> dict[str, float]:
    """Instructions per operation of every driver, built over the csrc of *tree* in *folder*.

    Without a *tree* it is this checkout's, and the journal of the fastdl that is installed.
    """
    csrc = (tree or CHECKOUT) / "csrc"
    library = _build_core(csrc, folder)
    found = {f"instructions.{name}": _count_one(name, csrc, library, folder) for name in DRIVERS}
    return found | {"instructions.journal": _count_journal(tree)}


def _build_core(csrc: Path, folder: Path) -> Path:
    """libfdl.a of the counted files with the release flags."""
    names = sorted(
        {str(path.relative_to(csrc)) for pattern in _SOURCES for path in csrc.glob(pattern)}
    )
    build = folder / "core"
    _run("make", "-s", "-C", csrc, f"BUILD={build}", f"SOURCES={' '.join(names)}", "all")
    return build / "release" / "libfdl.a"


def _count_one(name: str, csrc: Path, library: Path, folder: Path) -> float:
    program = folder / name
    _run(
        "cc",
        "-std=gnu11",
        "-O2",
        "-g",
        "-I",
        csrc,
        "-I",
        _HERE,
        "-o",
        program,
        _HERE / f"{name}.c",
        library,
        "-lpthread",
    )
    counted, said = _callgrind("--toggle-collect=measured", program)
    return round(counted / int(said), 1)


def _count_journal(tree: Path | None) -> float:
    """Instructions of one record, written and read back. Hashes and memory are held still."""
    env = {**os.environ, "PYTHONMALLOC": "malloc", "PYTHONHASHSEED": "0"}
    if tree is not None and (tree / "src").exists():
        env["PYTHONPATH"] = str(tree / "src")
    few, many = (
        _callgrind(sys.executable, _HERE / "journal.py", str(count), env=env)[0]
        for count in _RECORDS
    )
    return round((many - few) / (_RECORDS[1] - _RECORDS[0]), 1)


def _callgrind(*argv: str | Path, env: dict[str, str] | None = None) -> tuple[int, str]:
    """Instructions that *argv* took (with callgrind's options before it), and what it said."""
    done = _run("valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", *argv, env=env)
    collected = _COLLECTED.search(done.stderr)
    if collected is None:
        raise RuntimeError(f"callgrind did not count {argv[-1]}")
    return int(collected[1]), done.stdout


def _run(*argv: str | Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=300, env=env)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise RuntimeError(f"{Path(argv[0]).name} failed: {' / '.join(said[-3:])}")
    return done
