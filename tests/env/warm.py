# SPDX-License-Identifier: Apache-2.0
"""How does a test run ten thousand commands? A process that has loaded ``fastdl`` forks each.

What a run does is what ``python -m fastdl`` does, in a process of its own with the seam loaded;
only loading Python and its modules, a quarter of a second, is done once. ``python -m
tests.env.warm`` is that process: it reads one JSON object a line and answers with two, when the
command has started and when it has ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import pkgutil
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.env import seam
from tests.env.command import Outcome

ROOT = Path(__file__).resolve().parents[2]
_DOWNLOADS = ("fastdl.cli", "fastdl.engine", "fastdl.sinks", "fastdl.sources", "fastdl.trust")
_MANAGER = ("fastdl.manager", "fastdl.web")


class Started:
    """A run under way."""

    def __init__(self, warm: Warm, pid: int) -> None:
        self._warm = warm
        self._end: dict[str, Any] | None = None
        self.pid = pid

    def ended(self) -> bool:
        """Whether it has ended by now."""
        if self._end is None:
            with contextlib.suppress(TimeoutError):
                self._end = self._warm._answer(0)
        return self._end is not None

    def finish(self, *, timeout: float) -> Outcome:
        """Wait for the end; after *timeout* seconds the run is killed: TimeoutError."""
        try:
            end = self._end or self._warm._answer(timeout)
        except TimeoutError:
            os.kill(self.pid, signal.SIGKILL)
            self._warm._answer(30)
            raise TimeoutError(f"over {timeout} s: {self._warm._text('stderr')}") from None
        return Outcome(
            code=os.waitstatus_to_exitcode(end["status"]),
            stdout=self._warm._text("stdout"),
            stderr=self._warm._text("stderr"),
            max_rss=end["max_rss"],
        )


class Warm:
    """The client of one such process; one run at a time. *cpu_s*: of all runs so far."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self._process = process
        self._folder = folder
        self._read = b""
        self.cpu_s = 0.0

    def run(
        self,
        words: Sequence[str],
        *,
        home: Path,
        seam_words: Mapping[str, str] | None = None,
        timeout: float = 60,
    ) -> Outcome:
        """Run ``fastdl WORDS...`` to its end, as ``command.run_fastdl`` does."""
        return self.start(words, home=home, seam_words=seam_words).finish(timeout=timeout)

    def start(
        self, words: Sequence[str], *, home: Path, seam_words: Mapping[str, str] | None = None
    ) -> Started:
        """Start ``fastdl WORDS...`` with what :func:`tests.env.seam.environment` made."""
        environ = {
            **seam.environment(),
            **(seam_words or {}),
            **dict.fromkeys(("HOME", "TMPDIR", "XDG_STATE_HOME"), str(home)),
        }
        request = {"words": list(words), "environ": environ, "folder": str(self._folder)}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return Started(self, self._answer(30)["pid"])

    def _answer(self, timeout: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        until = time.monotonic() + timeout
        while b"\n" not in self._read:
            # By hand: a buffered file may hold the second line, of which select knows nothing.
            if not select.select([fd], [], [], max(0, until - time.monotonic()))[0]:
                raise TimeoutError
            more = os.read(fd, 4096)
            assert more, f"the warm process has ended: {self._process.poll()}"
            self._read += more
        line, self._read = self._read.split(b"\n", 1)
        answer: dict[str, Any] = json.loads(line)
        self.cpu_s += answer.get("cpu_s", 0.0)
        return answer

    def _text(self, name: str) -> str:
        return (self._folder / name).read_text(errors="replace")


@contextlib.contextmanager
def warm(folder: Path, *, manager: bool = False) -> Iterator[Warm]:
    """The process, its outputs in *folder*; with a *manager*'s modules loaded or without."""
    environ = {k: v for k, v in os.environ.items() if not k.lower().endswith(("_proxy", "_home"))}
    environ["LD_PRELOAD"] = str(seam.built())
    words = [sys.executable, "-m", "tests.env.warm", *(["manager"] if manager else [])]
    process = subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environ
    )
    try:
        yield Warm(process, folder)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(60)
        assert process.stdout is not None
        process.stdout.close()


def _load(packages: Sequence[str]) -> None:
    for name in packages:
        package = importlib.import_module(name)
        for found in pkgutil.walk_packages(package.__path__, f"{name}."):
            if not found.name.endswith("__main__"):
                with contextlib.suppress(ImportError):  # an extra that is not installed
                    importlib.import_module(found.name)


def _run(request: dict[str, Any]) -> None:
    """In the child: become the command. Never returns."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        path = os.path.join(request["folder"], name)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(fd, number)
        os.close(fd)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.environ.update(request["environ"])
    sys.argv = ["fastdl", *request["words"]]
    code: Any = 1
    try:
        ctypes.CDLL(None).seam_arm()
        from fastdl.cli.main import entry  # noqa: PLC0415

        entry()
    except SystemExit as exc:
        code = exc.code
        with contextlib.suppress(OSError):
            sys.stdout.flush()
    except BaseException:
        import traceback  # noqa: PLC0415

        with contextlib.suppress(OSError):
            traceback.print_exc()
    finally:
        os._exit(code if isinstance(code, int) else 1)


def _serve() -> None:
    out = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if not pid:
            out.close()
            _run(request)
        print(json.dumps({"pid": pid}), file=out, flush=True)
        _, status, used = os.wait4(pid, 0)
        end = {
            "status": status,
            "cpu_s": used.ru_utime + used.ru_stime,
            "max_rss": used.ru_maxrss * 1024,
        }
        print(json.dumps(end), file=out, flush=True)


if __name__ == "__main__":
    _load(_MANAGER if sys.argv[1:] == ["manager"] else _DOWNLOADS)
    _serve()
