# SPDX-License-Identifier: Apache-2.0
"""Runs one tool once: until its bytes are durable, then compared by their digest."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import tempfile
import time
from typing import IO

from fastdl.cli.measure.tools import Call, Task
from fastdl.model.url import Url
from fastdl.named_tuple import NamedTuple

_WORDS_MAX = 300


class Run(NamedTuple):
    """One run. Seconds of wall time until durable and of processor time; *check_s* of computing
    the digest afterwards, 0 where the tool did that itself. *failure*: why it does not count."""

    seconds: float
    cpu_s: float
    check_s: float = 0.0
    failure: str | None = None
    output: str = ""
    code: int = 0


def run_tool(call: Call, task: Task, *, limit_s: float) -> Run:
    """Run *call*, which has *limit_s* seconds; its process group is gone on return."""
    with _no_name() as given, _no_name() as out, _no_name() as err:
        given.write(call.stdin.encode())
        given.seek(0)
        began = time.monotonic()
        process = subprocess.Popen(
            call.argv, stdin=given, stdout=out, stderr=err, start_new_session=True, env=_environ()
        )
        try:
            usage = _wait(process, began + limit_s)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            if process.returncode is None:
                process.wait()
        if usage is None:
            return Run(time.monotonic() - began, 0.0, failure=f"not done in {limit_s:.0f} s")
        with contextlib.suppress(OSError):  # qemu-img and friends may have made nothing
            _flush(task.target)
        seconds = time.monotonic() - began
        cpu = usage.ru_utime + usage.ru_stime
        out.seek(0)
        output = out.read(1 << 20).decode(errors="replace")
        if process.returncode:
            err.seek(0)
            said = err.read(1 << 16).decode(errors="replace").strip() or _error_in(output)
            words = without_secrets(said, task)
            failure = words or f"exit status {process.returncode}"
            return Run(seconds, cpu, failure=failure, code=process.returncode)
    return Run(seconds, cpu, output=output)


def _environ() -> dict[str, str]:
    """Ours; bytecode is cached as in an installation, even where the environment forbids it."""
    return {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}


def _error_in(output: str) -> str:
    """What fastdl's own JSON reports; empty where it is none, or another program's."""
    for line in output.splitlines():
        with contextlib.suppress(ValueError, TypeError, KeyError):
            return str(json.loads(line)["error"]["message"])
    return ""


def _no_name() -> IO[bytes]:
    """A file without a name: nobody else can read what it holds."""
    return tempfile.TemporaryFile()


def _wait(process: subprocess.Popen[bytes], end: float) -> resource.struct_rusage | None:
    """Wait until *process* ended or the clock says *end*; what it used, None in the latter case."""
    pause = 0.001
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return usage
        if time.monotonic() > end:
            return None
        time.sleep(pause)
        pause = min(0.02, pause * 1.5)


def without_secrets(text: str, task: Task) -> str:
    """The last line of *text*, short, and with every URL as it may be shown."""
    line = text.strip().rpartition("\n")[2]
    for url in task.urls:
        line = line.replace(url, Url.parse(url).display())
        parsed = Url.parse(url)
        for secret in (parsed.query, parsed.password, parsed.username):
            if secret:
                line = line.replace(secret, "…")
    return line[:_WORDS_MAX]


def digest_of(task: Task) -> tuple[str, float]:
    """(SHA-256 in hex of the target's first ``task.size`` bytes, seconds that it took).

    The digest of a target that is shorter is of what there is. OSError.
    """
    from fastdl.core.digests import Digests

    began = time.monotonic()
    digests = Digests("sha-256", 1 << 30)
    view, left = memoryview(bytearray(1 << 20)), task.size
    with open(task.target, "rb", buffering=0) as file:  # noqa: PTH123
        while left and (n := file.readinto(view[: min(left, len(view))])):
            digests.update(view[:n])
            left -= n
        more = b"" if task.device else file.read(1)
    if more:
        digests.update(more)  # too long: its digest is another one
    return digests.finish()[0].hex(), time.monotonic() - began


def _flush(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
