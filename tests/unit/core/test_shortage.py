# SPDX-License-Identifier: Apache-2.0
"""Does the core report what the machine ran out of as a limit, never as a bug?"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

CSRC = Path(__file__).resolve().parents[3] / "csrc"
NO_DESCRIPTOR_LEFT = """
import os, resource
from fastdl.core.net import Wakeup
from fastdl.errors import LimitError
highest = max(int(name) for name in os.listdir("/proc/self/fd"))
resource.setrlimit(resource.RLIMIT_NOFILE, (highest, highest))
try:
    held = [Wakeup() for _ in range(highest + 1)]
except LimitError as exc:
    print(exc)
"""


def test_a_process_without_descriptors_gets_a_limit_error() -> None:
    """An operator raises a limit; a bug report would help nobody."""
    done = subprocess.run(
        [sys.executable, "-c", NO_DESCRIPTOR_LEFT],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "EMFILE" in done.stdout


def test_want_of_memory_has_one_home() -> None:
    """Said in many places it had two classes, and one of them was "a bug in fastdl"."""
    for path in CSRC.glob("*/*.c"):
        own = re.findall(r'"[^"\n]*\b(?:no|not enough|out of) memory\b[^"\n]*"', path.read_text())
        assert not own or path.name == "err.c", path
