# SPDX-License-Identifier: Apache-2.0
"""One strict reading of sources' names."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastdl.errors import FastdlError, PolicyError, UsageError
from fastdl.model.url import MAX_URL, Url, looks_like_host

CANARY = "s3cr3t-canary"


def test_an_http_url_is_taken_apart() -> None:
    """Scheme and host are folded, the path and the query stay as they are sent."""
    url = Url.parse("HTTPS://Mirror.Example.COM:8443/a%20b/t.qcow2?x=1#frag")
    assert (url.scheme, url.host, url.port) == ("https", "mirror.example.com", 8443)
    assert (url.path, url.query, url.target) == ("/a%20b/t.qcow2", "x=1", "/a%20b/t.qcow2?x=1")
    assert url.origin == ("https", "mirror.example.com", 8443)
    assert url.request_text() == "https://mirror.example.com:8443/a%20b/t.qcow2?x=1"
    assert url.username is url.password is None


@pytest.mark.parametrize(
    ("text", "port", "netloc"),
    [
        ("http://h", 80, "h"),
        ("https://h/", 443, "h"),
        ("http://h:443/", 443, "h:443"),
        ("https://h:443/", 443, "h"),
        ("nfs://h/e/f", 2049, "h"),
        ("http://[::1]:8080/", 8080, "[::1]:8080"),
    ],
)
def test_the_port_is_the_effective_one(text: str, port: int, netloc: str) -> None:
    """Two spellings of one origin compare equal; the default port is not written."""
    url = Url.parse(text)
    assert (url.port, url.netloc) == (port, netloc)


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("http://bücher.example/", "xn--bcher-kva.example"),
        ("http://BÜCHER.example/", "xn--bcher-kva.example"),
        ("http://faß.de/", "xn--fa-hia.de"),
        ("http://例え。jp/", "xn--r8jz45g.jp"),
        ("http://[2001:DB8:0:0::1]/", "2001:db8::1"),
        ("http://my_host-1/", "my_host-1"),
        ("http://192.0.2.10/", "192.0.2.10"),
        ("http://h.example./", "h.example."),
    ],
)
def test_a_host_has_one_spelling(text: str, host: str) -> None:
    """What is compared, checked and connected is the same text."""
    assert Url.parse(text).host == host


@pytest.mark.parametrize(
    "host",
    ["2130706433", "017700000001", "0x7f000001", "0x7f.1", "127.1", "127.0.1", "0177.0.0.1",
     "127.0.0.01", "127.0.0.1.", "127.0.0.256", "1.2.3.4.5", "0x", "127.0.0.0x1",
     "\uff11\uff12\uff17.0.0.1", "127。0。0。1", "example.1"],
)  # fmt: skip
@pytest.mark.parametrize("scheme", ["http", "https", "nfs"])
def test_an_ipv4_address_in_an_odd_spelling_is_refused(scheme: str, host: str) -> None:
    """Resolvers take each of these for an address that a filter on text would not see."""
    with pytest.raises(PolicyError, match="unusual spelling"):
        Url.parse(f"{scheme}://{host}/x/y")


@pytest.mark.parametrize(
    "text",
    ["", "http:", "http:/h/x", "http:h", "http://", "http:///x", "http://?x", "http://:80/",
     "http://h:/", "http://h:0/", "http://h:65536/", "http://h:+80/", "http://h:٨٠/",
     "http://h:8 0/", "http://h:80:80/", "http://[::1/", "http://[::1]x/", "http://[1.2.3.4]/", "http://[fe80::1%25e]/",
     "http://::1/", "http://h/a b", "http://h/a\tb", "http://h/a\r\nHost: x", "http://h/\0",
     "http://h\\@evil/", "http://h/a\\b", "http://h/%", "http://h/%2", "http://h/%gg",
     "http://a@b@c/", "http://@h/", "http://u:p%0d%0a@h/", "http://u%ff@h/", "http://a..b/",
     "http://-a/", "http://a-/", "http://.a/", "http://%6c/", "http://a%2fb/", "http://h,g/",
     "http://" + "a" * 64 + "/", "http://" + "a." * 127 + "b/", "http://xn--\u00fc/",
     "nfs://h", "nfs://h/", "nfs://u@h/e/f", "nfs://h/e/../f",
     "nfs://h/e/f?version=5", "nfs://h/e/f?version=", "nfs://h/e/f?nfsport=0", "nfs://h/e/f?a=b",
     "nfs://h/e/f?nfsport=65536", "nfs://h/e/f?uid=-1", "nfs://h/e/f?version", "nfs://h/e/f?&",
     "nfs://h/e/f?export=../x", "nfs://h/e/f?export=", "nfs://h/e/f?version=\u0663",
     "nfs://h/e/%2e%2e/f", "nfs://h/e/%00", "nfs://h/%ff", "file://other/x", "file://x",
     "file:x", "file:///x?y", "file:///%00", "a\0b"],
)  # fmt: skip
def test_a_malformed_url_is_refused(text: str) -> None:
    """What two programs could read differently is not repaired."""
    with pytest.raises(UsageError):
        Url.parse(text)


@pytest.mark.parametrize(
    "text", ["ftp://h/x", "javascript:alert(1)", "magnet:?xt=x", "data:,x", "gopher://h", "ab:c"]
)
def test_other_schemes_are_forbidden(text: str) -> None:
    """A scheme is a capability: only the four that are meant exist."""
    with pytest.raises(PolicyError, match="not supported"):
        Url.parse(text)


@pytest.mark.parametrize("text", ["www.example.com:8080/x.iso", "localhost:8080", "mirror:80/x"])
def test_a_url_without_a_scheme_is_told_from_one_with_another(text: str) -> None:
    """curl takes these; here a source without a scheme is a path."""
    with pytest.raises(PolicyError, match="https:// or http:// in front"):
        Url.parse(text)


@pytest.mark.parametrize(
    ("path", "host"),
    [
        ("example.com/x.iso", True),
        ("//example.com/x", True),
        ("example.com", True),
        ("x.iso", True),
        ("x", False),
        ("./x.iso", False),
        ("/srv/x.iso", False),
        ("a b.iso", False),
        ("", False),
    ],
)
def test_a_path_that_may_have_been_meant_as_a_url(path: str, *, host: bool) -> None:
    """Asked only where no such file exists."""
    assert looks_like_host(path) is host


def test_the_length_is_bounded() -> None:
    """A URL of the largest size works, a longer one is refused before it is parsed."""
    assert len(Url.parse("http://h/".ljust(MAX_URL, "a")).request_text()) == MAX_URL
    with pytest.raises(UsageError, match="8192"):
        Url.parse("http://h/".ljust(MAX_URL + 1, "a"))


def test_non_ascii_paths_are_sent_as_utf8() -> None:
    """A path that was copied out of a browser's address bar works."""
    assert Url.parse("http://h/ü|{x}?q=ü").target == "/%C3%BC%7C%7Bx%7D?q=%C3%BC"


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("/var/a b.img", "/var/a b.img"),
        ("./a:b", "./a:b"),
        ("a.img", "a.img"),
        ("file:///a%20b", "/a b"),
        ("file://localhost/a", "/a"),
        ("FILE:///a", "/a"),
    ],
)
def test_paths_and_file_urls_name_files(text: str, path: str) -> None:
    """The path is what the kernel gets: decoded for URLs, untouched for plain paths."""
    url = Url.parse(text)
    assert (url.scheme, url.host, url.port, url.path) == ("file", "", 0, path)


def test_an_nfs_path_is_decoded() -> None:
    """The server wants the name, not its spelling in a URL."""
    url = Url.parse("nfs://Server/export/a%20b.qcow2")
    assert (url.host, url.path) == ("server", "/export/a b.qcow2")
    assert url.display() == "nfs://server/export/a%20b.qcow2"


def test_the_parameters_of_an_nfs_url_reach_the_server_in_one_spelling() -> None:
    """They say how to mount; none is secret, so they are shown as well."""
    url = Url.parse("nfs://h:12049/a%20b/f?version=3&mountport=012050&export=/a%20b%26")
    wanted = "nfs://h:12049/a%20b/f?version=3&mountport=12050&export=/a%20b%26"
    assert (url.request_text(), url.display()) == (wanted, wanted)
    assert Url.parse(wanted) == url
    assert Url.parse("nfs://h/e/f?").query is None


def test_credentials_are_decoded_and_never_shown() -> None:
    """Userinfo and query values are secrets; names of query parameters are not."""
    url = Url.parse(f"http://us%40er:{CANARY}%3a@h/p?a={CANARY}&b=&{CANARY};c={CANARY}#{CANARY}")
    assert (url.username, url.password) == ("us@er", f"{CANARY}:")
    assert url.display() == "http://h/p?a=…&b=…&…&c=…"
    for shown in (str(url), repr(url), f"{url}", url.display()):
        assert CANARY not in shown
        assert "us@er" not in shown
    bare = url.without_userinfo()
    assert (bare.username, bare.password, bare.target) == (None, None, url.target)


def test_messages_hold_no_credentials() -> None:
    """A URL that is refused is quoted in logs as well."""
    for text in (
        f"http://u:{CANARY}@a..b/",
        f"http://u:{CANARY}@h:x/",
        f"http://u:{CANARY}@2130706433/",
        f"http://h/?{CANARY}=%",
        f"ftp://u:{CANARY}@h/",
        f"http://{CANARY}@u@h/",
    ):
        with pytest.raises(FastdlError) as caught:
            Url.parse(text)
        assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("http://h/d/t.qcow2?x=/y", "t.qcow2"),
        ("http://h/a%20b", "a b"),
        ("nfs://h/e/t.raw", "t.raw"),
        ("/d/t.img", "t.img"),
        ("http://h/", None),
        ("http://h/d/", None),
        ("http://h/..", None),
        ("http://h/%2e%2e", None),
        ("http://h/a%2fb", None),
        ("http://h/a%5cb", None),
        ("http://h/a%00b", None),
        ("http://h/a%0ab", None),
        ("http://h/%ff", None),
        ("http://h/-rf", None),
        ("http://h/~root", None),
        ("http://h/" + "a" * 256, None),
    ],
)
def test_the_last_segment_is_a_safe_file_name_or_nothing(text: str, name: str | None) -> None:
    """A folder as target takes its file's name from an origin: that name is hostile input."""
    assert Url.parse(text).last_segment() == name


@pytest.mark.parametrize(
    ("text", "is_metalink"),
    [
        ("http://h/x.meta4", True),
        ("http://h/x.METALINK?a", True),
        ("x.meta4", True),
        ("http://h/x?y=.meta4", False),
        ("http://h/x.meta4/y", False),
    ],
)
def test_metalinks_are_known_by_their_suffix(text: str, *, is_metalink: bool) -> None:
    """The suffix of the path counts, nothing in the query."""
    assert Url.parse(text).is_metalink_name() is is_metalink


@pytest.mark.parametrize(
    ("reference", "leads_to"),
    [
        ("/y", "http://h:8080/y"),
        ("y?z=1", "http://h:8080/a/y?z=1"),
        ("../../../y", "http://h:8080/y"),
        ("//other/y", "http://other/y"),
        ("https://other/y", "https://other/y"),
    ],
)
def test_references_are_resolved(reference: str, leads_to: str) -> None:
    """A redirect may be relative; credentials of the first host never come along."""
    url = Url.parse("http://u:p@h:8080/a/b").join(reference)
    assert url.request_text() == leads_to
    assert url.username is None


@pytest.mark.parametrize("reference", ["\\\\evil/x", "http://[x", "/a\r\nb", "http://h:99999"])
def test_malformed_references_are_refused(reference: str) -> None:
    """A Location field is hostile input."""
    with pytest.raises(UsageError):
        Url.parse("http://h/a").join(reference)


@given(st.text(max_size=200) | st.text("htps:/@[]?#%.\\0x1a", max_size=60).map("http://".__add__))
@example("http://\u3002/")
@example("http://\ud800/")
def test_any_text_is_a_url_or_one_error_class(text: str) -> None:
    """A parser of hostile text has no third outcome, and what it accepts it accepts again."""
    try:
        url = Url.parse(text)
    except FastdlError:
        return
    again = Url.parse(url.request_text() if url.scheme != "file" else text)
    assert again == url.without_userinfo()
    assert not url.is_http or url.request_text().isascii()
    url.last_segment()
    assert url.display().isprintable() or url.scheme == "file"


@given(st.text(max_size=80))
def test_any_reference_leads_somewhere_or_is_refused(reference: str) -> None:
    """A Location field can hold anything; there is one error class for what is no URL."""
    with suppress(FastdlError):
        assert Url.parse("http://u:p@h/a/b").join(reference).password != "p"
