# SPDX-License-Identifier: Apache-2.0
"""The process that parses hostile bytes: ``python -m fastdl.agent.worker``.

One job as lines of JSON on standard input, each sent when the one before is answered: probes
first, then at most one other work. ``{"progress": …}`` lines and at the end one
``{"result": …}`` or ``{"error": …}`` on standard output for each. Whatever reads the first
byte of an origin is confined before: this process to the pool, and for good, so that a probe,
which may write nothing, is done in a child. Standard input stays open for the job's life: its
end, or SIGTERM, cancels the job, so that no download outlives its agent.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastdl.agent.confine import confine, die_with_parent
from fastdl.agent.death import error_of_death
from fastdl.errors import Cancelled, FastdlError, InternalError

if TYPE_CHECKING:
    from fastdl.engine.result import Result


_LANDING = ("source_format", "target_format", "max_virtual_size", "beneath", "overwrite")
"""The options that concern the unpacked image rather than its transfer."""
_LINE_LIMIT = 4 << 20
"""Of a probe's answer; the agent reads no longer lines either."""


def main() -> int:
    """Carry out the job on standard input; the error's class is the exit code."""
    # Blocked here, awaited in a thread: the main thread may be deep inside the core.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the agent decides what an interrupt means
    die_with_parent(signal.SIGTERM)
    os.umask(0o022)  # a template is read by qemu's user, however private the agent's own files
    return _answered(_serve)


def _answered(work: Callable[[], None]) -> int:
    """Do *work*, which says its result, and say why where it fails."""
    try:
        work()
    except FastdlError as exc:
        _say({"error": {**exc.to_dict(), "retry_after": getattr(exc, "retry_after", None)}})
        return exc.exit_code
    except Exception as exc:  # noqa: BLE001 - the last frame of the process
        _say({"error": InternalError(f"{type(exc).__name__}: {exc}").to_dict()})
        return InternalError.exit_code
    return 0


def _serve() -> None:
    while line := sys.stdin.buffer.readline():
        job = json.loads(line)
        if job["action"] == "probe":
            _write(_answer_apart(job))
            continue
        _say({"landlock": confine(Path(path) for path in job["writable"])})
        _say({"result": _perform(job)})
        return


def _answer_apart(job: dict[str, Any]) -> bytes:
    """The one line that a child, confined for this probe alone, has to say.

    The child has neither end of the agent's pipes: what it, or anything it leaves behind,
    says after its line reaches nobody, and cannot pass for the download's result.
    """
    # Before the fork, so that the download finds them loaded; no byte of an origin came yet.
    import fastdl.engine.probe  # noqa: F401, PLC0415

    ours, theirs = os.pipe()
    parent = os.getpid()
    child = os.fork()
    if not child:
        os.dup2(theirs, 1)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.closerange(3, max(ours, theirs) + 2)
        die_with_parent(signal.SIGKILL)  # a probe has nothing to put in order
        if os.getppid() != parent:
            os._exit(1)
        os._exit(_answered(partial(_probe, job)))
    os.close(theirs)
    signal.signal(signal.SIGTERM, _cancelled)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        line = _first_line(ours, stop=0)
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        os.close(ours)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    if line is None:
        raise error_of_death("the probe's process", os.waitstatus_to_exitcode(status))
    return line


def _probe(job: dict[str, Any]) -> None:
    landlock = confine(Path(path) for path in job["writable"])
    import fastdl  # noqa: PLC0415

    found = fastdl.probe_sync(job["sources"], **_options(job)).to_dict()
    _say({"landlock": landlock, "result": found})


def _first_line(source: int, *, stop: int) -> bytes | None:
    """The first line from *source*, None where it ends without; Cancelled once *stop* is ready.

    Nothing is sent on *stop* before the answer, so that only its end makes it ready.
    """
    held = bytearray()
    while len(held) <= _LINE_LIMIT:
        ready, _, _ = select.select([source, stop], [], [])
        if stop in ready:
            _cancelled()
        piece = os.read(source, 1 << 16)
        held += piece
        if b"\n" in piece:
            return bytes(held[: held.index(b"\n") + 1])
        if not piece:
            break
    return None


def _cancelled(*_signal: object) -> None:
    raise Cancelled("the probe was cancelled")


def _perform(job: dict[str, Any]) -> dict[str, Any]:
    # Imported after the confinement, so that nothing of them runs outside.
    import fastdl  # noqa: PLC0415
    from fastdl.engine.cancel import Cancel  # noqa: PLC0415

    cancel = Cancel()
    for watch in (_until_end_of_input, _until_sigterm):
        threading.Thread(target=_then_cancel, args=(watch, cancel.cancel), daemon=True).start()
    options = _options(job)
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


def _options(job: dict[str, Any]) -> dict[str, Any]:
    return {name: _frozen(value) for name, value in job["options"].items()}


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
    """One line to the agent."""
    _write(json.dumps(message, separators=(",", ":")).encode() + b"\n")


def _write(line: bytes) -> None:
    """*line* to standard output; a failed write means that nobody is there any more."""
    try:
        os.write(1, line)
    except BrokenPipeError:
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # everything is said and on disk: taking the interpreter apart gains nothing
