# SPDX-License-Identifier: Apache-2.0
"""What a metalink says of its file, and where it may lead: sizes, hashes, mirrors (M04 to M09)."""

from __future__ import annotations

import pytest

from fastdl.errors import MetalinkError, PolicyError
from fastdl.model.url import Url
from fastdl.sources.metalink import (
    LOWEST_PRIORITY,
    MAX_MIRRORS,
    MAX_WARNINGS,
    parse_metalink,
)
from tests.env.metalinks import BASE, SHA256, URL, of_file, piece_list, refusal


def test_m09_raw_blanks_and_percent_signs_are_sent_encoded() -> None:
    """What a Location may have, a metalink's URL may: there is one way to read it."""
    urls = "<url> http://a/The Big Picture.iso\n</url><url>http://a/100%.iso?x=5%2</url>"
    mirrors = parse_metalink(of_file(urls), base_url=BASE).mirrors
    assert [Url.parse_sent(m.url).target for m in mirrors] == [
        "/The%20Big%20Picture.iso",
        "/100%25.iso?x=5%252",
    ]


def test_m05_upper_case_hex_is_the_same() -> None:
    """RFC 5854 writes lower case; not everybody has read it."""
    low, high = (
        parse_metalink(of_file("<size>20000</size>" + piece_list(text=digit * 40) + URL))
        for digit in "aA"
    )
    assert low.pieces == high.pieces is not None


@pytest.mark.parametrize(
    "size", ["-1", "+1", str(2**64), str(2**63), "9" * 40, "", "1e3", "0x10", "1 0", "1.5", "٣"]
)
def test_m04_a_size_is_a_plain_number(size: str) -> None:
    """A size overrides the server's, so it must be beyond doubt."""
    refusal(of_file(f"<size>{size}</size>{URL}"), MetalinkError)


def test_m04_two_sizes_are_refused() -> None:
    """Two answers to one question are none."""
    refusal(of_file(f"<size>1</size><size>1</size>{URL}"), MetalinkError)


def test_m04_a_size_may_be_missing() -> None:
    """Then the server's counts; the digests still decide."""
    assert parse_metalink(of_file(SHA256 + URL)).size is None
    assert parse_metalink(of_file(f"<size> {2**63 - 1}\n</size>{URL}")).size == 2**63 - 1


@pytest.mark.parametrize(
    "pieces",
    [
        piece_list(1),
        piece_list(3),
        piece_list(0),
        piece_list(length="0"),
        piece_list(20000, length="1"),
        piece_list(length="-16384"),
        piece_list(length=""),
        piece_list(1, length=str(2**30 + 1)),
        piece_list(1, length="9" * 30),
        piece_list(text="0" * 39),
        piece_list(text="0" * 41),
        piece_list(text="0" * 64),
        piece_list(text="g" * 40),
        piece_list(text=""),
        piece_list() + piece_list(),
        piece_list() + piece_list(kind="sha-256"),
        piece_list().replace("<hash>", '<hash type="md5">', 1),
        piece_list().replace("<hash>", '<hash piece="1">', 1),
        '<pieces type="sha-1"><hash/><hash/></pieces>',
    ],
)
def test_m05_a_piece_list_that_does_not_fit_is_refused(pieces: str) -> None:
    """A list is right in count, length, type and digits, or the document is not trusted."""
    refusal(of_file(f"<size>20000</size>{pieces}{URL}"), MetalinkError)


def test_m05_pieces_need_a_size() -> None:
    """Without it nothing tells how many there must be."""
    refusal(of_file(piece_list() + URL), MetalinkError)


def test_m05_pieces_of_an_unknown_type_are_ignored() -> None:
    """A newer algorithm beside a known one is no mistake."""
    link = parse_metalink(
        of_file(f"<size>20000</size>{piece_list(kind='blake9')}{piece_list(kind='sha1')}{URL}")
    )
    assert link.pieces is not None
    assert link.pieces.algorithm == "sha-1"
    assert "blake9" in link.warnings[0]


def test_m06_weak_hashes_are_kept_and_stay_weak() -> None:
    """The caller decides whether md5 alone is enough; it is not called strong here."""
    (digest,) = parse_metalink(of_file(f'<hash type="md5">{"a" * 32}</hash>{URL}')).digests
    assert digest.strength == "weak"


def test_m06_every_known_hash_is_reported() -> None:
    """A right sha-256 must not hide a wrong md5: both are to be verified."""
    link = parse_metalink(of_file(f'<hash type="md5">{"a" * 32}</hash>{SHA256}{URL}'))
    assert [d.algorithm for d in link.digests] == ["sha-256", "md5"]


def test_m06_unknown_hash_types_count_as_none() -> None:
    """They verify nothing, and the operator is told."""
    link = parse_metalink(of_file(f'<hash type="sha3-256">{"a" * 64}</hash><hash>x</hash>{URL}'))
    assert link.digests == ()
    assert any("verify nothing" in warning for warning in link.warnings)


@pytest.mark.parametrize("text", ["a" * 63, "g" * 64, "", "a" * 32])
def test_m06_a_malformed_hash_is_refused(text: str) -> None:
    """A hash that cannot match must not silently become no hash."""
    refusal(of_file(f'<hash type="sha-256">{text}</hash>{URL}'), MetalinkError)


def test_m06_contradicting_hashes_are_refused() -> None:
    """Repeating a hash is harmless, giving another one is not."""
    assert len(parse_metalink(of_file(SHA256 * 2 + URL)).digests) == 1
    refusal(of_file(SHA256 + SHA256.replace("a" * 64, "b" * 64) + URL), MetalinkError)


@pytest.mark.parametrize("priority", ["0", "-1", "1000000", "first", "", "1.5", "9" * 30])
def test_m07_a_bad_priority_is_the_lowest(priority: str) -> None:
    """A mirror with a typing mistake is still a mirror."""
    link = parse_metalink(
        of_file(
            f'<url priority="{priority}">http://a/t</url><url priority="999998">http://b/t</url>'
        )
    )
    assert [m.url for m in link.mirrors] == ["http://b/t", "http://a/t"]
    assert link.mirrors[1].priority == LOWEST_PRIORITY
    assert "priority" in link.warnings[0]


def test_m07_equal_priorities_keep_the_documents_order() -> None:
    """The same document always gives the same plan."""
    urls = "".join(f'<url priority="7">http://m{i}/t</url>' for i in range(20))
    assert [m.url for m in parse_metalink(of_file(urls)).mirrors] == [
        f"http://m{i}/t" for i in range(20)
    ]


@pytest.mark.parametrize("location", ["", "DEU", "1a", "d", "é", "d e"])
def test_m07_a_bad_location_is_ignored(location: str) -> None:
    """A location is a hint."""
    link = parse_metalink(of_file(f'<url location="{location}">http://a/t</url>'))
    assert link.mirrors[0].location is None
    assert "location" in link.warnings[0]


def test_a_repeated_url_is_one_mirror_with_its_best_priority() -> None:
    """A mirror listed twice must not get twice the connections."""
    (mirror,) = parse_metalink(
        of_file('<url priority="9">http://a/t</url><url priority="3">http://a/t</url>')
    ).mirrors
    assert mirror.priority == 3


BAD_URLS = [
    "ftp://a/t", "magnet:?xt=urn:x", "file:///etc/passwd", "javascript:alert(1)", "data:,x",
    "/etc/passwd", "t.img", "//a/t", "http://", "http://a b/", "http://2130706433/t",
    "http://a/\\x", "", "http://u:s3cr3t@a:0/t",
]  # fmt: skip


def test_m09_unusable_mirrors_are_skipped() -> None:
    """One good mirror is enough; each skipped one is explained without secrets."""
    urls = "".join(f"<url>{url}</url>" for url in BAD_URLS)
    link = parse_metalink(of_file(urls + URL), base_url=BASE)
    assert [m.url for m in link.mirrors] == ["http://mirror.example/t.img"]
    assert len(link.warnings) == len(BAD_URLS)
    assert "s3cr3t" not in "".join(link.warnings)


@pytest.mark.parametrize("inner", ["", "".join(f"<url>{url}</url>" for url in BAD_URLS)])
def test_m09_no_mirror_left_is_a_matter_of_policy(inner: str) -> None:
    """The document is well-formed; what it asks for is not allowed."""
    refusal(of_file(inner + SHA256), PolicyError)


@pytest.mark.parametrize(
    ("base_url", "usable"),
    [
        (None, True),
        ("/t.meta4", True),
        ("nfs://h/e/t.meta4", True),
        (BASE, False),
        ("http://h/", False),
    ],
)
def test_m09_http_does_not_lead_to_nfs(base_url: str | None, *, usable: bool) -> None:
    """From http(s) only http(s) is reachable; a local document may name an NFS export."""
    data = of_file("<url>nfs://h/e/t</url>" + URL)
    assert len(parse_metalink(data, base_url=base_url).mirrors) == 1 + usable


def test_torrents_are_ignored() -> None:
    """Version 3 lists them among the urls, version 4 as metaurl."""
    data = of_file(
        '<url type="bittorrent">http://a/t.torrent</url>'
        '<metaurl mediatype="torrent">http://a/t.torrent</metaurl>' + URL
    )
    assert [m.url for m in parse_metalink(data).mirrors] == ["http://mirror.example/t.img"]


def test_mirrors_and_warnings_are_bounded() -> None:
    """Nobody gets to fill a log, or to make us knock at ten thousand doors."""
    many = "".join(f'<url priority="0">http://m{i}/t</url>' for i in range(10_000))
    link = parse_metalink(of_file(many))
    assert len(link.mirrors) == MAX_MIRRORS
    assert len(link.warnings) == MAX_WARNINGS + 1
