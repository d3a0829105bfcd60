# SPDX-License-Identifier: Apache-2.0
"""Does a transfer prove the same bytes whoever makes its SHA-256, and say so where nobody can?"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastdl
from fastdl.core.job import sha256_by
from fastdl.errors import UsageError
from fastdl.lab.metalink import metalink_of
from tests.env.origin import FaultOrigin, Resource, pseudo_random

CONTENT = pseudo_random(22, (5 << 20) + 4711)
MAKERS = ("openssl", "sha-ni", "avx512", "avx2", "armv8")


@pytest.fixture
def origin() -> Iterator[FaultOrigin]:
    with FaultOrigin({"/i": Resource.of(CONTENT)}) as server:
        yield server


@pytest.mark.parametrize("piece", [64 << 10, 1 << 20, 1_500_000, 2 << 20, 3_000_000])
@pytest.mark.parametrize("maker", MAKERS)
def test_the_same_bytes_are_proven(
    origin: FaultOrigin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, maker: str, piece: int
) -> None:
    """Pieces in blocks, of blocks and across blocks, and the whole file's digest beside them."""
    if sha256_by(maker)[1] == "unknown":
        pytest.skip(f"this processor has no {maker}")
    monkeypatch.setenv("FASTDL_SHA256", maker)
    described = tmp_path / "i.meta4"
    described.write_text(metalink_of(CONTENT, [origin.url("/i")], piece=piece))
    for whole in (True, False):
        target = tmp_path / f"{whole}"
        result = fastdl.fetch_sync(described.as_uri(), target, require_whole_digest=whole)
        assert target.read_bytes() == CONTENT
        digest = {"sha-256": hashlib.sha256(CONTENT).hexdigest()}
        assert result.digests == (digest if whole else {})


def test_one_that_is_not_there_is_refused(
    origin: FaultOrigin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who names one wants that one, and no other in its place."""
    monkeypatch.setenv("FASTDL_SHA256", "abacus")
    with pytest.raises(UsageError, match="abacus"):
        fastdl.fetch_sync(origin.url("/i"), tmp_path / "i")
    assert not (tmp_path / "i").exists()
