# SPDX-License-Identifier: Apache-2.0
"""Does a list of pieces of another host show what is wrong, and never decide what is right?"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastdl.engine.context import Events
from fastdl.engine.fetch import fetch_job
from fastdl.engine.options import FetchOptions, Placement
from fastdl.engine.result import Result
from fastdl.engine.shared_pieces import SharedPieces, listed
from fastdl.errors import IntegrityError
from fastdl.lab.metalink import metalink_of
from fastdl.wire.pieces import packed
from tests.env.origin import FaultOrigin, Resource, pseudo_random

PIECE = 1 << 20
CONTENT = pseudo_random(51, 24 * PIECE + 4711)
OTHER = pseudo_random(52, len(CONTENT))
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def hashes_of(content: bytes) -> bytes:
    parts = (content[at : at + PIECE] for at in range(0, len(content), PIECE))
    return b"".join(hashlib.sha256(part).digest() for part in parts)


RIGHT = SharedPieces(SHA256, len(CONTENT), PIECE, hashes_of(CONTENT))
WRONG = RIGHT._replace(hashes=RIGHT.hashes[:-64] + bytes(32) + RIGHT.hashes[-32:])


@pytest.fixture
def origin() -> Iterator[FaultOrigin]:
    resources = {
        "/i": Resource.of(CONTENT),
        "/other": Resource.of(OTHER),
    }
    with FaultOrigin(resources) as server:
        yield server


class Job:
    """A job with a list, and what it reported."""

    def __init__(self, folder: Path, *, checksum: str | None = SHA256, **placement: Any) -> None:
        self.events = Events()
        self.placement = Placement(**placement)
        self.target = folder / "i"
        self.options = FetchOptions.build(checksum=checksum)

    def fetch(self, *sources: str) -> Result:
        """The result, whose bytes are right."""
        result = fetch_job(
            sources,
            str(self.target),
            self.options,
            events=self.events,
            placement=self.placement,
        )
        assert self.target.read_bytes() == CONTENT
        return result

    @property
    def listed(self) -> dict[str, Any] | None:
        """What the manager would learn."""
        return listed(self.events, self.placement)


def test_a_verified_transfer_leaves_a_list(origin: FaultOrigin, tmp_path: Path) -> None:
    """Beside the digest, in the same pass."""
    job = Job(tmp_path, list_pieces=PIECE)
    assert job.fetch(origin.url("/i")).digests == {"sha-256": SHA256}
    assert job.listed == {"length": PIECE, "hashes": packed(RIGHT.hashes), "refused": False}


def test_nothing_is_listed_of_what_nobody_verified(origin: FaultOrigin, tmp_path: Path) -> None:
    """There is no digest that a list could be bound to."""
    job = Job(tmp_path, checksum=None, list_pieces=PIECE)
    job.fetch(origin.url("/i"))
    assert job.listed is None


def test_a_right_list_shows_which_mirror_is_wrong(origin: FaultOrigin, tmp_path: Path) -> None:
    """Without it, each mirror would have been tried alone, for the whole file."""
    job = Job(tmp_path, shared=RIGHT)
    result = job.fetch(origin.url("/other"), origin.url("/i"))
    assert (result.digests, result.by_pieces) == ({"sha-256": SHA256}, False)
    assert {m.url.rpartition("/")[2]: m.state for m in result.mirrors}["other"] == "disqualified"
    assert origin.sent < 1.6 * len(CONTENT)
    assert job.listed is None


@pytest.mark.parametrize(
    "hashes",
    [WRONG.hashes, hashes_of(OTHER), bytes(len(RIGHT.hashes)), RIGHT.hashes[32:] + bytes(32)],
    ids=["one piece", "another file", "no file", "shifted"],
)
@pytest.mark.parametrize("mirrors", [["/i"], ["/i", "/other"]])
def test_a_wrong_list_costs_time_and_no_bytes(
    origin: FaultOrigin, tmp_path: Path, hashes: bytes, mirrors: list[str]
) -> None:
    """Not even where a mirror serves what the list describes. What was wrong is reported."""
    job = Job(tmp_path, shared=RIGHT._replace(hashes=hashes))
    result = job.fetch(*map(origin.url, mirrors))
    assert (result.integrity, result.digests) == ("strong", {"sha-256": SHA256})
    assert any("list of pieces of another host" in text for text in result.warnings)
    assert job.listed == {"length": PIECE, "hashes": packed(RIGHT.hashes), "refused": True}


def test_a_right_list_is_not_refused_for_a_wrong_file(origin: FaultOrigin, tmp_path: Path) -> None:
    """The job fails as it would without, and blames nobody."""
    job = Job(tmp_path, shared=RIGHT)
    with pytest.raises(IntegrityError):
        job.fetch(origin.url("/other"))
    assert (job.listed, job.target.exists()) == (None, False)


@pytest.mark.parametrize(
    ("checksum", "change"),
    [
        (None, {}),
        (hashlib.sha512(CONTENT).hexdigest(), {}),
        (SHA256, {"sha256": "0" * 64}),
        (SHA256, {"size": len(CONTENT) + 1}),
    ],
    ids=["no digest", "another digest", "of another file", "another size"],
)
def test_a_list_counts_only_beside_its_own_digest(
    origin: FaultOrigin, tmp_path: Path, checksum: str | None, change: dict[str, Any]
) -> None:
    """Otherwise a host could decide what others take for the file."""
    job = Job(tmp_path, checksum=checksum, shared=WRONG._replace(**change))
    result = job.fetch(origin.url("/i"))
    assert not any("list of pieces" in text for text in result.warnings)
    assert job.listed is None


def test_it_does_not_stand_for_a_metalinks_digest(origin: FaultOrigin, tmp_path: Path) -> None:
    """The document's own pieces would; these are worth what another host is worth."""
    (tmp_path / "i.meta4").write_text(metalink_of(CONTENT, [origin.url("/i")]))
    job = Job(tmp_path, checksum=None, shared=RIGHT)
    result = job.fetch((tmp_path / "i.meta4").as_uri())
    assert (result.by_pieces, result.digests) == (False, {"sha-256": SHA256})


def damaged_at(folder: Path, *offsets: int) -> tuple[str, bytes]:
    """A copy of the content with a wrong bit at each of *offsets*: its path, and its bytes."""
    content = bytearray(CONTENT)
    for at in offsets:
        content[at] ^= 1
    copy = folder / "copy"
    copy.write_bytes(content)
    return str(copy), bytes(content)


def test_of_a_damaged_copy_only_wrong_pieces_are_fetched(
    origin: FaultOrigin, tmp_path: Path
) -> None:
    """The digest of the whole is computed and compared all the same."""
    copy, content = damaged_at(tmp_path, 5 * PIECE, 9 * PIECE - 1, len(CONTENT) - 1)
    job = Job(tmp_path, shared=RIGHT, damaged=copy)
    result = job.fetch(origin.url("/i"))
    assert (result.digests, result.integrity) == ({"sha-256": SHA256}, "strong")
    assert result.resumed_bytes == 22 * PIECE
    # The first response was under way before anybody looked at the copy.
    assert origin.sent < 6 * PIECE
    assert any("22 of 25 pieces were right" in text for text in result.warnings)
    assert Path(copy).read_bytes() == content


@pytest.mark.parametrize("kind", ["of the copy", "one piece", "nothing"])
def test_a_wrong_list_mends_nothing(origin: FaultOrigin, tmp_path: Path, kind: str) -> None:
    """Not even one that calls the damage right."""
    copy, content = damaged_at(tmp_path, 5 * PIECE)
    hashes = {"of the copy": hashes_of(content), "one piece": WRONG.hashes, "nothing": b""}[kind]
    hashes = hashes or bytes(len(RIGHT.hashes))
    job = Job(tmp_path, shared=RIGHT._replace(hashes=hashes), damaged=copy)
    assert job.fetch(origin.url("/i")).digests == {"sha-256": SHA256}
    assert job.listed is not None
    assert job.listed["refused"]


def test_a_copy_is_no_source_without_a_list(origin: FaultOrigin, tmp_path: Path) -> None:
    """Nothing would say which of its pieces are right."""
    copy, _ = damaged_at(tmp_path, 5 * PIECE)
    result = Job(tmp_path, damaged=copy).fetch(origin.url("/i"))
    assert result.resumed_bytes == 0


@pytest.mark.parametrize("what", ["absent", "link", "pipe", "folder"])
def test_what_is_no_file_is_not_read(origin: FaultOrigin, tmp_path: Path, what: str) -> None:
    """Whoever can write to the pool may have put it there."""
    path = tmp_path / "copy"
    if what == "link":
        path.symlink_to(tmp_path / "elsewhere")
        (tmp_path / "elsewhere").write_bytes(CONTENT)
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    result = Job(tmp_path, shared=RIGHT, damaged=str(path)).fetch(origin.url("/i"))
    assert result.resumed_bytes == 0
