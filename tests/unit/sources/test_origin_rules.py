# SPDX-License-Identifier: Apache-2.0
"""Which rule is about a URL, and does a file say what its operator means?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fastdl.errors import UsageError
from fastdl.model.url import Url
from fastdl.sources.origin_rules import (
    OriginRule,
    mirrors_of,
    parse_rules,
    read_rules,
    refused_by,
    rule_for,
)

RULES = (
    OriginRule("https://a.example/", mirrors=("https://m.example/ubuntu/",)),
    OriginRule("https://a.example/secret/", blocked="not yet"),
    OriginRule("https://a.example/secret/open", max_connections=2),
    OriginRule("https://a.example:8443/", proxy=""),
)


def found(url: str) -> str | None:
    rule = rule_for(RULES, Url.parse(url))
    return rule and rule.url


def test_the_longest_beginning_counts() -> None:
    """At the same origin, by whole parts of the path."""
    assert found("https://a.example/x") == "https://a.example/"
    assert found("https://a.example./x") == "https://a.example/"
    assert found("https://a.example/secret/x") == "https://a.example/secret/"
    assert found("https://a.example/secret") == "https://a.example/secret/"
    assert found("https://a.example/secretive") == "https://a.example/"
    assert found("https://a.example/secret/open/x?q=1") == "https://a.example/secret/open"
    assert found("https://a.example:8443/x") == "https://a.example:8443/"
    for other in ("http://a.example/", "https://b.example/", "https://xa.example/", "/a.example/"):
        assert found(other) is None


@pytest.mark.parametrize(
    "path",
    [
        "secret/x",
        "./secret/x",
        "y/../secret/x",
        "%73ecret/x",
        "y/%2e%2e/secret/x",
        "/secret//x",
        "secret%2Fx",
    ],
)
def test_no_spelling_of_a_blocked_path_passes(path: str) -> None:
    """The server reads it decoded and without dots."""
    refused = refused_by(RULES, Url.parse(f"https://a.example/{path}"))
    assert refused is not None
    assert refused.endswith("is blocked by the operator: not yet")


def test_mirrors_have_the_rest_of_the_path() -> None:
    """And no query, which may be a token for the origin."""
    mirrors = mirrors_of(RULES, Url.parse("https://a.example/24.04/i%20x.img?token=1"))
    assert [m.request_text() for m in mirrors] == ["https://m.example/ubuntu/24.04/i%20x.img"]
    assert mirrors_of(RULES, Url.parse("https://b.example/i")) == ()


def test_a_file_says_everything_about_its_origins(tmp_path: Path) -> None:
    """Secrets stand in files of their own."""
    (tmp_path / "pass").write_text("pw\nmore\n")
    (tmp_path / "rules.toml").write_text(f"""
        [[origin]]
        url = "https://A.example/x"
        mirrors = ["https://m.example"]
        proxy = "http://p.example:3128"
        username = "u"
        password-file = "{tmp_path}/pass"
        limit-rate = "1M"
        max-connections = 3
        follow-redirects = false
        keyring = "/k.gpg"

        [[origin]]
        url = "http://b.example/"
        blocked = true
        headers = {{ X-Key = "v" }}
    """)
    first, second = read_rules(str(tmp_path / "rules.toml"))
    assert first == OriginRule(
        url="https://a.example/x",
        mirrors=("https://m.example/",),
        proxy="http://p.example:3128",
        headers=(("Authorization", "Basic dTpwdw=="),),
        limit_rate=1 << 20,
        max_connections=3,
        follow_redirects=False,
        keyring="/k.gpg",
    )
    assert "dTpwdw" not in repr(first)
    assert (second.blocked, second.headers) == ("", (("X-Key", "v"),))


@pytest.mark.parametrize(
    "plain",
    [
        {"origins": []},
        {"origin": {}},
        {"origin": [{}]},
        {"origin": [1]},
        {"origin": [{"url": 1}]},
        {"origin": [{"url": "nfs://a/b"}]},
        {"origin": [{"url": "https://u:p@a.example/"}]},
        {"origin": [{"url": "https://a.example/?x"}]},
        {"origin": [{"url": "https://a.example/", "mirror": []}]},
        {"origin": [{"url": "https://a.example/", "mirrors": "https://b.example"}]},
        {"origin": [{"url": "https://a.example/", "mirrors": ["/etc/passwd"]}]},
        {"origin": [{"url": "https://a.example/", "limit-rate": "fast"}]},
        {"origin": [{"url": "https://a.example/", "max-connections": True}]},
        {"origin": [{"url": "https://a.example/", "max-connections": 0}]},
        {"origin": [{"url": "https://a.example/", "follow-redirects": "no"}]},
        {"origin": [{"url": "https://a.example/", "proxy": 1}]},
        {"origin": [{"url": "https://a.example/", "blocked": 1}]},
        {"origin": [{"url": "https://a.example/", "headers": {"X": 1}}]},
        {"origin": [{"url": "https://a.example/", "username": "u"}]},
        {"origin": [{"url": "https://a.example/"}, {"url": "https://a.example/./"}]},
    ],
)
def test_what_is_not_meant_so_is_refused(plain: dict[str, Any]) -> None:
    """A rule that silently does nothing is worse than none."""
    with pytest.raises(UsageError, match="rules"):
        parse_rules(plain, where="rules", read=lambda _: "")


@pytest.mark.parametrize("url", ["s3://bucket/", "nfs://a/b", "a.example/", "/srv", "", "ftp://a/"])
def test_a_rule_is_about_http_urls(url: str) -> None:
    """Whatever else is written, the error says so."""
    with pytest.raises(UsageError, match="a rule's URLs are http or https"):
        parse_rules({"origin": [{"url": url}]}, where="rules", read=lambda _: "")


def test_relative_paths_count_from_the_folder_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not from where somebody happens to be: a manager is at /."""
    (tmp_path / "token").write_text("tok\r\n")
    (tmp_path / "rules.toml").write_text(
        '[[origin]]\nurl = "https://a.example/"\nbearer-token-file = "token"\nkeyring = "k.gpg"'
    )
    monkeypatch.chdir("/")
    (rule,) = read_rules(str(tmp_path / "rules.toml"))
    assert rule.headers == (("Authorization", "Bearer tok"),)
    assert rule.keyring == f"{tmp_path}/k.gpg"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "holds no token or password"),
        (b"\nsecret\n", "holds no token or password"),
        (b"a\x00b\n", "holds no token or password"),
        (b"p\xe4ss\n", "is not a text in UTF-8"),
        (None, "cannot be read"),
    ],
)
def test_a_file_without_a_secret_is_no_secret(
    content: bytes | None, why: str, tmp_path: Path
) -> None:
    """Sent as it is, a server would refuse it, and nobody would look into the file."""
    if content is not None:
        (tmp_path / "pass").write_bytes(content)
    (tmp_path / "rules.toml").write_text(
        '[[origin]]\nurl = "https://a.example/"\nusername = "u"\npassword-file = "pass"'
    )
    with pytest.raises(UsageError, match=rf"{tmp_path}/pass {why}"):
        read_rules(str(tmp_path / "rules.toml"))


def test_rules_in_another_encoding_are_an_error(tmp_path: Path) -> None:
    """In one sentence that names the file."""
    (tmp_path / "rules.toml").write_bytes(b'[[origin]]\nurl = "https://a.example/\xe4"')
    with pytest.raises(UsageError, match=r"rules\.toml is not a text in UTF-8"):
        read_rules(str(tmp_path / "rules.toml"))
