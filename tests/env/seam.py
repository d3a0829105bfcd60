# SPDX-License-Identifier: Apache-2.0
"""How does a test make the n-th system call of a real command fail, come short, or kill it?

With ``seam.c``, built once and loaded before the C library. The command is the installed one.
What storage was asked for can be recorded as well: see ``storage_log.py``.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

_SOURCES = [
    Path(__file__).with_name(name) for name in ("seam.c", "seam_calls.c", "seam_record.c", "seam.h")
]


class Call(NamedTuple):
    """One call that a command made. *number* counts from 1 over all threads."""

    thread: int
    number: int
    name: str
    about: str


@functools.cache
def built() -> Path:
    """The seam, compiled; one for each text of it and user. Skips without a compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler here")
    key = hashlib.sha256(b"".join(path.read_bytes() for path in _SOURCES)).hexdigest()[:16]
    made = Path(tempfile.gettempdir()) / f"fastdl-seam-{os.geteuid()}-{key}.so"
    if not made.exists():
        fresh = made.with_suffix(f".{os.getpid()}")
        words = ["-std=gnu11", "-O1", "-fPIC", "-shared", "-Wall", "-Wno-unused-result", "-o"]
        subprocess.run([compiler, *words, fresh, *_SOURCES[:3], "-ldl"], check=True, timeout=60)
        fresh.replace(made)
    return made


def environment(
    *,
    log: Path | None = None,
    record: Path | None = None,
    nth: int = 0,
    call: str = "*",
    do: str = "kill",
    ever: bool = False,
    only: str | None = None,
    after: str | None = None,
    clock: int = 0,
    inodes: Mapping[int, int] | None = None,
) -> dict[str, str]:
    """The variables that tell a loaded seam what to do; see ``seam.c`` for what they say."""
    words = {
        "SEAM_LOG": log, "SEAM_RECORD": record, "SEAM_NTH": nth, "SEAM_CALL": call,
        "SEAM_DO": do if nth else None, "SEAM_FOR": "ever" if ever else "once",
        "SEAM_ONLY": only, "SEAM_AFTER": after, "SEAM_CLOCK": clock,
        "SEAM_INODES": ",".join(f"{real}:{shown}" for real, shown in (inodes or {}).items()),
    }  # fmt: skip
    return {name: str(value) if value else "" for name, value in words.items()}


def loaded(**what: Any) -> list[str]:
    """The words before a command's own that load the seam, with those of :func:`environment`."""
    words = {"LD_PRELOAD": str(built()), **environment(**what)}
    return ["env", *(f"{name}={value}" for name, value in words.items() if value)]


def calls(log: Path) -> list[Call]:
    """What the log of a run says, in order."""
    found = []
    for line in log.read_text(errors="replace").splitlines():
        thread, number, name, about = [*line.split(" ", 3), ""][:4]
        found.append(Call(int(thread), int(number), name, about))
    return found
