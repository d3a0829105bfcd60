# SPDX-License-Identifier: Apache-2.0
"""Are netrc and cookie files read as curl reads them, without ever showing what they hold?"""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastdl.errors import UsageError
from fastdl.sources.logins import CookieLine, Login, login_for, parse_cookies, parse_netrc

NETRC = b"""# mine
machine a.example login me password "s3c ret"
machine B.example
  login you
  password x#y
macdef init
  machine evil login a password b

default login anonymous password guest
"""


def test_netrc() -> None:
    """Quoted words, macros, lines that go on, and a default."""
    logins = parse_netrc(NETRC)
    assert logins == [
        Login("a.example", "me", "s3c ret"),
        Login("b.example", "you", "x#y"),
        Login(None, "anonymous", "guest"),
    ]
    assert login_for(logins, "b.example") == logins[1]
    assert login_for(logins, "b.example", "other") is None
    assert login_for(logins, "c.example") == logins[2]


@pytest.mark.parametrize(
    "data", [b"machine", b"login s3cret", b"s3cret", b"machine a password", b"machine a s3cret\xff"]
)
def test_no_netrc(data: bytes) -> None:
    """The sentence has a line and no word of the file."""
    with pytest.raises(UsageError) as error:
        parse_netrc(data)
    assert "s3cret" not in str(error.value)


def test_cookies() -> None:
    """Seven columns; HttpOnly ones look like comments."""
    data = (
        b"# Netscape HTTP Cookie File\n\n"
        b".a.example\tTRUE\t/\tTRUE\t0\tid\tabc\n"
        b"#HttpOnly_b.example\tFALSE\t/x\tFALSE\t1999999999\tsid\td\r\n"
        b"c.example\tFALSE\t/\tFALSE\t0\tempty\n"
    )
    assert parse_cookies(data) == [
        CookieLine("a.example", True, "/", True, 0, "id", "abc"),
        CookieLine("b.example", False, "/x", False, 1999999999, "sid", "d"),
        CookieLine("c.example", False, "/", False, 0, "empty", ""),
    ]


@pytest.mark.parametrize(
    "line",
    [
        b"a.example TRUE / TRUE 0 id s3cret",
        b"a.example\tTRUE\t/\tTRUE\tnever\tid\ts3cret",
        b"a.example\tTRUE\t/\tTRUE\t0\tid\ts3cret; Domain=b",
        b"a.example\tTRUE\t/\tTRUE\t0\tid\ts3cret\x01",
        b"a/b\tTRUE\t/\tTRUE\t0\tid\ts3cret",
        b"a.example\tTRUE\tx\tTRUE\t0\tid\ts3cret",
    ],
)
def test_no_cookies(line: bytes) -> None:
    """What could add an attribute or a line is no cookie."""
    with pytest.raises(UsageError) as error:
        parse_cookies(b"# x\n" + line)
    assert "line 2" in str(error.value)
    assert "s3cret" not in str(error.value)


@given(st.binary(max_size=500))
def test_any_bytes(data: bytes) -> None:
    """Are read or refused."""
    with contextlib.suppress(UsageError):
        parse_netrc(data)
    with contextlib.suppress(UsageError):
        parse_cookies(data)
