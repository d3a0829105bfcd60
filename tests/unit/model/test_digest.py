# SPDX-License-Identifier: Apache-2.0
"""Spellings of digests, and what a set of them proves."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastdl.errors import FastdlError, IntegrityError, UsageError
from fastdl.model.digest import (
    ALGORITHMS,
    HEX_LENGTHS,
    Digest,
    DigestSet,
    DigestSource,
    algorithm_named,
    parse_checksum,
)

digests = st.sampled_from(ALGORITHMS).flatmap(
    lambda name: st.binary(min_size=HEX_LENGTHS[name] // 2, max_size=HEX_LENGTHS[name] // 2).map(
        lambda raw: Digest.from_bytes(name, raw)
    )
)


@given(digests)
def test_every_spelling_means_the_same(digest: Digest) -> None:
    """CloudStack's, metalink's, the bare hex and either case name one digest."""
    plain = digest.algorithm.replace("-", "")
    for text in (
        digest.cloudstack(),
        digest.cloudstack().upper(),
        str(digest),
        f"{plain}:{digest.hex.upper()}",
        f"{digest.algorithm}={digest.hex}",
        f"{{{plain}}}{digest.hex}",
        digest.hex,
        f" {digest.hex.upper()}\n",
    ):
        assert parse_checksum(text) == digest
    assert Digest.from_bytes(digest.algorithm, digest.raw) == digest


def test_hashlib_agrees_on_every_length() -> None:
    """The lengths are the algorithms' own, not ours."""
    for name, digits in HEX_LENGTHS.items():
        value = hashlib.new(name.replace("-", ""), b"x", usedforsecurity=False).hexdigest()
        assert len(value) == digits
        assert parse_checksum(value).algorithm == name


def test_cloudstack_spells_it_with_braces() -> None:
    """This is what its database and its other agents expect."""
    assert Digest("SHA256", "AB" * 32).cloudstack() == "{SHA-256}" + "ab" * 32


@pytest.mark.parametrize(
    "text",
    ["", "{}", "{SHA-256}", "{SHA-256}" + "a" * 63, "{SHA-256}" + "g" * 64, "{SHA-3}" + "a" * 64,
     "SHA-256}" + "a" * 64, "{SHA-256" + "a" * 64, "{{SHA-256}}" + "a" * 64, "md5:" + "a" * 64,
     "sha-256=" + "a" * 63, "=" + "a" * 64, "sha-256:=" + "a" * 64,
     "a" * 33, "a" * 127, "z" * 32, "{MD5} " + "a" * 32,
     "s-ha256:" + "a" * 64, "sha256:" + "٣" * 64, "x" * 100_000],
)  # fmt: skip
def test_what_is_no_checksum_is_refused(text: str) -> None:
    """A checksum that is not understood must not count as none."""
    with pytest.raises(UsageError) as caught:
        parse_checksum(text)
    assert len(str(caught.value)) < 300


@given(st.text(max_size=150))
def test_any_text_is_a_checksum_or_a_usage_error(text: str) -> None:
    """There is no third outcome."""
    try:
        assert parse_checksum(text).algorithm in ALGORITHMS
    except UsageError as exc:
        refusal = exc.message
        assert refusal.isprintable()


def test_strength_follows_the_known_collisions() -> None:
    """Whoever can make two files with one digest can swap them."""
    strengths = {name: Digest(name, "0" * HEX_LENGTHS[name]).strength for name in ALGORITHMS}
    assert [name for name, strength in strengths.items() if strength == "weak"] == ["md5", "sha-1"]


def test_unknown_names_are_unknown() -> None:
    """Only the spellings in use are understood."""
    assert algorithm_named("SHA256") == algorithm_named("sha-256") == "sha-256"
    assert [algorithm_named(n) for n in ("sha3-256", "blake3", "", "sha_256", "\u017fha256")] == [
        None
    ] * 5


def _set(*entries: tuple[str, str, DigestSource]) -> DigestSet:
    known = DigestSet()
    for name, digit, source in entries:
        known.add(Digest(name, digit * HEX_LENGTHS[name]), source)
    return known


def test_a_contradiction_names_both_sources() -> None:
    """The operator must learn which two disagree before a byte is fetched."""
    known = _set(("sha-256", "a", DigestSource.USER))
    with pytest.raises(IntegrityError) as caught:
        known.add(Digest("sha-256", "b" * 64), DigestSource.METALINK)
    assert DigestSource.USER in caught.value.message
    assert DigestSource.METALINK in caught.value.message
    assert known.source_of("sha-256") is DigestSource.USER


def test_every_digest_of_every_algorithm_is_kept() -> None:
    """All of them are verified: a right SHA-256 does not excuse a wrong MD5."""
    known = _set(
        ("md5", "a", DigestSource.METALINK),
        ("sha-512", "b", DigestSource.REPR_DIGEST),
        ("sha-256", "c", DigestSource.USER),
        ("sha-256", "c", DigestSource.METALINK),
    )
    assert [d.algorithm for d in known] == ["sha-512", "sha-256", "md5"] == list(known.to_dict())
    strongest = known.strongest()
    assert strongest is not None
    assert strongest.algorithm == "sha-512"
    assert len(known) == 3
    assert known.get("sha-1") is None is known.source_of("sha-1")


@pytest.mark.parametrize(
    ("entries", "integrity"),
    [
        ([], "none"),
        ([("md5", DigestSource.USER)], "weak"),
        ([("sha-1", DigestSource.METALINK), ("md5", DigestSource.USER)], "weak"),
        ([("sha-256", DigestSource.REPR_DIGEST)], "weak"),
        ([("sha-512", DigestSource.DIGEST_HEADER), ("md5", DigestSource.USER)], "weak"),
        ([("sha-224", DigestSource.METALINK)], "strong"),
        ([("sha-256", DigestSource.USER), ("md5", DigestSource.METALINK)], "strong"),
        ([("sha-256", DigestSource.REPR_DIGEST), ("sha-256", DigestSource.METALINK)], "strong"),
        ([("sha-256", DigestSource.USER), ("sha-256", DigestSource.DIGEST_HEADER)], "strong"),
    ],
)
def test_integrity_needs_a_strong_digest_from_elsewhere(
    entries: list[tuple[str, DigestSource]], integrity: str
) -> None:
    """Who sends both the bytes and their digest proves only that nothing broke on the way."""
    assert _set(*((name, "a", source) for name, source in entries)).integrity() == integrity


@given(st.lists(st.tuples(digests, st.sampled_from(DigestSource)), max_size=8))
def test_a_set_never_holds_two_values_of_one_algorithm(
    entries: list[tuple[Digest, DigestSource]],
) -> None:
    """Adding either keeps the set consistent or says why not."""
    known = DigestSet()
    for digest, source in entries:
        before = known.get(digest.algorithm)
        try:
            known.add(digest, source)
        except FastdlError:
            assert before not in (None, digest)
        else:
            assert known.get(digest.algorithm) == digest
