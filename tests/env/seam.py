# SPDX-License-Identifier: Apache-2.0
"""How does a test make the n-th system call of a real command fail, come short, or kill it?

With ``seam.c``, built once and loaded before the C library. The command is the installed one.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest

_SOURCE = Path(__file__).with_name("seam.c")


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
    key = hashlib.sha256(_SOURCE.read_bytes()).hexdigest()[:16]
    made = Path(tempfile.gettempdir()) / f"fastdl-seam-{os.geteuid()}-{key}.so"
    if not made.exists():
        fresh = made.with_suffix(f".{os.getpid()}")
        words = ["-std=gnu11", "-O1", "-fPIC", "-shared", "-Wall", "-Wno-unused-result", "-o"]
        subprocess.run([compiler, *words, fresh, _SOURCE, "-ldl"], check=True, timeout=60)
        fresh.replace(made)
    return made


def loaded(
    *,
    log: Path | None = None,
    nth: int = 0,
    call: str = "*",
    do: str = "kill",
    ever: bool = False,
    only: str | None = None,
    after: str | None = None,
    clock: int = 0,
) -> list[str]:
    """The words before a command's own that load the seam; see ``seam.c`` for what they say."""
    words = {"LD_PRELOAD": str(built()), "SEAM_CALL": call, "SEAM_DO": do}
    if log is not None:
        words["SEAM_LOG"] = str(log)
    if nth:
        words |= {"SEAM_NTH": str(nth), "SEAM_FOR": "ever" if ever else "once"}
    if only is not None:
        words["SEAM_ONLY"] = only
    if after is not None:
        words["SEAM_AFTER"] = after
    if clock:
        words["SEAM_CLOCK"] = str(clock)
    return ["env", *(f"{name}={value}" for name, value in words.items())]


def calls(log: Path) -> list[Call]:
    """What the log of a run says, in order."""
    found = []
    for line in log.read_text(errors="replace").splitlines():
        thread, number, name, about = [*line.split(" ", 3), ""][:4]
        found.append(Call(int(thread), int(number), name, about))
    return found
