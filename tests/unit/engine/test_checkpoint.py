# SPDX-License-Identifier: Apache-2.0
"""The order of a checkpoint: the data's flush, the record, the connections, the journal's flush."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

import pytest

from fastdl.core.job import Job
from fastdl.core.sink import Sink
from fastdl.engine import journal
from fastdl.engine.checkpoint import Checkpoint, Kept
from fastdl.engine.journal import Header, Record, Writer
from fastdl.engine.journal_file import Location
from fastdl.errors import SinkIOError

BLOCK = 1 << 20
HEADER = Header(
    job="j", target={}, validators={}, size=4 * BLOCK, digests={}, block_size=BLOCK, boot_id=""
)
WRITTEN = [(0, BLOCK, 7), (BLOCK, BLOCK, 9)]


class Attempt:
    """A job with two blocks written, its target, and what happened in which order: each with the
    number of records that a kill in that moment would leave."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = folder / "journal"
        self.checkpoint = Checkpoint(BLOCK, cast(Kept, None))
        self.checkpoint.writer = Writer.create(Location(str(self.path)), HEADER)
        self.records = list(WRITTEN)
        self.happened: list[tuple[str, int]] = []
        self.failure: SinkIOError | None = None
        flush = os.fdatasync

        def fdatasync(fd: int) -> None:
            flush(fd)
            self.note("journal durable")

        monkeypatch.setattr(os, "fdatasync", fdatasync)

    def note(self, what: str) -> None:
        """*what* happens now."""
        found = journal.parse(self.path.read_bytes()).records
        self.happened.append((what, len(found)))

    def drain(self) -> list[tuple[int, int, int]]:
        """As of a job."""
        records, self.records = self.records, []
        return records

    def settle(self, n: int) -> None:
        """As of a job."""
        self.note(f"{n} settled")

    def flush(self) -> None:
        """As of a target."""
        if self.failure is not None:
            raise self.failure
        self.note("data durable")

    def take(self) -> None:
        """Take a checkpoint."""
        me: Any = self
        self.checkpoint.take(cast(Job, me), cast(Sink, me))


@pytest.fixture
def attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Attempt:
    """An attempt before its first checkpoint."""
    return Attempt(tmp_path, monkeypatch)


def test_connections_do_not_wait_for_the_journals_own_flush(attempt: Attempt) -> None:
    """What a kill would cost is settled once the records are written, after the data's flush."""
    attempt.take()
    assert attempt.happened == [("data durable", 0), ("2 settled", 2), ("journal durable", 2)]
    found = journal.parse(attempt.path.read_bytes()).records
    assert found == tuple(Record(*record) for record in WRITTEN)


def test_nothing_new_is_no_flush(attempt: Attempt) -> None:
    """A slow download has its checkpoints by the clock."""
    attempt.take()
    attempt.happened.clear()
    attempt.take()
    assert attempt.happened == []


def test_data_that_is_not_durable_is_not_recorded(attempt: Attempt) -> None:
    """The target's failure is the job's."""
    attempt.failure = SinkIOError("lost")
    with pytest.raises(SinkIOError):
        attempt.take()
    assert attempt.happened == []
    assert journal.parse(attempt.path.read_bytes()).records == ()


def test_what_blocks_are_kept_in_is_opened_with_the_first_of_them(attempt: Attempt) -> None:
    """Before that there is no folder and no journal; what cannot be opened is not tried twice."""
    checkpoint, kept = Checkpoint(BLOCK, cast(Kept, None)), []
    opened = cast(Sink, object())

    class Wishing:
        """A job with a block to keep."""

        def keep(self, spool: Sink | None) -> None:
            kept.append(spool)

    def opens() -> None:
        checkpoint.spool, checkpoint.writer = opened, attempt.checkpoint.writer

    checkpoint.later = opens
    assert (checkpoint.keeps, checkpoint.records, checkpoint.due(4)) == (True, False, 0)
    checkpoint.keep(cast(Job, Wishing()))
    assert (kept, checkpoint.keeps, checkpoint.records) == ([opened], True, True)
    assert checkpoint.due(4) > 0

    nowhere = Checkpoint(BLOCK, cast(Kept, None))
    nowhere.later = lambda: None
    nowhere.keep(cast(Job, Wishing()))
    assert (kept[1:], nowhere.keeps) == ([None], False)
