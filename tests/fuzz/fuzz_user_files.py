# SPDX-License-Identifier: Apache-2.0
"""fuzz_user_files.py - invariant: a list of downloads, a netrc, a cookie or a control file is
refused with a message that shows none of its content, or every value read is in the file and
within its bounds; a file name that a server proposes is never a path."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from fastdl.engine.takeover import parse_control
from fastdl.errors import UsageError
from fastdl.sources.input_file import parse_input
from fastdl.sources.logins import parse_cookies, parse_netrc
from fastdl.sources.naming import disposition_name

T = TypeVar("T")


def _read(parse: Callable[[bytes], list[T]], data: bytes) -> list[T]:
    refused = ""
    try:
        return parse(data)
    except UsageError as exc:
        refused = str(exc)
    assert "s3cret" not in refused
    return []


def one_input(data: bytes) -> None:
    """Read *data* as each of them."""
    for entry in _read(parse_input, data):
        assert entry.uris
        assert all(uri.encode() in data for uri in entry.uris)
    for login in _read(parse_netrc, data):
        assert "\n" not in login.user
    for cookie in _read(parse_cookies, data):
        assert cookie.path.startswith("/")
        assert not set(cookie.name + cookie.value + cookie.path) & set("\r\n;\0")
    for size in (0, 1 << 16, int.from_bytes(data[-12:-4], "big")):
        last = 0
        for start, end in parse_control(data, size) or ():
            assert last <= start < end <= size
            last = end
    name = disposition_name(data.decode("latin-1"))
    assert name is None or not set(name) & set("/\\")
