# SPDX-License-Identifier: Apache-2.0
"""Which jobs was this host given, and what are their results? Survives a crash.

One SQLite file in the state folder, mode 0600. A row is written before its job starts and
carries its result until the manager has acknowledged it. Arguments, which may hold an
origin's credentials, are wiped when the job ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from fastdl import fs
from fastdl.errors import (
    AgentRefusedError,
    Cancelled,
    InternalError,
    JournalError,
    SinkBusyError,
)
from fastdl.wire import codec
from fastdl.wire import messages as m

_SCHEMA = """
CREATE TABLE IF NOT EXISTS job (
    job     TEXT PRIMARY KEY,
    kind    TEXT NOT NULL,
    fence   INTEGER NOT NULL,
    state   TEXT NOT NULL CHECK (state IN ('running', 'stopping', 'ended')),
    args    TEXT NOT NULL,
    done    TEXT,
    failure TEXT,
    acked   INTEGER NOT NULL DEFAULT 0,
    updated REAL NOT NULL
) STRICT
"""
_STARTS = "CREATE TABLE IF NOT EXISTS starts (number INTEGER NOT NULL) STRICT"
_KEEP_SECONDS = 7 * 24 * 3600.0


class State(StrEnum):
    """Of a job in the journal."""

    RUNNING = "running"
    STOPPING = "stopping"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Row:
    """One job. *args* is empty once it has ended."""

    job: str
    kind: str
    fence: int
    state: State
    args: str = field(repr=False)
    done: str | None
    failure: str | None
    acked: bool

    @property
    def owes_result(self) -> bool:
        """Whether the manager has not acknowledged the result yet."""
        return self.state is State.ENDED and not self.acked

    @property
    def taken_back(self) -> bool:
        """Whether the job ended because the manager took it from this host."""
        if self.state is not State.ENDED or not self.failure:
            return False
        failed = codec.parse_json(self.failure, limit=m.TO_MANAGER_MAX)
        return failed.get("code") == Cancelled.exit_code

    @property
    def failure_acked(self) -> bool:
        """Whether it failed and the manager knows: what it asks for now is another attempt."""
        return self.state is State.ENDED and bool(self.failure) and self.acked

    def command(self) -> m.Command:
        """The command as it was received."""
        args = codec.args_from_json(self.kind, self.args)
        return m.Command(job=self.job, kind=self.kind, fence=self.fence, args=args)

    def result(self) -> m.JobResult:
        """The result of an ended job, under its current fence.

        A result that the wire does not allow (text from an origin or a compromised download)
        becomes a failure: otherwise it would be refused, repeated, and block all others.

        """
        done = failure = None
        try:
            if self.done:
                done = codec.done_from_json(self.kind, self.done)
            if self.failure:
                plain = codec.parse_json(self.failure, limit=m.TO_MANAGER_MAX)
                failure = codec.from_plain(m.Failure, plain)
        except AgentRefusedError as exc:
            failure = codec.failure_of(InternalError(f"the result cannot be reported: {exc}"))
        return m.JobResult(
            job=self.job, fence=self.fence, kind=self.kind, done=done, failure=failure
        )


class Journal:
    """The jobs of this host. Thread-safe; every change is durable when the call returns."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("PRAGMA secure_delete = ON")
            self._db.execute(_SCHEMA)
            self._db.execute(_STARTS)
        except (OSError, sqlite3.Error) as exc:
            raise JournalError(f"the agent's journal {path} cannot be used: {exc}") from exc

    def start(self) -> int:
        """Count another start of the agent; return the number of starts."""
        self._run("INSERT INTO starts SELECT 0 WHERE NOT EXISTS (SELECT * FROM starts)")
        self._run("UPDATE starts SET number = number + 1")
        ((number,),) = self._run("SELECT number FROM starts")
        return int(number)

    def rows(self) -> dict[str, Row]:
        """Every job, the oldest first."""
        found = self._run(
            "SELECT job, kind, fence, state, args, done, failure, acked FROM job ORDER BY updated"
        )
        return {
            job: Row(job, kind, fence, State(state), args, done, failure, bool(acked))
            for job, kind, fence, state, args, done, failure, acked in found
        }

    def begin(self, command: m.Command) -> None:
        """Record *command* before it starts. A known one stays unchanged, unless it has ended and
        is assigned again under a higher fence."""
        self._run(
            "INSERT INTO job (job, kind, fence, state, args, updated)"
            " VALUES (?, ?, ?, 'running', ?, ?) ON CONFLICT (job) DO UPDATE SET"
            " fence = excluded.fence, state = 'running', args = excluded.args, done = NULL,"
            " failure = NULL, acked = 0, updated = excluded.updated"
            " WHERE job.state = 'ended' AND job.fence < excluded.fence",
            (command.job, command.kind, command.fence, codec.args_to_json(command.args), _now()),
        )

    def adopt(self, job: str, fence: int) -> None:
        """Adopt a higher fence; the result must be acknowledged again under it. A job that was
        being stopped is desired again."""
        self._run(
            "UPDATE job SET fence = ?, acked = 0,"
            " state = CASE state WHEN 'stopping' THEN 'running' ELSE state END"
            " WHERE job = ? AND fence < ?",
            (fence, job, fence),
        )

    def stop(self, job: str) -> None:
        """Record that a running job is no longer desired."""
        self._run("UPDATE job SET state = 'stopping' WHERE job = ? AND state = 'running'", (job,))

    def end(self, job: str, *, done: m.Done | None, failure: m.Failure | None) -> None:
        """Record how *job* ended; exactly one of *done* and *failure*."""
        self._run(
            "UPDATE job SET state = 'ended', args = '', done = ?, failure = ?, updated = ?"
            " WHERE job = ? AND state != 'ended'",
            (
                codec.done_to_json(done) if done is not None else None,
                json.dumps(codec.to_plain(failure)) if failure is not None else None,
                _now(),
                job,
            ),
        )
        # The arguments are erased from the file; this also erases older copies in its log.
        self._run("PRAGMA wal_checkpoint(TRUNCATE)")

    def acknowledged(self, job: str, fence: int) -> None:
        """The manager has the result; a higher fence requests it again."""
        self._run("UPDATE job SET acked = 1 WHERE job = ? AND fence = ?", (job, fence))

    def ask_again(self, job: str, fence: int) -> None:
        """The manager requests the result of an ended job, perhaps under a higher fence."""
        self._run(
            "UPDATE job SET fence = max(fence, ?), acked = 0 WHERE job = ? AND state = 'ended'",
            (fence, job),
        )

    def forget(self, job: str) -> None:
        """Delete an acknowledged job, and jobs not requested for a week."""
        self._run("DELETE FROM job WHERE job = ? AND acked = 1", (job,))
        self._run(
            "DELETE FROM job WHERE state = 'ended' AND updated < ?", (_now() - _KEEP_SECONDS,)
        )

    def clear(self) -> None:
        """Delete every job: this host has become another one."""
        self._run("DELETE FROM job")

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Become the only agent on this journal; SinkBusyError while another one runs."""
        folder = self._path.parent
        try:
            fd = fs.open_locked(self._path.with_suffix(".lock"))
        except BlockingIOError:
            raise SinkBusyError(f"another agent is running on the state folder {folder}") from None
        except OSError as exc:
            raise JournalError(f"the state folder {folder} cannot be used: {exc.strerror}") from exc
        try:
            yield
        finally:
            os.close(fd)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def _run(self, statement: str, values: tuple[object, ...] = ()) -> list[Any]:
        try:
            with self._lock:
                return self._db.execute(statement, values).fetchall()
        except sqlite3.Error as exc:
            raise JournalError(f"the agent's journal failed: {exc}") from exc


def _now() -> float:
    return time.time()
