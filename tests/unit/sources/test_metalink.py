# SPDX-License-Identifier: Apache-2.0
"""What metalinks mean, and what they may not do: documents, names, versions.

Cases M01 to M03 and M10 to M12 of the fault matrix; the others are in test_metalink_contents.py.
"""

from __future__ import annotations

import re
from xml.sax.saxutils import quoteattr

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastdl.errors import FastdlError, LimitError, MetalinkError
from fastdl.model.digest import HEX_LENGTHS
from fastdl.sources.metalink import (
    LOWEST_PRIORITY,
    Metalink,
    is_metalink_media_type,
    parse_metalink,
)
from tests.env.metalinks import BASE, SHA256, URL, V4, document, of_file, piece_list, refusal

V3 = "http://www.metalinker.org/"


def test_a_whole_document_is_understood() -> None:
    """Everything that RFC 5854 says about one file arrives, best things first."""
    link = parse_metalink(
        of_file(f"""
            <size>40000</size>
            <hash type="md5">{"1" * 32}</hash>
            <hash type="sha-256">{"AB" * 32}</hash>
            <pieces length="16384" type="sha-1">{f"<hash>{'2' * 40}</hash>" * 3}</pieces>
            <pieces length="32768" type="sha-256">
                <hash>{"3" * 64}</hash><hash>{"4" * 64}</hash>
            </pieces>
            <url priority="5">http://c.example/t</url>
            <url>https://d.example/t</url>
            <url priority="1" location="DE"> https://u:p@a.example/t?x=1&amp;y=2 </url>
            <url priority="5">http://b.example/t</url>
            <metaurl mediatype="torrent">http://x.example/t.torrent</metaurl>
        """)
    )
    assert (link.version, link.name, link.size) == (4, "t.img", 40000)
    assert [str(d) for d in link.digests] == ["sha-256:" + "ab" * 32, "md5:" + "1" * 32]
    assert link.pieces is not None
    assert (link.pieces.algorithm, link.pieces.length) == ("sha-256", 32768)
    assert link.pieces.hashes == b"\x33" * 32 + b"\x44" * 32
    assert (link.pieces.count, link.pieces.digest_of(1).hex) == (2, "4" * 64)
    assert [(m.url, m.priority) for m in link.mirrors] == [
        ("https://u:p@a.example/t?x=1&y=2", 1),
        ("http://c.example/t", 5),
        ("http://b.example/t", 5),
        ("https://d.example/t", LOWEST_PRIORITY),
    ]
    assert link.mirrors[0].location == "de"
    assert "u:p" not in repr(link)
    assert link.warnings == ()


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../x", "a/../../x", "./x", "x/..", "x/.", ".", "..", "C:\\x", "c:x", "..\\x",
     "a\\b", "%2e%2e/x", "%2e%2e%2fx", "%252e%252e/x", "a%00b", "a%5cb", "~root", "x/", "a//b",
     "a&#10;b", "a\x7fb", "", "x" * 256, "ü" * 128, "x" * 5000],
)  # fmt: skip
def test_m01_an_unsafe_name_is_refused(name: str) -> None:
    """The name is never used as a path, but whoever sends such a name means harm."""
    attribute = quoteattr(name).replace("&amp;#10;", "&#10;")
    refusal(document(f"<file name={attribute}>{URL}</file>"), FastdlError)


def test_m01_a_nul_in_a_name_is_no_xml() -> None:
    """NUL cannot be written in XML at all, neither raw nor as a reference."""
    refusal(of_file(URL, name="a\0b"), MetalinkError)
    refusal(document(f'<file name="a&#0;b">{URL}</file>'), MetalinkError)


def test_m01_a_name_without_attribute_is_refused() -> None:
    """RFC 5854 demands a name."""
    refusal(document(f"<file>{URL}</file>"), MetalinkError)


def test_m01_an_unsafe_name_of_another_file_is_refused_too() -> None:
    """A document is trusted whole or not at all."""
    data = document(f'<file name="a">{URL}</file><file name="../b">{URL}</file>')
    refusal(data, MetalinkError, file_name="a")


def test_m01_duplicate_names_are_refused() -> None:
    """Two answers to one question are none."""
    data = document(f'<file name="a">{URL}</file>' * 2)
    refusal(data, MetalinkError, file_name="a")


@pytest.mark.parametrize(
    "name", ["t.img", "dir/t.img", "a b", "ü.img", "..a", "a..b", "100%", "%41"]
)
def test_m01_ordinary_names_are_fine(name: str) -> None:
    """The rule is about harm, not about taste."""
    assert parse_metalink(of_file(URL, name=name)).name == name


_LAUGHS = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10))


@pytest.mark.parametrize(
    "prolog",
    [
        "<!DOCTYPE metalink>",
        f'<!DOCTYPE metalink [<!ENTITY l0 "ha">{_LAUGHS}]>',
        f'<!DOCTYPE metalink [<!ENTITY a "{"x" * 60000}">]>',
        '<!DOCTYPE metalink [<!ENTITY a SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE metalink SYSTEM "http://127.0.0.1:9/x.dtd">',
        '<!DOCTYPE metalink PUBLIC "x" "http://127.0.0.1:9/x.dtd">',
        '<!DOCTYPE metalink [<!ENTITY % p SYSTEM "http://127.0.0.1:9/p">%p;]>',
    ],
    ids=["bare", "laughs", "quadratic", "external", "subset", "public", "parameter"],
)
def test_m02_a_document_type_is_refused(prolog: str) -> None:
    """Without a DTD there are no entities, hence no bombs and nothing external to read."""
    error = refusal(document(f'<file name="t">{URL}</file>', prolog=prolog), MetalinkError)
    assert "DOCTYPE" in error.message


def test_m02_xinclude_is_refused() -> None:
    """Nothing outside the document may become part of it."""
    include = '<x:include xmlns:x="http://www.w3.org/2001/XInclude" href="file:///etc/passwd"/>'
    refusal(of_file(URL + include), MetalinkError)


def test_m02_an_undeclared_entity_is_refused() -> None:
    """Only the five entities of XML itself exist."""
    refusal(of_file("<size>&size;</size>" + URL), MetalinkError)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b" " * (100 << 20), LimitError),
        (document("<a>" * 10_000), LimitError),
        (document("<a/>" * 100_000), LimitError),
        (of_file("<a/>" * 100_000), LimitError),
        (of_file("<size>" + "1" * (7 << 20) + "</size>"), LimitError),
        (document(f'<file name="{"x" * 5000}">{URL}</file>'), LimitError),
        (document(f'<file name="{"x" * (7 << 20)}">{URL}</file>'), LimitError),
        (document("<!--" + "-x" * (3 << 20) + "-->"), LimitError),
        (document("<a " + " ".join(f'a{i}=""' for i in range(65)) + "/>"), LimitError),
        (document("<a " + " ".join(f'a{i}=""' for i in range(600_000)) + "/>"), LimitError),
        (of_file("<hash/>" * 70_000), LimitError),
    ],
    ids=["100 MiB", "deep", "wide", "wide file", "text", "attribute", "huge attribute", "comment",
         "attributes", "many attributes", "leaves"],
)  # fmt: skip
def test_m03_a_document_beyond_the_limits_is_refused(
    data: bytes, expected: type[FastdlError]
) -> None:
    """Memory and time are bounded whatever is sent."""
    refusal(data, expected)


def test_m03_piece_lists_may_be_long() -> None:
    """The bound on elements is not one on pieces: 100 000 of them are an ordinary large disk."""
    pieces = piece_list(100_000, kind="md5", text="5" * 32)
    link = parse_metalink(of_file(f"<size>{16384 * 100_000}</size>{pieces}{URL}"))
    assert link.pieces is not None
    assert link.pieces.count == 100_000


GOOD = (
    document(f'<file name="t.img">{SHA256}{URL}</file>')
    .decode()
    .removeprefix('<?xml version="1.0"?>')
)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"not xml",
        GOOD.encode()[:-5],
        GOOD.encode() + b"<x/>",
        ('<?xml version="1.0" encoding="UTF-7"?>' + GOOD).encode(),
        ('<?xml version="1.0" encoding="ISO-8859-1"?>' + GOOD.replace("t.img", "ü.img")).encode(),
        ('<?xml version="1.0" encoding="utf8"?>' + GOOD.replace("t.img", "ü.img")).encode(
            "latin-1"
        ),
        ('<?xml version="1.0" encoding="idna"?>' + GOOD).encode(),
        ('<?xml version="1.0" encoding="unicode_escape"?>' + GOOD).encode(),
        ('<?xml version="1.0" encoding="zlib_codec"?>' + GOOD).encode(),
        ('<?xml version="1.0" encoding="utf-16"?>' + GOOD).encode(),
        ('<?xml version="1.0" encoding="utf-8"?>' + GOOD).encode("utf-16"),
        GOOD.encode("utf-16le"),
        GOOD.encode("utf-32"),
        b"\xef\xbb\xbf\xef\xbb\xbf" + GOOD.encode(),
        b"\xff\xfe\xef\xbb\xbf" + GOOD.encode(),
        b"\xff\xfe" + GOOD.encode("utf-16be"),
        b"\xff\xfe" + b"\x00\xd8<\x00",
        GOOD.replace("t.img", "\x01").encode(),
        GOOD.encode().replace(b"t.img", b"\xff"),
        GOOD.encode().replace(b"t.img", b"\xed\xa0\x80"),
        b"<html><body>404</body></html>",
        b'<metalink xmlns="urn:other"/>',
        b'<files xmlns="' + V4.encode() + b'"/>',
    ],
)
def test_m03_what_is_no_metalink_is_refused(data: bytes) -> None:
    """Neither half a document, nor another one, nor one in a disguised encoding."""
    refusal(data, MetalinkError)


@pytest.mark.parametrize(
    "data",
    [
        GOOD.encode(),
        b"\xef\xbb\xbf" + GOOD.encode(),
        ('<?xml version="1.0" encoding="UTF-8"?>' + GOOD).encode(),
        GOOD.encode("utf-16"),
        ('<?xml version="1.0" encoding="UTF-16"?>' + GOOD).encode("utf-16"),
        b"\xfe\xff" + GOOD.encode("utf-16be"),
    ],
)
def test_m03_utf8_and_utf16_are_read(data: bytes) -> None:
    """The two encodings that every XML reader must know, with and without a mark."""
    assert parse_metalink(data).name == "t.img"


@pytest.mark.parametrize(
    "name",
    ["utf8", "UTF8", "utf_8", "US-ASCII", "ascii", "ISO-8859-1", "iso_8859-15", "latin1", "latin-1",
     "Windows-1252", "cp1252", "KOI8-R", "GBK", "GB2312", "Big5", "EUC-JP", "Shift_JIS"],
)  # fmt: skip
def test_m03_another_name_for_the_same_bytes_is_fine(name: str) -> None:
    """Generators write what they like there; ASCII is the same in all of them."""
    data = f"<?xml version='1.0' encoding='{name}'?>{GOOD}".encode()
    assert parse_metalink(data).name == "t.img"


def test_m03_what_is_declared_is_read_where_it_is_no_utf8() -> None:
    """Letters beyond ASCII in an encoding of one byte: as XML says."""
    text = '<?xml version="1.0" encoding="ISO-8859-1"?>' + GOOD.replace("t.img", "ü.img")
    assert parse_metalink(text.encode("latin-1")).name == "ü.img"


def test_m11_version_3_may_name_a_servers_path() -> None:
    """A dynamic document of a storage system: the name is never a path of ours."""
    inner = f"<files><file name='/lhcb/L'><resources>{URL}</resources></file></files>"
    for namespace in (V3, V3.replace("http", "https")):
        link = parse_metalink(document(inner, namespace=namespace))
        assert link.name == "lhcb/L"
        assert "absolute" in link.warnings[0]
        link = parse_metalink(document(inner, namespace=namespace), file_name="/lhcb/L")
        assert link.name == "lhcb/L"
    refusal(document(inner.replace("/lhcb", "/../lhcb"), namespace=V3), MetalinkError)


TWO = document(
    f'<file name="a">{URL}</file><file name="b"><size>7</size><url>http://b/</url></file>'
)


def test_m10_one_of_several_files_must_be_named() -> None:
    """Merging the urls of several files, as others do, mixes their bytes."""
    assert "'a', 'b'" in refusal(TWO, MetalinkError).message
    link = parse_metalink(TWO, file_name="b")
    assert (link.name, link.size, len(link.mirrors)) == ("b", 7, 1)


def test_m10_a_name_that_is_not_there_is_refused() -> None:
    """Even where there is only one file: the caller asked for another."""
    refusal(TWO, MetalinkError, file_name="c")
    refusal(of_file(URL), MetalinkError, file_name="c")
    refusal(document(""), MetalinkError)


VERSION_3 = f"""
<metalink version="3.0" {{xmlns}}>
 <publisher><name>x</name></publisher>
 <files>
  <file name="t.img">
   <size>20000</size>
   <verification>
    <hash type="sha256">{"c" * 64}</hash>
    <signature type="pgp" file="x">y</signature>
    <pieces length="16384" type="sha1">
     <hash piece="0">{"0" * 40}</hash><hash piece="1">{"1" * 40}</hash>
    </pieces>
   </verification>
   <resources maxconnections="4">
    <url type="http" preference="10">http://b/t</url>
    <url type="bittorrent" preference="100">http://b/t.torrent</url>
    <url type="https" preference="90" location="fr" maxconnections="2">https://a/t</url>
    <url type="http">http://c/t</url>
    <url type="http" preference="101">http://d/t</url>
   </resources>
  </file>
 </files>
</metalink>"""


@pytest.mark.parametrize("xmlns", [f'xmlns="{V3}"', ""], ids=["namespace", "none"])
def test_m11_version_3_is_read(xmlns: str) -> None:
    """The older form says the same things in other places; a preference of 100 is best."""
    link = parse_metalink(VERSION_3.format(xmlns=xmlns).encode())
    assert (link.version, link.size, link.digests[0].hex) == (3, 20000, "c" * 64)
    assert link.pieces is not None
    assert link.pieces.count == 2
    assert [(m.url, m.priority) for m in link.mirrors] == [
        ("https://a/t", 11),
        ("http://b/t", 91),
        ("http://c/t", LOWEST_PRIORITY),
        ("http://d/t", LOWEST_PRIORITY),
    ]
    assert link.mirrors[0].maxconnections == 2
    assert any("namespace" in warning for warning in link.warnings) is not bool(xmlns)


def test_m11_version_4_without_namespace_is_read() -> None:
    """CloudStack ignores namespaces, so its users write documents without."""
    data = f'<metalink><file name="t">{SHA256}{URL}</file></metalink>'.encode()
    assert parse_metalink(data).version == 4


def test_m11_foreign_elements_are_ignored_whole() -> None:
    """What another namespace means by url or hash is none of ours."""
    foreign = f"""
        <x:extra xmlns:x="urn:x"><url>http://evil/</url><x:url>http://evil/</x:url></x:extra>
        <o:url xmlns:o="{V3}">http://evil/</o:url>
        <Signature xmlns="http://www.w3.org/2000/09/xmldsig#"><hash>y</hash></Signature>
        <signature mediatype="application/pgp-signature">z</signature>
        <resources><url>http://evil/</url></resources>
        <unknown><size>1</size></unknown>"""
    link = parse_metalink(
        of_file(f"{foreign}<size>5<x xmlns=''>9</x></size>{SHA256}{URL}{foreign}")
    )
    assert (link.size, len(link.mirrors), len(link.digests)) == (5, 1, 1)


@pytest.mark.parametrize(
    "inner",
    [
        f"<url>{BASE}</url>",
        "<url>https://origin.example:443/t.meta4#x</url>",
        "<url>http://other/t.metalink</url>",
        '<metaurl mediatype="application/metalink4+xml">http://other/t</metaurl>',
        '<metaurl mediatype="Application/Metalink+XML; x=y">http://other/t</metaurl>',
    ],
)
def test_m12_a_metalink_never_leads_to_a_metalink(inner: str) -> None:
    """Recursion has no use here, and no end."""
    refusal(of_file(inner + URL), MetalinkError, base_url=BASE)


@pytest.mark.parametrize(
    ("content_type", "is_metalink"),
    [
        ("application/metalink4+xml", True),
        ("Application/Metalink+XML ; charset=utf-8", True),
        ("text/xml", False),
        ("", False),
        (None, False),
        ("x application/metalink4+xml", False),
    ],
)
def test_the_media_type_tells_a_metalink(content_type: str | None, *, is_metalink: bool) -> None:
    """Servers give metalinks under names without the suffix."""
    assert is_metalink_media_type(content_type) is is_metalink


def consistent(link: Metalink) -> None:
    assert link.mirrors
    assert list(link.mirrors) == sorted(link.mirrors, key=lambda m: m.priority)
    assert link.size is None or 0 <= link.size < 2**63
    if link.pieces is not None:
        assert link.size is not None
        assert link.pieces.count == -(-link.size // link.pieces.length)


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
@example(b"\xff\xfe")
@example(b'<?xml version="1.0" encoding="x"?>')
def test_any_bytes_are_a_metalink_or_one_error_class(data: bytes) -> None:
    """A parser of hostile bytes has no third outcome."""
    try:
        consistent(parse_metalink(data))
    except FastdlError:
        return


_NAMES = st.sampled_from(
    ["file", "files", "size", "hash", "pieces", "url", "metaurl", "resources", "x"]
)


_ATTRIBUTES = st.dictionaries(
    st.sampled_from(["name", "type", "length", "priority", "piece", "xmlns"]),
    st.sampled_from(["a", "sha-256", "md5", "16384", "1", "-1", V4, V3, ""]),
    max_size=3,
)


_TEXTS = st.sampled_from(
    ["", "1", "16384", "a" * 64, "b" * 32, "http://a/t", "nfs://a/b/c", "&amp;"]
)


def _element(name: str, attributes: dict[str, str], children: list[str]) -> str:
    written = "".join(f" {key}={quoteattr(value)}" for key, value in attributes.items())
    return f"<{name}{written}>{''.join(children)}</{name}>"


_ELEMENTS = st.recursive(
    _TEXTS,
    lambda inner: st.builds(_element, _NAMES, _ATTRIBUTES, st.lists(inner, max_size=4)),
    max_leaves=25,
)


@given(st.lists(_ELEMENTS, max_size=4), st.sampled_from([V4, V3, ""]), st.sampled_from([None, "a"]))
def test_any_arrangement_of_elements_is_understood_or_refused(
    elements: list[str], namespace: str, file_name: str | None
) -> None:
    """Known elements in impossible places must not confuse the reader's state."""
    inner = re.sub(r"\A[^<]*", "", "".join(elements))
    try:
        consistent(parse_metalink(document(inner, namespace=namespace), file_name=file_name))
    except FastdlError:
        return


@given(
    st.integers(0, 10**6),
    st.sampled_from(sorted(HEX_LENGTHS)),
    st.lists(
        st.tuples(st.integers(1, LOWEST_PRIORITY), st.integers(0, 50)), min_size=1, max_size=9
    ),
)
def test_what_is_written_is_read_back(
    size: int, algorithm: str, mirrors: list[tuple[int, int]]
) -> None:
    """Size, pieces and mirrors survive the way through XML."""
    digits = HEX_LENGTHS[algorithm]
    hashes = [f"{index:0{digits}x}" for index in range(-(-size // 16384))]
    link = parse_metalink(
        of_file(
            f'<size>{size}</size><pieces length="16384" type="{algorithm}">'
            + "".join(f"<hash>{text}</hash>" for text in hashes)
            + "</pieces>"
            + "".join(f'<url priority="{p}">http://m{host}/t</url>' for p, host in mirrors)
        )
    )
    assert link.size == size
    assert link.pieces is not None
    assert [link.pieces.digest_of(i).hex for i in range(link.pieces.count)] == hashes
    assert {m.url for m in link.mirrors} == {f"http://m{host}/t" for _, host in mirrors}
    assert link.mirrors[0].priority == min(p for p, _ in mirrors)
    consistent(link)
