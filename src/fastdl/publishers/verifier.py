# SPDX-License-Identifier: Apache-2.0
"""Running another program's verifier on hostile bytes: fixed arguments, limits, no settings.

The signed content goes through its standard input, so that no copy of an image is made.
"""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import threading
from collections.abc import Sequence
from typing import IO, Final, NamedTuple

from fastdl.publishers.signer import Content

STDIN: Final = "/dev/stdin"
_SECONDS: Final = 60.0
_BYTES_PER_S: Final = 20 << 20
"""The slowest verifier on the slowest disk, for content that takes longer than that."""
_MEMORY: Final = 2 << 30
_OUTPUT: Final = 16 << 20


class Outcome(NamedTuple):
    """The program's exit code and standard output."""

    code: int
    output: bytes


def run_verifier(command: Sequence[str], content: Content, *, home: str) -> Outcome:
    """Run *command* with *content* as its standard input; *home*: an empty folder of its own.

    IntegrityError: it did not finish in time, or printed too much.
    """

    def limits() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (_OUTPUT, _OUTPUT))

    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=home,
        env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8", "HOME": home},
        preexec_fn=limits,  # noqa: PLW1509 - only system calls in there
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        failed: list[BaseException] = []
        feeder = threading.Thread(target=_feed, args=(process.stdin, content, failed))
        late = threading.Timer(_SECONDS + content.size / _BYTES_PER_S, process.kill)
        feeder.start()
        late.start()
        try:
            output = process.stdout.read(_OUTPUT + 1)
            if len(output) > _OUTPUT:
                process.kill()
            code = process.wait()
            feeder.join()
        finally:
            late.cancel()
            if process.poll() is None:
                process.kill()
            feeder.join()
    if failed:
        raise failed[0]
    if code < 0:
        raise content.refused(f"could not be checked: {os.path.basename(command[0])} was stopped")  # noqa: PTH119
    return Outcome(code, output)


def _feed(pipe: IO[bytes], content: Content, failed: list[BaseException]) -> None:
    """Write *content*; a program that has read enough is no failure."""
    try:
        with contextlib.suppress(BrokenPipeError), pipe:
            for piece in content.pieces():
                pipe.write(piece)
    except BaseException as exc:  # noqa: BLE001 - raised in the caller's thread
        failed.append(exc)
