# SPDX-License-Identifier: Apache-2.0
"""Mirrors, metalinks and digests in answer headers: understood where right, ignored where not."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from time import thread_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastdl.errors import FastdlError
from fastdl.model.digest import Digest, DigestSource
from fastdl.sources.discovery import (
    MAX_LINKS,
    MAX_VALUE,
    MAX_WARNINGS,
    Discovery,
    discover,
    is_metalink_media_type,
    parse_links,
)
from fastdl.sources.metalink import LOWEST_PRIORITY

BASE = "https://origin.example/d/t.img"
RAW = hashlib.sha256(b"x").digest()
B64 = b64encode(RAW).decode()
DIGEST = ("digest", f"SHA-256={B64}")
SHA256 = Digest.from_bytes("sha-256", RAW)


def found(*headers: tuple[str, str], base: str = BASE) -> Discovery:
    return discover(list(headers), base_url=base)


# ---- links ---------------------------------------------------------------------------


def test_mirrors_of_rfc_6249_are_found() -> None:
    """Preferred ones first, then by priority; one connection each."""
    offer = found(
        DIGEST,
        ("link", "<http://a.example/t.img>; rel=duplicate; pri=3"),
        (
            "link",
            '<http://b.example/t.img>; rel="duplicate"; pri=1; geo=DE, </m/t.img>; rel=duplicate',
        ),
        ("link", '<//c.example/t.img>;REL="other Duplicate";pri=9;pref'),
    )
    assert [(m.url, m.priority, m.location, m.preferred) for m in offer.mirrors] == [
        ("http://c.example/t.img".replace("http", "https"), 9, None, True),
        ("http://b.example/t.img", 1, "de", False),
        ("http://a.example/t.img", 3, None, False),
        ("https://origin.example/m/t.img", LOWEST_PRIORITY, None, False),
    ]
    assert {m.maxconnections for m in offer.mirrors} == {1}
    assert offer.warnings == ()


def test_mirrors_without_a_digest_are_ignored() -> None:
    """RFC 6249: nothing would tell whether a mirror has the same file."""
    link = ("link", "<http://a.example/t>; rel=duplicate")
    offer = found(link, ("digest", "unixsum=30637"))
    assert offer.mirrors == ()
    assert "without a digest" in offer.warnings[0]
    assert found(link, ("repr-digest", f"sha-256=:{B64}:")).mirrors


def test_a_described_by_link_names_a_metalink() -> None:
    """It needs no digest beside it, because it brings its own."""
    offer = found(
        ("link", '<t.img.meta4>; rel=describedby; type="application/metalink4+xml"'),
        ("link", '<t.asc>; rel=describedby; type="application/pgp-signature"'),
        ("link", "<t.html>; rel=describedby"),
    )
    assert offer.metalinks == ("https://origin.example/d/t.img.meta4",)


def test_links_about_something_else_are_ignored() -> None:
    """Other relations are the web's daily business; an anchor names another subject."""
    offer = found(
        DIGEST,
        ("link", "</style.css>; rel=preload; as=style, </>; rel=canonical"),
        ("link", '</x>; rel=duplicate; anchor="/other"'),
        ("link", '</y>; rel=duplicate; anchor="#part"'),
        ("link", f"<{BASE}>; rel=duplicate"),
        ("x-link", "</z>; rel=duplicate"),
    )
    assert [m.url for m in offer.mirrors] == ["https://origin.example/y"]
    assert offer.warnings == ()


def test_the_first_of_repeated_parameters_counts() -> None:
    """RFC 8288 demands it for rel; two readings would be one too many for the others."""
    (link,) = parse_links([("link", "<a>; rel=next; rel=duplicate; pri=1; pri=2")], [])
    assert link.relations == {"next"}
    assert link.parameters["pri"] == "1"


@pytest.mark.parametrize(
    ("value", "targets"),
    [
        ("<a>", ["a"]),
        ("<a>,<b>", ["a", "b"]),
        (" , <a> ; x , ,, <b>;", ["a", "b"]),
        ('<a>; t="x,y;<z>"; u, <b>', ["a", "b"]),
        ('<a>; t="q\\"uo,te\\\\", <b>', ["a", "b"]),
        ("<a,b>; rel=x", ["a,b"]),
        ("<a>; rel = x ; title*=UTF-8''y, <b>", ["a", "b"]),
        ("", []),
        (" ,, ", []),
    ],
)
def test_the_grammar_of_links_is_followed(value: str, targets: list[str]) -> None:
    """Commas and semicolons inside quotes and brackets separate nothing."""
    warnings: list[str] = []
    assert [link.target for link in parse_links([("link", value)], warnings)] == targets
    assert warnings == []


@pytest.mark.parametrize(
    "value", ["a", "<a", "a>", "<a> b", '<a>; t="x', "<a>; =x", "<a>; x=<b>", "<a>; x=y z", "\0<a>"]
)
def test_a_malformed_link_costs_a_warning(value: str) -> None:
    """What comes before the error is used, what follows it is not."""
    warnings: list[str] = []
    links = parse_links([("link", f"<first>, {value}, <last>"), ("link", "<next>")], warnings)
    assert links[0].target == "first"
    assert links[-1].target == "next"
    assert "last" not in [link.target for link in links]
    assert len(warnings) == 1


def test_unusable_targets_are_skipped() -> None:
    """A header from outside never reaches ftp, files or an odd address."""
    for target in (
        "ftp://a/t",
        "file:///etc/passwd",
        "nfs://h/e/t",
        "http://127.1/t",
        "a\\b",
        "//:0",
    ):
        offer = found(DIGEST, ("link", f"<{target}>; rel=duplicate, </ok>; rel=duplicate"))
        assert [m.url for m in offer.mirrors] == ["https://origin.example/ok"]
        assert len(offer.warnings) == 1


@pytest.mark.parametrize("pri", ["0", "-1", "x", "", "1000000", "1.5", "٣"])
def test_a_bad_priority_is_the_lowest(pri: str) -> None:
    """A mirror with a typing mistake is still a mirror."""
    (mirror,) = found(DIGEST, ("link", f'</m>; rel=duplicate; pri="{pri}"; geo="Germany"')).mirrors
    assert (mirror.priority, mirror.location) == (LOWEST_PRIORITY, None)


# ---- digests -------------------------------------------------------------------------


def test_digests_of_both_standards_are_found() -> None:
    """Each says where it comes from; Content-Digest is kept apart, it is about a part."""
    sha512 = hashlib.sha512(b"x").digest()
    offer = found(
        ("digest", f"md5={b64encode(bytes(16)).decode()}, SHA={b64encode(bytes(20)).decode()}"),
        (
            "repr-digest",
            f"sha-512=:{b64encode(sha512).decode()}:, unixsum=:AAA=:;a=b, sha-256=:{B64}:;q=1",
        ),
        ("content-digest", f"sha-256=:{B64}:"),
    )
    assert {(d.algorithm, source) for d, source in offer.digests} == {
        ("sha-512", DigestSource.REPR_DIGEST),
        ("sha-256", DigestSource.REPR_DIGEST),
        ("md5", DigestSource.DIGEST_HEADER),
        ("sha-1", DigestSource.DIGEST_HEADER),
    }
    assert offer.content_digests == (SHA256,)
    assert offer.warnings == ()


def test_base64_of_hex_digits_is_understood() -> None:
    """RFC 6249's own example is written that way, and so servers were built."""
    text = b64encode(SHA256.hex.encode()).decode()
    assert found(("digest", f"SHA-256={text}")).digests == ((SHA256, DigestSource.DIGEST_HEADER),)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("digest", f"SHA-256={B64[:-4]}"),
        ("digest", f"SHA-256={B64}x"),
        ("digest", f"SHA-256={SHA256.hex}"),
        ("digest", "SHA-256="),
        ("digest", "SHA-256"),
        ("digest", f"SHA-256=:{B64}:"),
        ("digest", "SHA-256=" + b64encode(b"\xff" * 64).decode()),
        ("repr-digest", f"sha-256={B64}"),
        ("repr-digest", f"SHA-256=:{B64}:"),
        ("repr-digest", f"sha-256=:{B64}"),
        ("repr-digest", "sha-256=::"),
        ("repr-digest", "sha-256;x"),
        ("digest", "x" * (MAX_VALUE + 1)),
    ],
)
def test_a_malformed_digest_costs_a_warning(name: str, value: str) -> None:
    """An additional check that cannot be made is no failure of the download."""
    offer = found((name, value))
    assert offer.digests == ()
    assert len(offer.warnings) == 1


def test_contradicting_digests_are_both_ignored() -> None:
    """One server that says two things says nothing."""
    other = b64encode(bytes(32)).decode()
    offer = found(("repr-digest", f"sha-256=:{B64}:"), ("repr-digest", f"sha-256=:{other}:"))
    assert offer.digests == ()
    assert "different sha-256" in offer.warnings[0]


# ---- bounds and properties -----------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    ["<" * 60_000, "<a>;" * 15_000, '<a>; a="' + "\\" * 60_000, "<a>" + ";" * 60_000, "," * 60_000,
     "<a>" + " " * 60_000 + "x", "<a>," * 16_000, "<a>" + "; a" * 20_000, "a=" * 30_000,
     "a=b," * 16_000, " \t" * 30_000, "sha-256=:" + "A" * 60_000, "sha-256=" + "=" * 60_000],
    ids=lambda value: repr(value[:8]),
)  # fmt: skip
def test_junk_is_read_in_bounded_time(value: str) -> None:
    """No value makes a pattern wander: processor time stays far below a second."""
    started = thread_time()
    offer = found(("link", value), ("digest", value), ("repr-digest", value))
    assert thread_time() - started < 2
    assert len(offer.warnings) <= MAX_WARNINGS


def test_links_are_bounded() -> None:
    """An answer cannot name more mirrors than anybody would ask."""
    links = ", ".join(f"</m{i}>; rel=duplicate" for i in range(1000))
    assert len(found(DIGEST, ("link", links)).mirrors) == MAX_LINKS


def test_the_media_type_test_is_offered_here_too() -> None:
    """Who looks at an answer's headers finds everything about them in one place."""
    assert is_metalink_media_type("application/metalink4+xml")


_JUNK = st.text(max_size=120) | st.text('<>;,="\\ :/relduplicatepri#09%', max_size=120)


@given(
    st.lists(st.tuples(st.sampled_from(["link", "digest", "repr-digest", "content-digest"]), _JUNK))
)
def test_any_headers_are_read_without_an_error(headers: list[tuple[str, str]]) -> None:
    """Optional help never fails a download."""
    offer = found(*headers)
    assert all(warning.isprintable() for warning in offer.warnings)
    assert not offer.mirrors or offer.digests


@given(st.sampled_from(["md5", "sha-1", "sha-256", "sha-512"]), st.binary(min_size=64, max_size=64))
def test_every_digest_reads_back(algorithm: str, raw: bytes) -> None:
    """Both spellings of the same digest give the same value."""
    sizes = {"md5": 16, "sha-1": 20, "sha-256": 32, "sha-512": 64}
    digest = Digest.from_bytes(algorithm, raw[: sizes[algorithm]])
    text = b64encode(digest.raw).decode()
    old = found(("digest", f"{algorithm}={text}")).digests
    new = found(("repr-digest", f"{algorithm}=:{text}:")).digests
    assert [d for d, _ in old + new] == [digest, digest]


def test_a_bad_base_is_the_callers_error() -> None:
    """The answer's own address is not hostile input; it was connected to."""
    with pytest.raises(FastdlError):
        found(base="ftp://x/")
