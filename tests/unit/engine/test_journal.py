# SPDX-License-Identifier: Apache-2.0
"""The journal never claims what was not written, whatever happened to its bytes."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastdl.engine import journal, journal_file
from fastdl.engine.journal import Header, Record, Writer
from fastdl.engine.journal_file import Location
from fastdl.errors import JournalError

HEADER = Header(
    job="get:0123",
    target={"kind": "file", "dev": 65024, "ino": 77},
    validators={"https://mirror.example": {"etag": '"abc"', "size": "9437184"}},
    size=9437184,
    digests={"sha-256": "00ff"},
    block_size=1 << 20,
    boot_id="b",
)
RECORDS = tuple(Record(n << 20, 1 << 20, (n * 7919) << 40 | n) for n in range(9))


def image(header: Header, records: tuple[Record, ...]) -> bytes:
    """The bytes of a sound journal."""
    head = journal.encode_header(header)
    seed = int.from_bytes(head[-4:], "little")
    return head + b"".join(journal.encode_record(n, r, seed) for n, r in enumerate(records))


SOUND = image(HEADER, RECORDS)
HEAD_BYTES = len(SOUND) - len(RECORDS) * journal.RECORD_BYTES


def test_a_sound_journal_reads_back_as_it_was_written() -> None:
    """Nothing is lost or changed between two runs."""
    found = journal.parse(SOUND)
    assert (found.header, found.records, found.length) == (HEADER, RECORDS, len(SOUND))


def test_a_truncated_journal_is_a_prefix_or_refused() -> None:
    """Power cuts truncate: every length gives the records before the cut, never others."""
    for length in range(len(SOUND)):
        if length < HEAD_BYTES:
            with pytest.raises(JournalError):
                journal.parse(SOUND[:length])
        else:
            whole = (length - HEAD_BYTES) // journal.RECORD_BYTES
            assert journal.parse(SOUND[:length]).records == RECORDS[:whole]


def test_no_flipped_byte_yields_a_record_that_was_not_written() -> None:
    """Each byte, each of its bits: the records before it, or nothing at all."""
    for at in range(len(SOUND)):
        for bit in range(8):
            data = bytearray(SOUND)
            data[at] ^= 1 << bit
            try:
                found = journal.parse(bytes(data))
            except JournalError:
                continue
            assert at >= HEAD_BYTES
            assert found.records == RECORDS[: (at - HEAD_BYTES) // journal.RECORD_BYTES]


@given(
    st.lists(st.tuples(st.integers(0, len(SOUND) - 1), st.integers(1, 255)), min_size=1),
    st.integers(0, len(SOUND)),
    st.binary(max_size=200),
)
@settings(max_examples=300, deadline=None)
def test_no_damage_yields_a_record_that_was_not_written(
    flips: list[tuple[int, int]], cut: int, appended: bytes
) -> None:
    """Several flips, a cut and rubbish behind it together."""
    data = bytearray(SOUND)
    for at, mask in flips:
        data[at] ^= mask
    try:
        found = journal.parse(bytes(data[:cut]) + appended)
    except JournalError:
        return
    assert found.header == HEADER
    assert found.records == RECORDS[: len(found.records)]


@given(st.binary(max_size=400))
@settings(max_examples=300, deadline=None)
def test_rubbish_is_refused(data: bytes) -> None:
    """A hostile or foreign file ends in one class of error."""
    with pytest.raises(JournalError):
        journal.parse(data)


def test_a_zero_filled_tail_is_a_torn_append_and_a_long_one_is_damage() -> None:
    """Some file systems leave zeros after a power cut; only one append can be torn."""
    torn = SOUND + bytes(journal.MAX_BATCH * journal.RECORD_BYTES)
    assert journal.parse(torn).records == RECORDS
    with pytest.raises(JournalError):
        journal.parse(torn + b"\0")
    with pytest.raises(JournalError):
        journal.parse(bytes(len(SOUND)))


def test_records_of_another_job_are_no_records() -> None:
    """Whole records copied under another header would claim ranges of another target."""
    other = image(HEADER._replace(job="get:4567"), ())
    assert journal.parse(other + SOUND[HEAD_BYTES:]).records == ()


@pytest.mark.parametrize("order", [(1,), (0, 0), (0, 2), (1, 0)])
def test_duplicated_missing_or_swapped_records_are_refused(order: tuple[int, ...]) -> None:
    """A whole record in the wrong place is not torn: something rewrote the file."""
    size = journal.RECORD_BYTES
    parts = [SOUND[HEAD_BYTES + n * size :][:size] for n in order]
    with pytest.raises(JournalError):
        journal.parse(SOUND[:HEAD_BYTES] + b"".join(parts))


@pytest.mark.parametrize(
    "record", [Record(0, 0, 1), Record((1 << 63) - 1, 1, 1), Record(1 << 63, 1, 1)]
)
def test_impossible_ranges_are_refused(record: Record) -> None:
    """A range that no file has must not reach arithmetic elsewhere."""
    with pytest.raises(JournalError):
        journal.parse(image(HEADER, (record,)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": -1},
        {"size": True},
        {"size": "9"},
        {"block_size": 0},
        {"job": 7},
        {"target": {"ino": 1.5}},
        {"target": []},
        {"validators": {"https://a": ["etag"]}},
        {"validators": {"https://a": {"etag": 1}}},
        {"digests": {"sha-256": None}},
    ],
)
def test_a_header_of_wrong_types_is_refused(wrong: dict[str, object]) -> None:
    """The digest says that we wrote it, not that this version can use it."""
    with pytest.raises(JournalError):
        journal.parse(image(HEADER._replace(**wrong), ()))  # type: ignore[arg-type]


@pytest.mark.parametrize("origin", ["https://user:pw@host", "https://host/?token=1"])
def test_a_secret_in_an_origin_is_a_programming_error(origin: str) -> None:
    """A journal lies beside the image, readable by whoever reads backups."""
    with pytest.raises(ValueError, match="origin"):
        journal.encode_header(HEADER._replace(validators={origin: {}}))


def test_a_writer_resumes_where_the_torn_tail_began(tmp_path: Path) -> None:
    """After a kill in the middle of an append the next run goes on behind the last whole record."""
    place = Location(str(tmp_path / "state" / "j"))
    writer = Writer.create(place, HEADER)
    writer.append(RECORDS[:4])
    writer.close()
    with Path(place.path).open("ab") as file:
        file.write(SOUND[-journal.RECORD_BYTES : -3])
    resumed = Writer.resume(place)
    assert resumed is not None
    found, writer = resumed
    assert found.records == RECORDS[:4]
    writer.append(RECORDS[4:])
    writer.close()
    assert journal.parse(Path(place.path).read_bytes()).records == RECORDS
    assert stat.S_IMODE(os.stat(place.path).st_mode) == 0o600


def test_many_records_are_appended_in_batches(tmp_path: Path) -> None:
    """A torn append may be at most one batch long, or the parser would call it damage."""
    place = Location(str(tmp_path / "j"))
    many = tuple(Record(n, 1, n) for n in range(journal.MAX_BATCH * 2 + 3))
    writer = Writer.create(place, HEADER)
    writer.append(many)
    writer.close()
    assert journal.parse(Path(place.path).read_bytes()).records == many


def test_a_power_cut_tears_one_batch_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was appended is flushed before more is: also where nobody asked for it."""
    place = Location(str(tmp_path / "j"))
    many = [Record(n, 1, n) for n in range(journal.MAX_BATCH + 1)]
    writer = Writer.create(place, HEADER)
    durable: list[int] = []
    flush = os.fdatasync

    def flushed(fd: int) -> None:
        flush(fd)
        durable.append(len(journal.parse(Path(place.path).read_bytes()).records))

    monkeypatch.setattr(os, "fdatasync", flushed)
    writer.append(many)
    assert durable == [journal.MAX_BATCH]
    writer.append(many[:3])
    assert durable[1:] == [journal.MAX_BATCH + 1]
    for _ in range(2):  # the second has nothing to do
        writer.flush()
    assert durable[2:] == [journal.MAX_BATCH + 4]
    writer.close()


def test_a_flush_that_fails_ends_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel reports a lost page once: nothing is appended behind it."""
    place = Location(str(tmp_path / "j"))
    writer = Writer.create(place, HEADER)
    writer.append(RECORDS[:2])

    def failing(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", failing)
        writer.flush()
    assert writer.warning is not None
    writer.append(RECORDS[2:])
    assert journal.parse(Path(place.path).read_bytes()).records == RECORDS[:2]


def test_a_journal_that_is_not_there_is_none(tmp_path: Path) -> None:
    """The usual first run."""
    assert Writer.resume(Location(str(tmp_path / "none"))) is None


def test_a_second_process_is_told_that_the_journal_is_held(tmp_path: Path) -> None:
    """Two writers would interleave sequences (R08)."""
    place = Location(str(tmp_path / "j"))
    writer = Writer.create(place, HEADER)
    code = (
        "import sys; from fastdl.engine.journal import *; from fastdl.errors import *\n"
        "p = Location(sys.argv[1]); h = Header('o', {}, {}, 1, {}, 1)\n"
        "for call in (lambda: Writer.resume(p), lambda: Writer.create(p, h)):\n"
        "    try: call()\n"
        "    except SinkBusyError: print('busy')\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, place.path], capture_output=True, text=True, check=True
    )
    assert out.stdout.split() == ["busy", "busy"]
    writer.remove()
    assert not Path(place.path).exists()
    Writer.create(place, HEADER).close()


def test_create_replaces_a_stale_journal_and_never_follows_a_link(tmp_path: Path) -> None:
    """A link planted at the journal's name must not lead a write elsewhere."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    place = Location(str(tmp_path / "j"))
    Path(place.path).symlink_to(victim)
    with pytest.raises(JournalError):
        Writer.resume(place)
    Writer.create(place, HEADER).close()
    assert victim.read_text() == "precious"
    assert journal.parse(Path(place.path).read_bytes()).header == HEADER


def test_a_hard_linked_journal_is_refused(tmp_path: Path) -> None:
    """Somebody else's file under our name."""
    place = Location(str(tmp_path / "j"))
    Writer.create(place, HEADER).close()
    os.link(place.path, tmp_path / "k")
    with pytest.raises(JournalError):
        Writer.resume(place)


def test_a_disk_that_is_full_or_gone_ends_the_journal_and_not_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R05: the download goes on; what the journal says stays true."""
    (tmp_path / "file").write_text("")
    writer = Writer.create(Location(str(tmp_path / "file" / "j")), HEADER)
    assert writer.warning is not None
    assert "cannot be resumed" in writer.warning
    writer.append(RECORDS)
    writer.remove()

    place = Location(str(tmp_path / "j"))
    writer = Writer.create(place, HEADER)
    writer.append(RECORDS[:2])

    def full(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        writer.append(RECORDS[2:3])
    assert writer.warning is not None
    writer.append(RECORDS[3:])
    assert journal.parse(Path(place.path).read_bytes()).records == RECORDS[:2]


def test_a_failed_creation_never_removes_the_journal_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between looking and creating, another process may have begun."""
    place = Location(str(tmp_path / "j"))
    monkeypatch.setattr(
        Location, "_remove_unheld", lambda where: Path(where.path).write_bytes(SOUND)
    )
    assert Writer.create(place, HEADER).warning is not None
    assert Path(place.path).read_bytes() == SOUND


def test_the_state_folder_follows_the_conventions(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator finds it where the XDG rules say."""
    monkeypatch.setenv("XDG_STATE_HOME", "/somewhere")
    assert journal_file.default_state_dir() == "/somewhere/fastdl"
    monkeypatch.setenv("XDG_STATE_HOME", "relative/is/ignored")
    expected = "/var/lib/fastdl" if os.geteuid() == 0 else f"{Path.home()}/.local/state/fastdl"
    assert journal_file.default_state_dir() == expected
