# SPDX-License-Identifier: Apache-2.0
"""The demo's processes, which end with it, its narrator, and its client of the API."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastdl.cli import streams
from fastdl.errors import FastdlError, InternalError

START_S = 30.0


class Stage:
    """What the demo has on this machine; all of it is gone at the end."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="fastdl-demo-"))
        # Apart from the rest, and open: QEMU runs as another user and has to enter it.
        self.pools = Path(tempfile.mkdtemp(prefix="fastdl-demo-pools-"))
        self.pools.chmod(0o755)
        self.credentials = self.folder / "manager" / "admin.json"
        self.cleaning = contextlib.ExitStack()
        """Takes back what is more than a process; before the processes end."""
        self.machines = contextlib.ExitStack()
        """Removes the virtual machines; before the rest."""
        self._processes: list[subprocess.Popen[bytes]] = []
        self._step = 0

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_exc: object) -> None:
        try:
            with self.cleaning:
                self.machines.close()
        finally:
            for process in reversed(self._processes):
                process.send_signal(signal.SIGTERM)
            for process in reversed(self._processes):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(10)
                if process.poll() is None:
                    process.kill()
                    process.wait()
            shutil.rmtree(self.folder, ignore_errors=True)
            shutil.rmtree(self.pools, ignore_errors=True)

    def say(self, text: str) -> None:
        """Announce a step."""
        self._step += 1
        streams.say(f"\n{self._step}. {text}")

    def start(self, name: str, *words: str) -> subprocess.Popen[bytes]:
        """Start one of our verbs, or with ``-m`` a module, in the background."""
        if words[0] != "-m":
            streams.say(f"   $ fastdl {shown(words)} &")
            words = ("-c", "from fastdl.cli.main import main; raise SystemExit(main())", *words)
        return self.run(name, sys.executable, *words)

    def run(self, name: str, *words: str) -> subprocess.Popen[bytes]:
        """Start a program in the background; its output goes to a file."""
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                words,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=self.folder,
                start_new_session=True,
            )
        self._processes.append(process)
        return process

    def api(self, *words: str, show: str | None = None, quiet: bool = False) -> dict[str, Any]:
        """Call the API, showing the command line and, on request, a part of the answer."""
        from fastdl.cli import api, api_client

        if not quiet:
            streams.say(f"   $ fastdl api {shown(words)}")
        wait = "--wait" in words
        command, params = api.parse_words([word for word in words if word != "--wait"])
        credentials = api_client.read_credentials(self.credentials)
        answer = api_client.call(credentials, command, params)
        if wait:
            answer = api_client.job_result(api_client.ended_job(credentials, answer["jobid"]))
        if show is not None:
            streams.say(f"     {show.format(**_first(answer))}")
        return answer

    def until(self, what: str, check: Callable[[], Any], *, within: float = START_S) -> Any:
        """Wait for *check*, a bounded time; return what it returned."""
        deadline = time.monotonic() + within
        while time.monotonic() < deadline:
            with contextlib.suppress(FastdlError, OSError, ValueError):
                if found := check():
                    return found
            for process in self._processes:
                if process.poll() is not None:
                    raise InternalError(f"a process ended too early: {self._last_words()}")
            time.sleep(0.1)
        raise InternalError(f"{what} did not happen within {within:g} s: {self._last_words()}")

    def _last_words(self) -> str:
        """The ends of the logs, which are gone with the folder."""
        logs = sorted(self.folder.glob("*.log"))
        return "\n".join(f"{log.name}: {log.read_text(errors='replace')[-500:]}" for log in logs)


def shown(words: tuple[str, ...]) -> str:
    """*words* as a command line; long ones are shortened."""
    return " ".join(shlex.quote(word) if len(word) < 120 else word[:60] + "…" for word in words)


def _first(answer: dict[str, Any]) -> dict[str, Any]:
    """The object inside an answer, or the first of its list."""
    for value in answer.values():
        if isinstance(value, dict):
            return value
        if isinstance(value, list) and value:
            return dict(value[0])
    return answer
