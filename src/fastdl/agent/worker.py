# SPDX-License-Identifier: Apache-2.0
"""The process that parses hostile bytes: ``python -m fastdl.agent.worker``.

One job as a line of JSON on standard input; ``{"progress": …}`` lines and at the end one
``{"result": …}`` or ``{"error": …}`` on standard output. It confines itself before the
first byte arrives. Standard input stays open for the job's life: its end, or SIGTERM,
cancels the job, so that no download outlives its agent.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastdl.agent.confine import confine, die_with_parent
from fastdl.errors import FastdlError, InternalError

if TYPE_CHECKING:
    from fastdl.engine.result import Result


_LANDING = ("source_format", "target_format", "max_virtual_size", "beneath", "overwrite")
"""The options that concern the unpacked image rather than its transfer."""


def main() -> int:
    """Carry out the job on standard input; the error's class is the exit code."""
    # Blocked here, awaited in a thread: the main thread may be deep inside the core.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the agent decides what an interrupt means
    die_with_parent(signal.SIGTERM)
    os.umask(0o022)  # a template is read by qemu's user, however private the agent's own files
    try:
        job = json.loads(sys.stdin.buffer.readline())
        _say({"landlock": confine(Path(path) for path in job["writable"])})
        _say({"result": _perform(job)})
    except FastdlError as exc:
        _say({"error": {**exc.to_dict(), "retry_after": getattr(exc, "retry_after", None)}})
        return exc.exit_code
    except Exception as exc:  # noqa: BLE001 - the last frame of the process
        _say({"error": InternalError(f"{type(exc).__name__}: {exc}").to_dict()})
        return InternalError.exit_code
    return 0


def _perform(job: dict[str, Any]) -> dict[str, Any]:
    # Imported after the confinement, so that nothing of them runs outside.
    import fastdl  # noqa: PLC0415
    from fastdl.engine.cancel import Cancel  # noqa: PLC0415

    cancel = Cancel()
    for watch in (_until_end_of_input, _until_sigterm):
        threading.Thread(target=_then_cancel, args=(watch, cancel.cancel), daemon=True).start()
    options = {name: _frozen(value) for name, value in job["options"].items()}
    if job["action"] == "probe":
        found: dict[str, Any] = fastdl.probe_sync(job["sources"], **options).to_dict()
        return found
    run = partial(
        fastdl.fetch_sync,
        progress=lambda progress: _say({"progress": progress._asdict()}),
        cancel=cancel,
    )
    if job["action"] == "unpack":
        return _unpack(run, job, options)
    result: dict[str, Any] = run(
        job["sources"], job["target"], checksum=job["checksum"], **options
    ).to_dict()
    return result


def _unpack(
    run: Callable[..., Result], job: dict[str, Any], options: dict[str, Any]
) -> dict[str, Any]:
    """Fetch and decompress to a file beside the target, then land that, judged, as the target."""
    # The pools' modules cost every download's start as much as the engine; few downloads unpack.
    from fastdl.agent.pools.marker import staging_path  # noqa: PLC0415

    staging = staging_path(Path(job["target"]))
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(mode=0o700)
    packed = {
        **options,
        "source_format": "auto",
        "target_format": "raw",
        "staging": True,
        "beneath": None,
        "resume": False,
    }
    plain = {name: options[name] for name in _LANDING if name in options}
    try:
        first = run(
            job["sources"], str(staging / "image"), checksum=job["checksum"], **packed
        ).to_dict()
        second = run([str(staging / "image")], job["target"], policy="user", **plain).to_dict()
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    landed = {name: second[name] for name in ("target", "target_bytes", "format", "virtual_size")}
    return {**first, **landed, "warnings": [*first["warnings"], *second["warnings"]]}


def _frozen(value: Any) -> Any:
    """JSON's lists as the tuples that the engine's options are."""
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


def _then_cancel(wait: Callable[[], None], cancel: Callable[[], None]) -> None:
    wait()
    cancel()


def _until_end_of_input() -> None:
    while os.read(0, 4096):
        pass


def _until_sigterm() -> None:
    signal.sigwait({signal.SIGTERM})


def _say(message: dict[str, Any]) -> None:
    """One line to the agent; a failed write means that nobody is there any more."""
    line = json.dumps(message, separators=(",", ":")) + "\n"
    try:
        os.write(1, line.encode())
    except BrokenPipeError:
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
