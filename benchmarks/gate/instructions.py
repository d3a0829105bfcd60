# SPDX-License-Identifier: Apache-2.0
"""How many instructions do the core's hot paths need? Small programs over csrc, under callgrind."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

_HERE: Final = Path(__file__).parent
DRIVERS: Final = ("http_head", "http_chunked", "http_request", "plan", "blocks", "qcow2_map")
_SOURCES: Final = ("fdl_err.c", "fdl_buf.c", "fdl_http*.c", "fdl_plan.c", "fdl_qcow2*.c")
_COLLECTED: Final = re.compile(r"Collected : (\d+)")


def missing() -> str | None:
    """Why nothing can be counted here, or None."""
    absent = [tool for tool in ("cc", "make", "valgrind") if not shutil.which(tool)]
    return f"{', '.join(absent)} not installed" if absent else None


def count(tree: Path, folder: Path) -> dict[str, float]:
    """Instructions per operation of every driver, built over ``tree/csrc`` in *folder*."""
    library = _build_core(tree / "csrc", folder)
    return {
        f"instructions.{name}": _count_one(name, tree / "csrc", library, folder) for name in DRIVERS
    }


def _build_core(csrc: Path, folder: Path) -> Path:
    """libfdl.a of the counted files with the release flags."""
    names = sorted({path.name for pattern in _SOURCES for path in csrc.glob(pattern)})
    build = folder / "core"
    _run("make", "-s", "-C", csrc, f"BUILD={build}", f"SOURCES={' '.join(names)}", "all")
    return build / "release" / "libfdl.a"


def _count_one(name: str, csrc: Path, library: Path, folder: Path) -> float:
    program = folder / name
    _run("cc", "-std=gnu11", "-O2", "-g", "-I", csrc, "-I", _HERE, "-o", program,
         _HERE / f"{name}.c", library, "-lpthread")  # fmt: skip
    done = _run(
        "valgrind", "--tool=callgrind", "--toggle-collect=measured",
        "--callgrind-out-file=/dev/null", program,
    )  # fmt: skip
    collected = _COLLECTED.search(done.stderr)
    if collected is None:
        raise RuntimeError(f"callgrind did not count {name}")
    return round(int(collected[1]) / int(done.stdout), 1)


def _run(*argv: str | Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise RuntimeError(f"{Path(argv[0]).name} failed: {' / '.join(said[-3:])}")
    return done
