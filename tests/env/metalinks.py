# SPDX-License-Identifier: Apache-2.0
"""Metalinks of a few words, and the refusals that they get."""

from __future__ import annotations

from time import thread_time
from xml.sax.saxutils import quoteattr

import pytest

from fastdl.errors import FastdlError
from fastdl.sources.metalink import (
    parse_metalink,
)

V4 = "urn:ietf:params:xml:ns:metalink"


URL = "<url>http://mirror.example/t.img</url>"


SHA256 = f'<hash type="sha-256">{"a" * 64}</hash>'


BASE = "https://origin.example/t.meta4"


def document(inner: str, *, namespace: str = V4, prolog: str = "") -> bytes:
    return f'<?xml version="1.0"?>{prolog}<metalink xmlns="{namespace}">{inner}</metalink>'.encode()


def of_file(inner: str, *, name: str = "t.img") -> bytes:
    return document(f"<file name={quoteattr(name)}>{inner}</file>")


def refusal(data: bytes, expected: type[FastdlError], **arguments: str) -> FastdlError:
    """The error that *data* gets, after the bounds that hold for every refusal."""
    started = thread_time()
    with pytest.raises(FastdlError) as caught:
        parse_metalink(data, **arguments)
    assert isinstance(caught.value, expected)
    assert thread_time() - started < 5  # processor time; the reader's own bound is 2 s
    assert len(str(caught.value)) < 500
    assert str(caught.value).isprintable()
    return caught.value


def piece_list(
    count: int = 2, *, length: str = "16384", kind: str = "sha-1", text: str = "0" * 40
) -> str:
    return f'<pieces length="{length}" type="{kind}">{f"<hash>{text}</hash>" * count}</pieces>'
