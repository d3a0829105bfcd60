# SPDX-License-Identifier: Apache-2.0
"""Do pieces stand for the whole file's digest just where they are worth as much?"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fastdl
from fastdl.errors import IntegrityError, SizeError
from fastdl.lab.metalink import metalink, metalink_of
from tests.env.origin import FaultOrigin, Resource, pseudo_random

PIECE = 1 << 20
CONTENT = pseudo_random(23, 9 * PIECE + 4711)
OTHER = pseudo_random(24, len(CONTENT))
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def origin() -> Iterator[FaultOrigin]:
    resources = {
        "/i": Resource.of(CONTENT),
        "/other": Resource.of(OTHER),
        "/SHA256SUMS": Resource.of(f"{SHA256}  i\n".encode()),
    }
    with FaultOrigin(resources) as server:
        yield server


def pieces_of(content: bytes, algorithm: str = "sha256") -> list[str]:
    starts = range(0, len(content), PIECE)
    return [hashlib.new(algorithm, content[at : at + PIECE]).hexdigest() for at in starts]


def fetch(folder: Path, *documents: str, **options: Any) -> fastdl.Result:
    sources = []
    for number, text in enumerate(documents):
        path = folder / f"{number}.meta4"
        path.write_text(text)
        sources.append(path.as_uri())
    return fastdl.fetch_sync(sources, folder / "i", **options)


@pytest.mark.parametrize("piece", [64 << 10, PIECE, 4 * PIECE, 3_000_000])
def test_pieces_prove_the_bytes_alone(origin: FaultOrigin, tmp_path: Path, piece: int) -> None:
    """Both came in one document: who could forge one of them could forge both."""
    result = fetch(tmp_path, metalink_of(CONTENT, [origin.url("/i")], piece=piece))
    assert (tmp_path / "i").read_bytes() == CONTENT
    assert (result.integrity, result.by_pieces, result.digests) == ("strong", True, {})


def test_without_pieces_the_digest_is_computed(origin: FaultOrigin, tmp_path: Path) -> None:
    """Nothing stands for it."""
    result = fetch(tmp_path, metalink_of(CONTENT, [origin.url("/i")]))
    assert (result.by_pieces, result.digests) == (False, {"sha-256": SHA256})


@pytest.mark.parametrize(
    "options", [{"require_whole_digest": True}, {"checksum": SHA256}, {"checksum": "the list"}]
)
def test_who_wants_the_whole_digest_gets_it(
    origin: FaultOrigin, tmp_path: Path, options: dict[str, Any]
) -> None:
    """What a user gave is compared, whatever else is known."""
    if options.get("checksum") == "the list":
        options = {"checksum": origin.url("/SHA256SUMS#i")}
    text = metalink_of(CONTENT, [origin.url("/i")], piece=PIECE)
    result = fetch(tmp_path, text, **options)
    assert (result.by_pieces, result.digests) == (False, {"sha-256": SHA256})


@pytest.mark.parametrize("options", [{}, {"require_checksum": True}])
def test_pieces_prove_the_bytes_where_no_digest_of_the_whole_is_given(
    origin: FaultOrigin, tmp_path: Path, options: dict[str, Any]
) -> None:
    """They cover every byte, and the metalink says how many there are."""
    result = fetch(tmp_path, _pieces_only(origin, "/i", CONTENT), **options)
    assert (tmp_path / "i").read_bytes() == CONTENT
    assert (result.integrity, result.by_pieces, result.digests) == ("strong", True, {})
    assert not any("not verified" in warning for warning in result.warnings)


def test_weak_pieces_alone_are_weak(origin: FaultOrigin, tmp_path: Path) -> None:
    """As a digest of the whole of that algorithm would be."""
    text = _pieces_only(origin, "/i", CONTENT, "sha1")
    assert fetch(tmp_path, text).integrity == "weak"


@pytest.mark.parametrize("served", [CONTENT[:-1], CONTENT + b"x", OTHER])
def test_pieces_alone_refuse_other_bytes(
    origin: FaultOrigin, tmp_path: Path, served: bytes
) -> None:
    """Shorter by a byte, longer by one, and others of that size."""
    origin.resources["/bad"] = Resource.of(served)
    text = _pieces_only(origin, "/bad", CONTENT)
    with pytest.raises((IntegrityError, SizeError)):
        fetch(tmp_path, text)
    assert not (tmp_path / "i").exists()


def _pieces_only(origin: FaultOrigin, path: str, content: bytes, algorithm: str = "sha256") -> str:
    text = metalink_of(content, [origin.url(path)], piece=PIECE)
    text = text.replace(f'<hash type="sha-256">{SHA256}</hash>', "")
    assert SHA256 not in text
    if algorithm != "sha256":
        text = text.replace('<pieces type="sha-256"', '<pieces type="sha-1"')
        for old, new in zip(pieces_of(content), pieces_of(content, algorithm), strict=True):
            text = text.replace(old, new)
    return text


def test_weaker_pieces_do_not_stand_for_it(origin: FaultOrigin, tmp_path: Path) -> None:
    """Two different pieces of one SHA-1 can be made."""
    text = metalink(
        "i", [origin.url("/i")], size=len(CONTENT), sha256=SHA256, pieces=(PIECE, ["SUM"])
    )
    sums = "</hash><hash>".join(pieces_of(CONTENT, "sha1"))
    text = text.replace('<pieces type="sha-256"', '<pieces type="sha-1"').replace("SUM", sums)
    assert fetch(tmp_path, text).digests == {"sha-256": SHA256}


def test_a_second_documents_pieces_do_not_stand_for_the_firsts_digest(
    origin: FaultOrigin, tmp_path: Path
) -> None:
    """Whoever wrote the second one knows the digest, too, and lists the pieces of other bytes."""
    forged = metalink(
        "i",
        [origin.url("/other")],
        size=len(CONTENT),
        sha256=SHA256,
        pieces=(PIECE, pieces_of(OTHER)),
    )
    honest = metalink_of(CONTENT, [origin.url("/other")])
    with pytest.raises(IntegrityError):
        fetch(tmp_path, honest, forged)
    assert not (tmp_path / "i").exists()


def test_a_forged_list_of_pieces_does_not_outvote_a_list_of_checksums(
    origin: FaultOrigin, tmp_path: Path
) -> None:
    """The publisher's list says the digest; the metalink only repeats it."""
    forged = metalink(
        "i",
        [origin.url("/other")],
        size=len(CONTENT),
        sha256=SHA256,
        pieces=(PIECE, pieces_of(OTHER)),
    )
    with pytest.raises(IntegrityError):
        fetch(tmp_path, forged, checksum=origin.url("/SHA256SUMS#i"))
    assert not (tmp_path / "i").exists()
