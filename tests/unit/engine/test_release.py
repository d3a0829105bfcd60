# SPDX-License-Identifier: Apache-2.0
"""The note of what is about to show: believed where it is whole, and about this target alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastdl.engine import release
from fastdl.engine.journal_file import Location
from fastdl.engine.release import End, Release, Showing

BLOCK = 512
HEAD = bytes(range(256)) * 8
SUMS = b"".join(release._sum(HEAD[at : at + BLOCK]) for at in range(0, len(HEAD), BLOCK))


def note(**changes: object) -> Release:
    made = Release(
        asked={"digest": "sha-256:00", "source_format": "auto", "target_format": "auto"},
        target={"kind": "block", "size": 1 << 20},
        known={"size": 5, "digests": {}, "validators": {"http://a/b": {"etag": '"1"'}}},
        showing=Showing(5, len(HEAD), "raw", None, "same"),
        stamp=0,
        block=BLOCK,
        ends=(End(0, len(HEAD), SUMS),),
    )
    return made._replace(**changes)


NOTE = note()
DATA = release.encode(NOTE)


def test_a_note_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Through its file too, durable or not."""
    assert release.parse(DATA) == NOTE
    file = Location(str(tmp_path / "x.release"))
    assert release.read_note(file) is None
    for durable in (True, False):
        release.write_note(file, NOTE, durable=durable)
        assert release.read_note(file) == NOTE


@given(at=st.integers(0, len(DATA) - 1), bit=st.integers(0, 7), cut=st.booleans())
def test_no_damage_yields_a_note(at: int, bit: int, *, cut: bool) -> None:
    """Torn or flipped: then nothing was released yet, or nobody knows."""
    data = bytearray(DATA[:at] if cut else DATA)
    if not cut:
        data[at] ^= 1 << bit
    assert release.parse(bytes(data)) is None


@given(
    st.sampled_from(release._FIELDS),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=6,
    ),
)
def test_hostile_fields_never_raise(name: str, value: object) -> None:
    """The process that writes it reads an origin's bytes."""
    try:
        data = release.encode(NOTE)
        payload = release.json.loads(data[12:-4])
        payload[name] = value
        body = release.json.dumps(payload).encode()
    except ValueError:
        return
    start = release._START.pack(release._MAGIC, len(body)) + body
    found = release.parse(start + release._CRC.pack(release.zlib.crc32(start)))
    if found is not None:
        found.shows(lambda length, at: bytes(length))
        found.is_for(NOTE)


@pytest.mark.parametrize(
    ("data", "shows"),
    [
        (HEAD, True),
        (bytes(len(HEAD)), None),
        (bytes(BLOCK) + HEAD[BLOCK:], None),
        (HEAD[:BLOCK] + bytes(len(HEAD) - BLOCK), None),
        (b"\1" + HEAD[1:], False),
        (b"\1" + bytes(len(HEAD) - 1), False),
    ],
)
def test_a_device_shows_all_of_it_a_part_or_something_else(
    data: bytes, *, shows: bool | None
) -> None:
    """A part is written in whole blocks, over zeros."""
    assert NOTE.shows(lambda length, at: data[at : at + length]) is shows


def test_what_was_begun_shows_nothing() -> None:
    """Zeros are this job's; anything else is not."""
    begun = release.begun(NOTE, {"kind": "block"}, 4096)
    assert begun.shows(lambda length, _at: bytes(length)) is None
    assert begun.shows(lambda length, _at: b"\1" * length) is False


def test_another_source_is_another_job() -> None:
    """Its name, its size, its digest, or its version."""
    assert NOTE.is_for(NOTE)
    known = NOTE.known
    for other in (
        note(asked={**NOTE.asked, "target_format": "same"}),
        note(known={**known, "size": 6}),
        note(known={**known, "digests": {"sha-256": "00"}}),
        note(known={**known, "validators": {"http://a/b": {"etag": '"2"'}}}),
    ):
        assert not NOTE.is_for(other)
    assert NOTE.is_for(note(known={**known, "validators": {}}))
