# SPDX-License-Identifier: Apache-2.0
"""Does a journal that is shared as a descriptor do all that one with a name does?"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fastdl.engine import journal
from fastdl.engine.journal import Header, Record, Writer
from fastdl.engine.journal_file import Location
from fastdl.errors import SinkBusyError

HEADER = Header(
    job="j", target={}, validators={}, size=9 << 20, digests={}, block_size=1 << 20, boot_id=""
)
RECORDS = tuple(Record(n << 20, 1 << 20, n) for n in range(4))


def test_what_is_written_through_a_shared_descriptor_is_found_by_name(tmp_path: Path) -> None:
    """The process that downloads has no right to the folder; the next run finds its journal."""
    place = Location(str(tmp_path / "state" / "j"))
    shared = place.share()
    assert Writer.resume(shared) is None
    writer = Writer.create(shared, HEADER)
    writer.append(RECORDS[:2])
    writer.close()
    place.unshare(shared)
    again = place.share()
    found = Writer.resume(again)
    assert found is not None
    known, writer = found
    assert known.records == RECORDS[:2]
    writer.append(RECORDS[2:])
    writer.close()
    place.unshare(again)
    assert journal.parse(Path(place.path).read_bytes()).records == RECORDS


def test_a_shared_journal_that_is_over_leaves_no_file(tmp_path: Path) -> None:
    """Whether nothing was written to it or what was is worth nothing any more."""
    place = Location(str(tmp_path / "j"))
    for ended in (False, True):
        shared = place.share()
        if ended:
            writer = Writer.create(shared, HEADER)
            writer.append(RECORDS)
            writer.remove()
        place.unshare(shared)
        assert os.listdir(tmp_path) == []


def test_a_stale_or_damaged_journal_is_shared_and_started_anew(tmp_path: Path) -> None:
    """Its bytes are parsed by whoever has no power, not by whoever opens it."""
    place = Location(str(tmp_path / "j"))
    (tmp_path / "j").write_bytes(b"no journal at all")
    shared = place.share()
    writer = Writer.create(shared, HEADER)
    writer.append(RECORDS)
    writer.close()
    place.unshare(shared)
    assert journal.parse((tmp_path / "j").read_bytes()).records == RECORDS


def test_what_lies_at_the_name_is_not_followed_nor_shared(tmp_path: Path) -> None:
    """A link, or another file's second name, is replaced; a journal in use is refused."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    place = Location(str(tmp_path / "j"))
    for plant in (lambda: os.symlink(victim, place.path), lambda: os.link(victim, place.path)):
        plant()
        shared = place.share()
        Writer.create(shared, HEADER).close()
        with pytest.raises(SinkBusyError):
            place.share()
        place.unshare(shared)
        assert victim.read_text() == "precious"
        os.unlink(place.path)


def test_where_no_journal_can_be_made_none_is_shared(tmp_path: Path) -> None:
    """The download goes on without."""
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="exists"):
        Location(str(tmp_path / "file" / "j")).share()
