# SPDX-License-Identifier: Apache-2.0
"""The process of one job: ``python -m fastdl.agent.worker``.

The works of the job arrive as lines of JSON on standard input, each sent after the result of the
previous one: those that touch no target first, then at most one other. ``{"progress": …}`` lines
and at the end one ``{"result": …}`` or ``{"error": …}`` on standard output for each. Standard input
stays open for the job's life: its end, or SIGTERM, cancels the job, so that no download outlives
its agent.

This process opens the target and publishes it; it reads no byte of an origin. That is done by
confined forks of it (``child``), one for each step: probing, landing, inspecting what landed.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from fastdl.agent import child_errors, child_messages, confined
from fastdl.agent.child import Child, Stop
from fastdl.agent.child import confined as confined_child
from fastdl.agent.child_workspace import ChildWorkspace
from fastdl.agent.confine import MEMORY, Powers
from fastdl.agent.reach import Reach
from fastdl.agent.supplies import supplied
from fastdl.engine.journal_file import JournalFile, Location, SharedFile
from fastdl.engine.workspace import Workspace, open_workspace
from fastdl.errors import FastdlError, InternalError, as_error
from fastdl.model.url import Url
from fastdl.sinks.syscalls import die_with_parent

Job = Mapping[str, Any]

_PROGRESS_S = 0.05
_SINGLE_STEPS = {
    "probe": confined.probe,
    "documents": confined.documents,
    "vouch": confined.vouch,
}
"""The works that touch no target; there may be several."""


def main() -> int:
    """Execute the job on standard input; the error's class is the exit code."""
    stop = Stop(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the agent handles interrupts
    die_with_parent(signal.SIGTERM)
    os.umask(0o022)  # qemu's user reads templates, however private the agent's own files are
    supplied()
    gc.freeze()  # a collection in a fork would copy every page that it visits
    code = 0
    while line := sys.stdin.buffer.readline():
        job = json.loads(line)
        code = _answered(partial(_perform, job, stop))
        if job["action"] not in _SINGLE_STEPS:
            break
    return code


def _answered(work: Callable[[], Mapping[str, Any]]) -> int:
    """Do *work* and report its result, or why it failed."""
    try:
        _send({"result": work()})
    except Exception as exc:  # noqa: BLE001 - the last frame of the process
        error = as_error(exc)
        _send({"error": error.to_dict()})
        return error.exit_code
    return 0


def _perform(job: Job, stop: Stop) -> Mapping[str, Any]:
    if job["action"] in _SINGLE_STEPS:
        if job["action"] == "vouch":
            import fastdl.agent.handshake  # noqa: F401 - rare, and slow to load

        work = partial(_SINGLE_STEPS[job["action"]], job)
        with confined_child(
            work, _powers(job), required=_required(job), reach=_reach(job)
        ) as child:
            return _found(child, stop).result
    workspace = open_workspace(job["target"], confined.options_of(job), confined.placement_of(job))
    there = workspace.existing is not None
    try:
        result = _landed(job, workspace, stop)
        if workspace.sink.kind == "file":
            result |= _inspected(job, workspace, result, stop)
        workspace.publish(result["target_bytes"])()  # the pool's marker says what it is
    except BaseException:
        with contextlib.suppress(FastdlError):
            workspace.abort()
        raise
    finally:
        workspace.close()
    return {
        **result,
        # Only of a device does the other process know more: it read the note of an earlier run.
        "already_present": there or (workspace.sink.kind != "file" and result["already_present"]),
        "warnings": [*result["warnings"], *workspace.sink.warnings],
    }


def _landed(job: Job, workspace: Workspace, stop: Stop) -> dict[str, Any]:
    """The result of the process that fetches into *workspace*; it has ended on return."""
    # A file's note is written by the process that publishes it.
    of_device = workspace.note_file if workspace.sink.hold else None
    with (
        _shared_file(workspace.journal) as (journal, warnings),
        _shared_file(of_device) as (note, _),
        _folder(job, workspace) as folder,
    ):
        inner = ChildWorkspace(workspace, journal, note)
        kept = [*workspace.descriptors(), *(file.fd for file in (journal, note) if file)]
        with confined_child(
            partial(confined.land, job, inner),
            _powers(job, folder=folder),
            required=_required(job),
            reach=_reach(job),
            kept=kept,
            keep=lambda: inner.keep,
        ) as child:
            workspace.sink.hand_over()
            try:
                result = _found(child, stop, workspace=workspace, folder=folder, job=job).result
            except InternalError as exc:
                workspace.keep = exc.retryable  # what crashed it would crash it again
                raise
        workspace.keep = False
    return {**result, "warnings": [*result["warnings"], *warnings]}


def _inspected(
    job: Job, workspace: Workspace, result: Mapping[str, Any], stop: Stop
) -> dict[str, Any]:
    """The size of the disk in the landed file, from another process, which may refuse it."""
    fd = os.open(f"/proc/self/fd/{workspace.sink.buffered_fd}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        work = partial(confined.inspect, job, fd, result["target_bytes"])
        with confined_child(work, _powers(job), required=_required(job), kept=[fd]) as child:
            inspected = _last(child, stop)
    finally:
        os.close(fd)
    if not isinstance(inspected, child_messages.Inspected):
        raise InternalError("the process that inspects the image sent an unexpected message")
    if result["virtual_size"] is None or inspected.virtual_size is None:
        return {"virtual_size": None}
    return {"virtual_size": inspected.virtual_size}


# ---- messages of a child ----------------------------------------------------------


def _found(child: Child, stop: Stop, **given: Any) -> child_messages.Found:
    last = _last(child, stop, **given)
    if not isinstance(last, child_messages.Found):
        raise InternalError("the download's process sent an unexpected message instead of a result")
    return last


def _last(
    child: Child,
    stop: Stop,
    *,
    workspace: Workspace | None = None,
    folder: str | None = None,
    job: Job | None = None,
) -> child_messages.Found | child_messages.Inspected:
    """Serve the requests of *child* until its last message; raises the failure that it reports."""
    shown = 0.0
    listed: child_messages.Listed | None = None
    for message in child.receive(stop):
        match message:
            case child_messages.Progressed() if time.monotonic() - shown > _PROGRESS_S:
                shown = time.monotonic()
                _send({"progress": message.progress})
            case child_messages.Listed() if workspace is not None:
                listed = message
            case child_messages.Begun() if workspace is not None:
                workspace.sink.taken(message.size)
            case child_messages.Convert() if job is not None and folder is not None:
                from fastdl.agent.conversion import converted  # rare

                child.reply(converted(message, _powers(job, folder=folder, program=True), stop))
            case child_messages.Failed():
                _report_missing(child)
                if workspace is not None:
                    workspace.keep = message.keep
                raise child_errors.error_of(message.error, public=child.public_only)
            case child_messages.Found() | child_messages.Inspected():
                _report_missing(child)
                if isinstance(message, child_messages.Found) and message.result.get(
                    "public_source"
                ):
                    message.result["public_source"] = child.public_only
                if isinstance(message, child_messages.Found) and listed is not None:
                    message.result["listed"] = listed._asdict()
                return message
    raise AssertionError("unreachable")


# ---- what a child is given --------------------------------------------------------


def _powers(job: Job, **powers: Any) -> Powers:
    ids = job["confinement"]["ids"]
    return Powers(
        ids=tuple(ids) if ids else None,
        memory=MEMORY + 2 * confined.options_of(job).window,
        file_size=job["confinement"].get("file_size"),
        **powers,
    )


def _reach(job: Job) -> Reach:
    return Reach(job["sources"], confined.options_of(job))


def _required(job: Job) -> bool:
    required: bool = job["confinement"]["required"]
    return required


@contextlib.contextmanager
def _shared_file(journal: JournalFile | None) -> Iterator[tuple[SharedFile | None, list[str]]]:
    """The journal, opened for the child; and the warning if it cannot be opened."""
    if not isinstance(journal, Location):
        yield None, []
        return
    try:
        shared = journal.share()
    except OSError as exc:
        yield None, [f"this download cannot be resumed: {journal.path}: {exc.strerror}"]
        return
    try:
        yield shared, []
    finally:
        journal.unshare(shared)


@contextlib.contextmanager
def _folder(job: Job, workspace: Workspace) -> Iterator[str | None]:
    """A private folder for the child, if it may have to unpack or convert; else None."""
    if job["action"] != "unpack" and job["options"].get("target_format") == "same":
        yield None
        return
    with workspace.staging(ids=job["confinement"]["ids"], key=_staging_key(job)) as staging:
        staging.keep = True
        yield str(staging.path)
        staging.keep = False


def _staging_key(job: Job) -> str:
    """What a process may find of an earlier one: only its own job's, since nothing else vouches for
    what lies there. What a signed link signs with is another each time."""
    what = [[Url.parse(source).display() for source in job["sources"]], job["checksum"]]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]


def _report_missing(child: Child) -> None:
    if child.missing:
        _send({"missing": child.missing})


def _send(message: Mapping[str, Any]) -> None:
    """Send one line to the agent; a failed write means that the agent is gone."""
    line = json.dumps(message, separators=(",", ":")).encode() + b"\n"
    try:
        while line:
            line = line[os.write(1, line) :]
    except BrokenPipeError:
        os._exit(1)


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # everything is sent and on disk: shutting the interpreter down gains nothing
