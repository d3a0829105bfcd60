# SPDX-License-Identifier: Apache-2.0
"""Runs the jobs of a command: some at once, under limits that they share."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from fastdl.cli.job_options import Job
from fastdl.engine.api import fetch_sync
from fastdl.engine.cancel import Cancel
from fastdl.engine.options import FetchOptions
from fastdl.errors import FastdlError, InternalError, Reason, shortage
from fastdl.model.url import Url
from fastdl.named_tuple import NamedTuple
from fastdl.sources.naming import url_name

if TYPE_CHECKING:
    from fastdl.cli.progress import Display
    from fastdl.core.job import Pace
    from fastdl.engine.result import Result


class Ended(NamedTuple):
    """A job that is over: with a result or an error. *told*: see ``fetch_sync``."""

    job: Job
    result: Result | None
    error: FastdlError | None
    told: Sequence[Callable[[], None]] = ()


def label_of(job: Job) -> str:
    """The file of a job, as it may be shown."""
    if job.target not in ("-", "null:") and not os.path.isdir(job.target):  # noqa: PTH112
        return os.path.basename(job.target) or job.target  # noqa: PTH119
    if name := job.options.get("metalink_file"):
        return str(name).rpartition("/")[2]
    try:
        return url_name(job.sources) or Url.parse(job.sources[0]).display()
    except FastdlError:
        return "a source"


def run_job(
    job: Job,
    display: Display,
    cancel: Cancel,
    log: Callable[[str], None] | None = None,
    pace: Pace | None = None,
    *,
    told: list[Callable[[], None]],
    of_several: bool = False,
) -> Result:
    """Fetch one file. Raises as ``fetch_sync``. *of_several*: *log* is told of which."""
    slot = display.add(label_of(job))
    if log is not None and of_several:
        log = _named(slot.label, log)
    if job.rate is not None:
        from fastdl.core.job import Pace

        pace = Pace(job.rate, pace)
    try:
        return fetch_sync(
            job.sources,
            job.target,
            progress=slot.show,
            cancel=cancel,
            log=log,
            pace=pace,
            told=told,
            **job.options,
        )
    finally:
        display.end(slot)


def _named(label: str, log: Callable[[str], None]) -> Callable[[str], None]:
    return lambda text: log(f"{label}: {text}")


def expanded(job: Job, error: FastdlError | None, cancel: Cancel) -> list[Job]:
    """A job for each file of the metalink that has several, where a folder takes them all."""
    if error is None or error.reason is not Reason.SEVERAL_FILES:
        return []
    of_one = {"checksum", "write_metalink"} & job.options.keys()
    if not os.path.isdir(job.target) or of_one:  # noqa: PTH112
        return []
    from fastdl.engine.listing import metalink_names

    options = FetchOptions.build(**job.options)
    names = metalink_names(job.sources[0], options, cancel)
    return [job._replace(options={**job.options, "metalink_file": name}) for name in names]


class Batch:
    """Several jobs. *ended*: called for each, from its thread, one at a time; whether the result
    was told."""

    def __init__(
        self,
        jobs: Iterable[Job],
        at_once: int,
        rate: int | None,
        display: Display,
        log: Callable[[str], None] | None,
        ended: Callable[[Ended], bool],
    ) -> None:
        self._queue = deque(jobs)
        self._expected = len(self._queue)
        self._at_once = at_once
        self._display = display
        self._log = log
        self._ended = ended
        self._pace: Pace | None = None
        if rate is not None:
            from fastdl.core.job import Pace

            self._pace = Pace(rate)
        self._lock = threading.Condition()
        self._told = threading.Lock()
        self._running = 0
        self._began = time.monotonic()

    @property
    def expected(self) -> int:
        """How many jobs there are, as far as is known."""
        return self._expected

    @property
    def seconds(self) -> float:
        """How long the batch has run."""
        return time.monotonic() - self._began

    def run(self, cancel: Cancel) -> None:
        """Until all have ended. A job that fails ends no other; Cancelled ends all."""
        self._display.expect(self._expected)
        threads = [
            threading.Thread(target=self._work, args=(cancel,), name=f"job-{i}")
            for i in range(self._at_once)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        cancel.check()

    def _work(self, parent: Cancel) -> None:
        while (job := self._next(parent)) is not None:
            cancel = Cancel()
            end: Ended | None = None
            try:
                with parent.stops(cancel.cancel):
                    end = self._one(job, cancel)
            except FastdlError as exc:
                end = Ended(job, None, exc)
            finally:  # whatever happened: the others wait for this
                with self._lock:
                    self._running -= 1
                    self._lock.notify_all()
            if end is not None:
                with self._told:
                    told = self._ended(end)
                for tidy in end.told if told else ():
                    tidy()

    def _next(self, parent: Cancel) -> Job | None:
        with self._lock:
            # One that runs may turn out to be a list of others.
            self._lock.wait_for(lambda: self._queue or not self._running)
            if not self._queue or parent.cancelled:
                return None
            job = self._queue.popleft()
            self._running += 1
            share = min(self._at_once, self._running + len(self._queue))
        # The limit of all is separate from a job's own, which is its ``rate``.
        options = {k: v for k, v in job.options.items() if k != "limit_rate"}
        return job._replace(options=shared(options, share))

    def _one(self, job: Job, cancel: Cancel) -> Ended | None:
        """How a job ended; None where others took its place."""
        told: list[Callable[[], None]] = []
        try:
            try:
                done = run_job(
                    job, self._display, cancel, self._log, self._pace, told=told, of_several=True
                )
                return Ended(job, done, None, told)
            except FastdlError as exc:
                if not (others := expanded(job, exc, cancel)):
                    raise
        except FastdlError as exc:
            return Ended(job, None, exc)
        except Exception as exc:
            if os.environ.get("FASTDL_DEBUG"):
                raise
            bug = InternalError(f"a bug in fastdl: {type(exc).__name__}: {exc}")
            return Ended(job, None, shortage(exc) or bug)
        with self._lock:
            self._queue.extendleft(reversed(others))
            self._expected += len(others) - 1
            self._display.expect(self._expected)
            self._lock.notify_all()
        return None


PER_ORIGIN = 8
"""Connections that the jobs of a command share, if an origin is the same."""


def shared(options: dict[str, object], jobs: int) -> dict[str, object]:
    """The options of one of *jobs* that share the connections of a command."""
    default = FetchOptions()
    out = dict(options)
    most = out.get("max_connections", default.max_connections)
    to_one = out.get("max_connections_per_origin") or PER_ORIGIN
    assert isinstance(most, int)
    assert isinstance(to_one, int)
    if jobs > 1:
        out["max_connections"] = max(1, most // jobs)
        out["max_connections_per_origin"] = max(1, to_one // jobs)
    return out


def worst(ended: Sequence[Ended]) -> int:
    """The highest exit code of the jobs: 0 where all are done."""
    return max((e.error.exit_code for e in ended if e.error is not None), default=0)
