# SPDX-License-Identifier: Apache-2.0
"""Is aria2's list read as aria2 reads it, and is anything else refused?"""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastdl.errors import UsageError
from fastdl.sources.input_file import MAX_OPTIONS, Entry, parse_input

LIST = b"""# two files
http://a.example/1\thttp://b.example/1
  dir=images
\tout=one.img
  checksum=sha-256=00

http://a.example/2\r
"""


def test_a_list_of_two_files() -> None:
    """URIs of one line are mirrors; indented lines belong to the line above."""
    assert parse_input(LIST) == [
        Entry(
            2,
            ("http://a.example/1", "http://b.example/1"),
            (("dir", "images"), ("out", "one.img"), ("checksum", "sha-256=00")),
        ),
        Entry(7, ("http://a.example/2",), ()),
    ]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "names no file"),
        (b"# nothing\n\n", "names no file"),
        (b"  out=x\nhttp://a/1\n", "line 1"),
        (b"http://a/1\n  out\n", "line 2"),
        (b"http://a/1\n  =x\n", "line 2"),
        (b"http://a/1\nhttp://a/\xff\n", "line 2 is not UTF-8"),
        (b"http://a/1\n" + b" out=x\n" * (MAX_OPTIONS + 1), "options"),
        (b"\t".join([b"http://a/1"] * 65), "URIs"),
        (b"#" * ((16 << 20) + 1), "larger"),
    ],
)
def test_what_is_no_list(data: bytes, said: str) -> None:
    """One sentence, with the line."""
    with pytest.raises(UsageError, match=said):
        parse_input(data)


@given(st.binary(max_size=2000))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    """Nothing else comes out, and every entry has a URI."""
    with contextlib.suppress(UsageError):
        assert all(entry.uris and all(entry.uris) for entry in parse_input(data))
