# SPDX-License-Identifier: Apache-2.0
"""How does a test run the real ``fastdl`` command, and what did that run do?"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastdl.errors import BY_CODE

_LINE = re.compile(r"^fastdl: ([A-Z_]+): (.+)$", re.MULTILINE)
NAMES = {code: cls.code_name for code, cls in BY_CODE.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """An ended run: exit code, both outputs, and the peak memory in bytes (as last seen)."""

    code: int
    stdout: str
    stderr: str
    max_rss: int

    @property
    def json(self) -> dict[str, Any]:
        """The one JSON object on standard output."""
        value = json.loads(self.stdout)
        assert isinstance(value, dict)
        return value

    @property
    def classes(self) -> list[str]:
        """The error classes named on standard error: exactly one where the command failed."""
        return [found[1] for found in _LINE.finditer(self.stderr)]

    def __str__(self) -> str:
        return f"exit {self.code}\nstdout: {self.stdout}\nstderr: {self.stderr}"


class Running:
    """A run under way; ``finish`` waits for it, ``send`` signals it."""

    def __init__(
        self,
        words: Sequence[str],
        *,
        home: Path,
        prefix: Sequence[str] = (),
        cwd: Path | None = None,
    ) -> None:
        home.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="run-", dir=home.parent))
        self._out, self._err = folder / "stdout", folder / "stderr"
        environ = {
            k: v for k, v in os.environ.items() if not k.lower().endswith(("_proxy", "_home"))
        }
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, "-m", "fastdl", *words],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=cwd,
                env={**environ, **dict.fromkeys(("HOME", "TMPDIR", "XDG_STATE_HOME"), str(home))},
            )

    def send(self, number: signal.Signals) -> None:
        """Signal the command; one that has ended already is left alone."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, number)

    def finish(self, *, timeout: float) -> Outcome:
        """Wait for the end. A run over *timeout* seconds is killed and reported as such."""
        deadline = time.monotonic() + timeout
        peak = 0
        while True:
            # Not ru_maxrss: that one begins with the memory of the forking test process.
            peak = max(peak, self._peak_memory())
            pid, status = os.waitpid(self.process.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > deadline:
                self.process.kill()
                os.waitpid(self.process.pid, 0)
                self.process.returncode = -9
                raise TimeoutError(f"over {timeout} s: {self._err.read_text()}")
            time.sleep(0.005)
        self.process.returncode = os.waitstatus_to_exitcode(status)
        return Outcome(
            code=self.process.returncode,
            stdout=self._out.read_text(),
            stderr=self._err.read_text(),
            max_rss=peak,
        )

    def _peak_memory(self) -> int:
        """The process's largest resident memory so far, in bytes; 0 once it has ended."""
        try:
            text = Path(f"/proc/{self.process.pid}/status").read_text()
        except OSError:
            return 0
        found = re.search(r"^VmHWM:\s+(\d+) kB", text, re.MULTILINE)
        # Between fork and exec the memory is still the parent's.
        return int(found[1]) * 1024 if found and "Name:\tpytest" not in text else 0


def run_fastdl(
    words: Sequence[str],
    *,
    home: Path,
    timeout: float = 30,
    prefix: Sequence[str] = (),
    cwd: Path | None = None,
) -> Outcome:
    """Run ``fastdl WORDS...`` to its end in *cwd* with *home* as home and temporary folder.

    *prefix* are the words of a command that executes another one in other surroundings.
    """
    return Running(words, home=home, prefix=prefix, cwd=cwd).finish(timeout=timeout)


@contextlib.contextmanager
def running_fastdl(words: Sequence[str], *, home: Path) -> Iterator[Running]:
    """Start ``fastdl WORDS...``; whatever happens in the block, no process stays behind."""
    run = Running(words, home=home)
    try:
        yield run
    finally:
        if run.process.returncode is None:
            run.send(signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(run.process.pid, 0)
            run.process.returncode = -9
