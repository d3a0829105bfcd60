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
    "base/hash*.c",
    "base/sha256*.c",
    "http/http*.c",
    "job/plan.c",
    "decode/qcow2*.c",
)
_COLLECTED: Final = re.compile(r"Collected : (\d+)")
_RECORDS: Final = (200, 1200)
_NO_SOURCE: Final = 10  # NetError's exit code: there is no such file


def missing() -> str | None:
    """Why nothing can be counted here, or None."""
    absent = [tool for tool in ("cc", "make", "valgrind") if not shutil.which(tool)]
    return f"{', '.join(absent)} not installed" if absent else None


def count(tree: Path | None, folder: Path) -> dict[str, float]:
    """Instructions per operation of every driver, built over the csrc of *tree* in *folder*.

    Without a *tree* it is this checkout's, and the journal of the fastdl that is installed.
    """
    csrc = (tree or CHECKOUT) / "csrc"
    library = build_core(csrc, folder)
    found = {f"instructions.{name}": _count_one(name, csrc, library, folder) for name in DRIVERS}
    found |= count_hash(csrc, library, folder)
    return found | {
        "instructions.journal": _count_journal(tree),
        "instructions.start": _count_start(tree, folder),
    }


def count_hash(
    csrc: Path, library: Path, folder: Path, env: dict[str, str] | None = None
) -> dict[str, float]:
    """What SHA-256 costs on this processor (``hash.c``); *env* is added to the environment."""
    program = _built("hash", csrc, library, folder, "-lcrypto")
    said = _run(program, env={**os.environ, **(env or {})}).stdout
    return {name: float(number) for name, number in map(str.split, said.splitlines())}


def build_core(csrc: Path, folder: Path) -> Path:
    """libfdl.a of the counted files with the release flags."""
    names = sorted(
        {str(path.relative_to(csrc)) for pattern in _SOURCES for path in csrc.glob(pattern)}
    )
    build = folder / "core"
    _run("make", "-s", "-C", csrc, f"BUILD={build}", f"SOURCES={' '.join(names)}", "all")
    return build / "release" / "libfdl.a"


def _count_one(name: str, csrc: Path, library: Path, folder: Path) -> float:
    program = _built(name, csrc, library, folder)
    counted, said = _callgrind("--toggle-collect=measured", program)
    return round(counted / int(said), 1)


def _built(name: str, csrc: Path, library: Path, folder: Path, *libraries: str) -> Path:
    program, source = folder / name, _HERE / f"{name}.c"
    flags = ("-std=gnu11", "-O2", "-g", "-I", csrc, "-I", _HERE)
    _run("cc", *flags, "-o", program, source, library, *libraries, "-lpthread")
    return program


def _count_journal(tree: Path | None) -> float:
    """Instructions of one record, written and read back. Hashes and memory are held still."""
    env = _still(tree)
    few, many = (
        _callgrind(sys.executable, _HERE / "journal.py", str(count), env=env)[0]
        for count in _RECORDS
    )
    return round((many - few) / (_RECORDS[1] - _RECORDS[0]), 1)


def _count_start(tree: Path | None, folder: Path) -> float:
    """Thousands of instructions until ``fastdl get`` finds that its source is missing, above those
    of an interpreter that does nothing."""
    env = _still(tree)
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    get = (sys.executable, "-m", "fastdl", "get", folder / "no-such-source", "-o", folder / "never")
    subprocess.run(get, capture_output=True, check=False, env=env, timeout=60)  # compiles it
    all_of_it = _callgrind(*get, env=env, code=_NO_SOURCE)[0]
    return round((all_of_it - _callgrind(sys.executable, "-c", "", env=env)[0]) / 1000)


def _still(tree: Path | None) -> dict[str, str]:
    """The environment in which the interpreter does the same every time, of *tree*'s sources."""
    env = {**os.environ, "PYTHONMALLOC": "malloc", "PYTHONHASHSEED": "0"}
    if tree is not None and (tree / "src").exists():
        env["PYTHONPATH"] = str(tree / "src")
    return env


def _callgrind(
    *argv: str | Path, env: dict[str, str] | None = None, code: int = 0
) -> tuple[int, str]:
    """Instructions that *argv* took (with callgrind's options before it), and what it said."""
    options = ("--tool=callgrind", "--callgrind-out-file=/dev/null")
    done = _run("valgrind", *options, *argv, env=env, code=code)
    collected = _COLLECTED.search(done.stderr)
    if collected is None:
        raise RuntimeError(f"callgrind did not count {argv[-1]}")
    return int(collected[1]), done.stdout


def _run(
    *argv: str | Path, env: dict[str, str] | None = None, code: int = 0
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=300, env=env)
    if done.returncode != code:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise RuntimeError(f"{Path(argv[0]).name} failed: {' / '.join(said[-3:])}")
    return done
